"""Bounded reading of files that nobody vouches for: claims are checked before they are used."""

from __future__ import annotations

import os
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon.weights.errors import WeightsError

MAX_HEADER: Final = 256 << 20  # bytes from the start of the file
MAX_CPU_SECONDS: Final = 2.0  # of this thread; a real header takes a tenth of it
MAX_NAME: Final = 65_535
MAX_STRING: Final = 16 << 20
KEEP_STRING: Final = 1 << 20  # longer strings (embedded tokenizers) are remembered by length only
KEEP_BYTES: Final = 32 << 20  # of memory for everything that is kept

_CHUNK: Final = 1 << 20
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Skipped:
    """A value that was walked over: only its length (bytes, or elements) is known."""

    length: int


class Reader:
    """A window over the first MAX_HEADER bytes of a file descriptor, with a budget for time."""

    def __init__(self, descriptor: int, size: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name
        self.size = size
        self._end = min(size, MAX_HEADER)
        self._buffer = b""
        self._start = 0  # of the buffer, in the file
        self._at = 0  # in the buffer
        self._kept = 0
        self._stop_at = time.thread_time() + MAX_CPU_SECONDS

    def fail(self, text: str) -> WeightsError:
        return WeightsError(f"{self._name}: {text}")

    @property
    def position(self) -> int:
        return self._start + self._at

    @property
    def left(self) -> int:
        return self._end - self.position

    def keep(self, amount: int) -> None:
        """Charge ``amount`` bytes of memory that will be held on to."""
        self._kept += amount
        if self._kept > KEEP_BYTES:
            raise self.fail("its metadata is larger than any model's; the file is damaged")

    def check_time(self) -> None:
        if time.thread_time() > self._stop_at:
            raise self.fail(f"reading its header took over {MAX_CPU_SECONDS:g} s; it is damaged")

    def need(self, amount: int, what: str) -> None:
        """Raise unless ``amount`` more bytes can follow."""
        if amount <= self.left:
            return
        if self.position + amount <= self.size:
            raise self.fail(f"its header ({what}) is over {MAX_HEADER >> 20} MiB; it is damaged")
        raise self.fail(
            f"the file ends within its header ({what}): it is damaged or was not downloaded "
            "completely; fetch it again"
        )

    def take(self, amount: int, what: str) -> bytes:
        self.need(amount, what)
        if self._at + amount > len(self._buffer):
            self._fill(amount, what)
        piece = self._buffer[self._at : self._at + amount]
        self._at += amount
        return piece

    def _fill(self, amount: int, what: str) -> None:
        self._start, self._at = self.position, 0
        wanted = min(max(amount, _CHUNK), self._end - self._start)
        self._buffer = os.pread(self._descriptor, wanted, self._start)
        if len(self._buffer) < amount:
            raise self.fail(f"the file became shorter while it was read ({what})")

    def skip(self, amount: int, what: str) -> None:
        self.need(amount, what)
        self._at += amount
        if self._at > len(self._buffer):
            self._start, self._at, self._buffer = self.position, 0, b""

    def u32(self, what: str) -> int:
        return int(_U32.unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack(self.take(8, what))[0])

    def count(self, each: int, limit: int, what: str) -> int:
        """A count of things that take at least ``each`` bytes: within the limit and the file."""
        number = self.u64(what)
        if number > limit:
            raise self.fail(f"{number} {what} are claimed, at most {limit} are possible")
        self.need(number * each, what)
        return number

    def name(self, what: str) -> str:
        length = self.u64(what)
        if length > MAX_NAME:
            raise self.fail(f"a {what} of {length} bytes is claimed; the file is damaged")
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError:
            raise self.fail(f"a {what} is not text; the file is damaged") from None

    def string(self, what: str) -> str | Skipped:
        length = self.u64(what)
        if length > MAX_STRING:
            raise self.fail(f"{what} claims a text of {length} bytes; the file is damaged")
        if length > KEEP_STRING:
            self.skip(length, what)
            return Skipped(length)
        self.keep(length + 64)
        return self.take(length, what).decode(errors="replace")

    def skip_strings(self, number: int, what: str) -> None:
        """Walk over ``number`` strings: the hot loop of this module (vocabularies)."""
        unpack = _U64.unpack_from
        for index in range(number):
            if not index & 0xFFF:
                self.check_time()
            if self._at + 8 > len(self._buffer):
                self.need(8, what)
                self._fill(8, what)
            length = unpack(self._buffer, self._at)[0]
            if length > MAX_STRING:
                raise self.fail(f"{what} claims a text of {length} bytes; the file is damaged")
            self._at += 8
            if self._at + length <= len(self._buffer):
                self._at += length
            else:
                self.skip(length, what)


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[int, int]]:
    """``(descriptor, size)`` of a regular file; never waits on a pipe or a device.

    Raises WeightsError for anything else, and for what the system refuses.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise WeightsError(f"{path}: cannot be opened: {_reason(error)}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise WeightsError(f"{path}: is not a file of weights (a folder, pipe or device)")
        yield descriptor, status.st_size
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {_reason(error)}") from None
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
