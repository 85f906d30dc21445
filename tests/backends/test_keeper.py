"""The keeper as a program: its order, its output, its loneliness, without the daemon's side."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.backends import keeper as program
from daemon.backends.keeper import Family, Log, Matcher, descendants, read_order, start_token
from daemon.backends.keeping import Order
from tests.backends.keeper_house import DEADLINE, House
from tests.backends.keeper_house import house as _house

pytestmark = pytest.mark.processes

house = pytest.fixture(_house)

FILE = program.__file__
WAIT = "import signal; print('up', flush=True); signal.pause()"
# everything as on a system without subreapers: orphans go to init
NO_SUBREAPER = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("keeper", {FILE!r})
keeper = importlib.util.module_from_spec(spec)
spec.loader.exec_module(keeper)
keeper.SUBREAPER, keeper.LOOK = False, 0.02
sys.exit(keeper.main())
"""


def wait_for(condition: Any, what: str = "it") -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true"
        time.sleep(0.005)


def prepare(house: House) -> None:
    for name in ("run", "log"):
        (house.root / name).mkdir(mode=0o700)


@contextmanager
def connected(house: House, path: Path) -> Iterator[Any]:
    """A connection to a keeper, once it listens."""
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(DEADLINE)
        wait_for(lambda: raw.connect_ex(os.fspath(path)) == 0, "the connection")
        with raw.makefile("rwb", buffering=0) as stream:
            yield stream


@contextmanager
def by_hand(order: Order, *command: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A keeper with its order on a pipe; it has ended well when the body has."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", *(command or (FILE,))], stdin=subprocess.PIPE, **options
    )
    with process:
        assert process.stdin is not None
        process.stdin.write(order.encode())
        process.stdin.flush()
        try:
            yield process
            assert process.wait(DEADLINE) == 0
        finally:
            process.terminate()


def hear(stream: Any) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(stream.readline())
    return message


def say(stream: Any, **message: object) -> None:
    stream.write(json.dumps(message).encode() + b"\n")


# --- as a program --------------------------------------------------------------------------------


def test_by_hand_the_order_on_a_pipe_and_the_socket_of_its_own(house: House) -> None:
    prepare(house)
    order = house.order(house.engine(WAIT))
    with by_hand(order), connected(house, order.socket) as stream:
        assert order.socket.stat().st_mode & 0o777 == 0o600
        assert hear(stream)["pid"] in house.pids()
        say(stream, type="stop", grace=DEADLINE)
        assert hear(stream)["status"] == -signal.SIGTERM
        assert hear(stream) == {"type": "gone"}
        say(stream, type="bye")
        assert stream.readline() == b""
    assert list((house.root / "run").iterdir()) == []


@pytest.mark.parametrize("mode", ["foreground", "service"])
def test_nobody_ever_connects(house: House, mode: str) -> None:
    prepare(house)
    order = house.order(house.engine(WAIT), mode=mode, connect_grace=0.2, grace=0.2)
    began = time.monotonic()
    command = [sys.executable, "-I", "-S", FILE]
    subprocess.run(command, input=order.encode(), timeout=DEADLINE, check=True)
    assert time.monotonic() - began > (0.2 if mode == "foreground" else 0.4)
    assert house.pids() == {}
    assert list((house.root / "run").iterdir()) == []


def test_messages_right_behind_the_order_are_heard(house: House) -> None:
    prepare(house)
    order = house.order(house.engine(WAIT))
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE)
    with ours, ours.makefile("rb") as stream:
        ours.sendall(order.encode() + b'{"type":"kill"}\n{"type":"bye"}\n')
        with theirs:
            process = subprocess.Popen([sys.executable, "-I", "-S", FILE], stdin=theirs.fileno())
        assert [hear(stream)["type"] for _ in range(3)] == ["hello", "exit", "gone"]
        assert stream.readline() == b""
    assert process.wait(DEADLINE) == 0


