"""The official SDKs and curl, unmodified, against a real engine."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import anthropic
import openai
import pytest

from tests.e2e.conftest import MakeHouse
from tests.e2e.house import House

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

TEN = "one two three four five six seven eight nine ten"


@pytest.fixture
def house(
    make_house: MakeHouse, tiny_gguf: Path, tool_gguf: Path, embedding_gguf: Path, rerank_gguf: Path
) -> House:
    models = {
        "tiny": tiny_gguf,
        "tool": tool_gguf,
        "embed": embedding_gguf,
        "rank": rerank_gguf,
    }
    tables = [
        f'[models.{name}]\npath = "{path}"\nengine = "xllamacpp"\nctx = 2048\nargs = ["-t", "1"]\n'
        for name, path in models.items()
    ]
    tables[0] += 'aliases = ["gpt-*", "claude-*"]\n'
    return make_house("\n".join(tables)).start()


@pytest.fixture
def openai_client(house: House) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{house.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(house: House) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=house.url, api_key="none", max_retries=0) as client:
        yield client


def test_openai_chat(openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], max_tokens=32
    )
    assert answer.choices[0].message.content == TEN
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 11


def test_openai_stream_with_usage(openai_client: openai.OpenAI) -> None:
    stream = openai_client.chat.completions.create(
        model="gpt-4o-anything",
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == TEN
    assert chunks[-1].usage is not None


def test_openai_models(openai_client: openai.OpenAI) -> None:
    listed = {model.id for model in openai_client.models.list()}
    assert {"tiny", "tool", "embed", "rank"} <= listed
    assert openai_client.models.retrieve("tiny").id == "tiny"


def test_openai_completions_embeddings_and_tools(openai_client: openai.OpenAI) -> None:
    completion = openai_client.completions.create(model="tiny", prompt="hi", max_tokens=32)
    assert completion.choices[0].text == TEN
    vector = openai_client.embeddings.create(model="embed", input=["a", "b"])
    assert len(vector.data) == 2
    assert len(vector.data[0].embedding) > 8
    called = openai_client.chat.completions.create(
        model="tool",
        messages=[{"role": "user", "content": "ping it"}],
        tools=[
            {
                "type": "function",
                "function": {"name": "ping", "parameters": {"type": "object", "properties": {}}},
            }
        ],
    )
    calls = called.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert calls[0].function.name == "ping"


def test_openai_responses(openai_client: openai.OpenAI) -> None:
    answer = openai_client.responses.create(model="tiny", input="hi")
    assert answer.output_text == TEN
    events = [e.type for e in openai_client.responses.create(model="tiny", input="x", stream=True)]
    assert events[-1] == "response.completed"


def test_openai_errors_are_the_sdks_own(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        openai_client.chat.completions.create(
            model="tinyy", messages=[{"role": "user", "content": "hi"}]
        )
    assert unknown.value.code == "model_not_found"
    assert "tiny" in unknown.value.message
    with pytest.raises(openai.BadRequestError) as dialect:
        openai_client.embeddings.create(model="tiny", input="a")
    assert dialect.value.code == "unsupported_dialect"


def test_anthropic_messages(anthropic_client: anthropic.Anthropic) -> None:
    answer = anthropic_client.messages.create(
        model="claude-sonnet-5", max_tokens=32, messages=[{"role": "user", "content": "hi"}]
    )
    assert answer.content[0].type == "text"
    assert answer.content[0].text == TEN
    assert answer.stop_reason == "end_turn"


def test_anthropic_stream_and_count(anthropic_client: anthropic.Anthropic) -> None:
    with anthropic_client.messages.stream(
        model="tiny", max_tokens=32, messages=[{"role": "user", "content": "hi"}]
    ) as stream:
        assert "".join(stream.text_stream) == TEN
    counted = anthropic_client.messages.count_tokens(
        model="tiny", messages=[{"role": "user", "content": "hi"}]
    )
    assert counted.input_tokens > 5


def test_anthropic_models_and_errors(anthropic_client: anthropic.Anthropic) -> None:
    assert "tiny" in {model.id for model in anthropic_client.models.list()}
    with pytest.raises(anthropic.NotFoundError) as unknown:
        anthropic_client.messages.create(
            model="nothing", max_tokens=8, messages=[{"role": "user", "content": "hi"}]
        )
    assert unknown.value.body["error"]["type"] == "not_found_error"  # type: ignore[index,call-overload]


def test_rerank_in_every_spelling(house: House) -> None:
    for path in ("/v1/rerank", "/rerank", "/reranking", "/v1/reranking"):
        answer = house.request(
            "POST", path, {"model": "rank", "query": "a", "documents": ["a", "b"]}
        )
        assert answer.status == 200, (path, answer.body)
        assert len(answer.json()["results"]) == 2


def test_upstream_reaches_the_engine_itself(house: House) -> None:
    answer = house.request("GET", "/upstream/tiny/props")
    assert answer.status == 200, answer.body
    assert "default_generation_settings" in answer.json()
    tokens = house.request("POST", "/upstream/tiny/tokenize", {"content": "abc"})
    assert len(tokens.json()["tokens"]) == 3
    assert house.request("POST", "/upstream/tiny/props", {}).status in (403, 404)
    assert house.request("POST", "/upstream/tiny/slots/0?action=save", {}).status in (403, 404)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_with_nothing_but_a_body(house: House) -> None:
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]})
    done = subprocess.run(
        ["curl", "-sS", "--max-time", "30", f"{house.url}/v1/chat/completions", "-d", body],
        capture_output=True,
        text=True,
        timeout=40,
        check=True,
    )
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == TEN
