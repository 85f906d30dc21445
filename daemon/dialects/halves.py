"""Half characters in JSON: one UTF-16 surrogate without the other.

Programs in JavaScript cut texts between the two halves of an emoji and write the half as an escape
(``\\ud83d``): RFC 8259, section 8.2, leaves open what becomes of it, and strict readers refuse the
whole document. A conversation that holds one would be refused for ever.
"""

from __future__ import annotations

import re

# Behind an even number of backslashes: else its own is the end of an escaped one.
_SURROGATE = re.compile(
    rb"(?<!\\)(?P<before>(?:\\\\)*+)(?:"
    rb"(?P<high>\\u[dD][89abAB][0-9a-fA-F]{2})(?P<low>\\u[dD][c-fC-F][0-9a-fA-F]{2})?"
    rb"|(?P<alone>\\u[dD][c-fC-F][0-9a-fA-F]{2}))"
)
_UNKNOWN = b"\\ufffd"


def mended(body: bytes | bytearray) -> bytes | None:
    """``body`` with U+FFFD for each half; None where it has none. Its length stays the same."""
    if b"\\ud" not in body and b"\\uD" not in body:
        return None
    whole = Halves().mend(bytes(body), last=True)
    return None if whole == body else whole


class Halves:
    """Mends the payloads of a stream, in which the halves of a character may come one after the
    other: at the end of one text and at the beginning of the next."""

    __slots__ = ("_high",)

    def __init__(self) -> None:
        self._high = b""

    def mend(self, payload: bytes, *, last: bool = False) -> bytes:
        """``payload`` so that it can be read. ``last``: no other follows."""
        high, self._high = self._high, b""

        def one(found: re.Match[bytes]) -> bytes:
            nonlocal high
            if found["low"] is not None:
                return found[0]
            before, end = found["before"], found.end()
            if found["alone"] is not None:
                first, high = high, b""
                begins = payload[found.start() - 1 : end - 6] == b'"'
                return first + found["alone"] if first and begins else before + _UNKNOWN
            if last or payload[end : end + 1] != b'"':
                return before + _UNKNOWN
            self._high = found["high"]
            return before

        return _SURROGATE.sub(one, payload)
