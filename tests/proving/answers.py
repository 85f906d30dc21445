"""Answers for the judges: recorded ones of llama-server, and made ones, good and broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from daemon.proving.tools import TOOL
from daemon.proving.values import Ended, Heard, Subject, Talk

RECORDED = Path(__file__).parent / "recorded"
TEN = "one two three four five six seven eight nine ten"
GOOD = '{"thing": "salt", "warehouse": "north"}'
SUBJECT = Subject(
    "m", context=1000, slots=2, routes=frozenset({"chat", "messages", "responses"}), tag="abcdef"
)
USAGE = {"prompt_tokens": 20, "completion_tokens": 10}


def recorded(name: str) -> bytes:
    """``chat_text``, ``messages_tool``, …"""
    return (RECORDED / f"{name}.sse").read_bytes()


def sse(*values: object, named: bool = False) -> bytes:
    """A stream of these objects; texts as they are."""
    out = []
    for value in values:
        text = value if isinstance(value, str) else json.dumps(value)
        name = f"event: {value['type']}\n" if named and isinstance(value, dict) else ""
        out.append(f"{name}data: {text}\n\n")
    return "".join(out).encode()


def heard(data: bytes, **changes: Any) -> Heard:
    """A stream that came whole."""
    values = {"status": 200, "kind": "text/event-stream", "first": 0.1, "seconds": 0.2}
    return Heard(**{**values, "data": data, **changes})


def refused(status: int, message: str, code: str = "") -> Heard:
    body = {"error": {"message": message, "code": code, "type": code}}
    return heard(json.dumps(body).encode(), status=status, kind="application/json")


def delta(finish: str | None = None, **fields: object) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def usage(tokens_in: int = 20, tokens_out: int = 10) -> dict[str, Any]:
    return {
        "choices": [],
        "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out},
    }


def chat(text: str = TEN, finish: str = "stop", tokens_in: int = 20, **fields: Any) -> Heard:
    """A good chat stream that says this."""
    pieces = [delta(content=word + " ") for word in text.split()]
    more = [delta(**fields)] if fields else []
    return heard(sse(*more, *pieces, delta(finish), usage(tokens_in), "[DONE]"))


def chat_call(
    arguments: str = GOOD, name: str = TOOL.name, finish: str = "tool_calls", call_id: str = "c1"
) -> Heard:
    """A good chat stream that calls a tool, its arguments in two pieces."""
    begun = {"index": 0, "id": call_id, "function": {"name": name, "arguments": arguments[:7]}}
    rest = {"index": 0, "function": {"arguments": arguments[7:]}}
    pieces = [delta(tool_calls=[begun]), delta(tool_calls=[rest])]
    return heard(sse(*pieces, delta(finish), usage(), "[DONE]"))


def message(*events: dict[str, Any], stop: str = "end_turn") -> Heard:
    """A messages stream with these events between its frame."""
    start = {"id": "msg_1", "usage": {"input_tokens": 20, "output_tokens": 0}}
    end = {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 9}}
    return heard(
        sse(
            {"type": "message_start", "message": start},
            *events,
            end,
            {"type": "message_stop"},
            named=True,
        )
    )


def block(index: int, about: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    """One whole block of a message."""
    return [
        {"type": "content_block_start", "index": index, "content_block": about},
        *({"type": "content_block_delta", "index": index, "delta": one} for one in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def text_block(text: str = TEN, index: int = 0) -> list[dict[str, Any]]:
    return block(index, {"type": "text", "text": ""}, {"type": "text_delta", "text": text})


def tool_block(arguments: str = GOOD, index: int = 0) -> list[dict[str, Any]]:
    about = {"type": "tool_use", "id": "t1", "name": TOOL.name, "input": {}}
    parts = [arguments[:7], arguments[7:]]
    return block(
        index, about, *({"type": "input_json_delta", "partial_json": part} for part in parts)
    )


def response(*items: dict[str, Any], end: str = "response.completed", **changes: Any) -> Heard:
    """A responses stream with these whole items."""
    about = {"id": "resp_1", "usage": {"input_tokens": 20, "output_tokens": 9}, **changes}
    done = [{"type": "response.output_item.done", "item": item} for item in items]
    created = {"type": "response.created", "response": {"id": "resp_1"}}
    return heard(sse(created, *done, {"type": end, "response": about}, named=True))


def item(text: str = TEN) -> dict[str, Any]:
    return {"type": "message", "content": [{"type": "output_text", "text": text}]}


def call_item(arguments: str = GOOD) -> dict[str, Any]:
    return {"type": "function_call", "call_id": "c1", "name": TOOL.name, "arguments": arguments}


CUT = Heard(200, "text/event-stream", b"", Ended.BROKEN, "the connection was closed")
SILENT = Heard(ended=Ended.SILENT, seconds=300.0)
GONE = Heard(ended=Ended.UNREACHABLE, detail="nobody listens")
PAUSED = refused(503, "Paused.", "paused")


def play(talk: Talk, *answers: Heard | tuple[Heard, ...]) -> tuple[Any, list[Any]]:
    """Take a step with these answers: its finding and the bodies that it sent."""
    sent: list[Any] = []
    left = list(answers)
    try:
        asks = next(talk)
        while True:
            sent += asks
            answer = left.pop(0)
            asks = talk.send(answer if isinstance(answer, tuple) else (answer,))
    except StopIteration as end:
        assert not left, f"it never asked for {len(left)} of them"
        return end.value, sent
