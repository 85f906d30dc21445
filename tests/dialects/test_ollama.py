"""Ollama's API over a chat engine."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from daemon.core.problems import ProblemError
from daemon.dialects import ollama_answer, ollama_request
from daemon.dialects.fields import encode
from daemon.dialects.norms import Norms
from daemon.dialects.ollama_request import LoadAsked, load_asked
from daemon.dialects.shapes import Shape
from daemon.dialects.translator import About, translate
from daemon.ports import ModelCard
from tests.dialects.streams import TALK, answer, check_chat, fed

ABOUT = About("req_1", 1)
PNG = base64.b64encode(b"\x89PNG\r\n" + b"x" * 40).decode()


def test_a_conversation_with_calls_and_images() -> None:
    calls = [
        {"function": {"name": "a", "arguments": {"x": 1}}},
        {"function": {"name": "b", "arguments": {}}},
    ]
    chat = ollama_request.chat_to_chat(
        {
            "model": "m",
            "messages": [
                {"role": "system", "content": "be kind"},
                {"role": "user", "content": "see", "images": [PNG]},
                {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": calls},
                {"role": "tool", "tool_name": "b", "content": "2"},
                {"role": "tool", "content": "1"},
            ],
            "options": {"temperature": 0.5, "num_predict": 9, "num_ctx": 4096, "stop": ["x"]},
            "format": {"type": "object"},
            "think": "high",
        }
    )
    check_chat(chat.body)
    assert chat.messages[1]["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")
    first, second = [call["id"] for call in chat.messages[2]["tool_calls"]]
    assert [message["tool_call_id"] for message in chat.messages[3:]] == [second, first]
    assert (chat.body["temperature"], chat.body["max_tokens"]) == (0.5, 9)
    assert chat.body["stop"] == ["x"]
    assert (chat.thinking.on, chat.thinking.effort) == (True, "high")
    assert chat.body["stream"] is True
    assert any("num_ctx" in note for note in chat.notes)


def test_a_stream_is_lines() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    translation = translate(Shape.OLLAMA_CHAT, encode(body), Norms(), ABOUT)
    assert translation.streamed
    stream = translation.stream()
    assert stream.media == b"application/x-ndjson"
    waiting = json.loads(stream.wait())
    assert (waiting["done"], waiting["message"]["content"]) == (False, "")
    lines = [json.loads(line) for line in fed(stream, [TALK]).splitlines()]  # type: ignore[arg-type]
    text = "".join([line["message"]["content"] for line in lines])
    assert text == "Ich schreibe zwei Dateien 📁."
    thoughts = [line["message"].get("thinking", "") for line in lines]
    assert "".join(thoughts) == "Hm, ja."
    calls = [call for line in lines for call in line["message"].get("tool_calls", [])]
    assert [call["function"]["arguments"]["file_path"] for call in calls] == ["/a", "/b"]
    assert lines[-1]["done"] is True
    assert lines[-1]["done_reason"] == "stop"
    assert (lines[-1]["prompt_eval_count"], lines[-1]["eval_count"]) == (20, 5)
    assert all(line["created_at"] == "1970-01-01T00:00:01Z" for line in lines)


def test_generate() -> None:
    body: dict[str, Any] = {"model": "m", "system": "s", "prompt": "p", "format": "json"}
    translation = translate(Shape.OLLAMA_GENERATE, encode(body), Norms(), ABOUT)
    sent = json.loads(translation.body)
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]
    assert sent["response_format"] == {"type": "json_object"}
    stream = translation.stream()
    lines = [json.loads(line) for line in fed(stream, [answer("yes")]).splitlines()]  # type: ignore[arg-type]
    assert "".join([line["response"] for line in lines]) == "yes"
    body["stream"] = False
    translation = translate(Shape.OLLAMA_GENERATE, encode(body), Norms(), ABOUT)
    whole = encode({"choices": [{"message": {"content": "yes"}, "finish_reason": "length"}]})
    status, _, said = translation.whole(whole)
    assert (status, json.loads(said)["response"]) == (200, "yes")
    assert json.loads(said)["done_reason"] == "length"


def test_a_raw_prompt_is_a_completion() -> None:
    """What editors fill in: in the model's own marks, past its template."""
    prompt = "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"
    body: dict[str, Any] = {"model": "m", "prompt": prompt, "raw": True}
    body["options"] = {"num_predict": 9, "stop": ["x"]}
    norms = Norms(default={"min_p": 0.1}, output_cap=5)
    made = translate(Shape.OLLAMA_GENERATE, encode(body), norms, ABOUT, model="own", completes=True)
    assert made.path == "/v1/completions"
    assert json.loads(made.body) == {
        "model": "own",
        "prompt": prompt,
        "stop": ["x"],
        "max_tokens": 5,
        "min_p": 0.1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    said = b'data: {"choices":[{"index":0,"text":"<think>c","finish_reason":null}]}\n\n'
    last = b'data: {"choices":[{"index":0,"text":"","finish_reason":"stop"}]}\n\n'
    lines = [json.loads(line) for line in fed(made.stream(), [said + last]).splitlines()]  # type: ignore[arg-type]
    assert [line["response"] for line in lines] == ["<think>c", ""]
    assert lines[-1]["done"]
    with pytest.raises(ProblemError, match="raw: this model's engine"):
        translate(Shape.OLLAMA_GENERATE, encode(body), Norms(), ABOUT)
    given = encode({**body, "suffix": "b"})
    with pytest.raises(ProblemError, match="suffix: this model's engine"):
        translate(Shape.OLLAMA_GENERATE, given, Norms(), ABOUT, completes=True)


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({"model": "m"}, LoadAsked()),
        ({"model": "m", "messages": [], "keep_alive": 0}, LoadAsked(0)),
        ({"model": "m", "prompt": ""}, LoadAsked()),
        ({"model": "m", "prompt": "x"}, None),
    ],
)
def test_an_order_to_load(body: dict[str, Any], wanted: LoadAsked | None) -> None:
    assert load_asked(body) == wanted
    if wanted is not None:
        assert wanted.unload is (wanted.keep_alive == 0)
        for generate in (False, True):
            line = ollama_answer.loaded("m", 1, generate=generate, unload=wanted.unload)
            assert json.loads(line)["done_reason"] == ("unload" if wanted.unload else "load")


