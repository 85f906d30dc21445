"""One daemon per runtime directory: a lock that the kernel gives back when its holder dies."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

import psutil

from daemon.core.problems import Code, Problem, ProblemError

NAMING = 1.0  # seconds in which whoever has just taken the lock writes its name into it


def _holder(descriptor: int) -> str:
    """The pid of who holds it; "" if that is not to be learnt.

    What is read first may be the name of a daemon that died, before its successor has written.
    """
    deadline = time.monotonic() + NAMING
    while True:
        text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        if text.isdecimal() and psutil.pid_exists(int(text)):
            return text
        if time.monotonic() > deadline:
            return ""
        time.sleep(0.01)


class Lock:
    """Held from :meth:`take` until :meth:`release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> None:
        """Raises ProblemError naming the pid of the daemon that holds it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise ProblemError(
                Problem(
                    Code.CONFIG_INVALID,
                    f"modelport is already running here (pid {holder or 'unknown'}).",
                    "Use it with `ctl status`, or stop it with `ctl shutdown`.",
                    facts={"pid": holder},
                )
            ) from None
        with suppress(OSError):  # a full disk: the lock holds without a name in it
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Give it up; the file stays, for the next one to lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
