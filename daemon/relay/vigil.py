"""When a silent stream needs a sign of life, and which. Pure."""

from __future__ import annotations

from daemon.dialects.messages_answer import PING
from daemon.dialects.shapes import Shape
from daemon.dialects.sse import COMMENT

THINKERS = frozenset({Shape.CHAT, Shape.OLLAMA_CHAT, Shape.OLLAMA_GENERATE})
"""Shapes of clients that show reasoning to people, and so the loading status."""


class Vigil:
    """How long one request has been silent. Times are the loop's, looked at now and then."""

    __slots__ = ("mute", "seen", "since", "tells")

    def __init__(self, now: float, seen: int) -> None:
        self.since = now
        self.seen = seen  # bytes that the client had been sent by then
        self.mute = False  # no stream was asked for, or none of ours
        self.tells: bool | None = None  # its model's loading is told as reasoning; None: not known

    def silent(self, now: float, seen: int) -> float:
        """Seconds for which the client has heard nothing."""
        if seen != self.seen:
            self.seen, self.since = seen, now
        return now - self.since


def sign(shape: Shape | None) -> bytes:
    """A sign of life between two events of a stream that goes on as the engine writes it."""
    return PING if shape is Shape.MESSAGES else COMMENT
