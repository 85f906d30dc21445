"""What the tests of streams share: chunks as engines send them, cuts, and the SDKs' own types."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import strategies as st
from openai.types.chat import (
    ChatCompletionMessageParam,
    ChatCompletionToolParam,
    completion_create_params,
)
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from daemon.dialects.chat_answer import ChatReader, Ids
from daemon.dialects.messages_answer import MessagesWriter
from daemon.dialects.responses_answer import Asked, ResponsesWriter
from daemon.dialects.stream import Filter, Stream, Writer

FIXTURES = Path(__file__).parent / "fixtures"
DONE = b"data: [DONE]\n\n"

_MESSAGE = TypeAdapter[Any](ChatCompletionMessageParam)
_TOOL = TypeAdapter[Any](ChatCompletionToolParam)
_FORMAT = TypeAdapter[Any](completion_create_params.ResponseFormat)
_ANTHROPIC = TypeAdapter[Any](RawMessageStreamEvent)
_OPENAI = TypeAdapter[Any](ResponseStreamEvent)


def fixtures(*starts: str) -> list[Any]:
    """Recorded requests whose names begin so, as parameters of a test."""
    import pytest

    names = sorted(path.stem for path in FIXTURES.glob("*_[0-9]*.json"))
    return [pytest.param(name, id=name) for name in names if name.startswith(starts)]


def recorded(name: str) -> dict[str, Any]:
    """The body of a recorded request."""
    body: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text())["body"]
    return body


def chunk(finish: str | None = None, **delta: Any) -> bytes:
    """One chunk of a chat engine."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    value = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps({**value, "choices": [choice]}).encode() + b"\n\n"


def usage(prompt: int = 20, output: int = 5, cached: int = 8) -> bytes:
    """The chunk with the usage."""
    value = {
        "choices": [],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "prompt_tokens_details": {"cached_tokens": cached},
        },
    }
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def called(index: int, arguments: str = "", name: str | None = None, call: str = "") -> bytes:
    """A chunk of a call."""
    function: dict[str, Any] = {"arguments": arguments}
    item: dict[str, Any] = {"index": index, "function": function}
    if name is not None:
        function["name"] = name
        item |= {"id": call or f"call_{index}", "type": "function"}
    return chunk(tool_calls=[item])


def answer(text: str = "", *, finish: str = "stop", size: int = 4) -> bytes:
    """A whole stream that says ``text`` in pieces."""
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    said = [chunk(content=piece) for piece in pieces]
    return b"".join([chunk(role="assistant"), *said, chunk(finish), usage(), DONE])


TALK = b"".join(
    [
        chunk(role="assistant", content=None),
        chunk(reasoning_content="Hm, "),
        chunk(reasoning_content="ja."),
        chunk(content="Ich schreibe "),
        chunk(content="zwei Dateien 📁."),
        called(0, "", "Write"),
        called(0, '{"file_path":"/a",'),
        called(0, '"content":"x\\n"}'),
        called(1, '{"file_path":', "Write"),
        called(1, '"/b","content":"é"}'),
        chunk("tool_calls"),
        usage(),
        DONE,
    ]
)
"""Reasoning, text and two parallel calls."""


def messages(*filters: Filter) -> Stream:
    """A stream for an Anthropic client."""
    writer = MessagesWriter("m", "req_1")
    return Stream(ChatReader(Ids("req_1")), list(filters), writer)


def responses(asked: Asked | None = None, *filters: Filter) -> Stream:
    """A stream for an OpenAI Responses client."""
    writer: Writer = ResponsesWriter(asked or Asked("m", "req_1", 1))
    return Stream(ChatReader(Ids("req_1")), list(filters), writer)


