"""An engine that speaks Anthropic's messages alone: asked, and read."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from anthropic.types import message_create_params
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from daemon.dialects import messages_request
from daemon.dialects.chat_answer import ChatReader, Ids
from daemon.dialects.chat_request import Chat
from daemon.dialects.events import Call, Finish, Stop, Text, Thought, collect
from daemon.dialects.fields import encode
from daemon.dialects.messages_engine import MessagesReader, to_messages
from daemon.dialects.norms import Norms
from daemon.dialects.shapes import SHAPES, Shape
from daemon.dialects.sse import EventParser
from daemon.dialects.translator import MESSAGES_PATH, About, translate
from tests.dialects import streams
from tests.dialects.streams import FIXTURES, TALK, cuts, fed, fixtures, recorded

ABOUT = About("req_1", 1)
_ASKED = TypeAdapter[Any](message_create_params.MessageCreateParamsNonStreaming)


def check(sent: dict[str, Any]) -> None:
    value = _ASKED.validate_python({**sent, "stream": False})
    for message in value["messages"]:  # lazily checked
        assert list(message["content"])


@pytest.mark.parametrize("name", fixtures("claude", "codex_0", "opencode", "pi"))
def test_recorded_requests_reach_it(name: str) -> None:
    path = json.loads((FIXTURES / f"{name}.json").read_text())["path"]
    if path in SHAPES:
        body = encode(recorded(name))
        translation = translate(SHAPES[path], body, Norms(), ABOUT, MESSAGES_PATH)
        sent = json.loads(translation.body)
        check(sent)
        assert translation.path == "/v1/messages"
        roles = [message["role"] for message in sent["messages"]]
        assert all(one != two for one, two in pairwise(roles))


@pytest.mark.parametrize("name", fixtures("claude"))
def test_there_and_back_is_the_same_conversation(name: str) -> None:
    first = messages_request.to_chat(recorded(name), counting=True)
    first.body["messages"] = [m for m in first.messages if m["role"] != "system"]
    again = messages_request.to_chat(to_messages(first), counting=True)
    assert again.tools == first.tools

    def told(chat: Chat) -> list[Any]:
        return [
            (m["content"], m.get("tool_calls"))
            for m in chat.messages
            if m["role"] in ("assistant", "tool")
        ]

    assert told(again) == told(first)


def test_a_stream_says_what_a_chat_engine_would_have_said() -> None:
    chat, reader = ChatReader(Ids("r")), MessagesReader(Ids("r"))
    events = [event for data in EventParser().feed(TALK) for event in chat.read(data)]
    anthropic = fed(streams.messages(), [TALK])
    read = [event for data in EventParser().feed(anthropic) for event in reader.read(data)]
    one, two = collect(events), collect(read)
    assert one.parts == two.parts
    assert (one.finish, one.usage) == (two.finish, two.usage)
    assert reader.done


@pytest.mark.parametrize("shape", [Shape.CHAT, Shape.RESPONSES, Shape.MESSAGES])
@given(data=st.data())
def test_cuts_never_matter(shape: Shape, data: st.DataObject) -> None:
    ask = {"messages": [{"role": "user", "content": "x"}], "input": "x", "stream": True}
    translation = translate(shape, encode(ask), Norms(), ABOUT, MESSAGES_PATH)
    said = fed(streams.messages(), [TALK])
    whole, pieces = translation.stream(), translation.stream()
    out = whole.feed(said) + whole.end()
    cut = b"".join([pieces.feed(piece) for piece in data.draw(cuts(said))]) + pieces.end()
    assert cut == out
    assert whole.over
    assert "zwei Dateien" in out.decode()


def test_a_whole_message() -> None:
    content = [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "hi"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
    ]
    usage = {"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 5}
    body = encode({"content": content, "stop_reason": "tool_use", "usage": usage})
    whole = collect(MessagesReader(Ids("r")).whole(body))
    assert whole.parts == [Thought("hm"), Text("hi"), Call("t", "f", '{"a":1}')]
    assert whole.finish == Finish(Stop.CALLS)
    assert (whole.usage.prompt, whole.usage.cached, whole.usage.output) == (7, 4, 5)
    ask = encode({"messages": [{"role": "user", "content": "x"}]})
    translation = translate(Shape.CHAT, ask, Norms(), ABOUT, MESSAGES_PATH)
    value = json.loads(translation.whole(body)[2])
    assert value["choices"][0]["finish_reason"] == "tool_calls"
    status, _, told = translation.whole(b'{"type":"error","error":{"message":"no"}}')
    assert status >= 500
    assert b"no" in told


def test_its_errors_and_its_end() -> None:
    reader = MessagesReader(Ids("r"))
    (failure,) = reader.read(b'{"type":"error","error":{"type":"api_error","message":"no"}}')
    assert failure.message == "no"  # type: ignore[union-attr]
    reader = MessagesReader(Ids("r"))
    reader.read(b'{"type":"content_block_start","content_block":{"type":"text","text":"a"}}')
    assert reader.end() == []
    assert not reader.done


def test_fields_and_thinking() -> None:
    turns = [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:a/b;base64,Q"}}],
        }
    ]
    body = {
        "messages": turns,
        "stop": "x",
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "chat_template_kwargs": {"enable_thinking": True},
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
    }
    sent = to_messages(Chat(body))
    assert sent["stop_sequences"] == ["x"]
    assert sent["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}
    assert sent["thinking"]["type"] == "enabled"
    assert sent["output_config"]["format"]["schema"] == {"type": "object"}
    source = sent["messages"][0]["content"][0]["source"]
    assert source == {"type": "base64", "media_type": "a/b", "data": "Q"}


_leaf = st.none() | st.booleans() | st.integers() | st.text(max_size=4)
_json = st.recursive(
    _leaf, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner)
)
_kinds = "message_start content_block_start content_block_delta content_block_stop message_delta"
_kind = st.sampled_from([*_kinds.split(), "message_stop", "error", "ping"])
_block = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "tool_use", "thinking", "input_json_delta", "text_delta"])},
    optional={"text": _json, "name": _json, "id": _json, "partial_json": _json, "input": _json},
)
_event = st.fixed_dictionaries(
    {"type": _kind},
    optional={
        "message": _json,
        "content_block": _json | _block,
        "delta": _json | _block,
        "usage": _json,
        "error": _json,
    },
)


@given(st.lists(_event.map(encode) | st.binary(), max_size=8))
def test_whatever_it_sends(payloads: list[bytes]) -> None:
    reader = MessagesReader(Ids("r"))
    for payload in payloads:
        reader.read(payload)
    reader.end()
    for payload in payloads:
        MessagesReader(Ids("r")).whole(payload)
