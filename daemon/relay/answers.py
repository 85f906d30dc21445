"""Heads of answers: what they say of what follows, and those that were read before.

A backend begins nearly every answer with the same bytes. A head that llhttp has read once, and that
gives its body's length, is known again by its bytes without the digits of that length: so an answer
of one piece needs no parser at all.
"""

from __future__ import annotations

import re

from daemon.relay import wire
from daemon.relay.heads import END, Fields, listed

_NO_BODY = frozenset({204, 304})
_EVENTS = b"text/event-stream"
_LENGTH = re.compile(rb"\r\ncontent-length: ?([0-9]{1,15})\r\n", re.IGNORECASE)
_KNOWN_BYTES = 1024  # of a head; what is longer hardly comes again
_KNOWN_HEADS = 256


class RefusedError(Exception):
    """What is wrong with an answer; passes through the parser's callbacks."""


class Answer:
    """The head of an answer. ``length`` None: chunked, or ended by the connection's end.

    ``start`` is what of it goes to the client, written once; ``tunnel`` that it switched to the
    protocol that was asked for.
    """

    __slots__ = (
        "bodiless",
        "events",
        "fields",
        "length",
        "named",
        "start",
        "status",
        "tunnel",
        "until_eof",
    )

    def __init__(self, status: int, fields: Fields) -> None:
        self.status = status
        self.fields = fields
        self.length: int | None = None
        self.named: frozenset[bytes] = frozenset()  # listed in its Connection header
        self.events = False  # server-sent ones
        self.bodiless = status in _NO_BODY
        self.until_eof = False
        self.tunnel = False
        self.start: bytes | None = None

    def written(self) -> bytes:
        """Status line and fields for the client, without our own."""
        start = self.start
        if start is None:
            start = self.start = wire.answer_start(self.status, self.fields, self.named)
        return start


def framed(status: int, fields: Fields, upgrade: bytes) -> Answer:
    """What a parsed head says of what follows. ``upgrade``: the protocol that was asked for.

    Raises RefusedError where two readers could disagree on that.
    """
    answer = Answer(status, fields)
    chunked = False
    for name, value in fields:
        if name == b"content-length":
            answer.length = int(value)
        elif name == b"transfer-encoding":
            if chunked or value.lower() != b"chunked":
                raise RefusedError("a transfer encoding other than chunked")
            chunked = True
        elif name == b"connection":
            answer.named = listed(fields)
        elif name == b"content-type":
            answer.events = value[: len(_EVENTS)].lower() == _EVENTS
        elif name == b"upgrade" and status == 101:
            answer.tunnel = bool(upgrade) and value.lower() == upgrade
    answer.until_eof = answer.length is None and not chunked and not answer.bodiless
    return answer


_known: dict[bytes, Answer] = {}


def learn(data: bytes, answer: Answer) -> None:
    """``data`` began with the head of ``answer``, which has a length and keeps the connection."""
    end = data.find(END, 0, _KNOWN_BYTES) + len(END)
    match = _LENGTH.search(data, 0, end)
    if match is None:
        return
    if len(_known) >= _KNOWN_HEADS:
        _known.clear()
    start, stop = match.span(1)
    answer.written()
    _known[data[:start] + data[stop:end]] = answer


def recall(data: bytes) -> tuple[Answer, int] | None:
    """The head that ``data`` begins with, if it was learnt, and where its body begins."""
    end = data.find(END, 0, _KNOWN_BYTES)
    if end < 0:
        return None
    end += len(END)
    match = _LENGTH.search(data, 0, end)
    if match is None:
        return None
    start, stop = match.span(1)
    known = _known.get(data[:start] + data[stop:end])
    if known is None:
        return None
    answer = Answer(known.status, known.fields)
    answer.length = int(match[1])
    answer.named = known.named
    answer.events = known.events
    answer.start = known.start
    return answer, end


def whole_chunk(data: bytes) -> bool:
    """Is ``data`` one chunk as everybody writes it, to the byte, and not the last one?"""
    at = data.find(b"\r\n", 0, 10)
    if at < 1 or not data[:at].isalnum():
        return False
    try:
        size = int(data[:at], 16)
    except ValueError:
        return False
    return size > 0 and len(data) == at + size + 4 and data.endswith(b"\r\n")
