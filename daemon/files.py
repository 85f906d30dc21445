"""Small files of our own: read with care, written whole, kept in memory while the disk refuses.

Everything here blocks: for a thread.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

T = TypeVar("T")

log = logging.getLogger("modelport.files")

ASIDE: Final = 3  # broken files that are kept for people to look at


def read_private(path: Path, limit: int) -> bytes:
    """All bytes of a plain file of ours that nobody else can write to.

    Never waits (a FIFO) and follows no link. OSError where it cannot be read; ValueError where it
    is another thing, or has more than ``limit`` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        check_private(os.fstat(descriptor))
        data = file.read(limit + 1)
        if len(data) > limit:
            raise ValueError(f"it has more than {limit} bytes")
        return data


def check_private(about: os.stat_result) -> None:
    """ValueError unless it is a plain file of ours that nobody else can write to."""
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("it is no plain file")
    if about.st_uid != os.geteuid():
        raise ValueError(f"it belongs to user {about.st_uid}")
    if stat.S_IMODE(about.st_mode) & 0o022:
        raise ValueError("others can write to it")


def write_private(path: Path, data: bytes) -> None:
    """0600, whole or not at all, also if the machine stops meanwhile. Raises OSError.

    Folders that are missing are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)  # of a process that had our number
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    with contextlib.suppress(OSError):  # some file systems cannot, and the file is there
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def move_aside(path: Path, why: str, now: float | None = None) -> Path | None:
    """Out of the way, as ``NAME.corrupt-SECONDS``; only the newest few stay. None: it could not be
    moved. ``why`` is logged."""
    place = path.with_name(f"{path.name}.corrupt-{int(time.time() if now is None else now)}")
    try:
        path.rename(place)
        log.warning("%s is moved to %s: %s", path, place.name, why)
        for older in sorted(path.parent.glob(f"{path.name}.corrupt-*"))[:-ASIDE]:
            with contextlib.suppress(OSError):
                older.unlink()
    except OSError as error:
        log.warning("%s is in the way: %s (%s)", path, why, error)
        return None
    return place


class Disk:
    """What could not be written yet, and is written as soon as it can be. For all threads.

    ``on_trouble`` is called, in the thread that met it, when there is something to try again.
    """

    def __init__(self) -> None:
        self.on_trouble: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._late: dict[Path, tuple[bytes, str]] = {}

    def write(self, path: Path, data: bytes) -> bool:
        """As :func:`write_private`; False where the disk refuses: then the newest is kept here, and
        an older file stays as it is. Said once, and once more when it has been written."""
        with self._lock:
            before = path in self._late
            done = self._write(path, data)
        if not done and not before:
            self.on_trouble()
        return done

    def _write(self, path: Path, data: bytes) -> bool:
        try:
            write_private(path, data)
        except OSError as error:
            why = error.strerror or str(error)
            if path not in self._late:
                log.warning("%s cannot be written, it is kept in memory: %s", path, why)
            self._late[path] = (data, why)
            return False
        if self._late.pop(path, None) is not None:
            log.info("%s has been written: the disk takes it again", path)
        return True

    def again(self) -> bool:
        """Try what is late once more; True if nothing is left."""
        with self._lock:
            for path, (data, _) in list(self._late.items()):
                self._write(path, data)
            return not self._late

    def forget(self, path: Path) -> None:
        """It is not to be written any more."""
        with self._lock:
            self._late.pop(path, None)

    def troubles(self) -> list[str]:
        """A line for people for each file that is late. Never waits for a disk."""
        return [
            f"{path} cannot be written ({why}): what it should hold is kept in memory"
            for path, (_, why) in list(self._late.items())
        ]


DISK: Final = Disk()
"""The one of this process."""


@dataclass(slots=True)
class Kept:
    """One file of state. ``limit``: bytes that are read."""

    path: Path
    limit: int
    disk: Disk = field(default_factory=lambda: DISK)

    def read(self, *, mend: bool = True, now: float | None = None) -> bytes | None:
        """Its bytes; None if there is none, or none that is to be trusted: that one is moved aside
        (``mend``)."""
        try:
            return read_private(self.path, self.limit)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            if mend:
                move_aside(self.path, str(error), now)
            return None

    def load(
        self, version: int, made: Callable[[dict[str, Any]], T], *, mend: bool = True
    ) -> T | None:
        """What is ``made`` of its JSON, which has a ``version``; None where that is another one, or
        it is not ours to understand: it is moved aside (``mend``)."""
        data = self.read(mend=mend)
        if data is None:
            return None
        try:
            stored = json.loads(data)
            if stored["version"] != version:
                raise ValueError(f"its version is {stored['version']!r:.20}, ours is {version}")
            return made(stored)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            if mend:
                move_aside(self.path, str(error))
            return None

    def write(self, data: bytes) -> bool:
        """See :meth:`Disk.write`."""
        return self.disk.write(self.path, data)
