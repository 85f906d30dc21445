"""Loads as the user sees them: steps, the last line, Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import subprocess
import time

import pytest

from daemon.core.problems import Code, Problem, ProblemError
from daemon.ports import Progress
from tests.commands.conftest import Ctl, argv_of, process_env
from tests.control_api.fake import READY, FakeControl, FakeDaemon


def test_load_shows_its_steps_and_the_result(ctl: Ctl, daemon: FakeDaemon) -> None:
    result = ctl("load", "qwen3-coder")
    assert result.code == 0
    assert re.fullmatch(r"ready  qwen3-coder  17\.0 GiB  [0-9.]+ s\n", result.out)
    assert [line.split()[0] for line in result.err.splitlines()] == ["evict", "start"]


def test_load_as_json_is_one_document(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    result = ctl("load", "qwen3-coder", "--json", "--ctx", "64k")
    assert result.json["step"] == "ready"
    assert result.json["model"] == "qwen3-coder"
    assert result.err == ""
    assert fake.calls == [("load", "qwen3-coder", 65536)]


def test_load_takes_the_footprint_from_the_backend(
    ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    fake.steps = (Progress("ready", ""),)
    assert ctl("load", "gemma").out.startswith("ready  gemma  4.0 GiB  ")
    assert re.fullmatch(r"ready  qwen3-coder  [0-9.]+ s\n", ctl("load", "qwen3-coder").out)


def test_an_engine_that_cannot_use_the_card_says_so_at_load(
    ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    facts = {"footprint": {"ram": 1 << 30}, "model": "gemma", "warning": "It runs on the CPU."}
    fake.steps = (Progress("ready", "", 1.0, facts),)
    assert ctl("load", "gemma").out.splitlines()[1] == "! gemma: It runs on the CPU."
    assert ctl("load", "gemma", "--json").json["facts"]["warning"] == "It runs on the CPU."


@pytest.mark.parametrize("late", [False, True])
def test_a_load_that_cannot_fit(
    late: bool, ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    error = ProblemError(
        Problem(Code.MODEL_TOO_LARGE, "It needs 31 GiB of 24.", "Try --ctx 32k.", facts={"n": 31})
    )
    fake.steps = (Progress("start", "x"), error) if late else (error,)
    result = ctl("load", "qwen3-coder")
    assert result.code == 1
    assert "It needs 31 GiB of 24." in result.err
    assert "Try --ctx 32k." in result.err
    assert ctl("load", "qwen3-coder", "--json").json["error"]["facts"] == {"n": 31}


def test_a_failed_step_without_an_error_is_a_failure(
    ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    fake.steps = (Progress("failed", "The engine died."),)
    result = ctl("load", "qwen3-coder")
    assert result.code == 1
    assert "The engine died." in result.err


@pytest.mark.parametrize("bad", ["0", "x", "-1", "1.5", "٣"])
def test_a_bad_context_is_a_usage_error(bad: str, ctl: Ctl) -> None:
    result = ctl("load", "gemma", f"--ctx={bad}")
    assert result.code == 2
    assert "32k" in result.err


def test_no_wait(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert ctl("load", "gemma", "--no-wait").out == "load of gemma has begun\n"
    assert ctl("pull", "gemma", "--no-wait", "--json").json == {"ok": True, "model": "gemma"}


def test_the_daemon_stops_during_a_load(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    fake.steps = (Progress("start", "x"), asyncio.Event())
    daemon.when(lambda: fake.calls, daemon.stop)
    result = ctl("load", "gemma")
    assert result.code == 1
    assert "The daemon is stopping." in result.err


def test_ctrl_c_leaves_the_load_going(daemon: FakeDaemon, fake: FakeControl) -> None:
    gate = asyncio.Event()
    fake.steps = (Progress("start", "x"), gate, *READY)
    process = subprocess.Popen(
        argv_of("load", "qwen3-coder"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=process_env(),
    )
    try:
        deadline = time.monotonic() + 40
        while not fake.calls:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert out == ""
    assert "The load of qwen3-coder goes on" in err
    assert "Traceback" not in err
    assert fake.ended == []
    daemon.do(gate.set)
    deadline = time.monotonic() + 40
    while fake.ended != ["load qwen3-coder"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def frames(seen: bytes) -> set[str]:
    """Which marks have stood before the quarter of the pull: which is the first tells the load."""
    line = r"([⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]) pull     model\.gguf \[######\.{18}\]  25%"
    return set(re.findall(line, seen.decode(errors="ignore")))


def test_a_terminal_gets_a_moving_line(daemon: FakeDaemon, fake: FakeControl) -> None:
    gate = asyncio.Event()
    fake.steps = (Progress("pull", "model.gguf", 0.25), gate, *READY)
    ours, theirs = pty.openpty()
    env = {**process_env(), "TERM": "xterm", "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(
        argv_of("load", "qwen3-coder"), stdout=theirs, stderr=theirs, stdin=theirs, env=env
    )
    os.close(theirs)
    seen = b""
    try:
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux says EIO when the other side is closed
                break
            if not piece:
                break
            seen += piece
            if len(frames(seen)) > 1:
                daemon.do(gate.set)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    text = seen.decode()
    assert len(frames(seen)) > 1, "it moves"
    assert "ready  qwen3-coder  17.0 GiB" in text.split("\x1b[K")[-1]


def test_unload(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    assert ctl("unload", "g", "--force").out == "unloaded  gemma\n"
    assert ctl("unload", "gemma").out == "gemma was not loaded.\n"
    assert ctl("unload", "--all").out == "No model was loaded.\n"
    assert ctl("unload", "--all", "--json").json == {"unloaded": []}
    assert ctl("unload", "gemma", "--all").code == 2
    assert fake.calls[0] == ("unload", "gemma", True)


@pytest.mark.parametrize(
    ("verb", "said", "call"),
    [
        ("pin", "pinned  org/repo:Q4", ("pin", "org/repo:Q4", True)),
        ("unpin", "unpinned  org/repo:Q4", ("pin", "org/repo:Q4", False)),
        ("reset", "org/repo:Q4 may be started again", ("reset", "org/repo:Q4")),
    ],
)
def test_pin_unpin_reset(
    verb: str, said: str, call: object, ctl: Ctl, daemon: FakeDaemon, fake: FakeControl
) -> None:
    assert ctl(verb, "org/repo:Q4").out == f"{said}\n"
    done = ctl(verb, "org/repo:Q4", "--json").json
    assert (done["ok"], done["model"]) == (True, "org/repo:Q4")
    assert fake.calls == [call, call]
