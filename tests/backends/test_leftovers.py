"""Records that may be anything, and processes that may be anybody's."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.backends import keeper as program
from daemon.backends import marks
from daemon.backends.leftovers import (
    Reaped,
    Record,
    reap,
    reap_recorded,
    records,
    same_command,
    sweep,
)
from tests.backends.keeper_house import DEADLINE, House
from tests.backends.keeper_house import house as _house

house = pytest.fixture(_house)

GOOD: dict[str, Any] = {
    "protocol": 1,
    "backend": "qwen",
    "generation": 3,
    "pid": 99,
    "start": "boot:1",
    "argv": ["llama-server", "-m", "x"],
    "keeper_pid": 98,
    "keeper_start": "boot:0",
    "socket": "/run/b.sock",
    "log": "/log/b.log",
    "mode": "service",
    "facts": {"port": 1},
}


@pytest.fixture
def leftover(house: House) -> Iterator[tuple[Record, subprocess.Popen[bytes]]]:
    """An engine with a child, whose keeper is dead, and its record."""
    argv = house.engine(
        "import os, signal, sys\nif os.fork() == 0: os.setsid()\nprint('up', flush=True)\n"
        "while True: signal.pause()"
    )
    with subprocess.Popen(argv, start_new_session=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(6) == b"up\nup\n"
        start = program.start_token(process.pid)
        path = house.root / "b.json"
        made = {**GOOD, "pid": process.pid, "start": start, "argv": argv}
        path.write_text(json.dumps({**made, "socket": os.fspath(house.root / "b.sock")}))
        for left in ("b.sock", "b.engine.sock"):
            (house.root / left).touch()
        [record] = records(house.root)
        yield record, process
        for pid in house.pids():
            os.kill(pid, signal.SIGKILL)


def test_a_leftover_is_killed_with_all_that_it_started(
    house: House, leftover: tuple[Record, subprocess.Popen[bytes]]
) -> None:
    record, process = leftover
    assert not record.keeper_alive
    assert len(house.pids()) == 2
    assert reap(record) is Reaped.KILLED
    assert process.wait(DEADLINE) == -signal.SIGKILL
    end = time.monotonic() + DEADLINE
    while house.pids():
        assert time.monotonic() < end
    assert reap(record) is Reaped.ABSENT
    assert not record.path.exists()
    assert not record.socket.exists()
    assert not (house.root / "b.engine.sock").exists()


ORPHAN = "import signal, sys; print(flush=True); signal.pause()"


@pytest.mark.parametrize("pid", ["absent", "foreign"])
def test_who_carries_the_mark_of_a_start_is_ended_with_it(house: House, pid: str) -> None:
    """Its engine is dead, or its number is somebody else's now: the mark still tells whose it is.
    Another start's, or one that has it only in part, is left alone."""
    carried = ("qwen/3/aa", "qwen/3/aab", "qwen/3/a", "qwen/4/aa", "")
    with contextlib.ExitStack() as running:
        processes = []
        for mark in carried:
            argv = house.engine(ORPHAN)
            process = subprocess.Popen(
                argv, start_new_session=True, stdout=subprocess.PIPE, env={marks.NAME: mark}
            )
            processes.append(running.enter_context(process))
            running.callback(process.kill)
            assert process.stdout is not None
            process.stdout.read(1)
        made = {**GOOD, "pid": 2**22 + 1 if pid == "absent" else os.getpid(), "mark": "qwen/3/aa"}
        (house.root / "b.json").write_text(json.dumps(made))
        [record] = records(house.root)
        assert reap(record).value == pid
        assert processes[0].wait(DEADLINE) == -signal.SIGKILL
        assert [process.poll() for process in processes[1:]] == [None] * 4


