"""The three dialects: what is asked, and answers taken apart, good and broken."""

from __future__ import annotations

import base64
from typing import Any

import anthropic.types
import openai.types.chat
import pytest

from daemon.proving.chat import CHAT
from daemon.proving.messages import MESSAGES
from daemon.proving.responses import RESPONSES
from daemon.proving.tools import TOOL
from daemon.proving.turns import Dialect, Model, Result, User, Wanted
from daemon.proving.values import Call, Heard
from tests.proving.answers import (
    GOOD,
    SUBJECT,
    TEN,
    block,
    call_item,
    chat,
    chat_call,
    delta,
    item,
    message,
    recorded,
    response,
    sse,
    text_block,
    tool_block,
    usage,
)

DIALECTS = pytest.mark.parametrize(
    "dialect", [CHAT, MESSAGES, RESPONSES], ids=lambda dialect: dialect.name
)
CALL = Call("c1", TOOL.name, GOOD)
ROUND = Wanted([User("q"), Model("Wait.", (CALL,)), Result(CALL, "7")], 99, TOOL)


@DIALECTS
def test_recorded_answers_of_llama_server(dialect: Dialect) -> None:
    said = dialect.read(recorded(f"{dialect.name}_text"))
    assert (said.text, said.reason, said.pieces, said.flaws) == (TEN, "end", 10, [])
    assert said.tokens_out == 11
    called = dialect.read(recorded(f"{dialect.name}_tool"))
    (call,) = called.calls
    assert (call.name, call.arguments, called.reason) == ("ping", "{}", "tools")
    assert call.id
    assert (called.flaws, called.text, called.tokens_in) == ([], "", 269)


@DIALECTS
def test_made_answers(dialect: Dialect) -> None:
    good: dict[str, tuple[Heard, Heard]] = {
        "chat": (chat(), chat_call()),
        "messages": (message(*text_block()), message(*tool_block(), stop="tool_use")),
        "responses": (response(item()), response(call_item())),
    }
    said, called = (dialect.read(one.data) for one in good[dialect.name])
    assert said.text.strip() == TEN
    assert (said.reason, called.reason) == ("end", "tools")
    assert [(call.name, call.arguments) for call in called.calls] == [(TOOL.name, GOOD)]
    assert said.flaws == called.flaws == []


@DIALECTS
def test_a_stream_that_was_cut_is_seen_wherever_it_was(dialect: Dialect) -> None:
    whole = recorded(f"{dialect.name}_tool")
    ends = [i for i in range(len(whole)) if whole.startswith(b"\n\n", i)]
    for end in ends[:-1]:
        assert dialect.read(whole[: end + 2]).flaws, whole[:end]


