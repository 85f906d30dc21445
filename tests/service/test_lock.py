"""One daemon per runtime directory."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.core.problems import Code, ProblemError
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
