"""An answer as a row of small facts, the same whoever speaks: readers of an engine's dialect make
them, filters change them, writers of a client's dialect say them.

Order that writers may rely on: a call's start, its pieces, its end, and nothing in between;
Finish once; Usage before or after it; no fact after Failure.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Stop(StrEnum):
    """Why the model stopped."""

    END = "end"
    LENGTH = "length"
    CALLS = "calls"
    SEQUENCE = "sequence"
    REFUSED = "refused"


class Text(msgspec.Struct, frozen=True, gc=False):
    """A piece of what the user sees."""

    text: str


class Thought(msgspec.Struct, frozen=True, gc=False):
    """A piece of the model's reasoning."""

    text: str


class CallStart(msgspec.Struct, frozen=True, gc=False):
    """A tool is called. ``index`` counts the answer's calls from 0."""

    index: int
    id: str
    name: str


class CallPiece(msgspec.Struct, frozen=True, gc=False):
    """A piece of a call's arguments, which together are JSON."""

    index: int
    text: str


class CallEnd(msgspec.Struct, frozen=True, gc=False):
    """A call's arguments are complete, or are all that there will be."""

    index: int


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The model stopped. ``sequence``: the stop sequence that it met, where the engine says so."""

    stop: Stop
    sequence: str | None = None


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens. ``cached`` of ``prompt`` were not read again; ``reasoning`` is part of ``output``."""

    prompt: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0


class Failure(msgspec.Struct, frozen=True, gc=False):
    """The engine broke off with these words. ``status``: what it would have been as an answer."""

    message: str
    status: int = 500


Event = Text | Thought | CallStart | CallPiece | CallEnd | Finish | Usage | Failure


class Call(msgspec.Struct, frozen=True):
    """A whole call. ``arguments`` is JSON as the model wrote it."""

    id: str
    name: str
    arguments: str


Part = Text | Thought | Call


class Whole(msgspec.Struct):
    """A whole answer: parts in their order, neighbours of a kind joined."""

    parts: list[Part]
    finish: Finish
    usage: Usage
    failure: Failure | None = None

    @property
    def text(self) -> str:
        """All that the user sees."""
        return "".join([part.text for part in self.parts if type(part) is Text])

    @property
    def thought(self) -> str:
        """All reasoning."""
        return "".join([part.text for part in self.parts if type(part) is Thought])

    @property
    def calls(self) -> list[Call]:
        """All tool calls."""
        return [part for part in self.parts if type(part) is Call]


def collect(events: list[Event]) -> Whole:
    """The whole answer that ``events`` tell."""
    parts: list[Part] = []
    pieces: list[str] = []
    start: CallStart | None = None
    whole = Whole(parts, Finish(Stop.END), Usage())
    for event in events:
        if isinstance(event, CallStart):
            start, pieces = event, []
        elif isinstance(event, CallPiece):
            pieces.append(event.text)
        elif isinstance(event, CallEnd):
            if start is not None:
                parts.append(Call(start.id, start.name, "".join(pieces)))
        elif isinstance(event, (Text, Thought)):
            last = parts[-1] if parts else None
            if type(last) is type(event):
                assert isinstance(last, (Text, Thought))
                parts[-1] = type(event)(last.text + event.text)
            else:
                parts.append(event)
        elif isinstance(event, Finish):
            whole.finish = event
        elif isinstance(event, Usage):
            whole.usage = event
        else:
            whole.failure = event
    return whole