CHAT_BROKEN = [
    (sse(delta(content="a"), usage(), "[DONE]"), "no finish_reason came"),
    (sse(delta("stop", content="a"), usage()), "does not end with [DONE]"),
    (sse(delta("stop"), "[DONE]", usage()), "something comes after [DONE]"),
    (sse("{oops", delta("stop"), "[DONE]"), "no JSON object"),
    (sse({"object": "x"}, delta("stop"), "[DONE]"), "no choices"),
    (sse({"choices": [{"message": {}}]}, delta("stop"), "[DONE]"), "no delta"),
    (sse({"choices": [7]}, delta("stop"), "[DONE]"), "no object"),
    (chat_call(call_id="").data, "no id"),
    (chat_call(name="").data, "no name"),
    (
        sse(
            delta(tool_calls=[{"id": "c", "function": {"name": "x", "arguments": {"a": 1}}}]),
            delta("tool_calls"),
            "[DONE]",
        ),
        "no index",
    ),
    (
        sse(
            delta(tool_calls=[{"index": i, "id": "a", "function": {"name": "x"}} for i in (0, 1)]),
            delta("tool_calls"),
            "[DONE]",
        ),
        "the same id",
    ),
]  # fmt: skip
BEGIN = {"type": "message_start", "message": {"id": "m"}}
MESSAGES_BROKEN = [
    (message(*text_block(), *text_block()).data, "block 0 begins twice"),
    (message(*text_block()[:-1]).data, "a block is not ended"),
    (message(*text_block()[:-1], *text_block(index=1)).data, "before the one before it"),
    (message(*text_block()[1:]).data, "belongs to no open block"),
    (message(text_block()[-1]).data, "not open"),
    (message({"type": "nonsense"}).data, "no event of the type 'nonsense'"),
    (message(*block(0, {"type": "tool_use", "name": "x"})).data, "no id or no name"),
    (
        message(*block(0, {"type": "text"}, {"type": "input_json_delta"})).data,
        "input_json_delta comes in a block of text",
    ),
    (sse(*text_block(), named=True), "before message_start"),
    (sse({"type": "message_start"}, named=True), "no message with an id"),
    (sse(BEGIN, {"type": "message_stop"}, named=True), "no stop_reason came"),
    (message(*text_block()).data + sse(BEGIN, named=True), "after message_stop"),
    (message({"type": "content_block_start"}).data, "no index"),
    (b"event: ping\n" + sse(BEGIN), "named 'ping'"),
]  # fmt: skip
TEXT = {"type": "response.output_text.delta", "delta": "other"}
RESPONSES_BROKEN = [
    (sse({"type": "response.created", "response": {}}, named=True), "response.completed"),
    (sse(TEXT, named=True) + response().data, "Codex loses it"),
    (sse(TEXT, named=True) + response(item()).data, "differs"),
    (response({"type": "function_call", "name": "x", "arguments": "{}"}).data, "no call_id"),
    (response({"type": "message", "content": "x"}).data, "no list of content"),
    (response(id=None).data, "no response with an id"),
    (response(item()).data + sse(TEXT), "comes after response.completed"),
    (sse({"x": 1}) + response(item()).data, "no type"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("dialect", "data", "flaw"),
    [
        *((CHAT, *one) for one in CHAT_BROKEN),
        *((MESSAGES, *one) for one in MESSAGES_BROKEN),
        *((RESPONSES, *one) for one in RESPONSES_BROKEN),
    ],
)
def test_what_is_wrong_is_told(dialect: Dialect, data: bytes, flaw: str) -> None:
    flaws = dialect.read(data).flaws
    assert any(flaw in one for one in flaws), flaws


@DIALECTS
def test_errors_as_events(dialect: Dialect) -> None:
    shapes = {
        "chat": sse({"error": {"message": "Broke.", "code": "x"}}),
        "messages": sse({"type": "error", "error": {"message": "Broke."}}, named=True),
        "responses": sse({"type": "error", "message": "Broke."}, named=True),
    }
    told = dialect.read(shapes[dialect.name])
    assert (told.error, told.flaws) == ("Broke.", [])


def test_a_failed_response_and_one_that_was_too_long() -> None:
    failed = RESPONSES.read(response(end="response.failed", error={"message": "Broke."}).data)
    assert (failed.error, failed.reason) == ("Broke.", "other")
    long = RESPONSES.read(response(item(), end="response.incomplete").data)
    assert (long.reason, long.error) == ("length", "")


def test_thoughts_are_no_text() -> None:
    thought = {"type": "thinking_delta", "thinking": "Hm."}
    signed = {"type": "signature_delta", "signature": "x"}
    blocks = [*block(0, {"type": "thinking"}, thought, signed), *text_block("Yes.", 1)]
    told = MESSAGES.read(message({"type": "ping"}, *blocks).data)
    assert (told.thoughts, told.text, told.flaws) == ("Hm.", "Yes.", [])
    told = CHAT.read(chat("Yes.", reasoning_content="Hm.").data)
    assert (told.thoughts, told.text) == ("Hm.", "Yes. ")
    summary = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
    told = RESPONSES.read(response(summary, item("Yes.")).data)
    assert (told.thoughts, told.text) == ("Hm.", "Yes.")
    assert "Hm." in told.said


def test_messages_count_what_came_from_the_cache() -> None:
    start = {"id": "m", "usage": {"input_tokens": 1, "cache_read_input_tokens": 268}}
    assert MESSAGES.read(sse({"type": "message_start", "message": start})).tokens_in == 269
    late = {"type": "message_delta", "delta": {}, "usage": {"input_tokens": 7, "output_tokens": 1}}
    assert MESSAGES.read(sse(late)).tokens_in == 7


def test_a_chat_round_as_the_sdk_types_it() -> None:
    body = CHAT.write(SUBJECT, ROUND)
    user, model, result = body["messages"]
    assert (user, model["content"]) == ({"role": "user", "content": "q"}, "Wait.")
    assert model["tool_calls"][0]["function"] == {"name": TOOL.name, "arguments": GOOD}
    assert result == {"role": "tool", "tool_call_id": "c1", "content": "7"}
    assert (body["tool_choice"], body["stream"], body["max_tokens"]) == ("auto", True, 99)
    checked(openai.types.chat.ChatCompletionMessageFunctionToolCall, model["tool_calls"][0])
    forced = CHAT.write(SUBJECT, Wanted([User("q")], 9, TOOL, force=True))
    assert forced["tool_choice"] == "required"
    assert "tools" not in CHAT.write(SUBJECT, Wanted([Model("a")], 9))


def test_a_messages_round() -> None:
    body = MESSAGES.write(SUBJECT, ROUND)
    user, model, result = body["messages"]
    assert user["content"] == [{"type": "text", "text": "q"}]
    assert model["content"][1]["input"] == {"thing": "salt", "warehouse": "north"}
    checked(anthropic.types.ToolUseBlock, model["content"][1])
    assert result["content"][0]["tool_use_id"] == "c1"
    assert body["tool_choice"] == {"type": "auto"}
    assert body["tools"][0]["input_schema"] == TOOL.schema
    forced = MESSAGES.write(SUBJECT, Wanted([User("q")], 9, TOOL, force=True))
    assert forced["tool_choice"] == {"type": "any"}


def test_a_responses_round() -> None:
    body = RESPONSES.write(SUBJECT, ROUND)
    kinds = [one["type"] for one in body["input"]]
    assert kinds == ["message", "message", "function_call", "function_call_output"]
    assert body["input"][2]["arguments"] == GOOD
    assert body["input"][3] == {"type": "function_call_output", "call_id": "c1", "output": "7"}
    assert (body["tools"][0]["name"], body["store"]) == (TOOL.name, False)


@DIALECTS
def test_an_image(dialect: Dialect) -> None:
    body = dialect.write(SUBJECT, Wanted([User("What?", b"PNG")], 9))
    assert base64.b64encode(b"PNG").decode() in str(body)


def checked(kind: Any, value: object) -> None:
    """The SDK's own type takes it."""
    kind.model_validate(value, strict=True)
