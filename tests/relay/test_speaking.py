"""Every dialect reaches an engine that chats; answers, errors and signs of life in the client's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.core.messages import Outcome
from daemon.core.problems import Code, Problem
from daemon.dialects.manner import Manner
from daemon.ports import NOT_LOADED, ModelCard, Tokens
from daemon.relay.limits import Limits
from tests.dialects.streams import check_messages, check_responses
from tests.relay.peers import (
    CHUNKED,
    Backend,
    Client,
    Conn,
    Script,
    World,
    both_loops,
    chunk,
    get,
    ok,
    post,
    until,
    world,
)

CHATS = Manner(frozenset({"chat"}))
SPEAKS = Manner(
    frozenset({"chat", "completions", "messages", "count_tokens", "responses"}), tokenizes=True
)
NATIVE = Manner(frozenset({"messages", "count_tokens"}))
READY = ModelCard("m", state="ready")
HI = [{"role": "user", "content": "hi"}]
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI},
    "/v1/completions": {"prompt": "hi"},
    "/v1/messages": {"messages": HI, "max_tokens": 9},
    "/v1/responses": {"input": "hi"},
    "/api/chat": {"messages": HI},
    "/api/generate": {"prompt": "hi"},
}
ALL = pytest.mark.parametrize("path", ASKED)
FAST = Limits(tick=0.01, stream_keepalive=0.05, loading_text=0.05)


def asked(path: str, *, stream: bool, **more: Any) -> bytes:
    body = {"model": "m", **ASKED[path], "stream": stream, **more}
    return post(path, json.dumps(body).encode())


def piece(**delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    value = {"id": "c", "object": "chat.completion.chunk", "choices": [choice]}
    return b"data: " + json.dumps(value).encode() + b"\n\n"


LAST = (
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)
STREAM = piece(role="assistant", content="one ") + piece(content="two") + LAST
WHOLE = json.dumps(
    {
        "id": "c",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "one two"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }
).encode()


def engine(*, cuts: tuple[int, ...] = (), size: int = 0) -> Script:
    """Chats; a stream comes in pieces of ``size`` bytes, each a chunk."""

    async def script(conn: Conn, backend: Backend) -> None:
        while True:
            seen = await conn.request()
            backend.seen.append(seen)
            if not json.loads(seen.body).get("stream"):
                await conn.send(ok(WHOLE))
                continue
            step = size or len(STREAM)
            parts = [STREAM[at : at + step] for at in range(0, len(STREAM), step)]
            await conn.send(CHUNKED + b"".join(map(chunk, parts)) + b"0\r\n\r\n")

    return script


def said(path: str, out: bytes) -> str:
    """The text of a whole stream in its dialect, which is checked."""
    if path == "/v1/messages":
        assert check_messages(out)
        return "".join(e["delta"]["text"] for e in events(out) if "text" in e.get("delta", {}))
    if path == "/v1/responses":
        assert check_responses(out)
        named = "response.output_text.delta"
        return "".join(e["delta"] for e in events(out) if e.get("type") == named)
    if path.startswith("/api/"):
        lines = [json.loads(line) for line in out.splitlines()]
        assert lines[-1]["done"]
        assert (lines[-1]["prompt_eval_count"], lines[-1]["eval_count"]) == (7, 2)
        return "".join(
            line["response"] if path == "/api/generate" else line["message"]["content"]
            for line in lines
        )
    assert out.endswith(b"data: [DONE]\n\n")
    choices = [choice for e in events(out) for choice in e["choices"]]
    return "".join(c.get("text") or c.get("delta", {}).get("content") or "" for c in choices)


def events(out: bytes) -> Iterator[dict[str, Any]]:
    for line in out.splitlines():
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def text_of(path: str, value: dict[str, Any]) -> Any:
    match path:
        case "/v1/messages":
            return value["content"][0]["text"]
        case "/v1/responses":
            return value["output"][0]["content"][0]["text"]
        case "/api/chat":
            return value["message"]["content"]
        case "/api/generate":
            return value["response"]
        case "/v1/completions":
            return value["choices"][0]["text"]
    return value["choices"][0]["message"]["content"]


# ---------------------------------------------------------------- good answers


@ALL
@both_loops
async def test_every_dialect_reaches_an_engine_that_chats(path: str) -> None:
    async with world(engine()) as here:
        here.leases.spoken = CHATS
        here.leases.rename = {"m": "/models/m"}
        whole = await here.once(asked(path, stream=False))
        assert (whole.status, text_of(path, json.loads(whole.body))) == (200, "one two")
        client = await here.client()
        for _ in range(2):  # on one connection
            await client.send(asked(path, stream=True))
            reply = await client.reply()
            assert said(path, reply.body) == "one two"
        kind = "application/x-ndjson" if path.startswith("/api/") else "text/event-stream"
        assert reply.get("content-type") == kind
        for seen in here.backend.seen:
            assert seen.line == "POST /v1/chat/completions HTTP/1.1"
            assert seen.get("content-type") == "application/json"
            assert json.loads(seen.body)["model"] == "/models/m"
        assert [(r.tokens_in, r.tokens_out) for r in here.records] == [(7, 2)] * 3
        assert here.leases.outcomes == [Outcome.OK] * 3
        assert len(here.backend.conns) == 1


@ALL
async def test_pieces_of_the_engines_bytes_never_matter(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # They say in which second they were made.
    monkeypatch.setattr("daemon.relay.talks.time", SimpleNamespace(time=lambda: 1_800_000_000.0))
    answers = set()
    for size in (1, 2, 7, 50, 0):
        async with world(engine(size=size)) as here:
            here.leases.spoken = CHATS
            request = asked(path, stream=True).replace(
                b"\r\n\r\n", b"\r\nX-Request-Id: same\r\n\r\n", 1
            )
            reply = await here.once(request)
            assert said(path, reply.body) == "one two"
            answers.add(reply.body)
    assert len(answers) == 1


@both_loops
async def test_an_old_client_gets_a_stream_to_the_end_of_the_connection() -> None:
    async with world(engine()) as here:
        here.leases.spoken = CHATS
        request = asked("/v1/messages", stream=True).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        reply = await here.once(request)
        assert reply.get("transfer-encoding") is None
        assert said("/v1/messages", reply.body) == "one two"


@pytest.mark.parametrize("path", [path for path in ASKED if path.startswith("/v1/")])
@both_loops
async def test_what_the_engine_speaks_goes_through_to_the_byte(path: str) -> None:
    answer = CHUNKED + chunk(b"any") + chunk(b"thing") + b"0\r\n\r\n"

    async def script(conn: Conn, backend: Backend) -> None:
        backend.seen.append(await conn.request())
        await conn.send(answer)

    async with world(script) as here:
        here.leases.spoken = SPEAKS
        request = asked(path, stream=True)
        reply = await here.once(request)
        assert reply.body == b"anything"
        assert here.backend.seen[0].body == request.partition(b"\r\n\r\n")[2]
        assert here.backend.seen[0].line == f"POST {path} HTTP/1.1"


@pytest.mark.parametrize("path", [path for path in ASKED if path.startswith("/v1/")])
@pytest.mark.parametrize("spoken", [CHATS, SPEAKS], ids=["translated", "native"])
async def test_half_a_character_in_a_request_stops_no_conversation(
    path: str, spoken: Manner
) -> None:
    """Programs in JavaScript send such where they cut a tool's output, and then in each turn."""
    async with world(engine()) as here:
        here.leases.spoken = spoken
        request = asked(path, stream=False).replace(b'"hi"', rb'"hi\ud83d"')
        body = request.partition(b"\r\n\r\n")[2]
        reply = await here.once(post(path, body))
        assert reply.status == 200
        assert "\ufffd" in json.dumps(json.loads(here.backend.seen[0].body), ensure_ascii=False)
        reply = await here.once(post(path, body[:-1]))
        assert reply.status == 400, "what is no JSON otherwise is told"


