"""OpenAI's responses: the request, and its stream taken apart."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from daemon.proving.events import message_of, number, objects
from daemon.proving.turns import Dialect, Model, Result, Turn, Wanted
from daemon.proving.values import Call, Subject, Told

_ENDS: Final = {
    "response.completed": "end",
    "response.incomplete": "length",
    "response.failed": "other",
}


def write(subject: Subject, wanted: Wanted) -> dict[str, Any]:
    """The body of a request; the whole history each time, as Codex does."""
    body: dict[str, Any] = {
        "model": subject.model,
        "input": [item for turn in wanted.turns for item in _items(turn)],
        "max_output_tokens": wanted.limit,
        "stream": True,
        "store": False,
    }
    if wanted.tool is not None:
        tool = wanted.tool
        about = {"name": tool.name, "description": tool.text, "parameters": dict(tool.schema)}
        body["tools"] = [{"type": "function", **about, "strict": False}]
        body["tool_choice"] = "required" if wanted.force else "auto"
    return body


def _items(turn: Turn) -> list[dict[str, Any]]:
    if isinstance(turn, Result):
        about = {"call_id": turn.call.id, "output": turn.text}
        return [{"type": "function_call_output", **about}]
    if isinstance(turn, Model):
        said = [{"type": "output_text", "text": turn.text}] if turn.text else []
        items: list[dict[str, Any]] = [
            {"type": "message", "role": "assistant", "content": said} for _ in said
        ]
        for call in turn.calls:
            about = {"call_id": call.id, "name": call.name, "arguments": call.arguments}
            items.append({"type": "function_call", **about})
        return items
    content: list[dict[str, Any]] = [{"type": "input_text", "text": turn.text}]
    if turn.image is not None:
        url = "data:image/png;base64," + base64.b64encode(turn.image).decode()
        content.append({"type": "input_image", "image_url": url})
    return [{"type": "message", "role": "user", "content": content}]


def read(data: bytes) -> Told:
    """A stream, taken apart. What counts is what Codex takes: whole items, and the end."""
    told = Told()
    deltas: list[str] = []
    items: list[Mapping[str, Any]] = []
    for name, value in objects(data, told):
        kind = value.get("type")
        if not value:
            continue
        if not isinstance(kind, str):
            told.flaw("an event has no type")
            continue
        if name and name != kind:
            told.flaw(f"an event is named {name!r} and says it is {kind!r}")
        if told.stop:
            told.flaw(f"{kind} comes after {told.stop}")
        if kind.endswith(".delta"):
            told.pieces += 1
            if kind == "response.output_text.delta":
                deltas.append(str(value.get("delta") or ""))
        elif kind == "response.output_item.done" and isinstance(value.get("item"), Mapping):
            items.append(value["item"])
        elif kind in _ENDS:
            _end(kind, value.get("response"), told)
    for item in items:
        _item(item, told)
    _check(told, "".join(deltas))
    return told


def _end(kind: str, response: object, told: Told) -> None:
    told.stop = kind
    told.reason = _ENDS[kind]
    if not isinstance(response, Mapping) or not response.get("id"):
        told.flaw(f"{kind} has no response with an id")
        return
    if kind == "response.failed":
        told.error = message_of(response) if response.get("error") else "response.failed"
    if isinstance(usage := response.get("usage"), Mapping):
        told.tokens_in = number(usage.get("input_tokens"))
        told.tokens_out = number(usage.get("output_tokens"))


def _item(item: Mapping[str, Any], told: Told) -> None:
    match item.get("type"):
        case "message":
            told.text += _texts(item.get("content"), told)
        case "reasoning":
            parts = item.get("content") or item.get("summary")
            told.thoughts += _texts(parts, Told())
        case "function_call":
            call_id, name = str(item.get("call_id") or ""), str(item.get("name") or "")
            arguments = item.get("arguments")
            if not (call_id and name and isinstance(arguments, str)):
                told.flaw("a function_call has no call_id, no name or no arguments")
            told.calls.append(Call(call_id, name, str(arguments or "")))
        case _:
            pass  # a kind that was not asked for


def _texts(parts: object, told: Told) -> str:
    if not isinstance(parts, list):
        told.flaw("a message has no list of content")
        return ""
    return "".join(str(part.get("text") or "") for part in parts if isinstance(part, Mapping))


def _check(told: Told, streamed: str) -> None:
    if told.error:
        return
    if not told.stop:
        told.flaw("the stream does not end with response.completed")
    if streamed and not told.text:
        told.flaw("no response.output_item.done brings the text: Codex loses it")
    elif streamed and streamed != told.text:
        told.flaw("the text that was streamed differs from the text of the whole item")
    if told.calls and told.reason == "end":
        told.reason = "tools"  # this dialect has no reason of its own for it


RESPONSES: Final = Dialect("responses", "/v1/responses", write, read)
