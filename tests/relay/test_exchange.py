"""Leases, second attempts, faults of the backend, what goes through and what does not."""

from __future__ import annotations

import asyncio
import json

import pytest

from daemon.core.messages import Outcome
from daemon.ports import Route
from tests.relay.peers import (
    CHUNKED,
    Backend,
    Conn,
    Script,
    both_loops,
    chunk,
    echo,
    get,
    ok,
    post,
    until,
    world,
)

BODY = b'{"model":"m"}'


def always(answer: bytes, *, close: bool = False) -> Script:
    """Answer every request with the same bytes."""

    async def script(conn: Conn, backend: Backend) -> None:
        while True:
            backend.seen.append(await conn.request())
            await conn.send(answer)
            if close:
                return

    return script


# ---------------------------------------------------------------- the way in


@both_loops
async def test_the_backend_sees_a_fresh_head() -> None:
    async with world() as here:
        fields = (
            "Authorization: Bearer sk-secret",
            "X-Api-Key: secret",
            "Cookie: a=secret",
            "X-Forwarded-For: secret",
            "X-Forwarded-Anything: secret",
            "Forwarded: for=secret",
            "X-Real-IP: secret",
            "Proxy-Authorization: secret",
            "Referer: http://secret",
            "Accept-Encoding: gzip, br, zstd",
            "Connection: keep-alive, X-Hop",
            "X-Hop: secret",
            "Keep-Alive: timeout=5, secret",
            "TE: trailers",
            "Upgrade: secret",
            "Expect: 100-continue",
            "Anthropic-Beta: a, b",
            "User-Agent: claude-cli/2.1",
            "X-Request-Id: mine-1",
        )
        client = await here.client()
        await client.send(post("/v1/messages?beta=true", BODY, *fields))
        reply = await client.reply()
        seen = here.backend.seen[0]
        assert seen.line == "POST /v1/messages?beta=true HTTP/1.1"
        assert b"secret" not in seen.head
        assert seen.get("host") == f"127.0.0.1:{here.leases.target.port}"
        assert seen.get("authorization") == "Bearer per-start-key"
        assert seen.get("accept-encoding") == "identity"
        assert seen.get("anthropic-beta") == "a, b"
        assert seen.get("user-agent") == "claude-cli/2.1"
        assert seen.get("x-request-id") == reply.get("x-request-id") == "mine-1"
        names = [name for name, _ in seen.fields]
        assert len(names) == len(set(names))


@both_loops
async def test_request_ids_are_the_clients_if_they_are_words() -> None:
    async with world() as here:
        for bad in ("a b", "x" * 129, "é", "a;b", ""):
            reply = await here.once(post("/v1/completions", BODY, f"X-Request-Id: {bad}"))
            assert (reply.get("x-request-id") or "").startswith("req_")
        ids = {seen.get("x-request-id") for seen in here.backend.seen}
        assert len(ids) == 5


@both_loops
async def test_wishes_say_who_wants_what() -> None:
    async with world() as here:
        agent = "User-Agent: pi/1.5"
        await here.once(post("/v1/messages", BODY, "X-Claude-Code-Session-Id: abc", agent))
        await here.once(post("/v1/responses", BODY, "session-id: def", agent))
        await here.once(post("/v1/rerank", BODY, agent))
        first, second, third = here.leases.wishes
        assert (first.model, first.route, first.client) == ("m", Route.MESSAGES, "abc")
        assert (second.route, second.client) == (Route.RESPONSES, "def")
        assert (third.client, third.body_bytes) == ("127.0.0.1 pi/1.5", len(BODY))
        assert (third.attempt, third.arrived, third.principal.name) == (1, None, "local")