async def test_a_raw_prompt_of_ollamas_goes_to_completions() -> None:
    async with world(engine()) as here:
        here.leases.spoken = SPEAKS
        reply = await here.once(asked("/api/generate", stream=True, raw=True))
        assert said("/api/generate", reply.body) == "one two"
        (seen,) = here.backend.seen
        assert seen.line == "POST /v1/completions HTTP/1.1"
        assert json.loads(seen.body)["prompt"] == "hi"
        here.leases.spoken = CHATS
        reply = await here.once(asked("/api/generate", stream=True, raw=True))
        assert reply.status == 400
        assert "raw" in json.loads(reply.body)["error"]


async def test_embeddings_as_ollama_has_them() -> None:
    found = {"data": [{"embedding": [1.0, 2.0]}], "usage": {"prompt_tokens": 3}}

    async def script(conn: Conn, backend: Backend) -> None:
        while True:
            backend.seen.append(await conn.request())
            await conn.send(ok(json.dumps(found).encode()))

    async with world(script) as here:
        here.leases.spoken = Manner(frozenset({"embeddings"}))
        new = await here.once(post("/api/embed", b'{"model":"m","input":["a"]}'))
        assert json.loads(new.body)["embeddings"] == [[1.0, 2.0]]
        old = await here.once(post("/api/embeddings", b'{"model":"m","prompt":"a"}'))
        assert json.loads(old.body) == {"embedding": [1.0, 2.0]}
        assert here.backend.seen[0].line == "POST /v1/embeddings HTTP/1.1"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_rescued_call_is_counted(stream: bool) -> None:
    call = '<tool_call>{"name": "ping", "arguments": {}}</tool_call>'

    async def script(conn: Conn, backend: Backend) -> None:
        await conn.request()
        if stream:
            await conn.send(CHUNKED + chunk(piece(content=call) + LAST) + b"0\r\n\r\n")
        else:
            await conn.send(ok(WHOLE.replace(b'"one two"', json.dumps(call).encode())))

    tool = {"name": "ping", "input_schema": {"type": "object", "properties": {}}}
    async with world(script) as here:
        here.leases.spoken = SPEAKS
        reply = await here.once(asked("/v1/messages", stream=stream, tools=[tool]))
        assert b'"tool_use"' in reply.body
        assert here.leases.leases[0].rescued == 1


