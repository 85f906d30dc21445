"""Reading chat completions' answers: chunks of a stream, or a whole body, into events.

Source: OpenAI's chat completions reference, and what the engines add to it (``reasoning_content``
of llama-server and vLLM, ``reasoning`` of mlx-lm, ``timings`` of llama-server). Nothing that an
engine sends raises here: what cannot be understood is counted in ``strange`` and left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

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
from daemon.dialects.fields import dumps, loads
from daemon.dialects.halves import Halves
from daemon.dialects.sse import DONE


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: Any = None


class _Call(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Said(msgspec.Struct, gc=False):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int | None = 0
    delta: _Said | None = None
    message: _Said | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: Any = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: Any = None
    timings: Any = None
    error: Any = None
    model: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode
_BAD_ID = re.compile(r"[^A-Za-z0-9_-]")
_STOPS = {
    "stop": Stop.END,
    "eos": Stop.END,
    "length": Stop.LENGTH,
    "tool_calls": Stop.CALLS,
    "function_call": Stop.CALLS,
    "content_filter": Stop.REFUSED,
}


class Ids:
    """Names for calls: the engine's own where they will do, else new ones.

    ``prefix`` makes ours unique (a request's id); ``used`` are those of the conversation so far:
    some engines begin again at ``call_0`` in each answer, and then a client mixes up results.
    """

    def __init__(self, prefix: str, used: frozenset[str] = frozenset()) -> None:
        self._prefix = _BAD_ID.sub("", prefix)[:40]
        self._used = set(used)
        self._count = 0

    def take(self, wanted: str | None = None) -> str:
        """An id that no other call has, and that every dialect allows."""
        name = _BAD_ID.sub("_", wanted or "")[:64]
        while not name or name in self._used:
            name = f"call_{self._prefix}_{self._count}"
            self._count += 1
        self._used.add(name)
        return name


class ChatReader:
    """One answer of a chat engine. Calls are told one after the other, whatever the engine did."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._calls = _Calls(ids)
        self._stop: Finish | None = None
        self._halves = Halves()
        self.done = False  # the engine said that this was all
        self.corrected = False  # it ended for another reason than the engine said
        self.strange = 0  # chunks that made no sense
        self.model = ""

    def read(self, payload: bytes) -> list[Event]:
        """The events of one chunk of a stream (without its ``data:``)."""
        if payload == DONE:
            return self._end(said=True)
        chunk = self._chunk(payload)
        events: list[Event] = []
        if chunk is None or self.done:
            return events
        if chunk.error is not None:
            self.done = True
            return [_failure(chunk.error)]
        for choice in chunk.choices or ():
            if choice.index in (0, None):
                self._choice(choice, choice.delta or choice.message, events)
        if chunk.usage is not None or chunk.timings is not None:
            usage = _usage(chunk.usage, chunk.timings)
            if usage is not None:
                events.append(usage)
        return events

    def end(self) -> list[Event]:
        """The stream ended. ``done`` is false where it was broken off."""
        return self._end(said=False)

    def _end(self, *, said: bool) -> list[Event]:
        if self.done:
            return []
        self.done = said or self._stop is not None
        events: list[Event] = []
        self._calls.flush(events.append)
        if self._stop is None and said:
            events.append(self._finish(Finish(Stop.END)))
        return events

    def whole(self, body: bytes) -> list[Event]:
        """The events of a whole answer."""
        chunk = self._chunk(body)
        if chunk is None:
            return [Failure("The engine answered what is no chat completion.", 502)]
        if chunk.error is not None:
            return [_failure(chunk.error)]
        events: list[Event] = []
        for choice in chunk.choices or ():
            if choice.index in (0, None):
                self._choice(choice, choice.message or choice.delta, events)
        usage = _usage(chunk.usage, chunk.timings)
        if usage is not None:
            events.append(usage)
        events += self._end(said=True)
        return events

    def _chunk(self, payload: bytes) -> _Chunk | None:
        try:
            chunk = _decode(payload)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            self.strange += 1
            value = loads(payload)
            if value is None:
                value = loads(self._halves.mend(payload))
            if not isinstance(value, dict):
                return None
            chunk = _leniently(value)
        if not self.model and isinstance(chunk.model, str):
            self.model = chunk.model
        return chunk

    def _choice(self, choice: _Choice, said: _Said | None, events: list[Event]) -> None:
        if self._stop is not None:
            return
        tell = events.append
        if said is not None:
            thought = _text(said.reasoning_content) or _text(said.reasoning)
            if thought:
                self._calls.say(Thought(thought), tell)
            text = _text(said.content) or said.refusal or ""
            if text:
                self._calls.say(Text(text), tell)
            for call in said.tool_calls or ():
                self._calls.take(call, tell)
        elif choice.text:
            tell(Text(choice.text))
        if choice.finish_reason:
            self._calls.flush(tell)
            stop = _STOPS.get(choice.finish_reason, Stop.END)
            met = choice.stop_reason
            if stop is Stop.END and isinstance(met, str):  # vLLM names the sequence
                tell(self._finish(Finish(Stop.SEQUENCE, met)))
            else:
                tell(self._finish(Finish(stop)))

    def _finish(self, finish: Finish) -> Finish:
        # Some engines say "stop" after calls; the loop of an agent ends on that word.
        if self._calls.count and finish.stop in (Stop.END, Stop.SEQUENCE):
            finish, self.corrected = Finish(Stop.CALLS), True
        elif finish.stop is Stop.CALLS and not self._calls.count:
            finish, self.corrected = Finish(Stop.END), True
        self._stop = finish
        return finish


class _Open:
    """A call whose arguments still come."""

    __slots__ = ("id", "key", "name", "pieces", "place", "raw", "told")

    def __init__(self, key: int, place: int, raw: str | None, own: str, name: str) -> None:
        self.key = key  # the engine's index
        self.place = place  # ours
        self.raw = raw  # the engine's id
        self.id = own
        self.name = name
        self.pieces: list[str] = []
        self.told = False


class _Calls:
    """Puts calls in a row. Clients take one at a time (Anthropic's blocks cannot overlap), so what
    comes for a later one, or as text, waits until the earlier one is complete JSON."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._queue: list[_Open | Text | Thought] = []  # its first may be told already
        self.count = 0

    def say(self, said: Text | Thought, tell: Callable[[Event], None]) -> None:
        if not self._queue:
            tell(said)
        elif said.text.strip():  # else line feeds that engines send between calls
            self._queue.append(said)
            self._advance(tell)

    def take(self, call: _Call, tell: Callable[[Event], None]) -> None:
        opened = self._find(call)
        if opened is None:
            return
        piece = call.function.arguments if call.function is not None else None
        if isinstance(piece, (dict, list)):
            piece = dumps(piece)
        if isinstance(piece, str) and piece:
            opened.pieces.append(piece)
            if opened.told:
                tell(CallPiece(opened.place, piece))
        self._advance(tell)

    def _find(self, call: _Call) -> _Open | None:
        """The call that is meant; a new one where there is a name and nothing like it before."""
        name = call.function.name if call.function is not None else None
        same: _Open | None = None
        for item in reversed(self._queue):
            if isinstance(item, _Open) and call.index in (item.key, None):
                same = item
                break
        # Some engines give every parallel call the index 0, or none: then only the id tells them
        # apart.
        fresh = name and (call.id != same.raw if same and call.id else call.index is None)
        if same is not None and not fresh:
            return same
        if not name:
            return None
        key = self.count if call.index is None else call.index
        opened = _Open(key, self.count, call.id, self._ids.take(call.id), name)
        self.count += 1
        self._queue.append(opened)
        return opened

    def _advance(self, tell: Callable[[Event], None]) -> None:
        """Tell what is due; go on to what waits once the first call is complete."""
        queue = self._queue
        while queue:
            first = queue[0]
            if isinstance(first, _Open):
                self._tell(first, tell)
                if len(queue) == 1 or loads("".join(first.pieces)) is None:
                    return
                tell(CallEnd(first.place))
            else:
                tell(first)
            del queue[0]

    @staticmethod
    def _tell(opened: _Open, tell: Callable[[Event], None]) -> None:
        if not opened.told:
            opened.told = True
            tell(CallStart(opened.place, opened.id, opened.name))
            for piece in opened.pieces:
                tell(CallPiece(opened.place, piece))

    def flush(self, tell: Callable[[Event], None]) -> None:
        """All that waits: nothing more will come."""
        for item in self._queue:
            if isinstance(item, _Open):
                self._tell(item, tell)
                tell(CallEnd(item.place))
            else:
                tell(item)
        self._queue.clear()


# ---------------------------------------------------------------- what engines may send


def _text(value: object) -> str:
    """Text, or the text of an array of parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        texts = [part.get("text") for part in value if isinstance(part, dict)]
        return "".join([text for text in texts if isinstance(text, str)])
    return ""


def _number(value: object, *names: str) -> int:
    """The first of ``names`` in an object that is a number of tokens; else 0."""
    if isinstance(value, dict):
        for name in names:
            found = value.get(name)
            if isinstance(found, (int, float)) and not isinstance(found, bool):
                return max(0, min(int(found), 1 << 53)) if found == found else 0
    return 0


def _usage(usage: object, timings: object) -> Usage | None:
    """Tokens as OpenAI counts them; else as llama-server's timings do."""
    if isinstance(usage, dict):
        prompt = _number(usage, "prompt_tokens", "input_tokens")
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
        cached = _number(details, "cached_tokens") or _number(timings, "cache_n")
        thought = _number(usage.get("completion_tokens_details"), "reasoning_tokens")
        output = _number(usage, "completion_tokens", "output_tokens")
        return Usage(prompt, min(cached, prompt), output, min(thought, output))
    if isinstance(timings, dict):
        cached = _number(timings, "cache_n")
        return Usage(_number(timings, "prompt_n") + cached, cached, _number(timings, "predicted_n"))
    return None


def _failure(error: object) -> Failure:
    """An engine's error object, in any of the shapes that they have."""
    if isinstance(error, dict):
        message = error.get("message") or error.get("error") or error
        text = message if isinstance(message, str) else dumps(message)
        status = _number(error, "code", "status")
        return Failure(text, status if 400 <= status <= 599 else 500)
    return Failure(error if isinstance(error, str) else dumps(error))


def _leniently(value: dict[str, Any]) -> _Chunk:
    """A chunk of which some field has a wrong kind: take what has the right one."""
    choices = []
    for item in _objects(value.get("choices")):
        reason, index, text = item.get("finish_reason"), item.get("index"), item.get("text")
        choices.append(
            _Choice(
                index if type(index) is int else 0,
                _said(item.get("delta")),
                _said(item.get("message")),
                text if isinstance(text, str) else None,
                reason if isinstance(reason, str) else None,
                item.get("stop_reason"),
            )
        )
    return _Chunk(choices, value.get("usage"), value.get("timings"), value.get("error"))


def _said(value: object) -> _Said | None:
    if not isinstance(value, dict):
        return None
    calls = []
    for item in _objects(value.get("tool_calls")):
        function, index, raw = item.get("function"), item.get("index"), item.get("id")
        named = None
        if isinstance(function, dict):
            name = function.get("name")
            named = _Function(name if isinstance(name, str) else None, function.get("arguments"))
        calls.append(
            _Call(
                index if type(index) is int else None,
                raw if isinstance(raw, str) else None,
                named,
            )
        )
    names = ("content", "reasoning_content", "reasoning")
    content, reasoning_content, reasoning = [value.get(name) for name in names]
    return _Said(content, reasoning_content, reasoning, None, calls)


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
