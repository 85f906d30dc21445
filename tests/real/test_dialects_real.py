"""Recorded clients against a real engine that is asked for chat completions alone."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from daemon.dialects import counting
from daemon.dialects.fields import encode
from daemon.dialects.quirks import ENGINES
from daemon.dialects.shapes import SHAPES, Shape
from daemon.dialects.translator import PATH, About, Answer, Translation, counted, translate
from daemon.engines.base import Running
from daemon.engines.xllamacpp import Xllamacpp
from tests.dialects.streams import (
    FIXTURES,
    blocks,
    check_messages,
    check_responses,
    fixtures,
    recorded,
)
from tests.models import TOOL_REPLY, make_gguf
from tests.real.starting import Started, make_plan, started

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

NORMS = ENGINES["xllamacpp"]
ABOUT = About("req_1", 1)
PING = {"name": "ping", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """A model that calls ``ping`` whatever it is asked."""
    pytest.importorskip("xllamacpp")
    folder = tmp_path_factory.mktemp("dialects")
    make_gguf(folder / "m.gguf", reply=TOOL_REPLY, context=131072)
    engine = Xllamacpp()
    plan = make_plan(folder, folder / "m.gguf", running=Running("way", 65536, 1), args=("-t", "1"))
    with started(engine, engine.find({}, os.environ), plan, folder) as server:
        assert server.until_ready().status == 200
        yield server


def streamed(serving: Started, translation: Translation) -> tuple[bytes, Answer]:
    """The client's bytes, and the answer that made them."""
    stream = translation.stream()
    with contextlib.closing(serving.connect()) as connection:
        response = serving.send(connection, "POST", PATH, translation.body)
        assert response.status == 200, response.read()
        out = b""
        while data := response.read1(700):
            out += stream.feed(data)
    return out + stream.end(), stream


# Reading a prompt takes two CPU cores seconds: the short ones here, all in the long run.
QUICK = ("claude_10", "claude_13", "claude_16", "codex_08", "codex_10", "opencode_01", "pi_01")
ALL = fixtures("claude_0", "claude_1", "codex_0", "codex_10", "opencode", "pi")
NAMES = [
    item
    if str(item.id).startswith(QUICK)
    else pytest.param(*item.values, id=item.id, marks=pytest.mark.slow)
    for item in ALL
]


@pytest.mark.parametrize("name", NAMES)
def test_recorded_requests_are_answered(serving: Started, name: str) -> None:
    path = json.loads((FIXTURES / f"{name}.json").read_text())["path"]
    if path not in SHAPES:
        chat = counted(encode(recorded(name)), NORMS)
        answer = serving.ask("POST", "/apply-template", counting.template_body(chat))
        tokens = serving.ask("POST", "/tokenize", counting.tokenize_body(answer.body))
        assert (counting.counted_tokens(tokens.body) or 0) > 1
        return
    body = recorded(name) | {"stream": True}
    body.pop("max_tokens", None)
    translation = translate(SHAPES[path], encode({**body, "max_tokens": 64}), NORMS, ABOUT)
    out, stream = streamed(serving, translation)
    assert stream.over
    assert stream.usage.output > 0
    if translation.shape is Shape.MESSAGES:
        check_messages(out)
    elif translation.shape is Shape.RESPONSES:
        check_responses(out)


def ask(**more: Any) -> bytes:
    turn = [{"role": "user", "content": "ping it"}]
    return encode({"model": "m", "max_tokens": 64, "messages": turn, "tools": [PING], **more})


def test_a_call_is_a_block_of_its_own(serving: Started) -> None:
    translation = translate(Shape.MESSAGES, ask(stream=True), NORMS, ABOUT)
    out, _ = streamed(serving, translation)
    (block,) = blocks(check_messages(out))
    assert (block["type"], block["name"], block["input"]) == ("tool_use", "ping", {})
    whole = serving.ask("POST", PATH, translate(Shape.MESSAGES, ask(), NORMS, ABOUT).body)
    value = json.loads(translation.whole(whole.body)[2])
    assert value["stop_reason"] == "tool_use"
    assert value["usage"]["output_tokens"] > 0


def test_a_call_that_the_engine_hands_through_is_rescued(serving: Started) -> None:
    """The engine was told of no tools, so that it leaves the text alone."""
    translation = translate(Shape.MESSAGES, ask(stream=True), NORMS, ABOUT)
    untold = json.loads(translation.body)
    del untold["tools"]
    stream = translation.stream()
    with contextlib.closing(serving.connect()) as connection:
        response = serving.send(connection, "POST", PATH, untold)
        out = b""
        while data := response.read1(100):
            out += stream.feed(data)
    out += stream.end()
    (block,) = blocks(check_messages(out))
    assert (block["type"], block["name"]) == ("tool_use", "ping")
    assert stream.rescued.calls == 1


def test_what_is_too_long_is_told_as_claude_code_knows_it(serving: Started) -> None:
    text = [{"role": "user", "content": "word " * 70_000}]
    translation = translate(Shape.MESSAGES, ask(messages=text), NORMS, ABOUT)
    answer = serving.ask("POST", PATH, translation.body)
    assert answer.status == 400
    status, _, body = translation.refused(answer.status, answer.body)
    assert status == 400
    message = json.loads(body)["error"]["message"]
    assert message.startswith("prompt is too long: ")
    assert message.endswith("> 65536 maximum")


def test_thinking_off_and_a_begun_answer(serving: Started) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    body = ask(messages=turns, thinking={"type": "enabled", "budget_tokens": 1024})
    answer = serving.ask("POST", PATH, translate(Shape.MESSAGES, body, NORMS, ABOUT).body)
    assert answer.status == 200, answer.body


def test_an_image_that_it_cannot_see_is_refused_for_good(serving: Started) -> None:
    """The engine answers 500, to which clients would ask ten times and more."""
    image = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    turns = [{"role": "user", "content": [{"type": "image", "source": image}]}]
    translation = translate(Shape.MESSAGES, ask(messages=turns), NORMS, ABOUT)
    answer = serving.ask("POST", PATH, translation.body)
    assert answer.status == 500
    status, headers, body = translation.refused(answer.status, answer.body)
    assert status == 400
    assert ("x-should-retry", "false") in headers
    assert "image input is not supported" in json.loads(body)["error"]["message"]


def test_a_call_that_was_cut_stops_no_conversation(serving: Started) -> None:
    cut = {"type": "function_call", "call_id": "c", "name": "ping", "arguments": '{"text": "hal'}
    result = {"type": "function_call_output", "call_id": "c", "output": "no JSON"}
    turns = [{"role": "user", "content": "ping it"}, cut, result]
    body = encode({"model": "m", "max_output_tokens": 64, "input": turns})
    answer = serving.ask("POST", PATH, translate(Shape.RESPONSES, body, NORMS, ABOUT).body)
    assert answer.status == 200, answer.body
