"""OpenAI's chat completions: the request, and its stream taken apart."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from daemon.proving.events import number, objects
from daemon.proving.turns import Dialect, Model, Result, Turn, Wanted
from daemon.proving.values import Call, Subject, Told

_REASONS: Final = {
    "stop": "end",
    "tool_calls": "tools",
    "function_call": "tools",
    "length": "length",
}


def write(subject: Subject, wanted: Wanted) -> dict[str, Any]:
    """The body of a request."""
    body: dict[str, Any] = {
        "model": subject.model,
        "messages": [_message(turn) for turn in wanted.turns],
        "max_tokens": wanted.limit,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if wanted.tool is not None:
        tool = wanted.tool
        function = {"name": tool.name, "description": tool.text, "parameters": dict(tool.schema)}
        body["tools"] = [{"type": "function", "function": function}]
        body["tool_choice"] = "required" if wanted.force else "auto"
    return body


def _message(turn: Turn) -> dict[str, Any]:
    if isinstance(turn, Result):
        return {"role": "tool", "tool_call_id": turn.call.id, "content": turn.text}
    if isinstance(turn, Model):
        if not turn.calls:
            return {"role": "assistant", "content": turn.text}
        calls = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in turn.calls
        ]
        return {"role": "assistant", "content": turn.text or None, "tool_calls": calls}
    if turn.image is None:
        return {"role": "user", "content": turn.text}
    url = "data:image/png;base64," + base64.b64encode(turn.image).decode()
    content = [
        {"type": "text", "text": turn.text},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    return {"role": "user", "content": content}


@dataclass(slots=True)
class _Growing:
    """A tool call whose pieces still come."""

    id: str = ""
    name: str = ""
    parts: list[str] = field(default_factory=list)


def read(data: bytes) -> Told:
    """A stream, taken apart."""
    told = Told()
    calls: dict[int, _Growing] = {}
    done = False
    for _, value in objects(data, told):
        if done:
            told.flaw("something comes after [DONE]")
        if not value:
            done = True
            continue
        _usage(value.get("usage"), told)
        choices = value.get("choices")
        if not isinstance(choices, list):
            told.flaw("a chunk has no choices")
            continue
        for choice in choices[:1]:
            if isinstance(choice, Mapping):
                _choice(choice, told, calls)
            else:
                told.flaw("a choice is no object")
    told.calls = [_whole(one, told) for _, one in sorted(calls.items())]
    if len({call.id for call in told.calls}) < len(told.calls):
        told.flaw("two tool calls have the same id")
    if not told.stop and not told.error:
        told.flaw("no finish_reason came")
    if not done and not told.error:
        told.flaw("the stream does not end with [DONE]")
    return told


def _choice(choice: Mapping[str, Any], told: Told, calls: dict[int, _Growing]) -> None:
    delta = choice.get("delta")
    if isinstance(delta, Mapping):
        text = delta.get("content")
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(text, str) and text:
            told.text += text
            told.pieces += 1
        if isinstance(thought, str) and thought:
            told.thoughts += thought
            told.pieces += 1
        for piece in delta.get("tool_calls") or ():
            if isinstance(piece, Mapping):
                _piece(piece, told, calls)
    elif delta is not None or not choice.get("finish_reason"):
        told.flaw("a choice has no delta")
    if isinstance(stop := choice.get("finish_reason"), str):
        told.stop = stop
        told.reason = _REASONS.get(stop, "other")


def _piece(piece: Mapping[str, Any], told: Told, calls: dict[int, _Growing]) -> None:
    index = piece.get("index")
    if type(index) is not int:
        told.flaw("a piece of a tool call has no index")
        index = len(calls) if piece.get("id") else max(len(calls) - 1, 0)
    growing = calls.setdefault(index, _Growing())
    told.pieces += 1
    growing.id = growing.id or str(piece.get("id") or "")
    function = piece.get("function")
    if isinstance(function, Mapping):
        growing.name = growing.name or str(function.get("name") or "")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            growing.parts.append(arguments)
        elif arguments is not None:
            told.flaw("a tool call's arguments are no text")


def _whole(growing: _Growing, told: Told) -> Call:
    if not growing.id:
        told.flaw("a tool call has no id")
    if not growing.name:
        told.flaw("a tool call has no name")
    return Call(growing.id, growing.name, "".join(growing.parts))


def _usage(usage: object, told: Told) -> None:
    if isinstance(usage, Mapping):
        told.tokens_in = number(usage.get("prompt_tokens"))
        told.tokens_out = number(usage.get("completion_tokens"))


CHAT: Final = Dialect("chat", "/v1/chat/completions", write, read)