def test_a_wrong_order_is_refused_with_the_field(house: House) -> None:
    good = json.loads(house.order(("/bin/true",)).encode())
    cases: list[tuple[Any, str]] = [
        (b"", "stdin ended before the order did"),
        (b"{\n", "Expecting property name"),
        (b"[]\n", "must be a JSON object"),
        ({**good, "protocol": 2}, "protocol 2: this keeper speaks 1"),
        ({**good, "argv": []}, "argv: at least the program is needed"),
        ({**good, "mode": "later"}, "mode: foreground or service is expected, not 'later'"),
        ({**good, "log_keep": "2"}, "log_keep: int is expected, not '2'"),
        ({**good, "pattern": "("}, "missing ), unterminated subpattern"),
        ({name: value for name, value in good.items() if name != "socket"}, "lacks 'socket'"),
    ]
    prepare(house)
    for order, text in cases:
        data = order if isinstance(order, bytes) else json.dumps(order).encode() + b"\n"
        command = [sys.executable, "-I", "-S", FILE]
        done = subprocess.run(command, input=data, capture_output=True, timeout=DEADLINE)
        assert done.returncode == 2
        assert text in done.stderr.decode()
        assert "Traceback" not in done.stderr.decode()


def test_defaults_and_whole_seconds_are_filled_in(house: House) -> None:
    order = json.loads(house.order(("/bin/true",)).encode())
    graces = ("kill_grace", "connect_grace", "lost_grace")
    for name in ("pattern_keep", *graces, "files", "facts"):
        del order[name]
    reading, writing = os.pipe()
    os.write(writing, json.dumps({**order, "grace": 60}).encode() + b"\nrest")
    read, rest = read_order(reading)
    os.close(reading)
    os.close(writing)
    assert rest == b"rest"
    assert (read["pattern_keep"], *(read[name] for name in graces)) == (8192, 2.0, 10.0, 1.0)
    assert (type(read["grace"]), read["files"], read["facts"]) == (float, [], {})


def test_nothing_inherited_stays_open(house: House) -> None:
    prepare(house)
    order = house.order(house.engine(WAIT))
    with socket.create_server(("127.0.0.1", 0)) as port:
        number = port.getsockname()[1]
        keeper = by_hand(order, pass_fds=[port.fileno()])
        with keeper as process, connected(house, order.socket) as stream:
            for holder in (process.pid, hear(stream)["pid"]):
                assert psutil.Process(holder).net_connections("inet") == []
            port.close()
            with socket.create_server(("127.0.0.1", number)):
                say(stream, type="kill")
                say(stream, type="bye")


def test_without_subreapers_the_family_is_found_while_its_parents_live(house: House) -> None:
    code = """
import os, signal, sys, time
signal.signal(15, signal.SIG_IGN)
ready, child_ready = os.pipe()
def child(session):
    if os.fork() == 0:
        if session: os.setsid()
        os.write(child_ready, b"x")
        while True: signal.pause()
    os.read(ready, 1)
child(True); child(False)
print("up", flush=True)
while True: signal.pause()
"""
    prepare(house)
    order = house.order(house.engine(code), lost_grace=0.05)
    with by_hand(order, "-c", NO_SUBREAPER), connected(house, order.socket) as stream:
        hello = hear(stream)
        wait_for(lambda: "up" in house.text())
        assert len(house.pids()) == 3
        for _ in range(2):  # between two of its turns it has looked at the family
            say(stream, type="hello")
            assert hear(stream)["type"] == "hello"
        os.kill(hello["pid"], signal.SIGKILL)  # a crash: nobody asked the keeper
        assert hear(stream)["status"] == -signal.SIGKILL
        assert hear(stream) == {"type": "gone"}
        assert house.pids() == {}
        say(stream, type="bye")


# --- lines ---------------------------------------------------------------------------------------


def cut(data: bytes, at: list[int]) -> list[bytes]:
    points = sorted({0, len(data), *(min(point, len(data)) for point in at)})
    return [data[a:b] for a, b in itertools.pairwise(points)]


