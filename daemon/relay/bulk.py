"""Large strings of a body, set aside while the rest of it is put into other words. Pure.

An image in a prompt is one string of megabytes, which no translator looks into. Decoded, joined and
encoded again it would be in memory four times over. So a mark takes its place, and where the mark
comes out its bytes are sent from where the client's body has them. Whoever does more with such a
string than carry it loses the mark, which shows; then nothing is set aside.
"""

from __future__ import annotations

import re
import secrets
from typing import NamedTuple

from daemon.relay.body import Body, Parts

LARGE = 64 * 1024
"""Bytes of a string that is set aside."""
_STEP = LARGE // 2  # between two looks: a large string has one of them in its first half
_HEAD = 256  # bytes of it that stay: they tell of what kind it is
# Base64 in both alphabets. No escapes, so that it means the same in any other string.
_OPAQUE = re.compile(rb"[A-Za-z0-9+/=_-]*+")
_MARK = secrets.token_hex(16).encode()


class Light(NamedTuple):
    """A body without its large strings, and what its marks stand for."""

    body: bytes
    aside: list[tuple[bytes, memoryview]]

    def knows(self, text: bytes) -> bool:
        """Is one of the marks in it?"""
        return any(mark in text for mark, _ in self.aside)

    def restored(self, text: bytes) -> Parts | None:
        """``text`` with what the marks in it stand for; None unless each is there once."""
        if any(text.count(mark) != 1 for mark, _ in self.aside):
            return None
        view, at = memoryview(text), 0
        parts: list[bytes | memoryview] = []
        for place, mark, meant in sorted(
            (text.find(mark), mark, meant) for mark, meant in self.aside
        ):
            parts += (view[at:place], meant)
            at = place + len(mark)
        return (*parts, view[at:])


def light(body: Body) -> Light | None:
    """``body`` with marks for its large strings; None if there are none."""
    pieces: list[bytes | memoryview] = []
    aside: list[tuple[bytes, memoryview]] = []
    view, done, look = memoryview(body), 0, _STEP
    while (end := body.find(b'"', look)) >= 0:
        start = body.rfind(b'"', done, look) + 1
        cut = start + _HEAD
        if start and end - start >= LARGE and _OPAQUE.fullmatch(body, cut, end):
            mark = b"%b%06d" % (_MARK, len(aside))
            pieces += (view[done:cut], mark)
            aside.append((mark, view[cut:end]))
            done = end
        look = end + _STEP
    return Light(b"".join((*pieces, view[done:])), aside) if aside else None
