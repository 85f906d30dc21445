"""What an installation remembers of itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.service.places import SYSTEM_ROOT, Places
from daemon.service.record import Record, digest, load, save

RECORD = Record(
    manager="systemd",
    scope="user",
    program="/p/modelportd",
    origin="venv",
    config="/c/config.toml",
    installed="1.0",
    files={"/u/modelport.service": digest("text")},
    linger=True,
)


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a" / "service.json"
    assert load(path) is None
    save(path, RECORD)
    assert load(path) == RECORD
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "[" * 9999, '{"schema": 2}', '{"schema": 1}',
     json.dumps({"schema": 1, "unknown": 2})],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_what_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "service.json"
    path.write_text(text)
    path.chmod(0o600)
    assert load(path) is None


def test_one_that_others_can_write_to_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "service.json"
    save(path, replace(RECORD, user="root"))
    path.chmod(0o666)
    assert load(path) is None


def test_places_of_each_manager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    def found(platform: str, scope: str) -> Places:
        home = Path("/home/me")
        config = home / ".config"
        return Places.find(platform, scope, home=home, config_home=config)  # type: ignore[arg-type]

    mine = found("linux", "user")
    assert mine.service == Path("/home/me/.config/systemd/user/modelport.service")
    machines = found("linux", "system")
    assert machines.service == Path("/etc/systemd/system/modelport.service")
    assert (machines.root, machines.record.name) == (SYSTEM_ROOT, "service.json")
    agent, daemon = found("darwin", "user"), found("darwin", "system")
    assert agent.service == Path("/home/me/Library/LaunchAgents/modelport.plist")
    assert daemon.service == Path("/Library/LaunchDaemons/modelport.plist")
    assert mine.current.parent == mine.root