@given(
    st.lists(st.sampled_from([b"oom", b"x", b"\n", b"\r", b"\r\n", b"\xff", b"y" * 9000])),
    st.lists(st.integers(0, 30_000), max_size=8),
)
def test_lines_do_not_depend_on_how_they_were_cut(parts: list[bytes], at: list[int]) -> None:
    data = b"".join(parts)
    matcher = Matcher("^x?oom|x$", keep=1 << 30)
    found = [line for chunk in cut(data, at) for line in matcher.feed(chunk)] + matcher.flush()
    lines = [line for line in re.split(b"[\r\n]", data) if line]
    expected = [li.decode("utf-8", "replace") for li in lines if re.search(b"^x?oom|x$", li)]
    if all(len(line) <= 8192 for line in lines):
        assert found == expected == matcher.kept
    whole = Matcher("^x?oom|x$", keep=1 << 30)
    assert found == whole.feed(data) + whole.flush()


@given(
    st.lists(st.tuples(st.integers(0, 40_000), st.sampled_from([b"oom", b"Oom"])), max_size=4),
    st.lists(st.integers(0, 200_000), max_size=8),
    st.booleans(),
)
def test_nothing_hides_in_a_line_without_end(
    marks: list[tuple[int, bytes]], at: list[int], ended: bool
) -> None:
    """Whatever comes before it, and wherever the chunks end; shown with what is around it."""
    data = b"".join(b"y" * (gap + 1200) + mark for gap, mark in marks) + b"\n" * ended
    matcher = Matcher("o{2}m", keep=1 << 30, needles=["oom"])
    found = [line for chunk in cut(data, at) for line in matcher.feed(chunk)] + matcher.flush()
    assert "".join(found).lower().count("oom") == len(marks)
    assert all(len(line) <= 1024 for line in found) or len(data) <= 8200
    assert len(matcher._partial) <= 8192


def test_what_was_dull_is_looked_at_once() -> None:
    """And new words, or another number in them, do not hide behind that."""
    matcher = Matcher(r"lost \d device", keep=8192, needles=["device"])
    for turn in range(3):
        assert matcher.feed(b"step %d of 9\nall is well\n" % turn) == []
    assert len(matcher._dull) == 2
    assert matcher.feed(b"step 3 of 9\nlost 7 DEVICE\n") == ["lost 7 DEVICE"]
    assert matcher.feed(b"lost no device\n") == []
    assert matcher.feed(b"lost 8 device\n") == ["lost 8 device"]
    flood = b"".join(b"%s\n" % word.encode() for word in map("{:x}".format, range(200_000)))
    assert matcher.feed(flood.translate(bytes.maketrans(b"0123456789", b"ghijklmnop"))) == []
    assert matcher._dull_bytes <= len(flood), "and it is bounded"
    matcher.feed(b"another\n")
    assert len(matcher._dull) == 1


def test_only_the_last_matching_lines_are_kept() -> None:
    matcher = Matcher("e", keep=20)
    told = matcher.feed(b"".join(b"line %d\n" % number for number in range(100)))
    assert told == matcher.kept == ["line 98", "line 99"]
    matcher.feed(b"three\n")
    assert matcher.kept == ["line 99", "three"]
    assert Matcher(None, keep=20).feed(b"e\n") == []
    assert Matcher(None, keep=20).flush() == []


# --- log -----------------------------------------------------------------------------------------


def names(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.glob(path.name + "*")}


