from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

from control_api.commands.daemon import process_alive
from tests.commands.conftest import Ctl
from tests.control_api.fake import FakeControl, FakeDaemon


def test_status(ctl: Ctl, daemon: FakeDaemon) -> None:
    result = ctl("status")
    assert result.code == 0
    assert "running, foreground, pid 4242, 0.1.0" in result.out
    assert "4.0 GiB of 24.0 GiB (nvml)" in result.out
    assert ctl("status", "--json").json["url"] == "http://127.0.0.1:8123"


def test_version_with_and_without_a_daemon(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert "daemon 0.1.0, pid 4242" in ctl("version").out
    assert ctl("--version").out == ctl("version").out
    assert ctl("version", "--json").json["daemon"]["api"] == "v1"
    ctl("shutdown")
    result = ctl("version")
    assert (result.code, result.err) == (0, "")
    assert "daemon: not running" in result.out
    assert ctl("version", "--json").json["daemon"] is None


def test_reload_tells_what_changed(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    result = ctl("reload")
    assert result.out.splitlines() == [
        "reloaded",
        "  added    new",
        "  changed  gemma",
        "! In force only after a restart: server.port.",
    ]
    assert ctl("reload", "--json").json["added"] == ["new"]
    fake.reload_view = dataclasses.replace(fake.reload_view, added=[], changed=[], needs_restart=[])
    assert ctl("reload").out == "reloaded; nothing has changed\n"


def test_reload_of_a_bad_file_shows_each_mistake(
    ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    mistake = {
        "where": "server.port",
        "found": '"x"',
        "allowed": "a whole number",
        "hint": "Try 8123.",
        "line": 3,
        "source": "config.toml",
    }
    fake.reload_view = dataclasses.replace(
        fake.reload_view, ok=False, problem="config.toml has 1 mistake.", mistakes=[mistake]
    )
    result = ctl("reload")
    assert result.code == 1
    assert 'config.toml:3  server.port: found "x"; allowed: a whole number' in result.err
    assert "Try 8123." in result.err
    assert ctl("reload", "--json").json["error"]["facts"]["mistakes"] == [mistake]


def test_shutdown_waits_until_the_daemon_is_gone(
    ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    result = ctl("shutdown")
    assert result.code == 0
    assert result.out.startswith("stopped  ")
    assert ctl("status").code == 3


def test_shutdown_that_takes_too_long(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    fake.on_shutdown = lambda: None
    result = ctl("shutdown", "--timeout", "0.1")
    assert result.code == 1
    assert "still stopping" in result.err
    assert ctl("shutdown", "--no-wait").out == "stopping\n"
    assert ctl("shutdown", "--no-wait", "--json").json["stopped"] is False


def test_a_process_lives_until_it_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process_alive(process.pid)
    process.communicate(b"\n", timeout=20)
    assert not process_alive(process.pid)
    unreaped = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, unreaped.pid, os.WEXITED | os.WNOWAIT)
    assert not process_alive(unreaped.pid)
    assert unreaped.wait(20) == 0
