from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest

from control_api.client import RefusedError
from control_api.commands.local.config import editor, install
from tests.commands.conftest import Ctl
from tests.control_api.fake import FakeControl, FakeDaemon


def write(home: Path, text: str) -> Path:
    path = home / "config.toml"
    path.write_text(text, "utf-8")
    return path


def use_editor(home: Path, monkeypatch: pytest.MonkeyPatch, *scripts: str) -> None:
    """An editor that does the next of these at each call; ``$1`` is the file."""
    program = home / "editor"
    steps = "".join(f"{n}) {script} ;;\n" for n, script in enumerate(scripts, 1))
    count = home / "count"
    program.write_text(
        f'#!/bin/sh\necho x >> {count}\ncase $(wc -l < {count} | tr -d " ") in\n{steps}esac\n',
        "utf-8",
    )
    program.chmod(0o755)
    monkeypatch.setenv("EDITOR", f"{program} ")
    monkeypatch.delenv("VISUAL", raising=False)


def test_path(ctl: Ctl, home: Path) -> None:
    assert ctl("config", "path").out == f"{home}/config.toml\n"
    assert ctl("config", "path", "--config", "/x.toml").out == "/x.toml\n"
    assert f"state    {home}/state" in ctl("config", "path", "--all").out
    assert ctl("config", "path", "--json").json["runtime"] == f"{home}/runtime"


def test_show(ctl: Ctl, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, "[server]\nport = 9000\n")
    monkeypatch.setenv("MODELPORT_DEFAULTS__SLOTS", "3")
    result = ctl("config", "show")
    assert "server.port" in result.out
    assert f"{home}/config.toml:2" in result.out
    assert "MODELPORT_DEFAULTS__SLOTS" in result.out
    assert "server.host" not in result.out
    rows = {row["key"]: row for row in ctl("config", "show", "--all", "--json").json}
    assert rows["server.port"]["value"] == "9000"
    assert rows["server.host"]["source"] == "default"


def test_show_of_nothing(ctl: Ctl, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, "")
    assert "Nothing is set" in ctl("config", "show").out


def test_check(ctl: Ctl, home: Path) -> None:
    write(home, '[server]\nport = "x"\nhots = 1\n')
    result = ctl("config", "check")
    assert result.code == 1
    assert "2 mistakes" in result.out
    assert "config.toml:2" in result.out
    told = ctl("config", "check", "--json")
    assert (told.code, told.json["ok"], len(told.json["mistakes"])) == (1, False, 2)
    good = write(home, "[server]\nport = 9000\n")
    assert ctl("config", "check").out == f"{good} is valid\n"
    assert ctl("config", "check", "--json").json["ok"] is True
    assert ctl("config", "check", str(home / "none.toml")).code == 1
    write(home, '[models.a]\npath = "/nowhere.gguf"\n')
    assert "! models.a.path" in ctl("config", "check").out


def test_a_wrong_file_stops_other_verbs_with_the_mistakes(ctl: Ctl, home: Path) -> None:
    write(home, '[server]\nport = "x"\n')
    result = ctl("engine", "ls")
    assert result.code == 1
    assert "config.toml:2  server.port" in result.err


def test_schema(ctl: Ctl) -> None:
    found = json.loads(ctl("config", "schema").out)
    jsonschema.Draft202012Validator.check_schema(found)
    assert "server" in found["properties"]
    assert ctl("config", "schema", "--json").json == found


def test_edit(ctl: Ctl, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(home, "[server]\nport = 9000\n")
    path.chmod(0o640)
    use_editor(home, monkeypatch, 'sed -i.bak s/9000/9001/ "$1"', "true")
    result = ctl("config", "edit")
    assert result.code == 0, result.err
    assert path.read_text("utf-8") == "[server]\nport = 9001\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert "saved in" in result.out
    assert ctl("config", "edit").out == "Nothing was changed.\n"
    assert ctl("config", "edit", "--json").json["changed"] is False
    assert not list(home.glob(".config*"))


def test_edit_makes_a_first_file(
    ctl: Ctl, home: Path, monkeypatch: pytest.MonkeyPatch, daemon: FakeDaemon, fake: FakeControl
) -> None:
    fake.config = str(home / "config.toml")
    use_editor(home, monkeypatch, 'printf "\\n[server]\\nport = 9000\\n" > "$1"')
    result = ctl("config", "edit", "--json")
    assert "is new" in result.err
    assert result.json["reloaded"]["ok"] is True
    assert "9000" in (home / "config.toml").read_text("utf-8")


def test_edit_that_is_wrong_keeps_the_old_file_and_the_work(
    ctl: Ctl, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(home, "[server]\nport = 9000\n")
    monkeypatch.setenv("TMPDIR", str(home))
    monkeypatch.setattr("tempfile.tempdir", None)
    use_editor(home, monkeypatch, 'sed -i.bak s/9000/x/ "$1"')
    with Path(os.devnull).open(encoding="utf-8") as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        result = ctl("config", "edit")
    assert result.code == 1
    assert path.read_text("utf-8") == "[server]\nport = 9000\n"
    kept = next(home.glob("modelport-edited-*.toml"))
    assert str(kept) in result.err
    assert kept.read_text("utf-8") == "[server]\nport = x\n"


def test_edit_again(ctl: Ctl, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(home, "[server]\nport = 9000\n")
    use_editor(home, monkeypatch, 'sed -i.bak s/9000/0x/ "$1"', 'sed -i.bak s/0x/9002/ "$1"')
    ours, theirs = os.openpty()
    os.write(ours, b"\n")
    with os.fdopen(theirs, encoding="utf-8") as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        result = ctl("config", "edit")
    os.close(ours)
    assert result.code == 0
    assert "Edit again? [Y/n]" in result.err
    assert path.read_text("utf-8") == "[server]\nport = 9002\n"


def test_an_editor_that_fails(ctl: Ctl, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(home, "[server]\nport = 9000\n")
    use_editor(home, monkeypatch, 'echo "" > "$1"; exit 3')
    assert "ended with status 3" in ctl("config", "edit").err
    monkeypatch.setenv("EDITOR", "/nowhere/ed")
    assert "cannot be started" in ctl("config", "edit").err
    assert path.read_text("utf-8") == "[server]\nport = 9000\n"


def test_no_editor(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("PATH", str(home))
    monkeypatch.delenv("EDITOR", raising=False)
    monkeypatch.setenv("VISUAL", "code -w")
    assert editor() == ["code", "-w"]
    monkeypatch.delenv("VISUAL")
    with pytest.raises(RefusedError, match="No editor"):
        editor()


def test_a_file_changed_meanwhile_is_not_lost(home: Path) -> None:
    path = write(home, "new")
    with pytest.raises(RefusedError, match="another program"):
        install(path, b"old", b"mine")
    assert path.read_text("utf-8") == "new"
    link = home / "link.toml"
    link.symlink_to(path)
    install(link, b"new", b"newer")
    assert link.is_symlink()
    assert path.read_text("utf-8") == "newer"
    with pytest.raises(RefusedError, match="cannot be written"):
        install(home / "gone.toml", b"", b"")