def test_embeddings() -> None:
    asked = ollama_request.embed_to_embeddings(
        {"model": "m", "input": ["a", "b"], "truncate": True}
    )
    assert asked == {"model": "m", "input": ["a", "b"]}
    given = encode(
        {"data": [{"embedding": [1.0]}, {"embedding": [2.0]}], "usage": {"prompt_tokens": 2}}
    )
    answer = json.loads(ollama_answer.embedded(given, "m") or b"")
    assert answer["embeddings"] == [[1.0], [2.0]]
    assert answer["prompt_eval_count"] == 2
    old = json.loads(ollama_answer.embedded(given, "m", old=True) or b"")
    assert old == {"embedding": [1.0]}
    assert ollama_answer.embedded(b'{"error":1}', "m") is None
    with pytest.raises(ProblemError, match="input: allowed"):
        ollama_request.embed_to_embeddings({"input": 3})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"messages": 3}, "messages: found a number"),
        ({"messages": [{"role": "user", "content": 3}]}, r"messages\.0\.content"),
        ({"messages": [{"role": "user", "content": "", "images": ["?"]}]}, r"images\.0: found"),
        ({"messages": [], "options": {"temperature": "hot"}}, "temperature: found a string"),
    ],
)
def test_mistakes(body: dict[str, Any], said: str) -> None:
    with pytest.raises(ProblemError, match=said):
        ollama_request.chat_to_chat(body)


def test_what_a_chat_cannot_do() -> None:
    with pytest.raises(ProblemError, match="suffix"):
        ollama_request.generate_to_chat({"prompt": "x", "suffix": "y"})


def test_lists() -> None:
    facts = {"architecture": "qwen3", "size": 5, "quantisation": "Q4_K_M", "format": "gguf"}
    cards = [
        ModelCard("a", context=4096, state="ready", kind="vision", facts=facts),
        ModelCard("b", kind="embedding"),
    ]
    tags = json.loads(ollama_answer.tags(cards))["models"]
    assert [entry["name"] for entry in tags] == ["a", "b"]
    assert tags[0]["details"]["quantization_level"] == "Q4_K_M"
    (loaded,) = json.loads(ollama_answer.running(cards))["models"]
    assert (loaded["model"], loaded["size_vram"], loaded["context_length"]) == ("a", 5, 4096)
    shown = json.loads(ollama_answer.show(cards[0]))
    assert shown["capabilities"] == ["completion", "tools", "vision"]
    assert shown["model_info"]["qwen3.context_length"] == 4096
    assert json.loads(ollama_answer.show(cards[1]))["capabilities"] == ["embedding"]
    assert json.loads(ollama_answer.version())["version"]