@both_loops
async def test_the_name_is_replaced_where_the_backend_wants_another() -> None:
    form = (
        b'--XX\r\nContent-Disposition: form-data; name="file"\r\n\r\n\x00\xff\r\n'
        b'--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--XX--\r\n'
    )
    async with world() as here:
        here.leases.rename = {"m": "/models/m.gguf"}
        sent = b'{"messages": [{"model": 1}], "model": "m", "seed": 1.0}'
        reply = await here.once(post(body=sent))
        assert reply.body == sent.replace(b'"m"', b'"/models/m.gguf"')
        head = (
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: %d\r\n\r\n"
        )
        reply = await here.once(head % len(form) + form)
        assert reply.body == form.replace(b"\r\nm\r\n", b"\r\n/models/m.gguf\r\n")
        reply = await here.once(post("/v1/images/edits"))
        assert reply.body == b'{"model":"/models/m.gguf"}'
        assert [wish.route for wish in here.leases.wishes[1:]] == [Route.AUDIO, Route.IMAGES]
        # An engine's own API has no such field; what is not there is not replaced.
        assert (await here.once(post("/infill", b"{}"))).body == b"{}"
        assert here.leases.wishes[-1].model == ""


@both_loops
async def test_engines_that_take_no_query_get_none() -> None:
    async with world() as here:
        here.leases.keep_query = False
        await here.once(post("/v1/messages?beta=true"))
        assert here.backend.seen[0].line == "POST /v1/messages HTTP/1.1"


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"", 400, "empty"),
        (b"{}", 400, "missing"),
        (b"[1]", 400, "an array"),
        (b'{"model":1}', 400, "a number"),
        (b'{"model":"a","model":"b"}', 400, "2 times"),
        (b'{"a":' + b"[" * 1000 + b"]" * 1000 + b"}", 400, "deeply"),
    ],
)
async def test_bodies_are_refused_by_name_of_the_field(body: bytes, status: int, word: str) -> None:
    async with world() as here:
        client = await here.client()
        await client.send(post("/v1/messages", body))
        reply = await client.reply()
        error = json.loads(reply.body)
        assert (reply.status, error["type"]) == (status, "error")
        assert word in error["error"]["message"]
        assert reply.get("x-should-retry") == "false"
        # The body was read, so the connection is good for more.
        await client.send(post())
        assert (await client.reply()).status == 200


# ---------------------------------------------------------------- the way out


@both_loops
async def test_the_client_sees_a_fresh_head() -> None:
    answer = ok(
        b"{}",
        b"Server: llama.cpp",
        b"Set-Cookie: a=b",
        b"Access-Control-Allow-Origin: *",
        b"Access-Control-Allow-Credentials: true",
        b"Connection: keep-alive, X-Hop",
        b"X-Hop: 1",
        b"Keep-Alive: timeout=5, max=100",
        b"Strict-Transport-Security: max-age=1",
        b"X-Request-Id: theirs",
        b"Proxy-Status: x",
        b"Trailer: x",
        b"X-Kept: a\tb",
    )
    async with world(always(answer)) as here:
        reply = await here.once(post("/v1/completions", BODY, "X-Request-Id: mine"))
        ours = {"content-length", "x-request-id", "server-timing"}
        assert set(reply.names) == {"content-type", "x-kept"} | ours
        assert reply.get("x-request-id") == "mine"
        assert reply.get("x-kept") == "a\tb"


@both_loops
async def test_chunks_arrive_as_they_are_sent() -> None:
    step = asyncio.Event()

    async def paced(conn: Conn, backend: Backend) -> None:
        await conn.request()
        await conn.send(CHUNKED)
        for number in range(5):
            await conn.send(chunk(b"data: %d\n\n" % number))
            await step.wait()
            step.clear()
        await conn.send(b"0\r\nX-Trailer: dropped\r\n\r\n")
        await conn.request()
        await conn.send(ok(b"again"))

    async with world(paced) as here:
        client = await here.client()
        await client.send(post())
        status, fields, _ = await client.head()
        assert (status, dict(fields)["transfer-encoding"]) == (200, "chunked")
        assert dict(fields)["content-type"] == "text/event-stream"
        for number in range(5):
            assert await client.chunk() == b"data: %d\n\n" % number
            step.set()
        assert await client.chunk() == b""
        await client.send(post())
        assert (await client.reply()).body == b"again"
        assert len(here.backend.conns) == 1


