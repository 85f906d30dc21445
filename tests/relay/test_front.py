"""The port as a whole: local answers, CORS, tunnels, drain."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from daemon.core.messages import Outcome
from daemon.ports import Route
from daemon.relay.front import Front
from daemon.relay.guard import Guard
from daemon.relay.limits import Limits
from daemon.relay.routes import listed
from tests.relay.peers import (
    CHUNKED,
    Backend,
    Conn,
    FakeLeases,
    Reply,
    both_loops,
    chunk,
    get,
    ok,
    post,
    until,
    world,
)


@both_loops
async def test_local_answers() -> None:
    async with world() as here:
        client = await here.client()

        async def ask(data: bytes, *, head_only: bool = False) -> Reply:
            await client.send(data)
            return await client.reply(head_only=head_only)

        assert json.loads((await ask(get("/health"))).body) == {"status": "ok"}
        welcome = await ask(get("/"))
        assert b"/v1/chat/completions" in welcome.body
        models = json.loads((await ask(get("/v1/models"))).body)
        assert [model["id"] for model in models["data"]] == ["m", "org/big"]
        found = json.loads((await ask(get("/v1/models?limit=1000"))).body)
        assert "anthropic/m" in [model["id"] for model in found["data"]]
        for path in ("/v1/models/org/big", "/v1/models/org%2Fbig"):
            assert json.loads((await ask(get(path))).body)["id"] == "org/big"
        missing = await ask(get("/v1/models/nope"))
        assert (missing.status, json.loads(missing.body)["error"]["code"]) == (
            404,
            "model_not_found",
        )
        head = await ask(get("/v1/models", method="HEAD"), head_only=True)
        assert (head.status, int(head.get("content-length") or 0) > 100) == (200, True)
        lost = await ask(get("/api/hello", method="HEAD"), head_only=True)
        assert lost.status == 404
        wrong = await ask(get("/v1/responses"))
        assert (wrong.status, wrong.get("allow")) == (405, "POST, OPTIONS")
        for method, path in listed():
            if method == "GET":
                whole = await ask(get(path))
                head = await ask(get(path, method="HEAD"), head_only=True)
                assert head.status == whole.status == 200, path
                assert head.get("content-length") == str(len(whole.body)), path
        # It is all one connection: each answer had the length that it claimed.
        assert here.front.connections == 1
        assert here.leases.wishes == []


@both_loops
async def test_the_control_plane_is_not_on_the_port() -> None:
    async with world() as here:
        for path in ("/control/v1/status", "/ui/", "/metrics"):
            reply = await here.once(get(path))
            assert reply.status == 401
            error = json.loads(reply.body)["error"]
            assert error["code"] == "unauthorized"
            assert "ctl" in error["hint"]


@both_loops
async def test_no_answer_lets_other_origins_read() -> None:
    async with world() as here:
        for method, path in [*listed(), ("GET", "/nothing"), ("GET", "/control/x")]:
            for origin in ("Origin: https://evil.example", "Origin: null"):
                for asked in (method, "OPTIONS"):
                    data = post(path, b'{"model":"m"}', origin, method=asked)
                    reply = await here.once(data)
                    assert reply.status == 403, (asked, path)
                    assert not [name for name in reply.names if name.startswith("access-control")]
        assert here.leases.wishes == []


@both_loops
async def test_configured_origins_may() -> None:
    origin = "https://app.example"
    async with world(guard=Guard(cors_origins=[origin])) as here:
        asked = (
            f"Origin: {origin}",
            "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: authorization, x-stainless-os",
        )
        pre = await here.once(get("/v1/chat/completions", *asked, method="OPTIONS"))
        assert (pre.status, pre.body) == (204, b"")
        assert pre.get("access-control-allow-origin") == origin
        assert pre.get("access-control-allow-headers") == "authorization, x-stainless-os"
        assert pre.get("vary") == "Origin"
        for data in (post(), get("/v1/models", asked[0]), get("/nothing", asked[0])):
            reply = await here.once(
                data.replace(b"\r\n\r\n", b"\r\n" + asked[0].encode() + b"\r\n\r\n", 1)
                if data.startswith(b"POST")
                else data
            )
            assert reply.get("access-control-allow-origin") == origin
            assert reply.get("access-control-allow-credentials") is None
        odd = (asked[0], "Access-Control-Request-Headers: a\tb")
        reply = await here.once(get("/v1/models", *odd, method="OPTIONS"))
        assert reply.get("access-control-allow-headers") is None
        plain = await here.once(get("/v1/models"))
        assert plain.get("access-control-allow-origin") is None
        tunnel = await here.once(get("/upstream/m/x", method="OPTIONS"))
        assert "DELETE" in (tunnel.get("allow") or "")
        options = await here.once(get("/v1/models", method="OPTIONS"))
        assert (options.status, options.get("allow")) == (204, "GET, HEAD, OPTIONS")


# ---------------------------------------------------------------- /upstream/


@both_loops
async def test_anything_else_a_backend_serves() -> None:
    async with world() as here:
        here.leases.rename = {"m": "other"}
        reply = await here.once(get("/upstream/m/tokenize?x=%20y"))
        assert reply.status == 200
        body = b'{"model":"left alone"}'
        assert (await here.once(post("/upstream/org/big/v1/x", body))).body == body
        assert (await here.once(post("/upstream/org%2Fbig/v1/x", b"raw"))).body == b"raw"
        lines = [seen.line for seen in here.backend.seen]
        assert lines == [
            "GET /tokenize?x=%20y HTTP/1.1",
            "POST /v1/x HTTP/1.1",
            "POST /v1/x HTTP/1.1",
        ]
        assert here.backend.seen[0].get("content-length") is None
        wishes = [(wish.model, wish.route) for wish in here.leases.wishes]
        assert wishes == [
            ("m", Route.UPSTREAM),
            ("org/big", Route.UPSTREAM),
            ("org/big", Route.UPSTREAM),
        ]


@both_loops
async def test_what_changes_a_backend_is_refused() -> None:
    async with world() as here:
        for path, status in (
            ("/upstream/m/props", 403),
            ("/upstream/m/slots/0?action=save", 403),
            ("/upstream/m/lora-adapters", 403),
            ("/upstream/m/x/../props", 400),
            ("/upstream/m/%70rops", 403),
            ("/upstream//tokenize", 400),
        ):
            reply = await here.once(post(path))
            assert reply.status == status, path
        assert here.backend.seen == []
        assert here.leases.wishes == []


@both_loops
async def test_head_requests_of_a_backend() -> None:
    async def heads(conn: Conn, backend: Backend) -> None:
        backend.seen.append(await conn.request())
        await conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nX-A: b\r\n\r\n")
        await conn.closed()

    async with world(heads) as here:
        client = await here.client()
        for _ in range(2):
            await client.send(get("/upstream/m/", method="HEAD"))
            reply = await client.reply(head_only=True)
            assert (reply.get("content-length"), reply.get("x-a")) == ("12345", "b")
        assert here.backend.seen[0].line == "HEAD / HTTP/1.1"


WEBSOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Key: abc",
    "Sec-WebSocket-Version: 13",
)


async def switching(conn: Conn, backend: Backend) -> None:
    backend.seen.append(await conn.request())
    await conn.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: xyz\r\nServer: x\r\n\r\nfirst"
    )
    while data := await conn.reader.read(65536):
        await conn.send(data.upper())


@both_loops
async def test_websockets_are_tunnelled_there_and_only_there() -> None:
    async with world(switching) as here:
        client = await here.client()
        await client.send(get("/upstream/m/ws", *WEBSOCKET) + b"early")
        status, fields, _ = await client.head()
        assert (status, dict(fields)["sec-websocket-accept"]) == (101, "xyz")
        assert "server" not in dict(fields)
        assert await client.reader.readexactly(10) == b"firstEARLY"
        seen = here.backend.seen[0]
        assert (seen.get("upgrade"), seen.get("sec-websocket-key")) == ("websocket", "abc")
        big = bytes(65 + number % 26 for number in range(3_000_000))
        client.writer.write(big)
        assert await asyncio.wait_for(client.reader.readexactly(len(big)), 10) == big
        assert here.leases.outcomes == []
        client.close()
        await asyncio.wait_for(here.backend.conns[0].gone.wait(), 5)
        await until(lambda: here.leases.outcomes == [Outcome.OK])
        assert (await here.once(get("/v1/responses", *WEBSOCKET))).status == 405


@both_loops
async def test_a_tunnel_ends_when_the_backend_ends_it() -> None:
    async def brief(conn: Conn, backend: Backend) -> None:
        await conn.request()
        await conn.send(
            b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nbye"
        )

    async with world(brief) as here:
        client = await here.client()
        await client.send(get("/upstream/m/ws", *WEBSOCKET))
        assert (await client.rest()).endswith(b"\r\n\r\nbye")
        assert here.leases.outcomes == [Outcome.OK]


@both_loops
async def test_a_tunnel_is_not_filled_without_bound() -> None:
    go = asyncio.Event()
    total = 30_000_000

    async def lazy(conn: Conn, backend: Backend) -> None:
        await conn.request()
        await conn.send(
            b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        )
        conn.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await go.wait()
        conn.reader._transport.resume_reading()  # type: ignore[attr-defined]
        got = 0
        while got < total:
            got += len(await conn.reader.read(1 << 20))
        await conn.send(b"all")
        await conn.closed()

    async with world(lazy) as here:
        client = await here.client()
        await client.send(get("/upstream/m/ws", *WEBSOCKET))
        await client.head()
        client.writer.write(b"x" * total)
        connection = next(iter(here.front._plane.clients))
        await until(lambda: not connection._reading)
        go.set()
        assert await asyncio.wait_for(client.reader.readexactly(3), 10) == b"all"


@both_loops
async def test_a_client_that_is_early_is_heard_after_the_switch() -> None:
    """So much that it was held back, as if it were the next request."""
    early, late = b"x" * 600_000, b"late"
    go = asyncio.Event()

    async def slow(conn: Conn, backend: Backend) -> None:
        backend.seen.append(await conn.request())
        await go.wait()
        await conn.send(
            b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        )
        assert await conn.reader.readexactly(len(early) + len(late)) == early + late
        await conn.send(b"all")
        await conn.closed()

    async with world(slow) as here:
        client = await here.client()
        client.writer.write(get("/upstream/m/ws", *WEBSOCKET) + early)
        await until(lambda: here.backend.seen)
        (connection,) = here.front._plane.clients
        await until(lambda: not connection._reading)
        go.set()
        await client.head()
        client.writer.write(late)
        assert await asyncio.wait_for(client.reader.readexactly(3), 10) == b"all"


@both_loops
async def test_a_tunnel_that_the_client_does_not_read_holds_the_backend_and_is_cut() -> None:
    sent = 0

    async def gush(conn: Conn, backend: Backend) -> None:
        nonlocal sent
        await conn.request()
        await conn.send(
            b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        )
        while True:
            await conn.send(b"x" * 65536)
            sent += 65536

    async with world(gush, limits=Limits(tick=0.01, write_stall=0.3)) as here:
        client = await here.client()
        await client.send(get("/upstream/m/ws", *WEBSOCKET))
        await until(lambda: len(here.leases.outcomes) == 1)
        assert await client.ended_by_reset()
        assert sent < 64 * 1024 * 1024
        await asyncio.wait_for(here.backend.conns[0].gone.wait(), 5)


@both_loops
async def test_a_backend_may_decline_to_switch() -> None:
    async with world() as here:
        reply = await here.once(get("/upstream/m/ws", *WEBSOCKET))
        assert (reply.status, reply.body) == (200, b"none")


# ---------------------------------------------------------------- start and end


@both_loops
async def test_drain_lets_answers_finish() -> None:
    finish = asyncio.Event()

    async def slow(conn: Conn, backend: Backend) -> None:
        backend.seen.append(await conn.request())
        await conn.send(CHUNKED + chunk(b"data: 1\n\n"))
        await finish.wait()
        await conn.send(chunk(b"data: 2\n\n") + b"0\r\n\r\n")
        await conn.closed()

    async with world(slow) as here:
        idle, busy = await here.client(), await here.client()
        await idle.send(get("/health"))
        await idle.reply()
        await busy.send(post())
        await busy.head()
        await busy.chunk()
        await busy.send(post())  # early: it will not be served any more
        drained = asyncio.ensure_future(here.front.drain(20))
        assert await idle.rest() == b""
        with pytest.raises(OSError):
            await here.client()
        assert not drained.done()
        finish.set()
        assert await busy.chunk() == b"data: 2\n\n"
        assert await busy.chunk() == b""
        assert b"200 OK" not in await busy.rest()
        assert await drained is True
        assert here.leases.outcomes == [Outcome.OK]


@both_loops
async def test_drain_gives_up_after_its_grace() -> None:
    async def endless(conn: Conn, backend: Backend) -> None:
        backend.seen.append(await conn.request())
        await conn.closed()

    async with world(endless) as here:
        client = await here.client()
        await client.send(post())
        await until(lambda: here.backend.seen)
        assert await here.front.drain(0.05) is False
        here.front.abort()
        assert await client.rest() == b""
        await asyncio.wait_for(here.backend.conns[0].gone.wait(), 5)
        assert here.leases.outcomes == [Outcome.CLIENT_GONE]


@both_loops
async def test_a_draining_daemon_says_close() -> None:
    async with world() as here:
        here.leases.draining = True
        client = await here.client()
        await client.send(post())
        assert (await client.reply()).get("connection") == "close"
        assert await client.rest() == b""


@both_loops
async def test_requests_that_come_while_it_stops_are_told_so() -> None:
    async with world() as here:
        here.front._plane.stopping = True
        reply = await here.once(post())
        assert (reply.status, reply.get("retry-after")) == (503, "5")
        assert reply.get("connection") == "close"
        assert json.loads(reply.body)["error"]["code"] == "shutting_down"


@both_loops
async def test_a_socket_may_be_handed_over() -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    backend = Backend()
    front = await Front.start(
        "", 0, leases=FakeLeases(await backend.start()), guard=Guard(), sock=sock
    )
    assert front.port == port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(get("/health"))
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    assert await front.drain(5) is True or front.connections == 1
    front.abort()
    writer.close()
    await backend.stop()
    await until(lambda: front.connections == 0)


@both_loops
async def test_idle_backend_connections_are_dropped_on_demand() -> None:
    async with world() as here:
        await here.once(post())
        here.front.forget(here.leases.target)
        await asyncio.wait_for(here.backend.conns[0].gone.wait(), 5)
        assert (await here.once(post())).status == 200
        assert len(here.backend.conns) == 2


@both_loops
async def test_many_clients_at_once() -> None:
    async def busy(conn: Conn, backend: Backend) -> None:
        while True:
            seen = await conn.request()
            await asyncio.sleep(0.001)
            await conn.send(ok(seen.body))

    async with world(busy, limits=Limits(tick=0.05, pool_size=100)) as here:

        async def one(number: int) -> None:
            client = await here.client()
            for turn in range(5):
                body = b'{"model":"m","n":%d,"t":%d}' % (number, turn)
                await client.send(post(body=body))
                assert (await client.reply()).body == body
            client.close()

        await asyncio.gather(*(one(number) for number in range(100)))
        assert here.leases.outcomes == [Outcome.OK] * 500
        assert len(here.backend.conns) <= 100
