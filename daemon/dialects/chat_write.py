"""Chat completions to a chat client: the engine's own bytes where nothing needs changing.

Source: OpenAI's chat completions reference; ``reasoning_content`` as the engines have it.
"""

from __future__ import annotations

from daemon.dialects.chat_answer import ChatReader
from daemon.dialects.events import (
    CallPiece,
    CallStart,
    Event,
    Failure,
    Finish,
    Stop,
    Text,
    Thought,
    Usage,
    Whole,
    collect,
)
from daemon.dialects.fields import Json, encode, loads
from daemon.dialects.sse import COMMENT, DONE, data
from daemon.dialects.stream import Filter, Stream, filtered, finished

_STOPS = {
    Stop.END: "stop",
    Stop.SEQUENCE: "stop",
    Stop.LENGTH: "length",
    Stop.CALLS: "tool_calls",
    Stop.REFUSED: "content_filter",
}


def finish_reason(finish: Finish) -> str:
    """The word of chat completions."""
    return _STOPS[finish.stop]


def usage_of(usage: Usage) -> Json:
    """Tokens as chat completions name them."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output,
        "total_tokens": usage.prompt + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


class ChatWriter:
    """Chunks of an answer."""

    media = b"text/event-stream"

    def __init__(self, model: str, request_id: str, created: int, *, usage: bool = True) -> None:
        """``usage``: the client asked for it; some take a chunk without choices for a fault."""
        self._usage = usage
        self._head = {
            "id": "chatcmpl-" + request_id.removeprefix("req_"),
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }

    def write(self, events: list[Event]) -> bytes:
        """The bytes that tell ``events``."""
        return b"".join([self._one(event) for event in events])

    def end(self) -> bytes:
        """The last event of every stream."""
        return data(DONE)

    def wait(self) -> bytes:
        """A comment: every chat client's clock counts it (recorded)."""
        return COMMENT

    def _one(self, event: Event) -> bytes:
        if isinstance(event, Text):
            return self._chunk({"content": event.text})
        if isinstance(event, Thought):
            return self._chunk({"reasoning_content": event.text})
        if isinstance(event, CallStart):
            function = {"name": event.name, "arguments": ""}
            call = {"index": event.index, "id": event.id, "type": "function"}
            return self._chunk({"tool_calls": [{**call, "function": function}]})
        if isinstance(event, CallPiece):
            call = {"index": event.index, "function": {"arguments": event.text}}
            return self._chunk({"tool_calls": [call]})
        if isinstance(event, Finish):
            return self._chunk({}, _STOPS[event.stop])
        if isinstance(event, Usage) and self._usage:
            return data(encode({**self._head, "choices": [], "usage": usage_of(event)}))
        return b""

    def _chunk(self, delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return data(encode({**self._head, "choices": [choice]}))


class ChatStream(Stream):
    """A chat engine's stream to a chat client.

    A chunk that the filters leave alone goes on as it came, with whatever the engine adds to it.
    """

    def __init__(self, reader: ChatReader, filters: list[Filter], writer: ChatWriter) -> None:
        super().__init__(reader, filters, writer)
        self._engine = reader
        self._changed = False

    def _payload(self, payload: bytes, out: list[bytes]) -> None:
        if self.over or self.failure is not None:
            return
        events = self._reader.read(payload)
        if self._engine.corrected and self._filters:  # without, there are several answers
            self._changed = True
        if events and type(events[-1]) is Failure:
            self.failure = events[-1]
            return
        told = filtered(self._filters, events)
        for event in events:
            if type(event) is Usage:
                self.usage = event
        if payload == DONE:
            self._complete(told, out)
        elif self._changed or told != events:
            self._changed = self._changed or any(type(event) is CallStart for event in told)
            out.append(self._writer.write(told))
        else:
            out.append(data(payload))


def whole_chat(body: bytes, reader: ChatReader, filters: list[Filter]) -> bytes:
    """A whole answer of a chat engine for a chat client: changed only where filters change it."""
    value = loads(body)
    choices = value.get("choices") if isinstance(value, dict) else None
    events = reader.whole(body)
    told = filtered(filters, events) + finished(filters)
    same = told == events and not (reader.corrected and filters)
    if same or not isinstance(choices, list) or len(choices) != 1:
        return body
    choice = choices[0]
    if not isinstance(choice, dict):
        return body
    whole = collect(told)
    before = choice.get("message")
    choice["message"] = {**(before if isinstance(before, dict) else {}), **message_of(whole)}
    choice["finish_reason"] = _STOPS[whole.finish.stop]
    return encode(value)


def whole_of(whole: Whole, model: str, request_id: str, created: int) -> Json:
    """A whole answer for a chat client, of an engine that speaks something else."""
    choice = {"index": 0, "message": message_of(whole), "logprobs": None}
    return {
        "id": "chatcmpl-" + request_id.removeprefix("req_"),
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{**choice, "finish_reason": _STOPS[whole.finish.stop]}],
        "usage": usage_of(whole.usage),
    }


def message_of(whole: Whole) -> Json:
    """An assistant's message."""
    message: Json = {"role": "assistant", "content": whole.text or None}
    if whole.thought:
        message["reasoning_content"] = whole.thought
    if whole.calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments or "{}"},
            }
            for call in whole.calls
        ]
    elif not whole.text:
        message["content"] = ""
    return message
