"""Framing, order, deadlines and leaving, on real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket

import pytest

from daemon.relay.limits import Limits
from tests.relay.corpus import PASSED, REFUSED
from tests.relay.peers import (
    CHUNKED,
    Backend,
    Client,
    Conn,
    both_loops,
    chunk,
    get,
    ok,
    post,
    until,
    world,
)

BODY = b'{"model":"m"}'
SEEDS = int(os.environ.get("MODELPORT_SEEDS", "3"))


@both_loops
async def test_the_corpus_of_bad_requests_reaches_no_backend() -> None:
    limits = Limits(tick=0.01, head_timeout=0.15, body_silence=0.15)
    async with world() as here:
        clients = [await here.client() for _ in REFUSED]
        await until(lambda: here.front.connections == len(clients))
        here.front.set_limits(limits)  # no sooner: of what is sent, not of who has only come

        async def one(client: Client, name: str, data: bytes) -> None:
            # What follows must not be served either: its start is in doubt.
            await client.send(data + get("/v1/models"))
            answer = await client.rest()
            assert answer.startswith(b"HTTP/1.1 4"), (name, answer[:80])
            assert b"connection: close\r\n" in answer, name
            assert answer.count(b"x-request-id: ") == 1, (name, answer)

        for client, (name, data) in zip(clients, REFUSED.items(), strict=True):
            await one(client, name, data)
        assert len(REFUSED) >= 80
        assert here.backend.seen == []
        assert here.leases.wishes == []


@both_loops
async def test_the_corpus_of_good_requests_reaches_it_as_one_each() -> None:
    async with world() as here:
        for name, data in PASSED.items():
            client = await here.client()
            await client.send(data)
            reply = await client.reply()
            assert (reply.status, reply.body) == (200, BODY), name
            client.close()
        assert len(PASSED) >= 25
        assert len(here.backend.seen) == len(PASSED)
        for seen in here.backend.seen:
            assert seen.line.startswith("POST /v1/chat/completions")
            assert seen.body == BODY
            assert [value for name, value in seen.fields if name == "content-length"] == ["13"]
            assert seen.get("transfer-encoding") is None


SPLIT = {
    "declared": PASSED["plain"],
    "chunked": PASSED["trailer"],
    "expecting": PASSED["expect"],
}


@both_loops
async def test_requests_split_at_every_byte() -> None:
    async with world() as here:
        for data in SPLIT.values():
            client = await here.client()
            sock = client.writer.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(1, len(data)):
                await client.send(data[:at])
                await asyncio.sleep(0)
                await client.send(data[at:])
                reply = await client.reply()
                assert (reply.status, reply.body) == (200, BODY), data[:at]
            for byte in data:
                await client.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await client.reply()).body == BODY
        assert len(here.backend.seen) == sum(map(len, SPLIT.values()))


@both_loops
async def test_pipelined_requests_are_served_in_order() -> None:
    async def slow(conn: Conn, backend: Backend) -> None:
        while True:
            seen = await conn.request()
            backend.seen.append(seen)
            # A reply overtaken by the next request's would show here.
            await asyncio.sleep(0.003)
            await conn.send(ok(seen.body))

    async with world(slow) as here:
        client = await here.client()
        bodies = [b'{"model":"m","n":%d}' % number for number in range(20)]
        await client.send(
            b"".join(post(body=body) + get("/health") for body in bodies) + get("/v1/nothing")
        )
        for body in bodies:
            assert (await client.reply()).body == body
            assert json.loads((await client.reply()).body) == {"status": "ok"}
        assert (await client.reply()).status == 404
        assert [seen.body for seen in here.backend.seen] == bodies
        assert len(here.backend.conns) == 1


@both_loops
async def test_what_follows_a_stream_waits_for_its_end() -> None:
    async def streaming(conn: Conn, backend: Backend) -> None:
        while True:
            backend.seen.append(await conn.request())
            await conn.send(CHUNKED)
            for number in range(3):
                await conn.send(chunk(b"data: %d\n\n" % number))
                await asyncio.sleep(0.003)
            await conn.send(b"0\r\nX-Trailer: dropped\r\n\r\n")

    async with world(streaming) as here:
        client = await here.client()
        await client.send((post() + get("/v1/models", method="HEAD") + get("/health")) * 2)
        for _ in range(2):
            assert (await client.reply()).body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
            assert (await client.reply(head_only=True)).body == b""
            assert json.loads((await client.reply()).body) == {"status": "ok"}


@both_loops
async def test_a_flood_of_early_bytes_is_held_back_and_served() -> None:
    async with world(limits=Limits(tick=0.01, pipeline_bytes=4096)) as here:
        here.leases.hold = True
        client = await here.client()
        big = b'{"model":"m","x":"' + b"a" * 20_000_000 + b'"}'
        client.writer.write(post() + post(body=big) + post())
        for body in (BODY, big, BODY):
            await until(lambda: here.leases.waiting)
            if body is BODY and len(here.leases.wishes) == 1:
                connection = next(iter(here.front._plane.clients))
                await until(lambda found=connection: not found._reading)
                assert len(connection._pending) < 2_000_000
            wish, done, _ = here.leases.waiting.pop()
            here.leases.answer(wish, done)
            assert (await client.reply()).body == body


@both_loops
async def test_who_asks_and_asks_and_reads_nothing_is_not_listened_to() -> None:
    """Its answers pile up to a mark; then its questions wait in its own kernel, not with us."""
    asked = get("/health?" + "x" * 3000) * 100
    async with world(limits=Limits(tick=0.01, write_high=65536, write_low=1024)) as here:
        client = await here.client()
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        sent = 0

        async def ask() -> None:
            nonlocal sent
            while True:
                await client.send(asked)
                sent += 1

        asking = asyncio.ensure_future(ask())
        await until(lambda: here.front._plane.clients)
        (connection,) = here.front._plane.clients
        await until(lambda: not connection._reading)
        assert len(connection._pending) < 256 * 1024 + 1_000_000
        client.reader._transport.resume_reading()  # type: ignore[attr-defined]
        served, before = 0, sent
        while served <= (before + 1) * 100:  # and goes on where it stopped, in order
            assert (await client.reply()).status == 200
            served += 1
        asking.cancel()


@both_loops
async def test_many_local_requests_at_once() -> None:
    async with world() as here:
        client = await here.client()
        client.writer.write(get("/health") * 5000)
        for _ in range(5000):
            assert (await client.reply()).status == 200


@both_loops
async def test_keep_alive_and_close() -> None:
    async with world() as here:
        client = await here.client()
        for _ in range(3):
            await client.send(post())
            reply = await client.reply()
            assert "connection" not in reply.names
        await client.send(post("/v1/chat/completions", BODY, "Connection: close"))
        assert (await client.reply()).get("connection") == "close"
        assert await client.rest() == b""
        old = await here.client()
        await old.send(PASSED["http/1.0"])
        answer = await old.rest()
        assert answer.endswith(BODY)
        assert b"connection: close" in answer


@both_loops
async def test_expect_is_answered_once_the_head_has_passed() -> None:
    async with world() as here:
        client = await here.client()
        head = PASSED["expect"][: -len(BODY)]
        await client.send(head)
        assert (await client.head())[0] == 100
        await client.send(BODY)
        assert (await client.reply()).body == BODY
        # What is here already, or all that there is, is not asked for.
        for data in (PASSED["expect"], get("/health", "Expect: 100-continue")):
            await client.send(data)
            assert (await client.head())[0] == 200
            await client.reader.readexactly(13 if data.startswith(b"POST") else 15)
        # Refused on its head: told at once, and nothing is asked for.
        await client.send(head.replace(b"127.0.0.1", b"evil.example"))
        assert (await client.reply()).status == 421


@both_loops
async def test_a_large_body_is_refused_before_it_is_sent() -> None:
    limits = Limits(tick=0.01, body_bytes=1000, linger=5, linger_bytes=8_000_000)
    async with world(limits=limits) as here:
        for field in ("Content-Length: 1001", "Content-Length: 999999999999999"):
            client = await here.client()
            await client.send(
                b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n" % field.encode()
            )
            reply = await client.reply()
            assert (reply.status, reply.get("connection")) == (413, "close")
            assert json.loads(reply.body)["error"]["type"] == "request_too_large"
        # A client that sends it all the same still reads the answer.
        client = await here.client()
        await client.send(post(body=b"x" * 3_000_000))
        assert (await client.reply()).status == 413
        assert await client.rest() == b""
        # For so long, and not for ever.
        client = await here.client()
        client.writer.write(post(body=b"x" * 200_000_000))
        assert (await client.reply()).status == 413
        with pytest.raises(ConnectionError):
            await client.writer.drain()
        # And one that counts as it goes.
        client = await here.client()
        await client.send(PASSED["chunked"].partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        for _ in range(4):
            await client.send(chunk(b"x" * 300))
        assert (await client.reply()).status == 413
        assert here.leases.wishes == []


@both_loops
async def test_large_bodies_pass() -> None:
    async with world() as here:
        body = b'{"model":"m","x":"' + b"a" * 3_000_000 + b'"}'
        client = await here.client()
        for _ in range(2):
            await client.send(post(body=body))
            assert (await client.reply()).body == body
        await client.send(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n")
        await client.send(b"Transfer-Encoding: chunked\r\n\r\n" + chunk(body) + b"0\r\n\r\n")
        assert (await client.reply()).body == body
        assert here.leases.wishes[0].body_bytes == len(body)


@both_loops
async def test_whatever_the_pace_of_both_sides_answers_come_in_order() -> None:
    """Requests cut anywhere, small marks, a reader that stops now and then: seeded."""

    async def mixed(conn: Conn, backend: Backend) -> None:
        while True:
            body = (await conn.request()).body
            if b'"s"' not in body:
                await conn.send(ok(body))
                continue
            await conn.send(CHUNKED)
            for at in range(0, len(body), 3000):
                await conn.send(chunk(body[at : at + 3000]))
            await conn.send(b"0\r\n\r\n")

    limits = Limits(tick=0.01, write_high=8192, write_low=1024, pipeline_bytes=4096)
    for seed in range(SEEDS):
        luck = random.Random(seed)
        asked: list[tuple[bytes, bytes | None]] = []
        for number in range(60):
            if luck.random() < 0.3:
                asked.append((get("/v1/models?x=" + "y" * luck.randrange(3000)), None))
                continue
            size = luck.choice((1, 500, 40_000))
            kind = luck.choice((b"s", b"w"))
            body = b'{"model":"m","%b":%d,"x":"%b"}' % (kind, number, b"z" * size)
            asked.append((post(body=body), body))
        wire = b"".join(data for data, _ in asked)
        async with world(mixed, limits=limits) as here:
            client = await here.client()

            async def write(client: Client, wire: bytes, luck: random.Random) -> None:
                at = 0
                while at < len(wire):
                    size = luck.choice((1, 7, 900, 30_000, 300_000))
                    await client.send(wire[at : at + size])
                    at += size
                    await asyncio.sleep(0)

            writing = asyncio.ensure_future(write(client, wire, random.Random(seed)))
            for number, (_, body) in enumerate(asked):
                if luck.random() < 0.1:
                    await asyncio.sleep(0.01)
                reply = await client.reply()
                assert reply.status == 200, (seed, number)
                assert body is None or reply.body == body, (seed, number)
            await writing
