from __future__ import annotations

import socket
from pathlib import Path

import pytest

from control_api.commands.local import engine
from tests.commands.conftest import Ctl
from tests.commands.local.test_engine import FakeRegistry


@pytest.fixture(autouse=True)
def no_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "registry_of", lambda config: FakeRegistry({}))


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_what_is_wrong_comes_with_its_remedy(ctl: Ctl, home: Path, free_port: int) -> None:
    (home / "state").chmod(0o777)
    (home / "config.toml").write_text(f"[server]\nport = {free_port}\n", "utf-8")
    result = ctl("doctor")
    assert result.code == 1
    lines = result.out.splitlines()
    bad = lines.index(next(line for line in lines if line.startswith("fail  state dir")))
    assert lines[bad + 1].strip() == f"-> chmod 700 {home}/state"
    assert f"ok    port         127.0.0.1:{free_port} is free" in lines
    assert "to mend" in lines[-1]
    told = ctl("doctor", "--json")
    assert (told.code, told.json["ok"]) == (1, False)
    assert {"python", "daemon", "config", "port", "memory", "engine"} <= {
        check["name"] for check in told.json["checks"]
    }


def test_a_wrong_file_is_told_with_each_mistake(ctl: Ctl, home: Path) -> None:
    (home / "config.toml").write_text('[server]\nport = "x"\nhots = 1\n', "utf-8")
    result = ctl("doctor")
    assert result.code == 1
    assert result.out.count("fail  config") == 2
    assert "line 2, server.port" in result.out
