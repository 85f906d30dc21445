"""Answering in Anthropic's messages: events as a stream, or as one message.

Source: Anthropic's Messages API reference (streaming). Claude Code starts a tool at its block's
end, so each call is a block of its own, in a row.
"""

from __future__ import annotations

from daemon.dialects.events import (
    Call,
    CallEnd,
    CallPiece,
    CallStart,
    Event,
    Finish,
    Stop,
    Text,
    Thought,
    Usage,
    Whole,
)
from daemon.dialects.fields import Json, encode, loads
from daemon.dialects.sse import event as sse

PING = b'event: ping\ndata: {"type": "ping"}\n\n'

_DELTA = (
    b"event: content_block_delta\ndata: "
    b'{"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}\n\n'
)
_STOPS = {
    Stop.END: "end_turn",
    Stop.LENGTH: "max_tokens",
    Stop.CALLS: "tool_use",
    Stop.SEQUENCE: "stop_sequence",
    Stop.REFUSED: "refusal",
}


def message_id(request_id: str) -> str:
    """An id as Anthropic's look."""
    return "msg_" + request_id.removeprefix("req_")


def usage_of(usage: Usage) -> Json:
    """Anthropic counts what came from the cache apart."""
    return {
        "input_tokens": max(0, usage.prompt - usage.cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.output,
    }


class MessagesWriter:
    """A message as a stream. ``model``: as the client named it."""

    media = b"text/event-stream"

    def __init__(self, model: str, request_id: str) -> None:
        self._model = model
        self._id = message_id(request_id)
        self._begun = False
        self._index = -1
        self._block: type | None = None  # what is open
        self._finish: Finish | None = None
        self._usage = Usage()

    def write(self, events: list[Event]) -> bytes:
        """The bytes that tell ``events``."""
        out: list[bytes] = []
        for event in events:
            if isinstance(event, Text):
                if self._block is not Text:
                    self._open(Text, b'{"type":"text","text":""}', out)
                out.append(_DELTA % (self._index, b"text_delta", b"text", encode(event.text)))
            elif isinstance(event, CallPiece):
                said = encode(event.text)
                out.append(_DELTA % (self._index, b"input_json_delta", b"partial_json", said))
            elif isinstance(event, Thought):
                if self._block is not Thought:
                    start = b'{"type":"thinking","thinking":"","signature":""}'
                    self._open(Thought, start, out)
                said = encode(event.text)
                out.append(_DELTA % (self._index, b"thinking_delta", b"thinking", said))
            elif isinstance(event, CallStart):
                block = {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
                self._open(CallStart, encode(block), out)
            elif isinstance(event, CallEnd):
                self._close(out)
            elif isinstance(event, Finish):
                self._close(out)
                self._finish = event
            elif isinstance(event, Usage):
                self._usage = event
        return b"".join(out)

    def end(self) -> bytes:
        """The answer is complete: why it stopped, and what it took."""
        out: list[bytes] = []
        self._begin(out)
        self._close(out)
        finish = self._finish or Finish(Stop.END)
        delta = {
            "type": "message_delta",
            "delta": {"stop_reason": _STOPS[finish.stop], "stop_sequence": finish.sequence},
            "usage": usage_of(self._usage),
        }
        out.append(sse("message_delta", encode(delta)))
        out.append(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
        return b"".join(out)

    def wait(self) -> bytes:
        """A keep-alive, also before the first event (recorded: Claude Code's clock counts it)."""
        return PING

    def _begin(self, out: list[bytes]) -> None:
        if self._begun:
            return
        self._begun = True
        message: Json = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_of(Usage()),
        }
        out.append(sse("message_start", encode({"type": "message_start", "message": message})))

    def _open(self, block: type, start: bytes, out: list[bytes]) -> None:
        self._begin(out)
        self._close(out)
        self._block = block
        self._index += 1
        head = b'{"type":"content_block_start","index":%d,"content_block":%b}'
        out.append(sse("content_block_start", head % (self._index, start)))

    def _close(self, out: list[bytes]) -> None:
        if self._block is None:
            return
        if self._block is Thought:
            # Anthropic signs its reasoning; clients expect the field and send it back.
            out.append(_DELTA % (self._index, b"signature_delta", b"signature", b'""'))
        self._block = None
        stop = b'{"type":"content_block_stop","index":%d}' % self._index
        out.append(sse("content_block_stop", stop))


def message(whole: Whole, model: str, request_id: str) -> Json:
    """The whole message."""
    content: list[Json] = []
    for part in whole.parts:
        if isinstance(part, Text):
            content.append({"type": "text", "text": part.text})
        elif isinstance(part, Thought):
            content.append({"type": "thinking", "thinking": part.text, "signature": ""})
        else:
            block = {"type": "tool_use", "id": part.id, "name": part.name}
            content.append({**block, "input": arguments_of(part)})
    return {
        "id": message_id(request_id),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": _STOPS[whole.finish.stop],
        "stop_sequence": whole.finish.sequence,
        "usage": usage_of(whole.usage),
    }


def arguments_of(call: Call) -> Json:
    """A call's arguments as an object. What is none is handed on under a name that no tool knows,
    so that the client tells the model of its mistake."""
    if not call.arguments.strip():
        return {}
    value = loads(call.arguments)
    return value if isinstance(value, dict) else {"invalid_arguments": call.arguments}
