"""Finding the processes that a test left behind.

Every process started by the tests inherits HOME and TMPDIR, which name this run of pytest, however
far it went: into a session of its own, or below another parent. On Linux /proc tells who has them;
elsewhere only what still descends from pytest is found.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import psutil

kept: set[int] = set()
"""Processes that outlive a test on purpose, below a fixture of its module: whoever adds one here
ends it."""


def _ours(pid: str, run: str) -> bool:
    me = os.getpid()
    if int(pid) == me or int(pid) in kept:
        return False
    environment = b""
    with contextlib.suppress(OSError):  # gone meanwhile, or another user's, or a zombie
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    if environment:
        return run.encode() in environment
    # A zombie has no environment left; it is ours to reap if it is our child.
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0] == "Z" and int(fields[1]) == me
    return False


def snapshot() -> set[str]:
    """All process ids: cheap, where reading every environment is not."""
    if not sys.platform.startswith("linux"):
        return {str(pid) for pid in psutil.pids()}
    return {name for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208 - quick


def leftovers(run: str, before: set[str], patience: float = 10.0) -> list[str]:
    """What the test started and did not end: a line for each, after ``patience`` seconds.

    Processes below one that was there before the test (a module's daemon, say) belong to that one.
    """
    deadline = time.monotonic() + patience
    while True:
        found = [pid for pid in snapshot() - before if _new(pid, run, before)]
        if not found:
            return []
        if time.monotonic() > deadline:
            return [describe(int(pid)) for pid in found]
        time.sleep(0.01)


def _new(pid: str, run: str, before: set[str]) -> bool:
    if not sys.platform.startswith("linux"):
        mine = {str(child.pid) for child in psutil.Process().children(recursive=True)}
        return pid in mine
    if not _ours(pid, run):
        return False
    with contextlib.suppress(psutil.Error):
        for parent in psutil.Process(int(pid)).parents():
            if parent.pid in (os.getpid(), 1):
                return True
            if str(parent.pid) in before or parent.pid in kept:
                return False
    return True


def describe(pid: int) -> str:
    """One line about a process."""
    try:
        process = psutil.Process(pid)
        about = f"{pid} ({process.status()}, parent {process.ppid()}): "
    except psutil.Error:
        return f"{pid} (gone)"
    with contextlib.suppress(psutil.Error):  # a zombie has no command line any more
        return about + " ".join(process.cmdline())[:200]
    return about + "unreaped"


def kill(lines: list[str]) -> None:
    """End what ``leftovers`` found, so that the next test starts clean."""
    for line in lines:
        pid = int(line.split()[0])
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
