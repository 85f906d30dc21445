"""Programs that people write: Ollama's own client and LangChain, before an engine that chats and
nothing else. (Anthropic's and OpenAI's libraries: test_dialects.py.)"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ollama
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from tests.e2e.house import House
from tests.e2e.programs import TEN
from tests.e2e.stage import folder
from tests.fakes import start

pytestmark = pytest.mark.timeout(400)

HI = [{"role": "user", "content": "hi"}]


def is_there(host: str = "here") -> str:
    """Whether a host is there."""
    return f"{host} is there"


ping = tool("ping")(is_there)


def chatty(name: str, *flags: str) -> str:
    words = [*start.argv("engine"), "--port", "{port}", "--alias", name, *flags]
    argv = ", ".join(f"'{word}'" for word in words)
    return (
        f'[engines.command.{name}]\nargv = [{argv}]\nfootprint = "100 MiB"\ndialects = ["chat"]\n'
        f'[models.{name}]\nengine = "command.{name}"\nctx = 4096\nkeep_alive = -1\n'
    )


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """``says`` answers in words, ``calls`` with a call of ``ping``. One daemon for all: they change
    nothing of it, and both models are there."""
    with folder() as place:
        config = chatty("says", "--reply", TEN) + chatty("calls", "--tool", "ping")
        with House(place, config) as running:
            for name in ("says", "calls"):
                assert running.chat(name).status == 200
            yield running


# ---------------------------------------------------------------- Ollama's own client


@pytest.fixture
def ollamas(house: House) -> Iterator[ollama.Client]:
    with ollama.Client(host=house.url) as client:
        yield client


def test_ollama_lists_and_shows(ollamas: ollama.Client) -> None:
    listed = {one.model for one in ollamas.list().models}
    assert listed >= {"says", "calls"}, "and presets whose weights are here"
    shown = ollamas.show("says")
    assert "completion" in (shown.capabilities or [])
    assert ollamas.pull("says").status == "success"
    assert [step.status for step in ollamas.pull("says", stream=True)][-1] == "success"
    assert {one.name for one in ollamas.ps().models} == {"says", "calls"}


def test_ollama_talks(ollamas: ollama.Client) -> None:
    whole = ollamas.chat("says", HI)
    assert (whole.message.content, whole.done_reason) == (TEN, "stop")
    assert whole.eval_count
    pieces = list(ollamas.chat("says", HI, stream=True, options={"num_ctx": 2048}))
    assert len(pieces) > 5
    assert "".join(piece.message.content or "" for piece in pieces) == TEN
    assert pieces[-1].done
    assert ollamas.generate("says", "hi").response == TEN
    said = ollamas.generate("says:latest", "hi", stream=True, options={"num_predict": 3})
    assert "".join(piece.response or "" for piece in said) == "one two three"


@pytest.mark.parametrize("stream", [False, True])
def test_ollama_calls_a_tool(stream: bool, ollamas: ollama.Client) -> None:
    turns: list[Any] = [*HI]
    answer: Any = ollamas.chat("calls", turns, tools=[is_there], stream=stream)  # type: ignore[call-overload]
    messages = [one.message for one in (answer if stream else [answer])]
    (call,) = [call for message in messages for call in message.tool_calls or []]
    assert (call.function.name, call.function.arguments) == ("ping", {})
    turns.append(next(message for message in messages if message.tool_calls))
    turns.append({"role": "tool", "tool_name": "ping", "content": "here is there"})
    assert ollamas.chat("says", turns).message.content == TEN


def test_ollama_is_told_what_is_wrong(ollamas: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="nowhere") as unknown:
        ollamas.chat("nowhere", HI)
    assert unknown.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as unable:
        ollamas.embed("says", "hi")
    assert unable.value.status_code == 400


# ---------------------------------------------------------------- LangChain


def model(kind: str, house: House, name: str) -> BaseChatModel:
    if kind == "anthropic":
        return ChatAnthropic(model_name=name, base_url=house.url, api_key="none", max_retries=0)  # type: ignore[call-arg, arg-type]
    return ChatOpenAI(
        model=name,
        base_url=f"{house.url}/v1",
        api_key="none",  # type: ignore[arg-type]
        max_retries=0,
        use_responses_api=kind == "responses",
    )


each = pytest.mark.parametrize("kind", ["chat", "responses", "anthropic"])


@each
def test_langchain_talks(kind: str, house: House) -> None:
    chain = model(kind, house, "says")
    whole = chain.invoke("hi")
    assert whole.text == TEN
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] > 5
    pieces = list(chain.stream("hi"))
    assert len(pieces) > 5
    assert "".join(piece.text for piece in pieces) == TEN


@each
@pytest.mark.parametrize("stream", [False, True])
def test_langchain_goes_a_tool_round(stream: bool, kind: str, house: House) -> None:
    turns: list[Any] = [HumanMessage("Is it there?")]
    chain = model(kind, house, "calls").bind_tools([ping])
    called: AIMessage
    if stream:
        first, *more = chain.stream(turns)
        assert isinstance(first, AIMessageChunk)
        called = sum(more, first)
    else:
        called = chain.invoke(turns)
    (call,) = called.tool_calls
    assert (call["name"], call["args"]) == ("ping", {})
    result = ping.invoke(call)
    assert isinstance(result, ToolMessage)
    turns += [called, result]
    said = model(kind, house, "says").bind_tools([ping]).invoke(turns)
    assert said.text == TEN
