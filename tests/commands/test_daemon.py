from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest

from control_api.commands.daemon import process_alive
from daemon.views import ClaimView, VictimView, WaitView
from tests.commands.conftest import Ctl
from tests.control_api.fake import GIB, FakeControl, FakeDaemon


def test_status(ctl: Ctl, daemon: FakeDaemon) -> None:
    result = ctl("status")
    assert result.code == 0
    assert "running, foreground, pid 4242, 0.1.0" in result.out
    assert "4.0 GiB of 24.0 GiB, 4.0 GiB measured (nvml)" in result.out
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


def test_status_tells_who_waits_for_what_and_why(
    ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    victim = VictimView(
        model="gemma", state="ready", leases=2, seconds=12.0, bytes={"gpu0": 4 * GIB}
    )
    fake.changes = {
        "claim": ClaimView(model="coder", age=3.0, need={"gpu0": 20 * GIB}, victims=[victim]),
        "waiting": [
            WaitView(
                model="coder",
                requests=2,
                loads=1,
                age=3.0,
                kind="victims",
                why="gemma is in use",
                seconds=12.0,
            )
        ],
        "paused": True,
        "paused_left": 90.0,
        "thrash_ratio": 0.42,
        "advice": "gemma and coder do not fit together.",
    }
    lines = ctl("status").out.splitlines()
    assert "next: coder, since 3.0 s" in lines
    assert "  gemma (ready, 2 running requests) makes room in 12.0 s at the latest" in lines
    assert "2 requests and 1 load for coder since 3.0 s: gemma is in use (12.0 s)" in lines
    assert "! gemma and coder do not fit together." in lines
    assert any("for another 1m 30s" in line for line in lines)
    assert any("42% of the last minutes" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "call", "said"),
    [
        ((), ("pause", None, True, False), "paused until `ctl resume`"),
        (("30m",), ("pause", 1800.0, True, False), "paused for 30m 0s"),
        (("1.5h", "--refuse"), ("pause", 5400.0, False, False), "requests are refused"),
        (("90", "--force"), ("pause", 90.0, True, True), "paused for 1m 30s"),
    ],
)
def test_pause(
    words: tuple[str, ...],
    call: tuple[object, ...],
    said: str,
    ctl: Ctl,
    daemon: FakeDaemon,
    fake: FakeControl,
) -> None:
    result = ctl("pause", *words)
    assert result.code == 0
    assert said in result.out
    assert fake.calls == [call]
    assert ctl("resume").out == "resumed\n"


def test_resume_without_a_pause(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert ctl("resume").out == "It was not paused.\n"


@pytest.mark.parametrize("time", ["0", "soon", "-1", "31d", "30 minutes"])
def test_a_pause_of_no_time(time: str, ctl: Ctl) -> None:
    result = ctl("pause", "--", time)
    assert result.code == 2
    assert "30m" in result.err
