"""One daemon per runtime directory."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.core.problems import Code, ProblemError
from daemon.service import lock
from daemon.service.lock import Lock

HOLD = """
import sys
from pathlib import Path
from daemon.service.lock import Lock
lock = Lock(Path(sys.argv[1]))
lock.take()
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def refused(path: Path) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        Lock(path).take()
    return caught.value


def test_the_holder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as process:
        problem = refused(path).problem
        assert problem.code is Code.CONFIG_INVALID
        assert f"(pid {process.pid})" in problem.message
        assert problem.facts == {"pid": str(process.pid)}
        assert "ctl shutdown" in problem.hint
        assert path.read_text() == f"{process.pid}\n"  # the second one wrote nothing


def test_the_kernel_gives_it_back_when_its_holder_dies(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as process:
        refused(path)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        lock = Lock(path)
        lock.take()
    assert path.read_text() == f"{os.getpid()}\n"
    lock.release()


def test_released_it_can_be_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = Lock(path)
    first.take()
    assert f"pid {os.getpid()}" in str(refused(path))
    first.release()
    first.release()
    second = Lock(path)
    second.take()
    second.release()


def test_a_shorter_pid_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("123456789012345\n")
    lock = Lock(path)
    lock.take()
    assert path.read_text() == f"{os.getpid()}\n"
    lock.release()


def test_it_is_private(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    before = os.umask(0)
    try:
        lock.take()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600
    lock.release()


def test_a_child_does_not_hold_it(tmp_path: Path) -> None:
    """A keeper outlives the daemon, and must not keep its successor out."""
    path = tmp_path / "lock"
    lock = Lock(path)
    lock.take()
    code = "import sys; print('up', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        close_fds=False,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        lock.release()
        again = Lock(path)
        again.take()
        again.release()
        child.kill()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises((ProblemError, OSError)):
        Lock(tmp_path / "lock").take()
    assert (tmp_path / "target").read_text() == "mine"


def test_a_name_of_the_past_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between taking the lock and writing its name a daemon leaves the old one there."""
    monkeypatch.setattr(lock, "NAMING", 30.0)
    path = tmp_path / "lock"
    path.write_text("4194999\n")
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def write() -> None:
            file.seek(0)
            file.truncate()
            file.write(f"{os.getpid()}\n")
            file.flush()

        timer = threading.Timer(0.2, write)
        timer.start()
        with pytest.raises(ProblemError, match=rf"pid {os.getpid()}\)"):
            Lock(path).take()
        timer.join()


def test_a_holder_that_never_writes_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "NAMING", 0.05)
    path = tmp_path / "lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ProblemError, match="pid unknown"):
            Lock(path).take()


def test_a_full_disk_takes_no_lock_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock.os, "write", full)
    one = Lock(tmp_path / "lock")
    one.take()
    monkeypatch.undo()
    monkeypatch.setattr(lock, "NAMING", 0.0)
    with pytest.raises(ProblemError, match="already running"):
        Lock(tmp_path / "lock").take()
    one.release()
