from __future__ import annotations

import io
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from control_api.commands.local import checks, engine
from control_api.commands.local import doctor as module
from control_api.commands.local.checks import Check
from control_api.commands.output import Out
from control_api.commands.progress import Notice
from tests.commands.conftest import Ctl, Result, Terminal
from tests.commands.local.test_engine import FakeRegistry
from tests.ports import free_port


@pytest.fixture(autouse=True)
def no_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "registry_of", lambda config: FakeRegistry({}))


def test_what_is_wrong_comes_with_its_remedy(ctl: Ctl, home: Path) -> None:
    port = free_port()
    (home / "state").chmod(0o777)
    (home / "config.toml").write_text(f"[server]\nport = {port}\n", "utf-8")
    result = ctl("doctor")
    assert result.code == 1
    lines = result.out.splitlines()
    bad = lines.index(next(line for line in lines if line.startswith("fail  state dir")))
    assert lines[bad + 1].strip() == f"-> chmod 700 {home}/state"
    assert f"ok    port         127.0.0.1:{port} is free" in lines
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


# ---------------------------------------------------------------- whatever is wrong


def lines_of(result: Result) -> list[str]:
    assert "Traceback" not in result.out + result.err
    return result.out.splitlines()


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00", b"[[[", b"a = 1\n" * 2000, b"\x00" * 99])
def test_any_file_is_told_in_lines(ctl: Ctl, home: Path, data: bytes) -> None:
    (home / "config.toml").write_bytes(data)
    result = ctl("doctor")
    assert any(line[6:].startswith("config") for line in lines_of(result))
    assert (result.code == 1) or data == b""


def test_a_file_that_cannot_be_read(ctl: Ctl, home: Path) -> None:
    (home / "config.toml").mkdir()
    assert "fail  config" in "\n".join(lines_of(ctl("doctor")))


def test_a_dead_socket(ctl: Ctl, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(home / "dead.sock"))
    monkeypatch.setenv("MODELPORT_CONTROL_SOCKET", str(home / "dead.sock"))
    assert "warn  daemon" in "\n".join(lines_of(ctl("doctor")))


def test_a_daemon_that_hangs(ctl: Ctl, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "config.toml").write_text(f"[server]\nport = {free_port()}\n", "utf-8")
    monkeypatch.setattr(checks, "STATUS_SECONDS", 0.2)
    monkeypatch.setenv("MODELPORT_CONTROL_SOCKET", str(home / "hung.sock"))
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(home / "hung.sock"))
        hung.listen(5)
        told = "\n".join(lines_of(ctl("doctor")))
    assert "  daemon  " in told
    assert "ok    daemon" not in told
    assert "ok    port" in told, "the others are looked at all the same"


def test_a_check_that_fails_or_hangs_takes_nothing_from_the_others(
    ctl: Ctl, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs() -> list[Check]:
        subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], check=False)
        return []

    def fails() -> list[Check]:
        raise RuntimeError("a bug of ours")

    visit = module.Visit
    monkeypatch.setattr(module, "Visit", partial(visit, seconds=4.0))
    monkeypatch.setattr(
        visit,
        "groups",
        lambda self: (("one", hangs), ("two", fails), ("three", lambda: [Check("x", "ok", "y")])),
    )
    lines = lines_of(ctl("doctor"))
    assert lines[0].startswith("warn  one          no answer within")
    assert lines[2] == "fail  two          could not be looked at: RuntimeError: a bug of ours"
    assert lines[4] == "ok    x            y"


def test_a_report_names_nobody(ctl: Ctl, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "zacharias")
    (home / "config.toml").write_text(
        f'[models.mine]\npath = "{home}/zacharias/weights.gguf"\n', "utf-8"
    )
    plain = ctl("doctor").out
    assert str(home) in plain
    told = ctl("doctor", "--redact")
    data = ctl("doctor", "--redact", "--json")
    for text in (told.out, data.out):
        assert str(home) not in text
        assert "zacharias" not in text
        assert "weights.gguf" not in text
        assert "<model>" in text
        assert "~/state" in text
    assert {check["name"] for check in data.json["checks"]} >= {"clock", "keys", "lan", "service"}


def test_a_report_of_a_broken_file_names_no_path_either(ctl: Ctl, home: Path) -> None:
    (home / "config.toml").write_text('[models.mine]\npath = 5\nhf = "/disks/sekret"\n', "utf-8")
    assert "/disks/sekret" in ctl("doctor").out
    assert "sekret" not in ctl("doctor", "--redact").out


def test_what_is_looked_at_is_told_to_a_person() -> None:
    err = Terminal()
    notice = Notice(Out(err=err))
    notice.show("engine")
    notice.clear()
    assert err.getvalue() == "\r... engine\x1b[K\r\x1b[K"
    silent = io.StringIO()
    Notice(Out(err=silent)).show("engine")
    assert silent.getvalue() == ""
