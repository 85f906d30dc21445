"""Anthropic's messages over a chat engine: requests, streams, whole answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.problems import ProblemError
from daemon.dialects.chat_answer import ChatReader, Ids
from daemon.dialects.events import collect
from daemon.dialects.fields import encode
from daemon.dialects.messages_answer import message
from daemon.dialects.messages_request import to_chat
from tests.dialects import streams
from tests.dialects.streams import (
    DONE,
    TALK,
    blocks,
    called,
    check_chat,
    check_message,
    check_messages,
    chunk,
    fed,
    fixtures,
    recorded,
    usage,
)

# ---------------------------------------------------------------- requests


@pytest.mark.parametrize("name", fixtures("claude"))
def test_recorded_requests_become_chat_completions(name: str) -> None:
    body = recorded(name)
    chat = to_chat(body, counting="count_tokens" in name)
    check_chat(chat.body)
    text = json.dumps(chat.body)
    assert '"cache_control"' not in text
    assert not {"safeguards", "context_management", "metadata", "thinking"} & chat.body.keys()
    assert "x-anthropic-billing-header" not in text
    offered = [tool["function"]["name"] for tool in chat.tools]
    assert "DeferredToolPlaceholder" not in offered
    if "count_tokens" not in name:
        assert chat.body["max_tokens"] == body["max_tokens"]
        assert chat.body.get("stream", False) is body.get("stream", False)


def test_a_conversation_keeps_its_order() -> None:
    chat = to_chat(recorded("claude_04_messages_p_tool_result"))
    assert [m["role"] for m in chat.messages] == [
        "system",
        "user",
        "system",
        "assistant",
        "tool",
    ]
    (call,) = chat.messages[3]["tool_calls"]
    assert json.loads(call["function"]["arguments"])["description"] == "write"
    assert chat.messages[4]["tool_call_id"] == call["id"] == "toolu_0001"
    assert chat.used_ids() == {"toolu_0001"}
    assert chat.messages[0]["content"].startswith("You are a Claude agent")


def asked(*content: Any, role: str = "user", **more: Any) -> dict[str, Any]:
    return {
        "model": "m",
        "max_tokens": 5,
        "messages": [{"role": role, "content": list(content)}],
        **more,
    }


def test_results_come_first_and_their_images_behind_them() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QQ"}}
    content = [{"type": "text", "text": "a picture"}, image]
    chat = to_chat(
        {
            "messages": [
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "s"},
                        {"type": "text", "text": "I "},
                        {"type": "text", "text": "look."},
                        {"type": "tool_use", "id": "a", "name": "Read", "input": {"x": 1}},
                        {"type": "tool_use", "id": "b", "name": "Read", "input": {}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "go on"},
                        {"type": "tool_result", "tool_use_id": "a", "content": content},
                        {
                            "type": "tool_result",
                            "tool_use_id": "b",
                            "content": "no",
                            "is_error": True,
                        },
                    ],
                },
            ]
        }
    )
    check_chat(chat.body)
    assistant, first, second, user = chat.messages
    assert assistant["content"] == "I look."
    assert assistant["reasoning_content"] == "hm"
    assert first["content"] == "a picture\n[1 image(s): see the next message]"
    assert second["content"] == "Error: no"
    kinds = [part["type"] for part in user["content"]]
    assert kinds == ["text", "image_url", "text"]
    assert user["content"][1]["image_url"]["url"] == "data:image/png;base64,QQ"


def test_documents() -> None:
    text = base64.b64encode(b"words").decode()
    for source in (
        {"type": "text", "media_type": "text/plain", "data": "words"},
        {"type": "base64", "media_type": "text/plain", "data": text},
        {"type": "content", "content": "words"},
    ):
        chat = to_chat(asked({"type": "document", "title": "T", "source": source}))
        assert chat.messages[0]["content"] == '<document title="T">\nwords\n</document>'
    pdf = {"type": "base64", "media_type": "application/pdf", "data": text}
    with pytest.raises(ProblemError, match=r"messages\.0\.content\.0.*application/pdf.*text"):
        to_chat(asked({"type": "document", "source": pdf}))


def test_a_document_that_cannot_be_read_stops_no_conversation() -> None:
    """What a tool returned, and what was refused before, is told to the model."""
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "QQ=="}
    block = {"type": "document", "source": pdf}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [block]}
    chat = to_chat(asked(result))
    assert "application/pdf, which you cannot read" in chat.messages[0]["content"]
    assert any("application/pdf was left out" in note for note in chat.notes)
    body = asked(block)
    body["messages"].append({"role": "user", "content": "Use pdftotext."})
    assert "which you cannot read" in to_chat(body).messages[0]["content"]


def test_deferred_tools_are_offered_once_met() -> None:
    tools = [
        {"name": "a", "input_schema": {"type": "object"}},
        {"name": "b", "input_schema": {"type": "object"}, "defer_loading": True},
    ]
    found = {
        "type": "tool_result",
        "tool_use_id": "t",
        "content": [{"type": "tool_reference", "tool_name": "b"}],
    }

    def names(body: dict[str, Any]) -> list[str]:
        return [tool["function"]["name"] for tool in to_chat(body).tools]

    assert names(asked("x" and {"type": "text", "text": "x"}, tools=tools)) == ["a"]
    assert names(asked(found, tools=tools)) == ["a", "b"]
    search = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
    assert names(asked({"type": "text", "text": "x"}, tools=[*tools, search])) == ["a", "b"]


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "a"}, {"type": "function", "function": {"name": "a"}}),
    ],
)
def test_tool_choice(choice: dict[str, Any], wanted: Any) -> None:
    tools = [{"name": "a", "input_schema": {"type": "object"}}]
    more = {"disable_parallel_tool_use": True}
    chat = to_chat(asked({"type": "text", "text": "x"}, tools=tools, tool_choice=choice | more))
    assert chat.body["tool_choice"] == wanted
    assert chat.body["parallel_tool_calls"] is False


def test_a_schema_for_the_answer() -> None:
    chat = to_chat(recorded("claude_10_messages_tty_title"))
    wanted = chat.body["response_format"]["json_schema"]
    assert wanted["schema"]["required"] == ["title"]
    assert wanted["strict"] is True


def test_thinking_is_a_wish() -> None:
    def wish(name: str) -> Any:
        return to_chat(recorded(name)).thinking

    older = wish("claude_06_messages_p_older_model_name")
    assert (older.on, older.budget) == (True, 31999)
    assert wish("claude_11_classifier_stage1").on is False
    adaptive = wish("claude_03_messages_p_unknown_model")
    assert (adaptive.on, adaptive.effort) == (None, "high")


TOOL = {"name": "a", "input_schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"messages": None}, r"messages: found null, allowed is an array"),
        ({"messages": []}, r"at least one message"),
        ({"messages": ["x"]}, r"messages\.0: found a string"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "Input should be 'user' or 'assist"),
        ({"messages": [{"role": "user", "content": 3}]}, r"messages\.0\.content: found a number"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, r"content\.0\.text"),
        ({"max_tokens": "many"}, r"max_tokens: found a string, allowed is a number"),
        ({"max_tokens": 1.5}, r"max_tokens: .*whole number"),
        ({"max_tokens": -1}, r"max_tokens: found -1, allowed is 0 or more"),
        ({"messages": [{"role": "user", "content": []}]}, "messages: found nothing to answer"),
        ({"tools": [TOOL], "tool_choice": {"type": ["auto"]}}, r"tool_choice\.type: found"),
        ({"tools": [TOOL], "tool_choice": "auto"}, r"tool_choice: found a string"),
        ({"tools": [{"description": "x"}]}, r"tools\.0\.name"),
        ({"system": 4}, r"system: found a number"),
    ],
)
def test_mistakes_are_told_by_their_field(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ProblemError, match=said):
        to_chat(asked({"type": "text", "text": "x"}) | change)


# ---------------------------------------------------------------- streams


def test_blocks_of_a_stream() -> None:
    found = check_messages(fed(streams.messages(), [TALK]))
    content = blocks(found)
    assert [block["type"] for block in content] == ["thinking", "text", "tool_use", "tool_use"]
    assert content[0]["thinking"] == "Hm, ja."
    assert content[1]["text"] == "Ich schreibe zwei Dateien 📁."
    assert content[2]["input"] == {"file_path": "/a", "content": "x\n"}
    assert content[3]["input"] == {"file_path": "/b", "content": "é"}
    assert content[2]["id"] != content[3]["id"]
    end = found[-2]
    assert end["delta"]["stop_reason"] == "tool_use"
    assert end["usage"] == {
        "input_tokens": 12,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 8,
        "output_tokens": 5,
    }


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal")],
)
def test_stop_reasons(finish: str, reason: str) -> None:
    found = check_messages(fed(streams.messages(), [streams.answer("hi", finish=finish)]))
    assert found[-2]["delta"]["stop_reason"] == reason


def test_a_stop_sequence_is_named_where_the_engine_names_it() -> None:
    last = json.loads(chunk("stop")[6:])
    last["choices"][0]["stop_reason"] = "</block>"
    data = [chunk(content="x"), b"data: " + json.dumps(last).encode() + b"\n\n", DONE]
    found = check_messages(fed(streams.messages(), data))
    assert found[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "</block>"}


def test_an_engine_that_says_stop_after_calls_means_calls() -> None:
    data = [called(0, "{}", "a"), chunk("stop"), DONE]
    found = check_messages(fed(streams.messages(), data))
    assert found[-2]["delta"]["stop_reason"] == "tool_use"


def test_calls_that_overlap_are_put_in_a_row() -> None:
    data = [
        called(0, '{"a":', "first"),
        called(1, '{"b":2', "second"),
        chunk(content="words"),
        called(0, "1}"),
        called(1, "}"),
        chunk("tool_calls"),
        DONE,
    ]
    content = blocks(check_messages(fed(streams.messages(), data)))
    assert [block.get("input", block.get("text")) for block in content] == [
        {"a": 1},
        {"b": 2},
        "words",
    ]


def test_calls_that_share_an_index_are_told_apart_by_their_ids() -> None:
    data = [called(0, "{}", "a", "x"), called(0, "{}", "b", "y"), chunk("stop"), DONE]
    content = blocks(check_messages(fed(streams.messages(), data)))
    assert [(block["id"], block["name"]) for block in content] == [("x", "a"), ("y", "b")]


def test_a_whole_call_without_an_index() -> None:
    calls = [
        {"id": "x", "function": {"name": "a", "arguments": {"k": 1}}},
        {"function": {"name": "b"}},
    ]
    data = [chunk(tool_calls=calls), chunk("tool_calls"), DONE]
    content = blocks(check_messages(fed(streams.messages(), data)))
    assert [block["input"] for block in content] == [{"k": 1}, {}]
    assert content[1]["id"]


def test_an_id_of_the_conversation_is_not_given_twice() -> None:
    ids = Ids("req_9", frozenset({"call_0"}))
    assert ids.take("call_0") != "call_0"
    assert ids.take("bad id!") == "bad_id_"
    assert len({ids.take(), ids.take(), ids.take()}) == 3


def test_a_stream_that_breaks_off_is_not_over() -> None:
    stream = streams.messages()
    out = fed(stream, [chunk(content="half")])
    assert b"half" in out
    assert b"message_stop" not in out
    assert not stream.over


def test_a_stream_without_its_last_word_is_over() -> None:
    stream = streams.messages()
    check_messages(fed(stream, [chunk(content="all"), chunk("stop")]))
    assert stream.over


def test_an_engines_error_is_a_failure() -> None:
    stream = streams.messages()
    out = stream.feed(chunk(content="half"))
    out += stream.feed(b'data: {"error":{"code":500,"message":"Compute error."}}\n\n')
    assert b"error" not in out
    assert stream.failure is not None
    assert stream.failure.message == "Compute error."
    assert stream.feed(chunk(content="more")) == b""
    assert not stream.over


def test_pings_may_come_at_any_time() -> None:
    stream = streams.messages()
    out = stream.wait() + stream.feed(chunk(content="a")) + stream.wait()
    out += stream.feed(chunk("stop") + DONE)
    assert stream.wait() == b""
    found = check_messages(out)
    assert found[0]["type"] == "ping"
    assert [value["type"] for value in found].count("ping") == 2


@given(st.data())
def test_cuts_never_matter(data: st.DataObject) -> None:
    whole = fed(streams.messages(), [TALK])
    assert fed(streams.messages(), data.draw(streams.cuts(TALK))) == whole
    crlf = TALK.replace(b"\n", b"\r\n")
    assert fed(streams.messages(), data.draw(streams.cuts(crlf))) == whole


# ---------------------------------------------------------------- whole answers


def chat_completion(**said: Any) -> bytes:
    return encode(
        {
            "object": "chat.completion",
            "choices": [{"index": 0, "message": said, "finish_reason": "tool_calls"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        }
    )


def test_a_whole_answer() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "t", "arguments": '{"a":1}'}}
    broken = {"id": "d", "type": "function", "function": {"name": "t", "arguments": '{"a":'}}
    body = chat_completion(
        role="assistant", reasoning_content="hm", content="hi", tool_calls=[call, broken]
    )
    value = message(collect(ChatReader(Ids("r")).whole(body)), "m", "req_1")
    check_message(value)
    assert [part["type"] for part in value["content"]] == [
        "thinking",
        "text",
        "tool_use",
        "tool_use",
    ]
    assert value["content"][2]["input"] == {"a": 1}
    assert value["content"][3]["input"] == {"invalid_arguments": '{"a":'}
    assert value["stop_reason"] == "tool_use"
    assert value["usage"]["output_tokens"] == 2


def sdk(answer: Callable[[httpx2.Request], httpx2.Response]) -> anthropic.Anthropic:
    client = httpx2.Client(transport=httpx2.MockTransport(answer))
    return anthropic.Anthropic(base_url="http://x", api_key="k", http_client=client, max_retries=0)


def test_anthropics_own_sdk_reads_the_stream() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        stream = streams.messages()
        check_chat(to_chat(json.loads(request.content)).body)
        headers = {"content-type": stream.media.decode()}
        return httpx2.Response(200, headers=headers, content=fed(stream, [TALK]))

    with (
        sdk(answer) as client,
        client.messages.stream(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
        ) as stream,
    ):
        final = stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert final.content[3].input == {"file_path": "/b", "content": "é"}  # type: ignore[union-attr]
    assert final.usage.output_tokens == 5
    assert final.stop_reason == "tool_use"


def test_what_comes_back_goes_out_again_as_it_was() -> None:
    """An answer that the client sends back in its next turn is what the engine said."""
    content = blocks(check_messages(fed(streams.messages(), [TALK])))
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "ok"}
        for block in content
        if block["type"] == "tool_use"
    ]
    chat = to_chat(
        {
            "messages": [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": content},
                {"role": "user", "content": results},
            ]
        }
    )
    check_chat(chat.body)
    said = chat.messages[1]
    assert said["content"] == "Ich schreibe zwei Dateien 📁."
    assert said["reasoning_content"] == "Hm, ja."
    arguments = [json.loads(call["function"]["arguments"]) for call in said["tool_calls"]]
    assert arguments == [{"file_path": "/a", "content": "x\n"}, {"file_path": "/b", "content": "é"}]


# ---------------------------------------------------------------- hostile engines

_leaf = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
_json = st.recursive(
    _leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner)
)
_names = ["content", "reasoning_content", "tool_calls", "role", "refusal"]
_call = st.fixed_dictionaries(
    {},
    optional={
        "index": _json,
        "id": _json,
        "function": _json | st.fixed_dictionaries({}, optional={"name": _json, "arguments": _json}),
    },
)
_delta = st.dictionaries(st.sampled_from(_names), _json | st.lists(_call, max_size=3))
_choice = st.fixed_dictionaries(
    {}, optional={"index": _json, "delta": _delta, "finish_reason": _json, "text": _json}
)
_event = st.fixed_dictionaries(
    {},
    optional={
        "choices": _json | st.lists(_choice, max_size=2),
        "usage": _json,
        "timings": _json,
    },
)


@given(st.lists(_event.map(lambda value: b"data: " + encode(value)) | st.binary(), max_size=8))
def test_whatever_an_engine_sends_the_stream_stays_well_formed(events: list[bytes]) -> None:
    for make, check in (
        (streams.messages, check_messages),
        (streams.responses, streams.check_responses),
    ):
        stream = make()
        out = fed(stream, [event + b"\n\n" for event in events] + [DONE])
        assert stream.over or stream.failure is not None
        if stream.over:
            check(out)


@given(_event.map(encode) | st.binary())
def test_whatever_an_engine_answers_is_a_message(body: bytes) -> None:
    whole = collect(ChatReader(Ids("r")).whole(body))
    check_message(message(whole, "m", "req_1"))


def test_usage_from_timings() -> None:
    timings = {"cache_n": 3, "prompt_n": 4, "predicted_n": 5}
    value = {"choices": [], "timings": timings}
    data = [chunk(content="x"), chunk("stop"), b"data: " + encode(value) + b"\n\n", DONE]
    stream = streams.messages()
    fed(stream, data)
    assert (stream.usage.prompt, stream.usage.cached, stream.usage.output) == (7, 3, 5)
    assert usage()
