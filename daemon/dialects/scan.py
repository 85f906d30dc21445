"""Reasoning and tool calls that an engine handed through as text, made what they are.

Text is held back only from a possible marker on. A call becomes one only if the request offered
its tool and the arguments fit; else it stays text, and is counted. What stands inside a call or
in a fenced block is never touched: a file may hold any marker.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from daemon.dialects.call_forms import Calls, Form, JsonForm, NoCall
from daemon.dialects.chat_answer import Ids
from daemon.dialects.events import (
    CallEnd,
    CallPiece,
    CallStart,
    Event,
    Failure,
    Finish,
    Stop,
    Text,
    Thought,
    Usage,
)
from daemon.dialects.offered import Offered
from daemon.dialects.openers import (
    BARE,
    CHANNEL_END,
    FENCE,
    GEMMA_THOUGHT,
    THINK,
    THINK_END,
    Openers,
)

HELD_LIMIT = 4 * 1024 * 1024
"""Characters that may be a call; beyond, it is text."""

_SPECIAL = re.compile(r"[<\[`]")
_FENCE_END = re.compile(r"(?:^|\n)[ \t]*```[ \t]*(?=\n)")
_FENCE_END_LAST = re.compile(r"(?:^|\n)[ \t]*```[ \t]*\Z")
_FENCE_TAIL = re.compile(r"(?:^|\n)[ \t]*(?:`{1,3}[ \t]*)?\Z")


@dataclass(slots=True)
class Rescued:
    """What was made of text, for the history and ``ctl``."""

    calls: int = 0
    thoughts: int = 0
    refused: Counter[str] = field(default_factory=Counter)


class Scan:
    """A filter of events (see ``stream.Filter``)."""

    def __init__(
        self,
        ids: Ids,
        offered: Offered | None = None,
        *,
        objects: bool = True,
        starts_thinking: bool = False,
        bare_thinking: bool = False,
    ) -> None:
        """``offered`` None: no calls are looked for. ``objects``: a bare JSON object may be a
        call (not where the client asked for JSON)."""
        self._ids = ids
        self._offered = offered if offered is not None and offered.schemas else None
        self._openers = Openers(self._offered)
        self._objects = objects and self._offered is not None
        self._bare = bare_thinking
        self._held = ""
        self._fresh = True  # nothing but blanks and thinking so far
        self._drop_blanks = False
        self._line = True  # at a line's start
        self._fence = False
        self._form: Form | None = None
        self._marker = 0  # characters of the form's marker
        self._closers: tuple[str, ...] = (THINK_END,) if starts_thinking else ()
        self._bare_text: list[str] | None = None
        self._said = False
        self._trim = starts_thinking  # line feeds at the start of thinking
        self._places: dict[int, int] = {}
        self._calls = 0
        self.rescued = Rescued()

    # ------------------------------------------------------------ events

    def take(self, events: list[Event]) -> list[Event]:
        """``events`` as they should have been."""
        out: list[Event] = []
        for event in events:
            if isinstance(event, Text):
                text = event.text
                plain = not (self._held or self._fresh or self._closers or self._fence)
                if plain and self._form is None and _SPECIAL.search(text) is None:
                    self._moved(text)
                    out.append(event)
                else:
                    self._held += text
                    self._run(out, final=False)
            elif isinstance(event, CallPiece):
                place = self._places.get(event.index, event.index)
                out.append(event if place == event.index else CallPiece(place, event.text))
            else:
                self._other(event, out)
        return out

    def end(self) -> list[Event]:
        """What was held back of an answer that just ended."""
        out: list[Event] = []
        self._flush(out, complete=False)
        return out

    def _other(self, event: Event, out: list[Event]) -> None:
        if isinstance(event, Thought):
            if self._fresh and not self._held:
                self._closers = ()  # the engine knows thinking itself
            else:
                self._flush(out, complete=True)
            out.append(event)
        elif isinstance(event, CallStart):
            if self._fresh and not self._held.strip():
                self._held = ""  # no client wants an empty text before a call
            self._flush(out, complete=True)
            self._places[event.index] = self._calls
            out.append(CallStart(self._calls, event.id, event.name))
            self._calls += 1
            self._said = True
        elif isinstance(event, CallEnd):
            out.append(CallEnd(self._places.get(event.index, event.index)))
        elif isinstance(event, Finish):
            self._flush(out, complete=event.stop is not Stop.LENGTH)
            self._repeat(out)
            if self.rescued.calls and event.stop in (Stop.END, Stop.SEQUENCE):
                event = Finish(Stop.CALLS)
            out.append(event)
        elif isinstance(event, (Usage, Failure)):
            out.append(event)

    def _flush(self, out: list[Event], *, complete: bool) -> None:
        """Nothing more comes; ``complete``: because the model had said all."""
        if self._form is not None and not complete:
            self.rescued.refused["cut"] += 1
            self._form = None
            text, self._held = self._held, ""
            self._text(text, out)
        self._run(out, final=True)
        self._closers = ()

    def _repeat(self, out: list[Event]) -> None:
        """Thinking that was guessed at and never ended may have been the answer."""
        if self._bare_text and not self._said:
            self._text("".join(self._bare_text), out)

    # ------------------------------------------------------------ text

    def _run(self, out: list[Event], *, final: bool) -> None:
        while self._held:
            if self._form is not None:
                going = self._in_form(out, final=final)
            elif self._closers:
                going = self._in_thought(out, final=final)
            elif self._fence:
                going = self._in_fence(out, final=final)
            else:
                going = self._in_text(out, final=final)
            if not going:
                return

    def _text(self, text: str, out: list[Event]) -> None:
        if text:
            self._moved(text)
            self._said = True
            out.append(Text(text))

    def _moved(self, text: str) -> None:
        if self._line or "\n" in text:
            _head, line, tail = text.rpartition("\n")
            self._line = not tail.strip() and (bool(line) or self._line)
        self._fresh = False

    def _in_text(self, out: list[Event], *, final: bool) -> bool:
        if self._fresh:
            going = self._at_start(out, final=final)
            if going is not None:
                return going
        held = self._held
        at = 0
        while (match := self._openers.any.search(held, at)) is not None:
            if match["fence"] is None or self._begins_line(held, match.start()):
                break
            at = match.start() + len(FENCE)
        if match is None:
            end = len(held) if final else self._openers.partial(held)
            self._held = held[end:]
            self._text(held[:end], out)
            return False
        self._held = held[match.start() :]
        self._text(held[: match.start()], out)
        return self._open(match["fence"], out, final=final)

    def _begins_line(self, held: str, at: int) -> bool:
        _, line, tail = held[:at].rpartition("\n")
        return not tail.strip() and (bool(line) or self._line)

    def _at_start(self, out: list[Event], *, final: bool) -> bool | None:
        """The start of an answer, or what follows its thinking or its calls. None: go on."""
        bare = self._held.lstrip("; \t\r\n" if self.rescued.calls else None)
        if not bare:
            if final:
                if not self._drop_blanks:
                    self._text(self._held, out)
                self._held = ""
            return False
        starts = (THINK, THINK_END, *(BARE if self._bare else ()))
        for start in starts:
            if bare.startswith(start):
                self._think(bare, start)
                return True
            if start.startswith(bare) and not final:
                return False
        if self._objects and self._offered is not None and bare[0] in "{[":
            if not bare.startswith("[TOOL"[: len(bare)]):
                self._held = bare if self._drop_blanks else self._held
                self._form = JsonForm(self._offered, 0, marked=False)
                self._marker = len(self._held) - len(bare) + 1
                return True
            if bare == "[" and not final:
                return False
        if self._drop_blanks:
            self._held = bare
        self._fresh = self._drop_blanks = False
        return None

    def _think(self, bare: str, start: str) -> None:
        self._drop_blanks = True
        if start == THINK_END:  # of a block that the engine has read already
            self._held = bare[len(start) :]
            return
        self.rescued.thoughts += 1
        self._closers = (THINK_END,)
        if start == THINK:
            self._held, self._trim = bare[len(start) :], True
        else:
            self._bare_text = []
            self._held = bare

    def _open(self, fence: str | None, out: list[Event], *, final: bool) -> bool:
        """``_held`` begins with a marker."""
        if fence is not None:
            known = self._openers.fenced(self._held, final=final)
            if known is None:
                return False
            if isinstance(known, bool):
                self._fence = True
                self._held = self._held[len(fence) :]
                self._text(fence, out)
                return True
        else:
            if self._held.startswith(GEMMA_THOUGHT):
                self._closers = (CHANNEL_END,)
                self._drop_blanks = True
                self.rescued.thoughts += 1
                self._held, self._trim = self._held[len(GEMMA_THOUGHT) :], True
                return True
            known = self._openers.form(self._held)
            assert known is not None
        self._form, self._marker = known
        return True

    def _in_thought(self, out: list[Event], *, final: bool) -> bool:
        held = self._held
        if self._trim:
            held = self._held = held.lstrip("\n")
            self._trim = not held
        found = [(at, closer) for closer in self._closers if (at := held.find(closer)) >= 0]
        call = None
        if self._bare_text is not None and self._openers.calls is not None:
            call = self._openers.calls.search(held)
        if call is not None and (not found or call.start() < min(found)[0]):
            self._thought(held[: call.start()], out)
            self._held = held[call.start() :]
        elif found:
            at, closer = min(found)
            self._thought(held[:at], out)
            self._held = held[at + len(closer) :]
            self._bare_text = None
        else:
            keep = 0 if final else self._partial_end(held)
            self._thought(held[: len(held) - keep], out)
            self._held = held[len(held) - keep :]
            return False
        self._closers = ()
        self._fresh = self._drop_blanks = True
        return True

    def _partial_end(self, held: str) -> int:
        """Characters at the end that may belong to a marker."""
        ends = [*self._closers, *(self._openers.marks if self._bare_text is not None else ())]
        for size in range(min(len(held), max(map(len, ends)) - 1), 0, -1):
            if any(end.startswith(held[-size:]) for end in ends):
                return size
        return 0

    def _thought(self, text: str, out: list[Event]) -> None:
        if text:
            if self._bare_text is not None:
                self._bare_text.append(text)
            out.append(Thought(text))

    def _in_fence(self, out: list[Event], *, final: bool) -> bool:
        held = self._held
        match = _FENCE_END.search(held)
        if match is not None and match.start() == 0 and held[0] != "\n" and not self._line:
            match = _FENCE_END.search(held, 1)
        if match is None and final:
            match = _FENCE_END_LAST.search(held)
        if match is not None:
            self._held = held[match.end() :]
            self._text(held[: match.end()], out)
            self._fence = False
            return True
        tail = None if final else _FENCE_TAIL.search(held)
        end = len(held) if tail is None else tail.start()
        self._held = held[end:]
        self._text(held[:end], out)
        return False

    # ------------------------------------------------------------ calls

    def _in_form(self, out: list[Event], *, final: bool) -> bool:
        assert self._form is not None
        verdict = self._form.look(self._held, final=final)
        if verdict is None and (final or len(self._held) > HELD_LIMIT):
            verdict = NoCall("unreadable" if final else "too long")
        if verdict is None:
            return False
        if isinstance(verdict, NoCall):
            self._refuse(verdict, out)
            return True
        self._form = None
        self._call(verdict, out)
        return True

    def _refuse(self, verdict: NoCall, out: list[Event]) -> None:
        self.rescued.refused[verdict.why] += 1
        self._form = None
        marker, self._held = self._held[: self._marker], self._held[self._marker :]
        self._fence = marker.startswith(FENCE)
        self._text(marker, out)

    def _call(self, verdict: Calls, out: list[Event]) -> None:
        for call in verdict.calls:
            place = self._calls
            self._calls += 1
            self.rescued.calls += 1
            out.append(CallStart(place, self._ids.take(), call.name))
            out.append(CallPiece(place, call.arguments))
            out.append(CallEnd(place))
        self._said = True
        self._held = self._held[verdict.end :]
        self._fresh = self._drop_blanks = True
