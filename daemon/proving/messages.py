"""Anthropic's messages: the request, and its stream taken apart."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from daemon.proving.events import loads, number, objects
from daemon.proving.turns import Dialect, Model, Result, Turn, Wanted
from daemon.proving.values import Call, Subject, Told

_REASONS: Final = {
    "end_turn": "end",
    "stop_sequence": "end",
    "tool_use": "tools",
    "max_tokens": "length",
}
_DELTAS: Final = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "input_json_delta": ("tool_use", "partial_json"),
}


def write(subject: Subject, wanted: Wanted) -> dict[str, Any]:
    """The body of a request."""
    body: dict[str, Any] = {
        "model": subject.model,
        "messages": [_message(turn) for turn in wanted.turns],
        "max_tokens": wanted.limit,
        "stream": True,
    }
    if wanted.tool is not None:
        tool = wanted.tool
        about = {"name": tool.name, "description": tool.text, "input_schema": dict(tool.schema)}
        body["tools"] = [about]
        body["tool_choice"] = {"type": "any" if wanted.force else "auto"}
    return body


def _message(turn: Turn) -> dict[str, Any]:
    if isinstance(turn, Result):
        block = {"type": "tool_result", "tool_use_id": turn.call.id, "content": turn.text}
        return {"role": "user", "content": [block]}
    content: list[dict[str, Any]] = [{"type": "text", "text": turn.text}] if turn.text else []
    if isinstance(turn, Model):
        for call in turn.calls:
            given = loads(call.arguments or "{}")
            content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": given})
        return {"role": "assistant", "content": content}
    if turn.image is not None:
        data = base64.b64encode(turn.image).decode()
        source = {"type": "base64", "media_type": "image/png", "data": data}
        content.append({"type": "image", "source": source})
    return {"role": "user", "content": content}


@dataclass(slots=True)
class _Block:
    kind: str
    id: str = ""
    name: str = ""
    parts: list[str] = field(default_factory=list)
    open: bool = True


@dataclass(slots=True)
class _Reading:
    """The state of the stream: its blocks by index, and which of its frames have come."""

    told: Told
    blocks: dict[int, _Block] = field(default_factory=dict)
    began: bool = False
    ended: bool = False

    def take(self, name: str, value: Mapping[str, Any]) -> None:
        kind = value.get("type")
        if name and name != kind:
            self.told.flaw(f"an event is named {name!r} and says it is {kind!r}")
        if self.ended and kind != "ping":
            self.told.flaw(f"{kind} comes after message_stop")
        if not self.began and kind not in ("message_start", "ping", "error"):
            self.told.flaw(f"{kind} comes before message_start")
            self.began = True
        match kind:
            case "message_start":
                self.began = True
                self._start(value.get("message"))
            case "content_block_start":
                self._open(value)
            case "content_block_delta":
                self._grow(value)
            case "content_block_stop":
                self._close(value)
            case "message_delta":
                self._delta(value)
            case "message_stop":
                self.ended = True
            case "ping":
                pass
            case _:
                self.told.flaw(f"there is no event of the type {kind!r}")

    def _start(self, message: object) -> None:
        if not isinstance(message, Mapping) or not message.get("id"):
            self.told.flaw("message_start has no message with an id")
        elif isinstance(usage := message.get("usage"), Mapping):
            self.told.tokens_in = _read_in(usage)

    def _open(self, value: Mapping[str, Any]) -> None:
        index, about = value.get("index"), value.get("content_block")
        if type(index) is not int or not isinstance(about, Mapping):
            self.told.flaw("content_block_start has no index or no content_block")
            return
        if index in self.blocks:
            self.told.flaw(f"block {index} begins twice")
        if any(block.open for block in self.blocks.values()):
            self.told.flaw(f"block {index} begins before the one before it has ended")
        kind = str(about.get("type"))
        block = _Block(kind, str(about.get("id") or ""), str(about.get("name") or ""))
        self.blocks[index] = block
        if kind == "tool_use":
            if not (block.id and block.name):
                self.told.flaw("a tool_use block has no id or no name")
            given = about.get("input")
            if given:
                block.parts.append(json.dumps(given))
        elif kind in ("text", "thinking"):
            self._add(block, str(about.get(kind) or ""))

    def _block(self, value: Mapping[str, Any]) -> _Block | None:
        index = value.get("index")
        return self.blocks.get(index) if type(index) is int else None

    def _grow(self, value: Mapping[str, Any]) -> None:
        block = self._block(value)
        delta = value.get("delta")
        if block is None or not block.open or not isinstance(delta, Mapping):
            self.told.flaw("a delta belongs to no open block")
            return
        kind = str(delta.get("type"))
        if kind == "signature_delta":
            return
        owner, key = _DELTAS.get(kind, ("", ""))
        if owner != block.kind:
            self.told.flaw(f"a {kind} comes in a block of {block.kind}")
            return
        self._add(block, str(delta.get(key) or ""))

    def _add(self, block: _Block, text: str) -> None:
        if not text:
            return
        self.told.pieces += 1
        if block.kind == "text":
            self.told.text += text
        elif block.kind == "thinking":
            self.told.thoughts += text
        else:
            block.parts.append(text)

    def _close(self, value: Mapping[str, Any]) -> None:
        block = self._block(value)
        if block is None or not block.open:
            self.told.flaw("content_block_stop ends a block that is not open")
        else:
            block.open = False

    def _delta(self, value: Mapping[str, Any]) -> None:
        delta, usage = value.get("delta"), value.get("usage")
        if isinstance(delta, Mapping) and isinstance(stop := delta.get("stop_reason"), str):
            self.told.stop = stop
            self.told.reason = _REASONS.get(stop, "other")
        if isinstance(usage, Mapping):
            self.told.tokens_out = number(usage.get("output_tokens"))
            if "input_tokens" in usage:
                self.told.tokens_in = _read_in(usage)


def _read_in(usage: Mapping[str, Any]) -> int | None:
    """All that was read: what came from a cache is counted apart in this dialect."""
    fresh = number(usage.get("input_tokens"))
    kept = (usage.get("cache_read_input_tokens"), usage.get("cache_creation_input_tokens"))
    return None if fresh is None else fresh + sum(number(one) or 0 for one in kept)


def read(data: bytes) -> Told:
    """A stream, taken apart."""
    reading = _Reading(Told())
    told = reading.told
    for name, value in objects(data, told):
        if value:
            reading.take(name, value)
    blocks = [block for _, block in sorted(reading.blocks.items())]
    told.calls = [
        Call(b.id, b.name, "".join(b.parts) or "{}") for b in blocks if b.kind == "tool_use"
    ]
    if not told.error:
        if any(block.open for block in blocks):
            told.flaw("a block is not ended")
        if not told.stop:
            told.flaw("no stop_reason came")
        if not reading.ended:
            told.flaw("the stream does not end with message_stop")
    return told


MESSAGES: Final = Dialect("messages", "/v1/messages", write, read)