async def test_a_client_that_does_not_read_holds_the_engine_back() -> None:
    sent = 0

    async def script(conn: Conn, backend: Backend) -> None:
        nonlocal sent
        await conn.request()
        await conn.send(CHUNKED)
        word = chunk(piece(content="word " * 2000))
        while True:
            await conn.send(word)
            sent += len(word)

    limits = Limits(tick=0.01, write_high=64 << 10, write_low=16 << 10)
    async with world(script, limits=limits) as here:
        here.leases.spoken = CHATS
        client = await here.client()
        await client.send(asked("/v1/messages", stream=True))
        await client.head()
        (held,) = here.front._plane.clients
        await until(lambda: held._full)
        assert held._exchange is not None
        assert held._exchange._upstream is not None
        assert held._exchange._upstream._paused
        stopped = sent
        for _ in range(600):  # 6 MB: more than all buffers between the two
            await client.chunk()
        assert sent > stopped


# ---------------------------------------------------------------- counting


COUNT = post(
    "/v1/messages/count_tokens",
    json.dumps({"model": "m", "messages": [*HI, *HI]}).encode(),
)


async def test_tokens_are_counted_by_the_engines_own_tokenizer() -> None:
    async def script(conn: Conn, backend: Backend) -> None:
        while True:
            seen = await conn.request()
            backend.seen.append(seen)
            first = "/apply-template" in seen.line
            answer = {"prompt": "<hi>"} if first else {"tokens": [1, 2, 3]}
            await conn.send(ok(json.dumps(answer).encode()))

    async with world(script) as here:
        here.leases.spoken, here.leases.known["m"] = SPEAKS, READY
        reply = await here.once(COUNT)
        assert json.loads(reply.body) == {"input_tokens": 3}
        assert reply.get("x-token-count") is None
        assert json.loads(here.backend.seen[1].body)["content"] == "<hi>"


