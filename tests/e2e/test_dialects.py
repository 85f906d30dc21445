"""Clients of every dialect and a whole daemon, before engines that chat and nothing else."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.dialects.streams import FIXTURES, check_messages, check_responses, recorded
from tests.e2e.conftest import MakeHouse, timing
from tests.e2e.house import House
from tests.fakes import start
from tests.models import make_gguf

pytestmark = pytest.mark.timeout(400)

TEN = "one two three four five six seven eight nine ten"
HI = [{"role": "user", "content": "hi"}]
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI},
    "/v1/messages": {"messages": HI, "max_tokens": 64},
    "/v1/responses": {"input": "hi"},
    "/api/chat": {"messages": HI},
}
ALL = pytest.mark.parametrize("path", ASKED)


def chatty(name: str, *flags: str, more: str = "") -> str:
    """A stand-in that says of itself that it speaks chat completions alone."""
    words = [*start.argv("engine"), "--port", "{port}", "--alias", name, *flags]
    argv = ", ".join(f"'{word}'" for word in words)
    return (
        f'[engines.command.{name}]\nargv = [{argv}]\nfootprint = "100 MiB"\ndialects = ["chat"]\n'
        f'[models.{name}]\nengine = "command.{name}"\n{more}\n'
    )


@contextmanager
def opened(house: House, path: str, model: str, **more: Any) -> Iterator[http.client.HTTPResponse]:
    """A streamed answer, read as it comes."""
    body = {"model": model, "stream": True, **ASKED[path], **more}
    connection = http.client.HTTPConnection("127.0.0.1", house.port, timeout=30)
    with closing(connection):
        headers = {"Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        yield connection.getresponse()


def rest(answer: http.client.HTTPResponse) -> bytes:
    """What comes until the end, or until it is cut."""
    out = b""
    with suppress(http.client.IncompleteRead, ConnectionError):
        while piece := answer.read1():
            out += piece
        return out + b"(the end)"
    return out


# ---------------------------------------------------------------- a stand-in


def test_sdks_and_an_engine_that_only_chats(make_house: MakeHouse) -> None:
    flags = ("--reply", TEN, "--reasoning", "let me see")
    with make_house(chatty("a", *flags)) as house:
        with anthropic.Anthropic(base_url=house.url, api_key="none", max_retries=0) as client:
            with client.messages.stream(model="a", max_tokens=64, messages=HI) as stream:  # type: ignore[arg-type]
                message = stream.get_final_message()
            assert [block.type for block in message.content] == ["thinking", "text"]
            assert message.content[-1].type == "text"
            assert message.content[-1].text.strip() == TEN
            assert message.stop_reason == "end_turn"
            assert message.usage.output_tokens > 5
            counted = client.messages.with_raw_response.count_tokens(model="a", messages=HI)  # type: ignore[arg-type]
            assert counted.parse().input_tokens > 1
            assert counted.headers["x-token-count"] == "estimated"
        with openai.OpenAI(base_url=f"{house.url}/v1", api_key="none", max_retries=0) as client:
            with client.responses.stream(model="a", input="hi") as events:
                response = events.get_final_response()
            assert response.output_text.strip() == TEN
            assert response.usage is not None
            whole = client.completions.create(model="a", prompt="hi")
            assert whole.choices[0].text.strip() == TEN
        lines = house.request("POST", "/api/chat", {"model": "ollama/a:latest", "messages": HI})
        told = [json.loads(line) for line in lines.body.splitlines()]
        assert "".join(line["message"]["content"] for line in told).strip() == TEN
        assert told[-1]["done_reason"] == "stop"
        shown = house.request("POST", "/api/show", {"model": "a"}).json()
        assert "completion" in shown["capabilities"]


def test_a_call_written_as_text_is_made_and_counted(make_house: MakeHouse) -> None:
    call = '<tool_call>{"name": "ping", "arguments": {}}</tool_call>'
    off = f'[models.off]\nengine = "command.a"\nrescue_tools = false\n'  # noqa: F541
    tools = [{"name": "ping", "input_schema": {"type": "object", "properties": {}}}]
    with make_house(chatty("a", "--reply", call) + off) as house:
        with anthropic.Anthropic(base_url=house.url, api_key="none", max_retries=0) as client:

            def ask(model: str) -> list[str]:
                with client.messages.stream(
                    model=model,
                    max_tokens=64,
                    messages=HI,  # type: ignore[arg-type]
                    tools=tools,  # type: ignore[arg-type]
                ) as stream:
                    return [block.type for block in stream.get_final_message().content]

            assert ask("a") == ["tool_use"]
            assert ask("off") == ["text"]
        assert house.backends()["a"]["rescued"] == 1
        assert "made calls: 1" in house.ctl("ps").stdout


@ALL
def test_a_slow_start_is_borne(make_house: MakeHouse, short_dir: Path, path: str) -> None:
    """No client waits in silence: headers and signs of life long before the model is ready."""
    gate = short_dir / "gate"
    times = timing({"stream_keepalive": 0.2, "sweep": 0.05, "start_stall": 20})
    with make_house(times + chatty("a", "--load-until", str(gate), "--reply", TEN)) as house:
        with opened(house, path, "a") as answer:
            assert answer.status == 200
            first = answer.readline()
            assert house.backends()["a"]["state"] == "starting"
            gate.touch()
            out = first + rest(answer)
        assert b"ten" in out
        assert out.endswith(b"(the end)")


def test_the_loading_status_is_shown_where_it_is_wanted(
    make_house: MakeHouse, short_dir: Path
) -> None:
    gate = short_dir / "gate"
    times = timing({"loading_text": 0.2, "sweep": 0.05, "start_stall": 20})
    model = chatty("a", "--load-until", str(gate), "--reply", TEN, more="loading_text = true")
    with make_house(times + model) as house, opened(house, "/v1/chat/completions", "a") as answer:
        line = json.loads(answer.readline().removeprefix(b"data: "))
        assert "a:" in line["choices"][0]["delta"]["reasoning_content"]
        gate.touch()
        assert b"ten" in rest(answer)


@ALL
def test_kill_9_in_mid_stream(make_house: MakeHouse, path: str) -> None:
    """The table: chat and Ollama are told why, messages and responses are cut; the next request is
    served."""
    flags = ("--tokens", "-1", "--token-s", "0.02")
    with make_house(timing({"backoff": 0.1}) + chatty("a", *flags)) as house:
        with opened(house, path, "a") as answer:
            heard = b""
            while b"lorem" not in heard and len(heard) < 3000:
                heard += answer.read1(300)
            os.kill(house.backends()["a"]["pid"], signal.SIGKILL)
            out = rest(answer)
        assert not out.endswith(b"(the end)")
        assert (b'"error"' in out) == (path not in ("/v1/messages", "/v1/responses"))
        limit = {"/v1/responses": "max_output_tokens"}.get(path, "max_tokens")
        more = {"options": {"num_predict": 3}} if path == "/api/chat" else {limit: 3}
        body = {"model": "a", **ASKED[path], **more}
        assert house.request("POST", path, body).status == 200


# ---------------------------------------------------------------- real engines

PING = {"name": "ping", "input_schema": {"type": "object", "properties": {}}}


@pytest.mark.real
@pytest.mark.parametrize("dialects", ["", 'dialects = ["chat"]\n'], ids=["all", "chat"])
def test_a_tool_round_with_a_real_engine(
    make_house: MakeHouse, tiny_gguf: Path, tool_gguf: Path, dialects: str
) -> None:
    """As Claude Code goes about it: attribution, a system message in the middle, tools."""
    pytest.importorskip("xllamacpp")
    tables = [
        f'[models.{name}]\npath = "{path}"\nengine = "xllamacpp"\nctx = 4096\nargs = ["-t", "1"]\n'
        + dialects
        for name, path in (("tiny", tiny_gguf), ("tool", tool_gguf))
    ]
    system = [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.329.f73;"},
        {"type": "text", "text": "You are terse."},
    ]
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "ping it"},
        {"role": "system", "content": "Note the time."},
    ]
    with make_house("\n".join(tables)) as house:
        with anthropic.Anthropic(base_url=house.url, api_key="none", max_retries=0) as client:

            def ask(model: str) -> anthropic.types.Message:
                with client.messages.stream(
                    model=model,
                    max_tokens=64,
                    system=system,  # type: ignore[arg-type]
                    messages=turns,  # type: ignore[arg-type]
                    tools=[PING],  # type: ignore[list-item]
                ) as stream:
                    return stream.get_final_message()

            called = ask("tool")
            (block,) = called.content
            assert (called.stop_reason, block.type) == ("tool_use", "tool_use")
            assert block.type == "tool_use"
            assert (block.name, block.input) == ("ping", {})
            result = {"type": "tool_result", "tool_use_id": block.id, "content": "pong"}
            turns += [
                {"role": "assistant", "content": [block.model_dump()]},
                {"role": "user", "content": [result]},
            ]
            said = ask("tiny")
            assert said.content[0].type == "text"
            assert said.content[0].text == TEN
            counted = client.messages.count_tokens(
                model="tiny",
                system=system,  # type: ignore[arg-type]
                messages=turns,  # type: ignore[arg-type]
            )
            assert counted.input_tokens > 10
        with openai.OpenAI(base_url=f"{house.url}/v1", api_key="none", max_retries=0) as other:
            function = {"type": "function", "name": "ping", "parameters": PING["input_schema"]}
            with other.responses.stream(
                model="tool",
                input=[
                    {"role": "developer", "content": "Be terse."},
                    {"role": "user", "content": "ping it"},
                ],
                tools=[{**function, "strict": False}],  # type: ignore[list-item]
            ) as events:
                response = events.get_final_response()
            assert [item.type for item in response.output] == ["function_call"]
        lines = house.request("POST", "/api/generate", {"model": "tiny", "prompt": "hi"}).body
        told = [json.loads(line) for line in lines.splitlines()]
        assert "".join(line["response"] for line in told) == TEN


@pytest.mark.real
def test_overflow_is_told_as_claude_code_knows_it(make_house: MakeHouse, tiny_gguf: Path) -> None:
    pytest.importorskip("xllamacpp")
    table = f'[models.t]\npath = "{tiny_gguf}"\nengine = "xllamacpp"\nctx = 1024\n'
    with make_house(table) as house:
        long = [{"role": "user", "content": "word " * 2000}]
        for stream in (False, True):
            body = {"model": "t", "max_tokens": 9, "messages": long, "stream": stream}
            answer = house.request("POST", "/v1/messages", body)
            assert answer.status == 400
            assert answer.json()["error"]["message"].startswith("prompt is too long: ")
        asked = {"model": "t", "input": "word " * 2000}
        refused = house.request("POST", "/v1/responses", asked).json()
        assert refused["error"]["code"] == "context_length_exceeded"


@pytest.mark.real
def test_recorded_clients_are_served(make_house: MakeHouse, models_dir: Path) -> None:
    """As they were recorded: titles, a count, Codex's probes, opencode, pi."""
    pytest.importorskip("xllamacpp")
    path = models_dir / "wide.gguf"
    make_gguf(path, context=131072)
    table = f'[models.qwen3-coder]\npath = "{path}"\nengine = "xllamacpp"\nctx = 65536\n'
    table += 'args = ["-t", "1"]\nmax_output = 32\n'
    house = make_house(table)
    house.server = 'default_model = "qwen3-coder"'
    house.write(table)
    with house:
        for name in (
            "claude_10_messages_tty_title",
            "claude_16_count_tokens_text",
            "codex_08_responses_tui_title",
            "codex_10_oss_preload_probe",
            "codex_13_oss_ollama_probe_4",
            "opencode_01_chat_title",
            "pi_01_chat_first_turn",
        ):
            sample = json.loads((FIXTURES / f"{name}.json").read_text())
            limit = "max_output_tokens" if name.startswith("codex_08") else "max_tokens"
            asked = {**recorded(name), limit: 32}
            answer = house.request("POST", sample["path"], asked, seconds=90)
            assert answer.status == 200, (name, answer.body)
            if "text/event-stream" not in answer.headers["content-type"]:
                continue
            if name.startswith("claude"):
                check_messages(answer.body)
            elif name.startswith("codex"):
                check_responses(answer.body)
            else:
                assert answer.body.endswith(b"data: [DONE]\n\n")