def fed(stream: Stream, pieces: Iterable[bytes]) -> bytes:
    """All that the client gets."""
    out = b"".join([stream.feed(piece) for piece in pieces])
    return out + stream.end()


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """``data`` in pieces."""
    places = sorted(draw(st.sets(st.integers(0, len(data)), max_size=12)))
    ends = [*places, len(data)]
    return [data[a:b] for a, b in zip([0, *places], ends, strict=True)]


def payloads(data: bytes) -> list[dict[str, Any]]:
    """The JSON of each event of a client's stream; its names agree with its types."""
    found = []
    for block in data.decode().split("\n\n")[:-1]:
        lines = block.split("\n")
        assert len(lines) == 2, block
        assert lines[0].startswith("event: "), block
        value = json.loads(lines[1].removeprefix("data: "))
        assert value["type"] == lines[0].removeprefix("event: ")
        found.append(value)
    return found


def check_chat(body: dict[str, Any]) -> None:
    """Is it a request as OpenAI's SDK types it, with strings or parts as content?"""
    for message in body["messages"]:
        _MESSAGE.validate_python(message, strict=False)
        assert message.get("content") is not None or message.get("tool_calls")
    for tool in body.get("tools", []):
        _TOOL.validate_python(tool)
        json.dumps(tool)
    if "response_format" in body:
        _FORMAT.validate_python(body["response_format"])
    pending: set[str] = set()
    for message in body["messages"]:
        if message["role"] == "tool":
            assert message["tool_call_id"] in pending, "a result right behind its call"
        else:
            pending = {call["id"] for call in message.get("tool_calls") or ()}


def check_messages(data: bytes) -> list[dict[str, Any]]:
    """Is it a stream of Anthropic's, by its types and by its grammar?"""
    found = payloads(data)
    for value in found:
        if value["type"] != "ping":
            _ANTHROPIC.validate_python(value, strict=True)
    kinds = [value["type"] for value in found if value["type"] != "ping"]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("message_start") == kinds.count("message_stop") == 1
    opened, count = False, 0
    for value in found:
        if value["type"] == "content_block_start":
            assert not opened
            assert value["index"] == count
            opened, count = True, count + 1
        elif value["type"] in ("content_block_delta", "content_block_stop"):
            assert opened
            assert value["index"] == count - 1
            opened = value["type"] == "content_block_delta"
    assert not opened
    return found


def blocks(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The message's content, as a client puts it together."""
    content: list[dict[str, Any]] = []
    for value in found:
        if value["type"] == "content_block_start":
            content.append(dict(value["content_block"]))
            if content[-1]["type"] == "tool_use":
                content[-1]["input"] = ""
        elif value["type"] == "content_block_delta":
            delta = value["delta"]
            names = {"text_delta": "text", "thinking_delta": "thinking"}
            if delta["type"] == "input_json_delta":
                content[-1]["input"] += delta["partial_json"]
            elif delta["type"] in names:
                name = names[delta["type"]]
                content[-1][name] += delta[name]
    for block in content:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block["input"] or "{}")
    return content


def check_message(value: dict[str, Any]) -> None:
    """Is it a message of Anthropic's?"""
    Message.model_validate(value, strict=True)


def check_response(value: dict[str, Any]) -> None:
    """Is it a response of OpenAI's?"""
    Response.model_validate(value, strict=True)


def check_responses(data: bytes) -> list[dict[str, Any]]:
    """Is it a stream of OpenAI's Responses, by its types, its numbers and its items?"""
    found = payloads(data)
    for number, value in enumerate(found):
        _OPENAI.validate_python(value, strict=True)
        assert value["sequence_number"] == number
    assert found[0]["type"] == "response.created"
    assert found[-1]["type"] in ("response.completed", "response.incomplete")
    done = [value["item"] for value in found if value["type"] == "response.output_item.done"]
    added = [value["item"] for value in found if value["type"] == "response.output_item.added"]
    assert found[-1]["response"]["output"] == done
    assert [item["id"] for item in added] == [item["id"] for item in done]
    assert len({item["id"] for item in done}) == len(done)
    return found
