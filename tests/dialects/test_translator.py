"""The door: every client's request and answer through one function each, and what goes wrong."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.problems import Code, Problem, ProblemError
from daemon.dialects import counting
from daemon.dialects.fields import encode
from daemon.dialects.norms import Norms
from daemon.dialects.refusals import Overflow, native, overflow, overflow_text, said
from daemon.dialects.shapes import SHAPES, Shape
from daemon.dialects.translator import About, Answer, Translation, counted, translate
from tests.dialects.streams import (
    DONE,
    FIXTURES,
    TALK,
    answer,
    blocks,
    called,
    check_chat,
    check_message,
    check_messages,
    check_response,
    check_responses,
    chunk,
    cuts,
    fixtures,
    recorded,
    usage,
)

ABOUT = About("req_1", 1)
TOOL = {
    "type": "function",
    "function": {
        "name": "ping",
        "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}},
    },
}
CALL = '<tool_call>\n{"name": "ping", "arguments": {"x": 1}}\n</tool_call>'
TURN = [{"role": "user", "content": "hi"}]
ASKS: dict[Shape, dict[str, Any]] = {
    Shape.CHAT: {"messages": TURN, "tools": [TOOL], "stream": True},
    Shape.MESSAGES: {
        "messages": TURN,
        "max_tokens": 9,
        "stream": True,
        "tools": [{"name": "ping", "input_schema": TOOL["function"]["parameters"]}],  # type: ignore[index]
    },
    Shape.RESPONSES: {
        "input": "hi",
        "stream": True,
        "tools": [{"type": "function", **TOOL["function"]}],  # type: ignore[dict-item]
    },
    Shape.OLLAMA_CHAT: {"messages": TURN, "tools": [TOOL]},
    Shape.OLLAMA_GENERATE: {"prompt": "hi"},
    Shape.COMPLETIONS: {"prompt": "hi", "stream": True},
}


def asked(shape: Shape, norms: Norms | None = None, **more: Any) -> Translation:
    return translate(shape, encode({"model": "m", **ASKS[shape], **more}), norms or Norms(), ABOUT)


def fed(stream: Answer, pieces: list[bytes]) -> bytes:
    out = b"".join([stream.feed(piece) for piece in pieces])
    return out + stream.end()


@pytest.mark.parametrize("name", fixtures("claude", "codex", "opencode", "pi"))
def test_every_recorded_request_passes(name: str) -> None:
    path = json.loads((FIXTURES / f"{name}.json").read_text())["path"]
    body = recorded(name)
    if path == "/v1/messages/count_tokens":
        assert counting.estimate(counted(encode(body), Norms())) > 0
        return
    if path not in SHAPES:
        assert path == "/api/pull"
        return
    translation = translate(SHAPES[path], encode(body), Norms(), ABOUT)
    sent = json.loads(translation.body)
    check_chat(sent)
    assert next(iter(sent)) == "model", "where the relay looks for it first"
    assert sent["model"] == body["model"]
    assert translation.streamed is bool(body.get("stream", False))


@pytest.mark.parametrize("shape", Shape)
@given(data=st.data())
def test_cuts_never_matter_to_any_client(shape: Shape, data: st.DataObject) -> None:
    whole = fed(asked(shape).stream(), [TALK])
    assert fed(asked(shape).stream(), data.draw(cuts(TALK))) == whole


@pytest.mark.parametrize("shape", [Shape.CHAT, Shape.MESSAGES, Shape.RESPONSES, Shape.OLLAMA_CHAT])
def test_a_call_in_text_reaches_each_client_as_a_call(shape: Shape) -> None:
    stream = asked(shape).stream()
    out = fed(stream, [answer(f"I ping.\n{CALL}")]).decode()
    assert "tool_call>" not in out
    assert stream.rescued.calls == 1
    assert stream.over
    word = {"messages": '"tool_use"', "responses": "function_call", "chat": '"tool_calls"'}
    assert word.get(shape, "tool_calls") in out
    off = fed(asked(shape, Norms(rescue=False)).stream(), [answer(CALL)]).decode()
    assert "function_call_arguments" not in off
    assert '"tool_use"' not in off


def test_without_a_choice_of_tools_text_is_text() -> None:
    stream = asked(Shape.CHAT, tool_choice="none").stream()
    fed(stream, [answer(CALL)])
    assert stream.rescued.calls == 0


# ---------------------------------------------------------------- chat to chat


def test_a_chat_clients_stream_is_the_engines_own() -> None:
    stream = asked(Shape.CHAT).stream()
    assert fed(stream, [TALK]) == TALK
    assert stream.usage.prompt == 20


def test_a_chat_clients_stream_without_its_last_word() -> None:
    stream = asked(Shape.CHAT).stream()
    out = fed(stream, [chunk(content="<tool"), chunk("stop")])
    assert stream.over
    assert out.endswith(b"data: [DONE]\n\n")
    assert b"<tool" in out
    stream = asked(Shape.CHAT).stream()
    fed(stream, [chunk(content="half")])
    assert not stream.over


def test_a_chat_clients_stream_with_a_rescued_call() -> None:
    def respond(request: httpx2.Request) -> httpx2.Response:
        translation = translate(Shape.CHAT, request.content, Norms(), ABOUT)
        stream = translation.stream()
        data = fed(stream, [answer(f"<think>hm</think>I ping.\n{CALL}")])
        headers = {"content-type": stream.media.decode()}
        return httpx2.Response(200, headers=headers, content=data)

    http = httpx2.Client(transport=httpx2.MockTransport(respond))
    with openai.OpenAI(base_url="http://x/v1", api_key="k", http_client=http) as client:
        chunks = list(
            client.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": "hi"}],
                tools=[TOOL],  # type: ignore[list-item]
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join([choice.delta.content or "" for choice in choices]) == "I ping.\n"
    calls = [call for choice in choices for call in choice.delta.tool_calls or []]
    assert calls[0].function is not None
    assert calls[0].function.name == "ping"
    assert choices[-1].finish_reason == "tool_calls"
    assert chunks[-1].usage is not None
    thoughts = [getattr(choice.delta, "reasoning_content", None) or "" for choice in choices]
    assert "".join(thoughts) == "hm"


def test_a_chat_clients_whole_answer() -> None:
    translation = asked(Shape.CHAT, stream=False)
    message = {"role": "assistant", "content": "hi"}
    plain = encode({"id": "x", "choices": [{"message": message, "finish_reason": "stop"}]})
    assert translation.whole(plain)[2] == plain
    message = {"role": "assistant", "content": CALL}
    text = encode({"id": "x", "choices": [{"message": message, "finish_reason": "stop"}]})
    value = json.loads(translation.whole(text)[2])
    choice = value["choices"][0]
    assert value["id"] == "x"
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "ping"


def test_several_answers_at_once_are_left_alone() -> None:
    stream = asked(Shape.CHAT, n=2).stream()
    assert fed(stream, [answer(CALL)]) == answer(CALL)


def test_completions() -> None:
    stream = asked(Shape.COMPLETIONS).stream()
    out = fed(stream, [TALK]).decode()
    values = [json.loads(line[6:]) for line in out.splitlines() if line.startswith("data: {")]
    text = "".join([value["choices"][0]["text"] for value in values])
    assert text == "Ich schreibe zwei Dateien 📁."
    assert out.endswith("data: [DONE]\n\n")
    assert all("usage" not in value for value in values)
    whole = encode({"choices": [{"message": {"content": "x"}, "finish_reason": "length"}]})
    value = json.loads(asked(Shape.COMPLETIONS).whole(whole)[2])
    assert value["choices"][0] == {
        "index": 0,
        "text": "x",
        "logprobs": None,
        "finish_reason": "length",
    }
    for body, word in (
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"n": 2}, "n: found more"),
    ):
        with pytest.raises(ProblemError, match=word):
            asked(Shape.COMPLETIONS, **body)


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("shape", Shape)
@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"messages":"\xff"}', b"[" * 5000])
def test_what_is_no_request(shape: Shape, body: bytes) -> None:
    with pytest.raises(ProblemError) as caught:
        translate(shape, body, Norms(), ABOUT)
    assert caught.value.problem.code in (Code.INVALID_JSON, Code.INVALID_REQUEST)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
_field = st.sampled_from(
    ["type", "role", "content", "text", "name", "input", "id", "source", "tool_use_id", "tools"]
)
_thing = st.dictionaries(_field, _json | st.sampled_from(["text", "user", "tool_use", "image"]))
_tops = "messages input tools tool_choice system thinking output_config text reasoning options"
_tops += " format prompt stop max_tokens instructions metadata n stream_options response_format"
_top = st.sampled_from(_tops.split())


@given(st.sampled_from(Shape), st.dictionaries(_top, _json | st.lists(_thing, max_size=3)))
def test_a_client_gets_an_answer_whatever_it_sends(shape: Shape, change: dict[str, Any]) -> None:
    translation = None
    with contextlib.suppress(ProblemError):  # and nothing else
        translation = translate(shape, encode({**ASKS[shape], **change}), Norms(), ABOUT)
    if translation is None:
        return
    stream = translation.stream()
    fed(stream, [TALK])
    assert stream.over
    translation.whole(encode({"choices": [{"message": {"content": "x"}}]}))


LLAMA = {
    "error": {
        "code": 400,
        "message": "request (9000 tokens) exceeds the available context size (4096 tokens), try "
        "increasing it",
        "type": "exceed_context_size_error",
    }
}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (LLAMA["error"]["message"], Overflow(9000, 4096)),
        (
            "This model's maximum context length is 4096 tokens. However, you requested 9000 "
            "tokens (8000 in the messages, 1000 in the completion).",
            Overflow(9000, 4096),
        ),
        (
            "The decoder prompt (length 9000) is longer than the maximum model length of 4096.",
            Overflow(9000, 4096),
        ),
        ("the request exceeds the available context size. try increasing it", Overflow()),
        ("input length exceeds the context length", Overflow()),
        (
            "The number of tokens to keep from the initial prompt is greater than the context "
            "length. Try to load the model with a larger context length.",
            Overflow(),
        ),
        (
            "You passed 9000 input tokens and requested 100 output tokens. However, the model's "
            "context length is only 4096 tokens, resulting in a maximum input length of 3996.",
            Overflow(9000, 4096),
        ),
        ("Compute error.", None),
        ("the tool `context` is unknown", None),
    ],
)
def test_overflow_is_recognised(text: str, found: Overflow | None) -> None:
    assert overflow(text) == found


def test_overflow_is_told_as_each_client_knows_it() -> None:
    for shape in Shape:
        status, headers, body = asked(shape).refused(400, encode(LLAMA))
        assert status == 400
        assert ("x-should-retry", "false") in headers
        error = json.loads(body)["error"]
        if shape is Shape.MESSAGES:
            assert error["message"] == "prompt is too long: 9000 tokens > 4096 maximum"
            assert error["type"] == "invalid_request_error"
        elif shape in (Shape.OLLAMA_CHAT, Shape.OLLAMA_GENERATE):
            assert "4096" in error
        else:
            assert error["code"] == "context_length_exceeded"
            assert "4096" in error["message"]
        assert overflow_text(shape, Overflow())


@pytest.mark.parametrize(
    ("status", "body", "said_text", "seen"),
    [
        (404, b'{"error": "generation thread died"}', "generation thread died", (502, 500)),
        (500, b'{"error":{"message":"Compute error."}}', "Compute error.", (502, 500)),
        (422, b'{"detail":[{"loc":["body","x"],"msg":"bad"}]}', "body.x: bad", (400, 400)),
        (400, b"<html>no</html>", "<html>no</html>", (400, 400)),
        (502, b"", "no reason given", (502, 500)),
    ],
)
def test_an_engines_errors(status: int, body: bytes, said_text: str, seen: tuple[int, int]) -> None:
    assert said(body) == said_text
    openai_status, _, text = asked(Shape.CHAT).refused(status, body)
    anthropic_status, _, other = asked(Shape.MESSAGES).refused(status, body)
    assert (openai_status, anthropic_status) == seen
    assert said_text in json.loads(text)["error"]["message"]
    assert said_text in json.loads(other)["error"]["message"]


@pytest.mark.parametrize(
    "text",
    [  # recorded from llama-server, which answers 500 to these
        "image input is not supported - hint: if this is unexpected, you may need to provide the "
        "mmproj",
        "Failed to parse tool call arguments as JSON: [json.exception.parse_error.101] parse error",
        "[json.exception.parse_error.101] parse error at line 1, column 48: syntax error",
    ],
)
@pytest.mark.parametrize("shape", Shape)
def test_what_is_refused_each_time_is_not_asked_again(shape: Shape, text: str) -> None:
    body = encode({"error": {"code": 500, "message": text, "type": "server_error"}})
    for found in (asked(shape).refused(500, body), native(shape, 500, body, "req_1")):
        assert found is not None
        status, headers, said_body = found
        assert status == 400
        assert ("x-should-retry", "false") in headers
        assert text in said(said_body)
    stream = asked(shape).stream()
    stream.feed(b"data: " + body + b"\n\n")
    assert stream.failed()[0] == 400


def test_a_chat_client_hears_that_calls_were_made() -> None:
    """Some engines say "stop" after calls, and an agent's loop ends on that word."""
    stream = asked(Shape.CHAT).stream()
    out = fed(stream, [called(0, "{}", "ping"), chunk("stop"), usage(), DONE])
    assert b'"finish_reason":"tool_calls"' in out
    assert b'"stop"' not in out
    assert stream.usage.prompt == 20
    call = {"id": "c", "type": "function", "function": {"name": "ping", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    whole = json.loads(asked(Shape.CHAT).whole(encode(body))[2])
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    assert whole["choices"][0]["message"]["tool_calls"] == [call]
    assert asked(Shape.CHAT, n=2).whole(encode(body))[2] == encode(body)


def test_a_usage_chunk_only_where_it_was_asked_for() -> None:
    """Some chat clients take a chunk without choices for a fault."""
    plain = asked(Shape.CHAT).stream()
    assert b'"usage"' not in fed(plain, [answer(f"a{CALL}")])
    assert plain.usage.prompt == 20
    wanted = asked(Shape.CHAT, stream_options={"include_usage": True}).stream()
    assert b'"usage"' in fed(wanted, [answer(f"a{CALL}")])


@pytest.mark.parametrize("shape", Shape)
def test_a_character_that_came_in_halves(shape: Shape) -> None:
    """As engines in JavaScript write them; a chat client of its kind puts them together itself."""
    stream = asked(shape).stream()
    first = chunk(content="a").replace(b'"a"', rb'"a\ud83d"')
    second = chunk(content="b").replace(b'"b"', rb'"\ude00b"')
    out = fed(stream, [first, second, chunk("stop"), DONE])
    assert stream.over
    if shape is Shape.CHAT:
        assert first + second in out
    else:
        assert "\U0001f600b".encode() in out


@pytest.mark.parametrize("shape", Shape)
def test_a_stream_that_the_engine_breaks_off(shape: Shape) -> None:
    translation = asked(shape)
    stream = translation.stream()
    stream.feed(chunk(content="half"))
    stream.feed(b"data: " + encode({"error": {"code": 500, "message": "Compute error."}}) + b"\n\n")
    assert stream.failure is not None
    assert not stream.over
    last = stream.broken(translation.problem(stream.failure))
    if shape in (Shape.MESSAGES, Shape.RESPONSES):
        assert last == b"", "a reset gives the client its own retries"
    else:
        assert b"Compute error." in last
    permanent = stream.broken(Problem(Code.POISON, "It crashes the model."))
    assert (b"It crashes" in permanent) is (shape is not Shape.RESPONSES)


@pytest.mark.parametrize("shape", [Shape.MESSAGES, Shape.RESPONSES])
def test_an_overflow_in_a_stream(shape: Shape) -> None:
    translation = asked(shape)
    stream = translation.stream()
    stream.feed(b"data: " + encode(LLAMA) + b"\n\n")
    assert stream.failure is not None
    last = stream.broken(translation.problem(stream.failure)).decode()
    known = "prompt is too long: 9000" if shape is Shape.MESSAGES else "context_length_exceeded"
    assert known in last


@pytest.mark.parametrize("shape", Shape)
def test_an_answer_that_is_an_error_after_all(shape: Shape) -> None:
    if shape is not Shape.CHAT:
        status, _, body = asked(shape).whole(b'{"error":{"message":"Compute error.","code":500}}')
        assert status >= 500
        assert b"Compute error." in body
    status, _, body = asked(shape).whole(b"nonsense")
    assert status in (200, 500, 502)
    assert body


@pytest.mark.parametrize("shape", Shape)
def test_keep_alives(shape: Shape) -> None:
    stream = asked(shape).stream()
    assert stream.wait().endswith(b"\n")
    fed(stream, [TALK])
    assert stream.wait() == b""


def test_whole_answers_are_the_sdks_own_types() -> None:
    body = encode(
        {"choices": [{"message": {"content": f"<think>hm</think>{CALL}"}, "finish_reason": "stop"}]}
    )
    value = json.loads(asked(Shape.MESSAGES).whole(body)[2])
    check_message(value)
    assert [part["type"] for part in value["content"]] == ["thinking", "tool_use"]
    value = json.loads(asked(Shape.RESPONSES).whole(body)[2])
    check_response(value)
    assert [item["type"] for item in value["output"]] == ["reasoning", "function_call"]


def test_each_try_begins_anew() -> None:
    translation = asked(Shape.MESSAGES)
    translation.stream().feed(chunk(content="half"))
    content = blocks(check_messages(fed(translation.stream(), [TALK])))
    assert len(content) == 4
    check_responses(fed(asked(Shape.RESPONSES).stream(), [TALK]))


def test_a_new_call_has_an_id_of_its_own() -> None:
    """Engines that count their calls from 0 in each answer."""
    body = recorded("claude_04_messages_p_tool_result")
    translation = translate(Shape.MESSAGES, encode(body), Norms(), ABOUT)
    data = [called(0, "{}", "Bash", "toolu_0001"), chunk("tool_calls"), usage(), DONE]
    (block,) = blocks(check_messages(fed(translation.stream(), data)))
    assert block["id"] != "toolu_0001"


# ---------------------------------------------------------------- counting


def test_counting_by_the_engines_template() -> None:
    chat = counted(encode(recorded("claude_17_count_tokens_tools")), Norms())
    asked = json.loads(counting.template_body(chat))
    assert asked["tools"]
    assert "max_tokens" not in asked
    body = counting.tokenize_body(b'{"prompt":"<|im_start|>"}')
    assert json.loads(body or b"")["content"] == "<|im_start|>"
    assert counting.counted_tokens(b'{"tokens":[1,2,3]}') == 3
    assert counting.tokenize_body(b"{}") is counting.counted_tokens(b"{}") is None
    assert counting.answer(3) == {"input_tokens": 3}


def test_an_estimate_grows_with_what_is_asked() -> None:
    small = counting.estimate(counted(encode({"messages": TURN}), Norms()))
    text = [{"role": "user", "content": "word " * 1000}]
    large = counting.estimate(counted(encode({"messages": text}), Norms()))
    assert small < 10
    assert 1000 <= large <= 1600
    chinese = [{"role": "user", "content": "漢字" * 500}]
    assert 700 <= counting.estimate(counted(encode({"messages": chinese}), Norms())) <= 1100
