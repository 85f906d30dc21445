"""One daemon per runtime directory: a lock that the kernel gives back when its holder dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from daemon.core.problems import Code, Problem, ProblemError


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
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise ProblemError(
                Problem(
                    Code.CONFIG_INVALID,
                    f"modelport is already running here (pid {holder or 'unknown'}).",
                    "Use it with `ctl status`, or stop it with `ctl shutdown`.",
                    facts={"pid": holder},
                )
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Give it up; the file stays, for the next one to lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