@both_loops
async def test_old_clients_get_an_answer_that_ends_with_the_connection() -> None:
    answer = CHUNKED + chunk(b"one") + chunk(b"two") + b"0\r\n\r\n"
    async with world(always(answer)) as here:
        client = await here.client()
        await client.send(b"POST /v1/completions HTTP/1.0\r\nContent-Length: 13\r\n\r\n" + BODY)
        raw = await client.rest()
        head, _, body = raw.partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert b"connection: close" in head
        assert body == b"onetwo"


@both_loops
async def test_answers_that_end_with_the_connection_are_chunked() -> None:
    answer = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it"
    async with world(always(answer, close=True)) as here:
        client = await here.client()
        for _ in range(2):
            await client.send(post())
            reply = await client.reply()
            assert (reply.get("transfer-encoding"), reply.body) == ("chunked", b"all of it")
        assert len(here.backend.conns) == 2


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", 304, b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b""),
        (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx", 200, b"x"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"x"), 200, b"x"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" * 3 + ok(b"x"), 200, b"x"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
            302,
            b"",
        ),
        (b"HTTP/1.1 400 Bad\r\nContent-Length: 4\r\n\r\nbad!", 400, b"bad!"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", 503, b"busy"),
        (b"HTTP/1.1 529 Odd\r\nContent-Length: 3\r\n\r\nodd", 529, b"odd"),
    ],
)
async def test_answers_pass_whatever_their_status(answer: bytes, status: int, body: bytes) -> None:
    async with world(always(answer)) as here:
        client = await here.client()
        for _ in range(2):
            await client.send(post("/v1/rerank"))
            reply = await client.reply()
            assert (reply.status, reply.body) == (status, body)
        assert here.leases.outcomes == [Outcome.OK, Outcome.OK]
        assert len(here.backend.conns) == 1
        if status == 302:
            assert reply.get("location") == "http://169.254.169.254/"


@both_loops
async def test_answers_split_at_every_byte() -> None:
    answers = [
        ok(b"hello", b"X-A: b"),
        b"HTTP/1.1 100 Continue\r\n\r\n"
        + CHUNKED
        + chunk(b"hel")
        + chunk(b"lo")
        + b"0\r\nA: b\r\n\r\n",
    ]

    async def split(conn: Conn, backend: Backend) -> None:
        while True:
            body = (await conn.request()).body
            asked = json.loads(body)
            answer, at = answers[asked["n"]], asked["at"]
            pieces = [answer[:at], answer[at:]] if at else [bytes([byte]) for byte in answer]
            for piece in pieces:
                await conn.send(piece)
                await asyncio.sleep(0)
                await asyncio.sleep(0)

    async with world(split) as here:
        client = await here.client()
        for number, answer in enumerate(answers):
            for at in range(len(answer)):
                await client.send(post(body=b'{"model":"m","n":%d,"at":%d}' % (number, at)))
                reply = await client.reply()
                assert (reply.status, reply.body) == (200, b"hello"), answer[:at]
        assert len(here.backend.conns) == 1


@both_loops
async def test_records_tell_what_happened() -> None:
    async with world() as here:
        await here.once(post("/v1/messages?x=1", b'{"model":"m","stream":true}', "User-Agent: a"))
        await here.once(get("/nothing%0a"))
        await until(lambda: len(here.records) == 2)
        first, second = here.records
        assert (first.method, first.path, first.model, first.status) == (
            "POST",
            "/v1/messages",
            "m",
            200,
        )
        assert (first.bytes_in, first.outcome, first.attempts) == (27, "ok", 1)
        assert first.bytes_out > 100
        assert first.queue is not None
        assert first.first_byte is not None
        assert 0 <= first.queue <= first.first_byte <= first.total < 30  # seconds
        assert (first.peer, first.client) == ("127.0.0.1", "127.0.0.1 a")
        assert (second.path, second.status, second.queue) == ("/nothing%0a", 404, None)


@both_loops
async def test_echo_over_a_unix_socket(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("s") / "b.sock")
    async with world(echo, uds=path) as here:
        client = await here.client()
        for _ in range(2):
            await client.send(post())
            assert (await client.reply()).body == BODY
        assert here.backend.seen[0].get("host") == "localhost"
        assert len(here.backend.conns) == 1
