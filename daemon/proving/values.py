"""The values of a test: what is asked, what is heard, what was found."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Outcome(StrEnum):
    """What one step came to. ``but``: it works, with something to know."""

    WORKS = "works"
    BUT = "but"
    BROKEN = "broken"
    SKIPPED = "skipped"  # it does not apply to this model
    UNKNOWN = "unknown"  # it could not be tried: nothing is said of the model


class Fault(StrEnum):
    """Whose fault it is: the model's, which is too weak, or that of all around it."""

    NONE = ""
    MODEL = "model"
    PLUMBING = "plumbing"


class Ended(StrEnum):
    """How an answer ended. ``late``: bytes still came when the time was over."""

    WHOLE = "whole"
    STOPPED = "stopped"  # by us
    BROKEN = "broken"
    SILENT = "silent"
    LATE = "late"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. ``seconds``: the longest it may take in all; ``stop_after``: that many events of
    the stream, then the connection is closed."""

    path: str
    body: Mapping[str, object]
    seconds: float
    stop_after: int | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of one request. ``first`` and ``seconds``: to its first byte, and to its end, from
    when it was sent; ``arrived``: seconds of each read of the body, from then too; ``sizes``: its
    bytes."""

    status: int = 0
    kind: str = ""  # Content-Type
    data: bytes = b""
    ended: Ended = Ended.WHOLE
    detail: str = ""  # of a connection that failed
    first: float | None = None
    seconds: float = 0.0
    arrived: tuple[float, ...] = ()
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """What one step found, in words for people. ``hint`` is the next step."""

    step: str
    outcome: Outcome
    text: str
    fault: Fault = Fault.NONE
    hint: str = ""
    seconds: float = 0.0

    def took(self, seconds: float) -> Finding:
        """The same, with how long the step took."""
        return replace(self, seconds=round(seconds, 3))


@dataclass(frozen=True, slots=True)
class Subject:
    """The model that is tested, as it is served. ``context``: tokens of one conversation. ``sees``:
    it is said to take images. ``tag``: letters by which this run's secret words differ from those
    of others. ``seconds``: the longest that one request may take, and (``long_seconds``) one that
    fills the context."""

    model: str
    context: int | None = None
    slots: int = 1
    sees: bool = False
    routes: frozenset[str] = frozenset({"chat"})
    tag: str = "kestrel"
    seconds: float = 300.0
    long_seconds: float = 1800.0

    def limit(self, wanted: int) -> int:
        """Tokens that an answer may have: no more than a quarter of the context."""
        return wanted if self.context is None else max(8, min(wanted, self.context // 4))


Talk = Generator[tuple[Ask, ...], tuple[Heard, ...], Finding]
"""One step: gives requests that are sent at the same time, is sent what was heard of each in their
order, returns its finding."""


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call. ``arguments`` as they were written."""

    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class Told:
    """One streamed answer, taken apart. ``stop`` is the dialect's own word, ``reason`` what it
    means: end, tools, length, other, or "" where none came. ``flaws``: what is wrong with its
    form, each in words. ``error``: an error that came as an event."""

    text: str = ""
    thoughts: str = ""
    calls: list[Call] = field(default_factory=list)
    stop: str = ""
    reason: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None
    pieces: int = 0
    flaws: list[str] = field(default_factory=list)
    error: str = ""

    def flaw(self, text: str) -> None:
        """Remember something wrong, once."""
        if text not in self.flaws:
            self.flaws.append(text)

    @property
    def said(self) -> str:
        """All that it said, in any way."""
        calls = [f"{call.name} {call.arguments}" for call in self.calls]
        return "\n".join([self.thoughts, self.text, *calls])