async def test_an_estimate_says_so_and_loads_nothing() -> None:
    async with world() as here:
        here.leases.spoken = CHATS
        reply = await here.once(COUNT)
        assert json.loads(reply.body)["input_tokens"] > 1
        assert reply.get("x-token-count") == "estimated"
        assert here.leases.wishes == []


@pytest.mark.parametrize("exact", [True, False])
async def test_tokens_are_counted_by_the_models_own_tokenizer(exact: bool) -> None:
    async with world() as here:
        here.leases.spoken, here.leases.tokens = CHATS, Tokens(42, exact)
        reply = await here.once(COUNT)
        assert json.loads(reply.body) == {"input_tokens": 42}
        assert reply.get("x-token-count") == (None if exact else "estimated")
        (chat,) = here.leases.counted
        assert json.loads(chat)["messages"][0]["content"] == "hi\n\nhi"
        assert here.leases.wishes == []


@pytest.mark.parametrize("spoken", [SPEAKS, NATIVE], ids=["tokenizes", "counts"])
async def test_no_count_asks_for_a_model_that_is_not_loaded(spoken: Manner) -> None:
    async with world() as here:
        here.leases.spoken, here.leases.tokens = spoken, Tokens(42, exact=True)
        assert json.loads((await here.once(COUNT)).body) == {"input_tokens": 42}
        here.leases.known["m"] = READY
        here.leases.problems = [NOT_LOADED]  # it left in that moment
        assert json.loads((await here.once(COUNT)).body) == {"input_tokens": 42}
        assert (len(here.leases.wishes), here.backend.seen) == (1, [])


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_an_engine_that_does_not_count_after_all(status: int) -> None:
    async with world(refusing(status, {"error": "no"})) as here:
        here.leases.spoken, here.leases.tokens = NATIVE, Tokens(42, exact=True)
        here.leases.known["m"] = READY
        for _ in range(2):
            reply = await here.once(COUNT)
            assert (reply.status, json.loads(reply.body)) == (200, {"input_tokens": 42})


async def test_an_engine_that_dies_while_it_counts() -> None:
    async def script(conn: Conn, backend: Backend) -> None:
        await conn.request()
        conn.reset()

    async with world(script) as here:
        here.leases.spoken, here.leases.tokens = NATIVE, Tokens(42, exact=True)
        here.leases.known["m"] = READY
        assert json.loads((await here.once(COUNT)).body) == {"input_tokens": 42}


async def test_who_waits_for_a_count_may_leave() -> None:
    async with world() as here:
        here.leases.spoken, here.leases.hold = CHATS, True
        client = await here.client()
        await client.send(COUNT)
        await until(lambda: here.leases.counting)
        ((_, waiting),) = here.leases.counting
        client.close()
        await until(lambda: waiting.cancelled == 1)
        other = await here.client()
        await other.send(COUNT)
        await until(lambda: len(here.leases.counting) == 2)
        here.leases.counting[1][0](Tokens(7, exact=True))
        assert json.loads((await other.reply()).body) == {"input_tokens": 7}


async def test_a_count_of_nothing_that_can_be_read() -> None:
    async with world() as here:
        here.leases.spoken = CHATS
        reply = await here.once(post("/v1/messages/count_tokens", b'{"model":"m","messages":7}'))
        assert (reply.status, json.loads(reply.body)["type"]) == (400, "error")
        assert here.leases.counted == []


# ---------------------------------------------------------------- errors


OVERFLOW = {
    "error": {
        "code": 400,
        "message": "request (90 tokens) exceeds the available context size (50 tokens)",
        "type": "exceed_context_size_error",
    }
}


def refusing(status: int, body: object) -> Script:
    async def script(conn: Conn, backend: Backend) -> None:
        while True:
            await conn.request()
            answer = ok(json.dumps(body).encode())
            await conn.send(answer.replace(b"200 OK", b"%d No" % status, 1))

    return script


