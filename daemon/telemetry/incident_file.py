"""Incidents on the disk: one line of JSON each, below a line that says what the file is.

A memory aid for people: what cannot be read is moved aside, what cannot be written stays in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from daemon.files import Kept, move_aside
from daemon.telemetry.incidents import MAX_BYTES, MAX_KEPT, MAX_LINES, MAX_LIST, MAX_TEXT
from daemon.views import IncidentView

VERSION: Final = 1
MAX_FILE: Final = 2 * MAX_BYTES  # bytes that are read; we write half of it at the most
MAX_AT: Final = 1 << 36  # seconds since 1970: what calendars can still show


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

    def load(self, now: float) -> list[IncidentView]:
        """What an earlier daemon kept. A file that is not as we write it is moved aside (named by
        ``now``, Unix seconds), and what could be read of it is kept."""
        data = self._kept.read(now=now)
        if data is None:
            return []
        found, wrong = decode(data)
        if wrong:
            move_aside(self.path, wrong, now)
        return found

    def save(self, incidents: Sequence[IncidentView]) -> bool:
        """Write all; False where the disk refuses: it is written later."""
        return self._kept.write(encode(incidents))

    @property
    def _kept(self) -> Kept:
        return Kept(self.path, MAX_FILE)
