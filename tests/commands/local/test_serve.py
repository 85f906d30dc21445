from __future__ import annotations

import json
import os
import sys
import sysconfig
from typing import NoReturn

import pytest

from control_api.commands.local import serve
from tests.commands.conftest import ROOT, Ctl


class BecameError(Exception):
    """Instead of becoming another program."""


def test_it_becomes_the_daemon(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[str, list[str], dict[str, str]]] = []

    def execve(path: str, argv: list[str], env: dict[str, str]) -> NoReturn:
        seen.append((path, argv, env))
        raise BecameError

    monkeypatch.setattr(os, "execve", execve)
    for flags in (["--port", "9000", "--host", "::1", "--config=c", "--service", "-vv"], []):
        with pytest.raises(BecameError):
            ctl("serve", "--json", *flags)
    path, argv, env = seen[0]
    assert path == sys.executable
    assert argv[:4] == [sys.executable, "-P", "-m", "daemon"]
    assert argv[4:] == ["--config=c", "--host=::1", "--port=9000", "--service", "-v", "-v"]
    assert env["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    assert seen[1][1][4:] == []
    told = json.loads(capsys.readouterr().out)
    assert told["pid"] == os.getpid()


def test_an_installed_program_needs_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(ROOT))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert "PYTHONPATH" not in serve.daemon_environ()


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1"])
def test_a_bad_port_is_a_usage_error(port: str, ctl: Ctl) -> None:
    result = ctl("serve", f"--port={port}")
    assert result.code == 2
    assert "is not a port" in result.err


def test_the_real_daemon_takes_the_flags(ctl_process: Ctl) -> None:
    """It gets as far as its own checks: another program would not know the file."""
    result = ctl_process("serve", "--config", "/nowhere/config.toml")
    assert result.code not in {0, 2}
    assert "/nowhere/config.toml" in result.err
    assert "Traceback" not in result.err