@pytest.mark.parametrize("spoken", [CHATS, SPEAKS], ids=["translated", "native"])
@ALL
async def test_overflow_in_each_clients_wording(path: str, spoken: Manner) -> None:
    async with world(refusing(400, OVERFLOW)) as here:
        here.leases.spoken = spoken
        for stream in (False, True):
            reply = await here.once(asked(path, stream=stream))
            error = json.loads(reply.body)["error"]
            assert reply.status == 400
            if path == "/v1/messages":
                assert error["message"] == "prompt is too long: 90 tokens > 50 maximum"
            elif path.startswith("/api/"):
                assert "maximum context length is 50 tokens" in error
            else:
                assert error["code"] == "context_length_exceeded"
        assert here.leases.outcomes == [Outcome.OK] * 2


@pytest.mark.parametrize("spoken", [CHATS, SPEAKS], ids=["translated", "native"])
async def test_an_engines_own_error_has_the_clients_shape(spoken: Manner) -> None:
    async with world(refusing(500, {"error": {"message": "oh no", "code": 500}})) as here:
        here.leases.spoken = spoken
        reply = await here.once(asked("/v1/messages", stream=True))
        value = json.loads(reply.body)
        assert (reply.status, value["type"], value["error"]["type"]) == (500, "error", "api_error")
        assert "oh no" in value["error"]["message"]
        assert here.leases.leases[0].status == 500


async def test_a_failure_before_the_first_word_has_a_status() -> None:
    async def script(conn: Conn, backend: Backend) -> None:
        await conn.request()
        event = b"data: " + json.dumps(OVERFLOW).encode() + b"\n\n"
        await conn.send(CHUNKED + chunk(event))
        await conn.closed()

    async with world(script) as here:
        here.leases.spoken = CHATS
        reply = await here.once(asked("/v1/messages", stream=True))
        assert reply.status == 400
        assert b"prompt is too long" in reply.body


@ALL
@both_loops
async def test_a_backend_killed_in_mid_stream(path: str) -> None:
    """The table of what is said before the connection is cut."""

    async def script(conn: Conn, backend: Backend) -> None:
        await conn.request()
        await conn.send(CHUNKED + chunk(piece(role="assistant", content="one ")))
        await until(lambda: backend.told)  # type: ignore[attr-defined]
        conn.reset()

    async with world(script) as here:
        here.leases.spoken = CHATS
        here.backend.told = False  # type: ignore[attr-defined]
        client = await here.client()
        await client.send(asked(path, stream=True))
        await client.head()
        first = await client.chunk()
        assert b"one" in first
        here.backend.told = True  # type: ignore[attr-defined]
        if path in ("/v1/messages", "/v1/responses"):
            assert await client.ended_by_reset()
        else:
            rest = await client.rest()
            assert b"error" in rest
            assert not rest.endswith(b"0\r\n\r\n")
        await until(lambda: here.leases.outcomes == [Outcome.UPSTREAM_ERROR])


async def test_what_was_not_sent_on_is_tried_again() -> None:
    """The engine's first event says nothing to an Ollama client."""

    async def script(conn: Conn, backend: Backend) -> None:
        backend.seen.append(await conn.request())
        if len(backend.seen) == 1:
            await conn.send(CHUNKED + chunk(piece(role="assistant")))
            conn.reset()
            return
        await conn.send(CHUNKED + chunk(STREAM) + b"0\r\n\r\n")

    async with world(script) as here:
        here.leases.spoken = CHATS
        reply = await here.once(asked("/api/chat", stream=True))
        assert said("/api/chat", reply.body) == "one two"
        assert here.leases.outcomes == [Outcome.LOST, Outcome.OK]


async def test_a_retry_is_worded_for_its_own_engine() -> None:
    async def script(conn: Conn, backend: Backend) -> None:
        backend.seen.append(await conn.request())
        if len(backend.seen) == 1:
            here.leases.spoken = CHATS
            conn.reset()
            return
        await conn.send(CHUNKED + chunk(STREAM) + b"0\r\n\r\n")

    async with world(script) as here:
        here.leases.spoken = SPEAKS
        reply = await here.once(asked("/v1/messages", stream=True))
        assert said("/v1/messages", reply.body) == "one two"
        lines = [seen.line for seen in here.backend.seen]
        assert lines == ["POST /v1/messages HTTP/1.1", "POST /v1/chat/completions HTTP/1.1"]