def test_the_log_rotates_at_the_start_and_by_size(tmp_path: Path) -> None:
    path = tmp_path / "model.log"
    for life in (b"first", b"second", b"third", b"fourth"):
        log = Log(os.fspath(path), 10, 2)
        log.write(life)
        log.close()
    kept = {"model.log": b"fourth", "model.log.1": b"third", "model.log.2": b"second"}
    assert names(path) == kept
    Log(os.fspath(path), 10, 2).close()
    Log(os.fspath(path), 10, 2).close()
    assert names(path) == {"model.log": b"", "model.log.1": b"fourth", "model.log.2": b"third"}
    log = Log(os.fspath(path), 10, 2)
    for part in (b"1234567", b"89", b"abcd", b"0123456789"):
        log.write(part)
    assert names(path) == {
        "model.log": b"0123456789",
        "model.log.1": b"abcd",
        "model.log.2": b"123456789",
    }
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in tmp_path.iterdir())
    assert (log.bytes, log.dropped) == (23, 0)
    log.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(0, 90), max_size=60),
    st.lists(st.integers(0, 4000), max_size=30),
    st.integers(20, 200),
)
def test_rotation_loses_no_byte_and_cuts_no_line_that_fits(
    tmp_path: Path, lengths: list[int], at: list[int], most: int
) -> None:
    data = b"".join(b"%d " % n + b"-" * length + b"\n" for n, length in enumerate(lengths))
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        path = Path(folder) / "model.log"
        log = Log(os.fspath(path), most, 400)
        for line_or_chunk in cut(data, at):
            log.write(line_or_chunk)
        log.close()
        files = sorted(path.parent.iterdir(), key=lambda f: -int(f.suffix[1:].replace("log", "0")))
        texts = [file.read_bytes() for file in files]
    assert b"".join(texts) == data
    assert (log.bytes, log.dropped, log.errno) == (len(data), 0, None)
    assert all(len(text) <= most for text in texts)
    if not at:  # all at once: nothing is cut that need not be
        for seam in itertools.accumulate(map(len, texts[:-1])):
            line = data[data.rfind(b"\n", 0, seam) + 1 : data.find(b"\n", seam) + 1]
            assert data[seam - 1 : seam] == b"\n" or len(line) > most


def test_a_life_ends_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "model.log"
    for text in (b"half", b"whole\n", b""):
        log = Log(os.fspath(path), 100, 9)
        log.write(text)
        log.finish()
    assert names(path) == {"model.log": b"", "model.log.1": b"whole\n", "model.log.2": b"half\n"}


def test_a_log_without_old_files_keeps_none(tmp_path: Path) -> None:
    path = tmp_path / "model.log"
    for _ in range(2):
        log = Log(os.fspath(path), 10, 0)
        log.write(b"12345678")
        log.write(b"abc")
        log.close()
    assert names(path) == {"model.log": b"abc"}


def test_a_log_that_cannot_be_written_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(os.fspath(tmp_path / "no" / "model.log"), 10, 1)
    log.write(b"12345")
    assert (log.bytes, log.dropped) == (0, 5)
    (tmp_path / "no").mkdir()
    log.write(b"123")
    assert (log.bytes, log.dropped) == (3, 5)

    write, room = os.write, 2

    def full(fd: int, data: bytes | memoryview) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = write(fd, data[:room])
        room -= count
        return count

    monkeypatch.setattr(os, "write", full)
    log.write(b"abcde")
    assert (log.bytes, log.dropped) == (5, 8)
    room = 10
    log.write(b"f")
    log.close()
    assert names(tmp_path / "no" / "model.log") == {"model.log": b"123abf"}


def test_a_planted_link_is_never_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    path = tmp_path / "model.log"
    path.symlink_to(target)
    log = Log(os.fspath(path), 100, 1)
    log.write(b"x")
    log.close()
    assert target.read_text() == "precious"
    assert path.read_bytes() == b"x"
    assert path.with_name("model.log.1").is_symlink()


# --- processes -----------------------------------------------------------------------------------


def test_start_tokens_tell_processes_apart() -> None:
    mine = start_token(os.getpid())
    assert mine is not None
    assert start_token(os.getpid()) == mine
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        assert start_token(process.pid) not in (None, mine)
        process.kill()
    assert start_token(process.pid) is None


def test_descendants_are_found_through_generations() -> None:
    script = "sleep 60 & sleep 60 & wait"
    with subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True) as process:
        wait_for(lambda: len(descendants(process.pid)) == 2, "two children")
        assert process.pid in descendants(os.getpid())
        assert descendants(process.pid) < descendants(os.getpid())
        os.killpg(process.pid, signal.SIGKILL)


def test_a_recycled_group_is_never_signalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the group was seen empty, its number may be anybody's."""
    monkeypatch.setattr(program, "SUBREAPER", False)
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os._exit(0)
    family = Family(pid)
    wait_for(family.reap, "the end of the child")
    assert family.status == 0
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("signalled a stranger's group"))
    assert family.reap()
    family.signal_all(signal.SIGTERM)
    family.signal_engine(signal.SIGTERM)