def test_one_look_that_finds_nobody_is_not_enough(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is forked while the processes are listed is in no list, and its parent has ended."""
    with subprocess.Popen(house.engine(ORPHAN), stdout=subprocess.PIPE) as late:
        assert late.stdout is not None
        late.stdout.read(1)
        start = program.start_token(late.pid)
        looks: list[dict[int, str | None]] = [{}, {}, {late.pid: start}]
        monkeypatch.setattr(marks, "carriers", lambda mark: looks.pop(0) if looks else {})
        assert marks.end_all("qwen/3/aa")
        assert late.wait(DEADLINE) == -signal.SIGKILL


def test_without_a_mark_nobody_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of an older keeper: who carries no mark is not meant by none."""
    monkeypatch.setattr(marks, "carriers", lambda mark: pytest.fail("all would be found"))
    assert marks.end_all("")


def test_what_does_not_end_is_told(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a process that a driver holds in the kernel: nothing waits for it for ever."""
    mine = program.start_token(os.getpid())
    assert mine is not None
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(pid))
    assert not marks.end_all("", {os.getpid(): mine}, patience=0.5)
    assert len(killed) > 1
    monkeypatch.setattr(marks, "end_all", lambda mark, family: False)
    assert reap_recorded(house.root / "b7.json", (), "b/7/x") == "no record"
    assert "b7 started does not end" in caplog.text


@pytest.mark.parametrize("mark", [None, 7, ["x"]])
def test_a_mark_that_is_none_is_none(tmp_path: Path, mark: object) -> None:
    (tmp_path / "b.json").write_text(json.dumps({**GOOD, "mark": mark}))
    assert [record.mark for record in records(tmp_path)] == [""]


def test_a_stranger_with_the_same_pid_is_left_alone(
    house: House, leftover: tuple[Record, subprocess.Popen[bytes]]
) -> None:
    record, process = leftover
    for stranger in (
        replace(record, start="boot:1"),
        replace(record, argv=(*record.argv[:-1], "other")),
        replace(record, argv=record.argv[:-1]),
    ):
        assert reap(stranger) is Reaped.FOREIGN
        assert process.poll() is None
    assert not record.path.exists(), "a record of nobody is of no use"


def test_a_zombie_is_not_alive(leftover: tuple[Record, subprocess.Popen[bytes]]) -> None:
    record, process = leftover
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert reap(record) is Reaped.ABSENT


def test_the_record_of_a_living_keeper_stays(
    leftover: tuple[Record, subprocess.Popen[bytes]],
) -> None:
    record, process = leftover
    mine = program.start_token(os.getpid())
    assert mine is not None
    assert reap(replace(record, keeper_pid=os.getpid(), keeper_start=mine)) is Reaped.KILLED
    assert process.wait(DEADLINE) == -signal.SIGKILL
    assert record.path.exists(), "the keeper removes it when it has seen the end"


def test_files_of_keepers_that_never_got_an_order_are_swept_away(house: House) -> None:
    names = ("orphan", "recorded", "starting")
    with contextlib.ExitStack() as open_sockets:
        for name in names:
            listener = open_sockets.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(os.fspath(house.root / f"{name}.sock"))
            (house.root / f"{name}.key").touch()
            if name == "starting":
                listener.listen()
        (house.root / "recorded.json").touch()
        sweep(house.root)
    left = sorted(path.name for path in house.root.glob("*.*") if path.stem in names)
    assert left == [
        *("recorded.json", "recorded.key", "recorded.sock"),
        *("starting.key", "starting.sock"),
    ]


def test_sockets_of_engines_are_told_from_those_of_keepers(house: House) -> None:
    """One that somebody listens on stays, and so does one whose backend has a record."""
    with contextlib.ExitStack() as open_sockets:
        for name in ("orphan", "recorded", "serving"):
            listener = open_sockets.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(os.fspath(house.root / f"{name}.engine.sock"))
            if name == "serving":
                listener.listen()
        for other in ("recorded.json", "orphan.key", "orphan.engine.key"):
            (house.root / other).touch()
        sweep(house.root)
    assert sorted(path.name for path in house.root.iterdir()) == [
        *("orphan.engine.key", "orphan.key"),
        *("recorded.engine.sock", "recorded.json", "serving.engine.sock"),
    ]


def test_a_script_is_recognised_behind_its_interpreter(house: House) -> None:
    script = house.root / "engine"
    script.write_text(f"#!{sys.executable} -I\nimport signal; print(flush=True); signal.pause()\n")
    script.chmod(0o700)
    argv = (os.fspath(script), house.tag)
    with subprocess.Popen(argv, start_new_session=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        made = {**GOOD, "pid": process.pid, "argv": argv}
        made["start"] = program.start_token(process.pid)
        (house.root / "b.json").write_text(json.dumps(made))
        [record] = records(house.root)
        assert reap(record) is Reaped.KILLED
        assert process.wait(DEADLINE) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("recorded", "current", "same"),
    [
        (["a", "b"], ["a", "b"], True),
        (["a", "b"], ["a", "c"], False),
        (["a", "b"], ["x", "b"], False),
        (["a", "b"], ["/bin/sh", "/opt/a", "b"], True),
        (["/opt/a", "b"], ["/bin/sh", "-e", "/opt/a", "b"], True),
        (["a", "b"], ["/bin/sh", "/opt/c", "b"], False),
        (["a"], [], False),
        ([], [], False),
        ([], ["a"], False),
    ],
)
def test_same_command(recorded: list[str], current: list[str], same: bool) -> None:
    assert same_command(recorded, current) is same


def test_records_are_read_in_order_and_garbage_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(json.dumps(GOOD))
    (tmp_path / "a.json").write_text(json.dumps({**GOOD, "protocol": 9, "backend": "newer"}))
    (tmp_path / "empty.json").touch()
    (tmp_path / "half.json").write_text(json.dumps(GOOD)[:50])
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "huge.json").write_text(" " * (1 << 20) + json.dumps(GOOD))
    (tmp_path / "link.json").symlink_to(tmp_path / "b.json")
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "other.txt").touch()
    assert [record.backend for record in records(tmp_path)] == ["newer", "qwen"]
    left = {path.name.rstrip("0123456789") for path in tmp_path.iterdir()}
    names = ("empty", "half", "list", "huge", "link", "fifo", "deep")
    assert left == {"a.json", "b.json", "other.txt"} | {f"{n}.json.corrupt-" for n in names}
    assert len(records(tmp_path)) == 2
    assert records(tmp_path / "no such folder") == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(
    st.binary(max_size=50)
    | st.builds(
        lambda k, v: json.dumps({**GOOD, k: v}).encode(), st.sampled_from(sorted(GOOD)), JSON
    )
)
def test_no_record_can_raise(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "b.json").write_bytes(data)
        for record in records(Path(folder)):
            assert record.pid > 1
            assert all(isinstance(word, str) for word in record.argv)