async def test_the_clients_mistake_is_told_by_its_field() -> None:
    async with world() as here:
        here.leases.spoken = CHATS
        reply = await here.once(post("/v1/messages", b'{"model":"m","messages":1}'))
        assert reply.status == 400
        assert "messages" in json.loads(reply.body)["error"]["message"]
        reply = await here.once(post("/completion", b'{"prompt":"a"}'))
        assert json.loads(reply.body)["error"]["code"] == "unsupported_dialect"


# ---------------------------------------------------------------- waiting


async def begun(here: World, path: str, **more: Any) -> tuple[Client, bytes]:
    """A client whose request waits for its model, and the first sign of life."""
    here.leases.hold = True
    client = await here.client()
    await client.send(asked(path, stream=True, **more))
    status, _, _ = await client.head()
    assert status == 200
    return client, await client.chunk()


def grant(here: World) -> None:
    wish, done, _ = here.leases.waiting.pop()
    here.leases.hold = False
    here.leases.answer(wish, done)


@pytest.mark.parametrize(
    ("path", "spoken"),
    # A raw prompt stays raw where the engine takes it: its chunks follow as they are.
    [(p, s) for s in (CHATS, SPEAKS) for p in ASKED if s is CHATS or p != "/v1/completions"],
)
@both_loops
async def test_signs_of_life_while_a_model_starts(path: str, spoken: Manner) -> None:
    async with world(engine(), limits=FAST) as here:
        here.leases.spoken = spoken
        client, out = await begun(here, path)
        out += await client.chunk()
        assert (b": waiting" in out) == (path in ("/v1/chat/completions", "/v1/completions"))
        assert (b"event: ping" in out) == (path == "/v1/messages")
        assert (b"response.in_progress" in out) == (path == "/v1/responses")
        assert (b'"done":false' in out) == path.startswith("/api/")
        grant(here)
        while more := await client.chunk():
            out += more
        assert said(path, out) == "one two"
        await until(lambda: here.records)
        assert here.records[0].tokens_out == 2


@ALL
async def test_an_error_after_a_sign_of_life_is_told_in_the_stream(path: str) -> None:
    async with world(engine(), limits=FAST) as here:
        here.leases.spoken = CHATS
        client, _ = await begun(here, path)
        _, done, _ = here.leases.waiting.pop()
        done(Problem(Code.MODEL_UNAVAILABLE, "It does not start."))
        rest = await client.rest()
        assert (b"It does not start." in rest) == (path != "/v1/responses")
        assert not rest.endswith(b"0\r\n\r\n")


async def test_no_sign_of_life_for_who_asked_for_no_stream() -> None:
    async with world(engine(), limits=FAST) as here:
        here.leases.spoken = CHATS
        here.leases.hold = True
        client = await here.client()
        await client.send(asked("/v1/messages", stream=False))
        await until(lambda: here.leases.waiting)
        await asyncio.sleep(0.2)  # several times the silence after which a stream would be told
        _, done, _ = here.leases.waiting.pop()
        done(Problem(Code.MODEL_UNAVAILABLE, "It does not start."))
        assert (await client.reply()).status == 500


async def test_the_loading_status_as_reasoning() -> None:
    limits = Limits(tick=0.01, stream_keepalive=60, loading_text=0.05)
    async with world(engine(), limits=limits) as here:
        here.leases.spoken = Manner(frozenset({"chat"}), loading_text=True)
        here.leases.waits_for = "m: loading"
        client, out = await begun(here, "/v1/chat/completions")
        assert '"reasoning_content":"m: loading\\n"' in out.decode()
        grant(here)
        while more := await client.chunk():
            out += more
        assert said("/v1/chat/completions", out) == "one two"


