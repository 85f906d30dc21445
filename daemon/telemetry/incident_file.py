"""Incidents on the disk: one line of JSON each, below a line that says what the file is.

A memory aid for people: what cannot be read is moved aside, what cannot be written stays in memory
and is said once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from daemon.telemetry.incidents import MAX_BYTES, MAX_KEPT, MAX_LINES, MAX_LIST, MAX_TEXT
from daemon.views import IncidentView

log = logging.getLogger("modelport.incidents")

VERSION: Final = 1
MAX_FILE: Final = 2 * MAX_BYTES  # bytes that are read; we write half of it at the most
MAX_AT: Final = 1 << 36  # seconds since 1970: what calendars can still show
KEPT_ASIDE: Final = 3  # files that were moved aside


class _Head(msgspec.Struct, frozen=True):
    incidents: int  # the version of what follows


def encode(incidents: Sequence[IncidentView], limit: int = MAX_BYTES) -> bytes:
    """The whole file; the oldest are left out where all of them are larger than ``limit``."""
    lines: list[bytes] = []
    size = 0
    for one in reversed(incidents[-MAX_KEPT:]):
        line = msgspec.json.encode(one)
        size += len(line) + 1
        if size > limit:
            break
        lines.append(line)
    head = msgspec.json.encode(_Head(VERSION))
    return b"\n".join([head, *reversed(lines), b""])


def decode(data: bytes) -> tuple[list[IncidentView], str]:
    """What can be understood of a file, oldest first, and what was wrong with it ("": nothing)."""
    if not data:
        return [], ""
    head, *lines = data.split(b"\n")
    try:
        version = msgspec.json.decode(head, type=_Head).incidents
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return [], "it is no file of incidents"
    if version != VERSION:
        return [], f"its version is {version}, this program writes {VERSION}"
    found: dict[int, IncidentView] = {}
    wrong = ""
    for number, line in enumerate(lines, 2):
        if not line:
            continue
        try:
            one = _checked(msgspec.json.decode(line, type=IncidentView))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
            wrong = wrong or f"line {number}: {error}"
        else:
            found[one.id] = one
    if not data.endswith(b"\n"):
        wrong = wrong or "its end is missing"
    return [found[number] for number in sorted(found)][-MAX_KEPT:], wrong


def _checked(one: IncidentView) -> IncidentView:
    """As we would have written it: nothing in it is longer than that."""
    texts = (one.model, one.engine, one.version, one.exit_class, one.detail, one.advice,
             one.variant, one.done, one.next_variant, one.followed)  # fmt: skip
    if any(len(text) > MAX_TEXT for text in texts):
        raise ValueError("a text is too long")
    if sum(len(line) + 1 for line in one.lines) > MAX_LINES + MAX_TEXT:
        raise ValueError("too many lines")
    if max(len(one.memory), len(one.beside)) > MAX_LIST:
        raise ValueError("too many neighbours")
    if one.id < 1 or not 0 <= one.at < MAX_AT:
        raise ValueError("a number is out of range")
    return one


@dataclass(slots=True)
class IncidentFile:
    """The file. Everything blocks: for a thread, one at a time."""

    path: Path
    _complained: bool = False

    def load(self, now: float) -> list[IncidentView]:
        """What an earlier daemon kept. A file that is not as we write it is moved aside (named by
        ``now``, Unix seconds), and what could be read of it is kept."""
        try:
            data = _read(self.path)
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            self._aside(now, str(error))
            return []
        found, wrong = decode(data)
        if wrong:
            self._aside(now, wrong)
        return found

    def save(self, incidents: Sequence[IncidentView]) -> bool:
        """Write all, whole or not at all, 0600; False where the disk refuses."""
        temporary = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=".incidents-")
            with os.fdopen(descriptor, "wb") as file:
                file.write(encode(incidents))
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.path)
        except OSError as error:
            if not self._complained:
                log.warning("incidents cannot be kept for a restart: %s", error)
            self._complained = True
            if temporary is not None:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()
            return False
        self._complained = False
        return True

    def _aside(self, now: float, why: str) -> None:
        """Out of the way, for a person to look at; only the newest few are kept."""
        place = self.path.with_name(f"{self.path.name}.corrupt-{int(now)}")
        try:
            self.path.rename(place)
            log.warning("the incidents kept so far are moved to %s: %s", place, why)
            older = sorted(self.path.parent.glob(f"{self.path.name}.corrupt-*"))
            for path in older[:-KEPT_ASIDE]:
                path.unlink()
        except OSError as error:
            log.warning("%s is in the way: %s (%s)", self.path, why, error)


def _read(path: Path) -> bytes:
    """Its bytes. Raises OSError, or ValueError for what is no plain file of ours."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is no plain file")
        if about.st_uid != os.geteuid():
            raise ValueError(f"it belongs to user {about.st_uid}")
        if about.st_size > MAX_FILE:
            raise ValueError(f"it has {about.st_size} bytes")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_FILE)
    finally:
        os.close(descriptor)
