"""A tool call that the output limit cut, told in words: some clients pass over it in silence."""

from __future__ import annotations

from daemon.dialects.events import CallEnd, CallPiece, CallStart, Event, Finish, Stop, Text


class Loud:
    """A filter of events (see ``stream.Filter``)."""

    def __init__(self) -> None:
        self._open: CallStart | None = None
        self._cut: CallStart | None = None
        self._size = 0

    def take(self, events: list[Event]) -> list[Event]:
        """``events``, with a notice where a call was cut."""
        out: list[Event] = []
        for event in events:
            if isinstance(event, CallStart):
                self._open, self._size = event, 0
            elif isinstance(event, CallPiece):
                self._size += len(event.text)
            elif isinstance(event, CallEnd):
                self._cut, self._open = self._open, None
            elif isinstance(event, Text):
                self._cut = None
            elif isinstance(event, Finish) and event.stop is Stop.LENGTH and self._cut is not None:
                out.append(
                    Text(
                        f"[The call of {self._cut.name} was cut off by the output limit after "
                        f"{self._size} characters of its arguments. Write less at once, in parts.]"
                    )
                )
            out.append(event)
        return out

    def end(self) -> list[Event]:
        """Nothing is held back."""
        return []
