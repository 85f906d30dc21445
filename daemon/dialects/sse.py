"""Server-sent events, a piece at a time (WHATWG HTML, "Server-sent events").

Only ``data`` counts here: chat engines send nothing else but comments.
"""

from __future__ import annotations

MAX_EVENT = 32 * 1024 * 1024
"""Bytes of one event that are kept; a longer one is dropped."""

DONE = b"[DONE]"
COMMENT = b": waiting\n\n"
"""A keep-alive that every reader skips. Codex's clock does not count it (recorded)."""


def event(name: str, payload: bytes) -> bytes:
    """One event with a name, as Anthropic and OpenAI's Responses send them."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), payload)


def data(payload: bytes) -> bytes:
    """One event without a name, as chat completions send them."""
    return b"data: %b\n\n" % payload


class EventParser:
    """Bytes in, payloads out, however the bytes were cut."""

    __slots__ = ("_data", "_rest", "_size", "_skip")

    def __init__(self) -> None:
        self._rest = b""  # of a line
        self._data: list[bytes] = []  # lines of an event
        self._size = 0
        self._skip = False  # the rest of a line that was too long

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads of the events that ``data`` completes."""
        fresh = not self._rest and not self._data and not self._skip
        if fresh and data[:6] == b"data: " and data[-2:] == b"\n\n" and data.count(b"\n") == 2:
            return [data[6:-2].removesuffix(b"\r")]  # nearly always: one event, whole
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        found: list[bytes] = []
        for line in lines:
            self._line(line.removesuffix(b"\r"), found)
        if len(self._rest) > MAX_EVENT:
            self._rest, self._skip = b"", True
        return found

    def end(self) -> list[bytes]:
        """What an upstream that left out the last blank line meant to say."""
        found: list[bytes] = []
        self._line(self._rest.removesuffix(b"\r"), found)
        self._line(b"", found)
        self._rest = b""
        return found

    def _line(self, line: bytes, found: list[bytes]) -> None:
        if self._skip:
            self._skip = False
            self._data.clear()
            self._size = 0
        elif not line:
            if self._data:
                found.append(b"\n".join(self._data))
                self._data.clear()
                self._size = 0
        elif line.startswith(b"data:"):
            self._size += len(line)
            if self._size <= MAX_EVENT:
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
