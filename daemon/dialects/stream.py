"""One answer on its way back: an engine's bytes in, the client's bytes out.

Reader, filters and writer in a row. Nothing here waits or knows a clock.
"""

from __future__ import annotations

from typing import Protocol

from daemon.dialects.events import Event, Failure, Usage
from daemon.dialects.sse import EventParser


class Reader(Protocol):
    """Reads an engine's dialect. ``done``: the engine said that this was all."""

    done: bool

    def read(self, payload: bytes) -> list[Event]: ...
    def end(self) -> list[Event]: ...
    def whole(self, body: bytes) -> list[Event]: ...


class Writer(Protocol):
    """Says events in a client's dialect."""

    @property
    def media(self) -> bytes: ...  # Content-Type
    def write(self, events: list[Event]) -> bytes: ...
    def end(self) -> bytes: ...
    def wait(self) -> bytes: ...


class Filter(Protocol):
    """Changes events on their way. ``end``: what was held back; nothing follows."""

    def take(self, events: list[Event]) -> list[Event]: ...
    def end(self) -> list[Event]: ...


def filtered(filters: list[Filter], events: list[Event]) -> list[Event]:
    """``events`` through all filters in their order."""
    for one in filters:
        if events:
            events = one.take(events)
    return events


def finished(filters: list[Filter]) -> list[Event]:
    """What the filters held back, each part through the later ones."""
    events: list[Event] = []
    for place, one in enumerate(filters):
        events += filtered(filters[place + 1 :], one.end())
    return events


class Stream:
    """A streamed answer. The relay feeds it, sends on what it returns, and looks at:

    ``over``: the answer is complete, its last bytes have been returned;
    ``failure``: the engine broke off in its own words; what to say then is :meth:`broken`'s;
    ``usage``: tokens, as far as the engine told them.
    """

    def __init__(self, reader: Reader, filters: list[Filter], writer: Writer) -> None:
        self._parser = EventParser()
        self._reader = reader
        self._filters = filters
        self._writer = writer
        self.over = False
        self.failure: Failure | None = None
        self.usage = Usage()

    @property
    def media(self) -> bytes:
        """The answer's Content-Type."""
        return self._writer.media

    def feed(self, data: bytes) -> bytes:
        """The client's bytes for ``data`` of the engine's; often none."""
        if self.over or self.failure is not None:
            return b""
        out: list[bytes] = []
        for payload in self._parser.feed(data):
            self._payload(payload, out)
        return out[0] if len(out) == 1 else b"".join(out)

    def end(self) -> bytes:
        """The engine's answer ended. If ``over`` is still false after this, it was broken off."""
        out: list[bytes] = []
        for payload in self._parser.end():
            self._payload(payload, out)
        if not self.over and self.failure is None:
            events = filtered(self._filters, self._reader.end())
            if self._reader.done:
                self._complete(events, out)
            else:
                out.append(self._writer.write(events))
        return b"".join(out)

    def wait(self) -> bytes:
        """A keep-alive that the client's clock counts, for a stream that waits."""
        return b"" if self.over or self.failure is not None else self._writer.wait()

    def _payload(self, payload: bytes, out: list[bytes]) -> None:
        if self.over or self.failure is not None:
            return
        events = filtered(self._filters, self._reader.read(payload))
        if events:
            if type(events[-1]) is Failure:
                self.failure = events[-1]
                return
            for event in events:
                if type(event) is Usage:
                    self.usage = event
        if self._reader.done:
            self._complete(events, out)
        elif events:
            out.append(self._writer.write(events))

    def _complete(self, events: list[Event], out: list[bytes]) -> None:
        out.append(self._writer.write(events + finished(self._filters)))
        out.append(self._writer.end())
        self.over = True