@pytest.mark.parametrize("spoken", [CHATS, SPEAKS], ids=["translated", "native"])
@pytest.mark.parametrize("good", [True, False], ids=["answers", "refuses"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_signs_of_life_while_a_prompt_is_read(path: str, good: bool, spoken: Manner) -> None:
    go = asyncio.Event()
    own = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    written = own if path == "/v1/messages" and spoken is SPEAKS else STREAM

    async def script(conn: Conn, backend: Backend) -> None:
        await conn.request()
        await go.wait()
        if good:
            await conn.send(CHUNKED + chunk(written) + b"0\r\n\r\n")
        else:
            refused = ok(b'{"error":{"message":"no"}}').replace(b"200 OK", b"422 No", 1)
            await conn.send(refused)

    async with world(script, limits=FAST) as here:
        here.leases.spoken = spoken
        client = await here.client()
        await client.send(asked(path, stream=True))
        assert (await client.head())[0] == 200
        assert (b"ping" if path == "/v1/messages" else b": waiting") in await client.chunk()
        go.set()
        rest = await client.rest() if not good else b""
        while good and (more := await client.chunk()):
            rest += more
        if good:
            assert (b"two" in rest) or rest.endswith(own)
        else:
            assert b"The engine refused the request: no" in rest
            assert not rest.endswith(b"0\r\n\r\n")
        await until(lambda: here.leases.outcomes == [Outcome.OK])


@pytest.mark.parametrize(
    ("path", "word"), [("/v1/chat/completions", b": waiting"), ("/v1/messages", b"ping")]
)
async def test_an_engines_own_silent_stream_is_kept_alive_between_events(
    path: str, word: bytes
) -> None:
    go = asyncio.Event()

    async def script(conn: Conn, backend: Backend) -> None:
        await conn.request()
        await conn.send(CHUNKED + chunk(b"data: half"))
        await go.wait()
        await conn.send(chunk(b" an event\n\n"))
        await conn.closed()

    async with world(script) as here:
        here.leases.spoken = SPEAKS
        client = await here.client()
        await client.send(asked(path, stream=True))
        await client.head()
        assert await client.chunk() == b"data: half"
        here.front.set_limits(FAST)  # no sooner, or a sign of life may come before its first word
        go.set()
        assert await client.chunk() == b" an event\n\n"
        assert word in await client.chunk()
        assert here.leases.leases[0].sent is not None
        before = here.leases.leases[0].sent()
        assert word in await client.chunk()
        assert here.leases.leases[0].sent() == before  # no progress of the backend's


# ---------------------------------------------------------------- Ollama's own


async def test_ollama_is_shown_what_there_is() -> None:
    async with world() as here:
        tags = json.loads((await here.once(get("/api/tags"))).body)
        assert {model["name"] for model in tags["models"]} == {"m", "org/big"}
        version = json.loads((await here.once(get("/api/version"))).body)["version"]
        assert [*map(int, version.split("."))] >= [0, 13, 4], "an older one is refused by Codex"
        assert json.loads((await here.once(get("/api/ps"))).body) == {"models": []}
        shown = json.loads((await here.once(post("/api/show", b'{"model":"m"}'))).body)
        assert "completion" in shown["capabilities"]
        pulled = await here.once(post("/api/pull", b'{"name":"m"}'))
        assert json.loads(pulled.body.splitlines()[-1]) == {"status": "success"}
        for request in (
            post("/api/pull", b'{"model":"absent"}'),
            post("/api/delete", b'{"model":"m"}', method="DELETE"),
            post("/api/generate", b'{"model":"m","keep_alive":0}'),
        ):
            reply = await here.once(request)
            assert reply.status == 401
            assert "scope control" in json.loads(reply.body)["error"]
        missing = await here.once(post("/api/show", b'{"model":"absent"}'))
        assert missing.status == 404
        assert isinstance(json.loads(missing.body)["error"], str)


async def test_an_order_to_load_waits_for_the_model_and_asks_it_nothing() -> None:
    async with world() as here:
        here.leases.spoken = CHATS
        reply = await here.once(post("/api/generate", b'{"model":"m"}'))
        assert json.loads(reply.body)["done_reason"] == "load"
        assert len(here.leases.wishes) == 1
        assert here.backend.seen == []
