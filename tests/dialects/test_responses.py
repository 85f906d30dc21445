"""OpenAI's Responses over a chat engine: requests, streams, whole answers."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.problems import ProblemError
from daemon.dialects.chat_answer import ChatReader, Ids
from daemon.dialects.events import Failure, collect
from daemon.dialects.fields import encode
from daemon.dialects.responses_answer import Asked, ResponsesWriter, response
from daemon.dialects.responses_request import to_chat
from daemon.dialects.tool_names import flattened, unwrapped
from tests.dialects import streams
from tests.dialects.streams import (
    DONE,
    TALK,
    called,
    check_chat,
    check_response,
    check_responses,
    chunk,
    fed,
    fixtures,
    recorded,
    usage,
)

FIRST = "codex_01_responses_first_turn"
POSTS = [item for item in fixtures("codex") if "ollama" not in str(item.id)]


def asked(body: dict[str, Any] | None = None, **more: Any) -> Asked:
    body = {"input": "hi"} | (body or {}) | more
    _, names = to_chat(body)
    return Asked("m", "req_1", 1, body, names)


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize("name", POSTS)
def test_recorded_requests_become_chat_completions(name: str) -> None:
    body = recorded(name)
    chat, names = to_chat(body)
    check_chat(chat.body)
    offered = [tool["function"]["name"] for tool in chat.tools]
    assert len(set(offered)) == len(offered)
    assert all(len(name) <= 64 for name in offered)
    assert set(offered) <= names.tools.keys()
    assert not {"store", "include", "input", "prompt_cache_key", "client_metadata"} & set(chat.body)
    check_response(response(collect([]), Asked("m", "req_1", 1, body, names)))


def test_namespaces_are_flattened_and_the_web_search_left_out() -> None:
    chat, names = to_chat(recorded(FIRST))
    offered = [tool["function"]["name"] for tool in chat.tools]
    assert "multi_agent_v1__spawn_agent" in offered
    tool = names.tool("multi_agent_v1__spawn_agent")
    assert (tool.namespace, tool.name) == ("multi_agent_v1", "spawn_agent")
    assert "web_search" not in offered
    assert any("web_search" in note for note in chat.notes)


def test_tools_among_the_items() -> None:
    chat, names = to_chat(recorded("codex_05_responses_lite_additional_tools"))
    offered = {tool["function"]["name"]: tool["function"] for tool in chat.tools}
    assert offered["functions__exec"]["parameters"]["required"] == ["input"]
    assert "grammar" in offered["functions__exec"]["description"]
    assert names.tool("functions__exec").namespace == "functions"


def test_a_turn_with_its_result() -> None:
    chat, _ = to_chat(recorded("codex_02_responses_tool_result"))
    roles = [message["role"] for message in chat.messages]
    assert roles == ["developer", "developer", "user", "user", "assistant", "tool"]
    said = chat.messages[4]
    assert said["content"] == "Hello from fake."
    assert said["tool_calls"][0]["function"]["name"] == "exec_command"
    assert chat.messages[5]["content"].startswith("Chunk ID")


def test_a_free_text_call_is_a_function_in_the_history() -> None:
    chat, _ = to_chat(recorded("codex_03_responses_custom_tool_output"))
    (call,) = chat.messages[4]["tool_calls"]
    text = json.loads(call["function"]["arguments"])["input"]
    assert text.startswith("*** Begin Patch")
    assert unwrapped(call["function"]["arguments"]) == text


def items(*given: Any, **more: Any) -> dict[str, Any]:
    return {"input": list(given), **more}


def test_parallel_calls_thoughts_and_images() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,QQ", "detail": "high"}
    chat, _ = to_chat(
        items(
            {"role": "user", "content": [{"type": "input_text", "text": "see"}, image]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
            {
                "type": "function_call",
                "call_id": "b",
                "name": "g",
                "namespace": "n",
                "arguments": "",
            },
            {"type": "function_call_output", "call_id": "a", "output": [image]},
            {"type": "function_call_output", "call_id": "b", "output": "ok"},
            {"type": "web_search_call", "id": "w"},
            {"type": "message", "role": "assistant", "content": "done"},
        )
    )
    check_chat(chat.body)
    roles = [message["role"] for message in chat.messages]
    assert roles == ["user", "assistant", "tool", "tool", "user", "assistant"]
    assert chat.messages[0]["content"][1]["image_url"]["detail"] == "high"
    said = chat.messages[1]
    assert said["reasoning_content"] == "hm"
    assert [call["function"]["name"] for call in said["tool_calls"]] == ["f", "n__g"]
    assert chat.messages[4]["content"][1]["type"] == "image_url"


def test_what_was_said_behind_a_call_stands_in_no_ones_way() -> None:
    """Results follow their calls at once, as templates want; no thought is lost or strays."""
    hm = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
    so = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "so"}]}
    f = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
    g = {"type": "function_call", "call_id": "b", "name": "g", "arguments": "{}"}
    said = {"role": "assistant", "content": "I call."}
    also = {"role": "assistant", "content": "And wait."}
    done = [
        {"type": "function_call_output", "call_id": "a", "output": None},
        {"type": "function_call_output", "call_id": "b", "output": "ok"},
    ]
    chat, _ = to_chat(items({"role": "user", "content": "hi"}, hm, said, f, so, g, also, *done))
    check_chat(chat.body)
    assert [message["role"] for message in chat.messages] == ["user", "assistant", "tool", "tool"]
    turn = chat.messages[1]
    assert turn["content"] == "I call.\n\nAnd wait."
    assert turn["reasoning_content"] == "hm\nso"
    assert [call["id"] for call in turn["tool_calls"]] == ["a", "b"]
    assert chat.messages[2]["content"] == ""
    # a turn that was broken off after its first thought
    chat, _ = to_chat(items(hm, {"role": "user", "content": "stop"}, also))
    assert "reasoning_content" not in chat.messages[-1]


def test_files() -> None:
    text = base64.b64encode(b"words").decode()
    part = {
        "type": "input_file",
        "filename": "a.txt",
        "file_data": f"data:text/plain;base64,{text}",
    }
    chat, _ = to_chat(items({"role": "user", "content": [part]}))
    assert chat.messages[0]["content"] == '<document title="a.txt">\nwords\n</document>'
    part = {"type": "input_file", "file_id": "file_1"}
    with pytest.raises(ProblemError, match=r"input\.0\.content\.0: this file"):
        to_chat(items({"role": "user", "content": [part]}))
    found = {"type": "function_call_output", "call_id": "c", "output": [part]}
    chat, _ = to_chat(items(found))
    assert "which you cannot read" in chat.messages[0]["content"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"store": True}, "store: found true; answers are not stored here"),
        ({"previous_response_id": "resp_1"}, "previous_response_id: nothing is stored"),
        ({"conversation": "c"}, "conversation: nothing is stored"),
        ({"background": True}, "background: found true"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, r"input\.0: nothing is stored"),
        ({"input": 3}, "input: found a number, allowed is an array"),
        ({"input": []}, "nothing to answer"),
        ({"input": [{"role": "robot", "content": ""}]}, r"input\.0\.role: found 'robot'"),
        ({"tools": [{"type": "function"}]}, r"tools\.0\.name: found null"),
        ({"tools": {}}, "tools: found an object"),
        ({"max_output_tokens": -1}, "max_output_tokens: found -1"),
        ({"input": [{"type": "reasoning", "summary": 5}]}, r"input\.0\.summary: found a number"),
    ],
)
def test_mistakes_are_told_by_their_field(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ProblemError, match=said):
        to_chat({"input": "hi"} | change)


FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}}


@pytest.mark.parametrize(
    ("choice", "wanted", "offered"),
    [
        ("required", "required", ["f", "n__g"]),
        ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}, None),
        (
            {"type": "function", "name": "g", "namespace": "n"},
            {"type": "function", "function": {"name": "n__g"}},
            None,
        ),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "f"}],
            },
            "required",
            ["f"],
        ),
        ({"type": "web_search"}, None, ["f", "n__g"]),
    ],
)
def test_tool_choice(choice: Any, wanted: Any, offered: list[str] | None) -> None:
    space = {"type": "namespace", "name": "n", "tools": [FUNCTION | {"name": "g"}]}
    chat, _ = to_chat({"input": "x", "tools": [FUNCTION, space], "tool_choice": choice})
    assert chat.body.get("tool_choice") == wanted
    names = [tool["function"]["name"] for tool in chat.tools]
    assert names == (offered or ["f", "n__g"])


def test_long_and_equal_names_stay_apart() -> None:
    long = "x" * 80
    assert len(flattened("space", long)) == 64
    assert flattened("a", long) != flattened("b", long)
    tools = [
        FUNCTION | {"name": "n__f"},
        {"type": "namespace", "name": "n", "tools": [FUNCTION]},
        FUNCTION | {"name": "n__f"},
    ]
    chat, names = to_chat({"input": "x", "tools": tools})
    flat = [tool["function"]["name"] for tool in chat.tools]
    assert flat == ["n__f", "n__f_2"]
    assert names.tool("n__f_2").namespace == "n"


def test_the_probe_of_a_model() -> None:
    chat, _ = to_chat(recorded("codex_10_oss_preload_probe"))
    assert chat.messages == [{"role": "user", "content": ""}]
    assert chat.body["max_tokens"] == 1


# ---------------------------------------------------------------- streams


def output(data: bytes) -> list[dict[str, Any]]:
    found = check_responses(data)
    items: list[dict[str, Any]] = found[-1]["response"]["output"]
    return items


@pytest.mark.parametrize("summary", ["auto", None])
def test_items_of_a_stream(summary: str | None) -> None:
    given = asked(reasoning={"summary": summary})
    data = fed(streams.responses(given), [TALK])
    thought, text, *calls = output(data)
    place = "summary" if summary else "content"
    assert thought[place][0]["text"] == "Hm, ja."
    assert text["content"][0]["text"] == "Ich schreibe zwei Dateien 📁."
    assert [json.loads(call["arguments"])["file_path"] for call in calls] == ["/a", "/b"]
    end = streams.payloads(data)[-1]["response"]
    assert end["usage"]["total_tokens"] == 25
    assert end["usage"]["input_tokens_details"]["cached_tokens"] == 8
    deltas = [
        value["delta"]
        for value in streams.payloads(data)
        if value["type"] == "response.function_call_arguments.delta"
    ]
    assert "".join(deltas) == "".join([call["arguments"] for call in calls])


def test_calls_come_back_as_what_was_offered() -> None:
    body = recorded("codex_05_responses_lite_additional_tools")
    search = {"type": "tool_search", "execution": "client", "parameters": {"type": "object"}}
    given = asked(body | {"tools": [FUNCTION, search]})
    data = [
        called(0, '{"input":', "functions__exec"),
        called(0, '"1\\n2"}'),
        called(1, '{"query":"x"}', "tool_search"),
        called(2, "", "clock__sleep"),
        called(3, '{"a":1}', "f"),
        chunk("tool_calls"),
        usage(),
        DONE,
    ]
    custom, search, spaced, plain = output(fed(streams.responses(given), data))
    assert custom["type"] == "custom_tool_call"
    assert (custom["namespace"], custom["name"]) == ("functions", "exec")
    assert custom["input"] == "1\n2"
    assert search["type"] == "tool_search_call"
    assert search["arguments"] == {"query": "x"}
    assert (spaced["namespace"], spaced["name"]) == ("clock", "sleep")
    assert spaced["arguments"] == "{}"
    assert "namespace" not in plain


def test_what_comes_back_goes_out_again_as_it_was() -> None:
    body = recorded("codex_05_responses_lite_additional_tools") | {"reasoning": {"summary": "auto"}}
    given = asked(body)
    said = [
        chunk(reasoning_content="hm"),
        chunk(content="Look:"),
        called(0, '{"input":"1"}', "functions__exec"),
        called(1, '{"duration_ms":1}', "clock__sleep"),
        chunk("tool_calls"),
        DONE,
    ]
    items = output(fed(streams.responses(given), said))
    results = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "ok"}
        for item in items
        if "call_id" in item
    ]
    chat, _ = to_chat(body | {"input": [*body["input"], *items, *results]})
    check_chat(chat.body)
    turn = chat.messages[-3]
    assert (turn["reasoning_content"], turn["content"]) == ("hm", "Look:")
    names = [call["function"]["name"] for call in turn["tool_calls"]]
    assert names == ["functions__exec", "clock__sleep"]
    arguments = [json.loads(call["function"]["arguments"]) for call in turn["tool_calls"]]
    assert arguments == [{"input": "1"}, {"duration_ms": 1}]


@pytest.mark.parametrize(
    ("limit", "last"), [(9, "response.incomplete"), (None, "response.completed")]
)
def test_an_answer_that_was_cut(limit: int | None, last: str) -> None:
    given = asked(max_output_tokens=limit)
    found = check_responses(fed(streams.responses(given), [streams.answer("x", finish="length")]))
    assert found[-1]["type"] == last
    assert found[-1]["response"]["status"] == "incomplete"
    assert found[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_a_stream_that_waits_says_so_in_events() -> None:
    stream = streams.responses()
    out = stream.wait() + stream.wait() + stream.feed(chunk(content="a")) + stream.wait()
    out += stream.feed(chunk("stop") + DONE)
    found = check_responses(out)
    names = [value["type"] for value in found]
    assert names[:3] == ["response.created", "response.in_progress", "response.in_progress"]
    assert names.count("response.in_progress") == 3
    assert len(stream.wait()) == 0


def test_a_failure_that_is_final() -> None:
    writer = ResponsesWriter(asked())
    data = writer.failed(Failure("too long", 400), "context_length_exceeded")
    last = streams.payloads(data)[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["error"]["code"] == "context_length_exceeded"


@given(st.data())
def test_cuts_never_matter(data: st.DataObject) -> None:
    whole = fed(streams.responses(), [TALK])
    assert fed(streams.responses(), data.draw(streams.cuts(TALK))) == whole


# ---------------------------------------------------------------- whole answers


def test_a_whole_answer() -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}]
    said = {"reasoning_content": "hm", "content": "hi", "tool_calls": calls}
    body = encode({"choices": [{"message": said, "finish_reason": "tool_calls"}]})
    given = asked(tools=[FUNCTION], instructions="be kind", temperature=0.5)
    value = response(collect(ChatReader(Ids("r")).whole(body)), given)
    check_response(value)
    assert [item["type"] for item in value["output"]] == ["reasoning", "message", "function_call"]
    assert (value["instructions"], value["temperature"]) == ("be kind", 0.5)
    assert value["tools"] == [FUNCTION]


def test_openais_own_sdk_reads_the_stream() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        chat, names = to_chat(body)
        check_chat(chat.body)
        stream = streams.responses(Asked("m", "req_1", 1, body, names))
        headers = {"content-type": stream.media.decode()}
        return httpx2.Response(200, headers=headers, content=fed(stream, [TALK]))

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    with (
        openai.OpenAI(base_url="http://x/v1", api_key="k", http_client=http) as client,
        client.responses.stream(model="m", input="hi") as stream,
    ):
        final = stream.get_final_response()
    assert final.output_text == "Ich schreibe zwei Dateien 📁."
    assert [item.type for item in final.output[2:]] == ["function_call", "function_call"]
