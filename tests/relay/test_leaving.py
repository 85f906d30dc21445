"""Clients that are slow, leave, do not read, or are too many; and what bugs cost."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from daemon.core.messages import Outcome
from daemon.core.problems import Code, Problem
from daemon.ports import Target
from daemon.relay.client import ClientConnection, Phase
from daemon.relay.guard import Guard
from daemon.relay.limits import Limits
from daemon.relay.plane import Plane
from tests.relay.peers import (
    CHUNKED,
    Backend,
    Conn,
    FakeLeases,
    both_loops,
    chunk,
    get,
    post,
    until,
    world,
)

BODY = b'{"model":"m"}'


@both_loops
async def test_slow_heads_and_bodies_end() -> None:
    limits = Limits(tick=0.01, head_timeout=0.1, idle_timeout=0.2, body_silence=0.1, body_rate=1e5)
    async with world() as here:
        slow, body, drip, idle = [await here.client() for _ in range(4)]
        await until(lambda: here.front.connections == 4)
        # No sooner: a machine that stands still between a connection and its first byte makes
        # a silent client of each.
        here.front.set_limits(limits)
        silent = await here.client()
        assert await silent.rest() == b""
        await slow.send(b"POST /v1/messages HT")
        assert (await slow.reply()).status == 408
        await body.send(post(body=b"x" * 100)[:-50])
        reply = await body.reply()
        assert (reply.status, reply.get("connection")) == (408, "close")
        await drip.send(post(body=b"x" * 60_000)[:-50_000])
        answered = asyncio.ensure_future(drip.reply())
        while not answered.done():
            drip.writer.write(b"x")
            await asyncio.sleep(0.02)
        assert (await answered).status == 408
        await idle.send(get("/health"))
        await idle.reply()
        assert await idle.rest() == b""
        assert here.leases.wishes == []
        codes = [record.status for record in here.records]
        assert codes.count(408) == 2  # the half head never became a request


@both_loops
async def test_a_client_that_leaves_the_queue_is_taken_out() -> None:
    async with world() as here:
        here.leases.hold = True
        for leave in ("close", "half", "reset"):
            client = await here.client()
            await client.send(post())
            await until(lambda: here.leases.waiting)
            waiting = here.leases.waiting.pop()[2]
            started = asyncio.get_running_loop().time()
            if leave == "half":
                client.writer.write_eof()
            elif leave == "reset":
                client.writer.transport.abort()
            else:
                client.close()
            await until(lambda found=waiting: found.cancelled == 1)
            assert asyncio.get_running_loop().time() - started < 5
            await until(lambda: here.front.connections == 0)
        assert [record.outcome for record in here.records] == ["client_gone"] * 3
        assert {record.status for record in here.records} == {499}


async def endless(conn: Conn, backend: Backend) -> None:
    backend.seen.append(await conn.request())
    await conn.send(CHUNKED + chunk(b"data: 1\n\n"))
    await conn.closed()


@both_loops
async def test_a_client_that_leaves_a_stream_stops_the_backend() -> None:
    async with world(endless) as here:
        for leave in ("close", "half", "reset"):
            client = await here.client()
            await client.send(post())
            await client.head()
            await client.chunk()
            conn = here.backend.conns[-1]
            started = asyncio.get_running_loop().time()
            if leave == "half":
                client.writer.write_eof()
            elif leave == "reset":
                client.writer.transport.abort()
            else:
                client.close()
            await asyncio.wait_for(conn.gone.wait(), 10)
            assert asyncio.get_running_loop().time() - started < 5
        await until(lambda: len(here.leases.outcomes) == 3)
        assert set(here.leases.outcomes) == {Outcome.CLIENT_GONE}
        assert {record.status for record in here.records} == {200}


@both_loops
async def test_a_client_that_leaves_before_the_answer_stops_the_backend() -> None:
    async def mute(conn: Conn, backend: Backend) -> None:
        backend.seen.append(await conn.request())
        await conn.closed()

    async with world(mute) as here:
        client = await here.client()
        await client.send(post())
        await until(lambda: here.backend.seen)
        client.close()
        await asyncio.wait_for(here.backend.conns[0].gone.wait(), 5)
        assert here.leases.outcomes == [Outcome.CLIENT_GONE]


@both_loops
async def test_a_client_that_does_not_read_stops_the_backend_and_is_dropped() -> None:
    sent = 0

    async def gush(conn: Conn, backend: Backend) -> None:
        nonlocal sent
        await conn.request()
        await conn.send(CHUNKED)
        piece = chunk(b"x" * 65536)
        while True:
            await conn.send(piece)
            sent += len(piece)

    limits = Limits(tick=0.01, write_stall=0.3, write_high=65536, write_low=16384)
    async with world(gush, limits=limits) as here:
        client = await here.client()
        # asyncio.StreamReader stops reading by itself at 128 KiB.
        await client.send(post())
        await until(lambda: here.leases.outcomes)
        assert here.leases.outcomes == [Outcome.CLIENT_GONE]
        # Kernel buffers on both hops, but not all that the backend would send.
        assert sent < 64 * 1024 * 1024


@both_loops
async def test_a_slow_reader_gets_all_of_it() -> None:
    body = bytes(range(256)) * 40_000

    async def big(conn: Conn, backend: Backend) -> None:
        while True:
            await conn.request()
            await conn.send(CHUNKED)
            for at in range(0, len(body), 50_000):
                await conn.send(chunk(body[at : at + 50_000]))
            await conn.send(b"0\r\n\r\n")

    limits = Limits(tick=0.01, write_stall=5, write_high=32768, write_low=8192)
    async with world(big, limits=limits) as here:
        client = await here.client()
        client.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 16384
        )
        for _ in range(2):
            await client.send(post())
            status, _, _ = await client.head()
            assert status == 200
            got = b""
            while piece := await client.chunk():
                got += piece
            assert got == body
        assert len(here.backend.conns) == 1


@both_loops
async def test_a_client_that_was_full_before_its_backend_came_holds_it_back_too() -> None:
    body = b'{"model":"m","x":"' + b"a" * 3_000_000 + b'"}'
    async with world() as here:
        here.leases.hold = True
        client = await here.client()
        await client.send(post(body=body))
        await until(lambda: here.leases.waiting)
        (connection,) = here.front._plane.clients
        connection.pause_writing()  # as by signs of life that it does not take
        wish, done, _ = here.leases.waiting.pop()
        here.leases.answer(wish, done)
        exchange = connection._exchange
        assert exchange is not None
        await until(lambda: exchange._upstream is not None)
        assert exchange._upstream is not None
        assert exchange._upstream._paused
        connection.resume_writing()
        assert (await client.reply()).body == body


@both_loops
async def test_an_answer_nobody_reads_does_not_outlive_its_connection() -> None:
    """Below the high mark nothing is paused; closing must still end."""
    limits = Limits(tick=0.01, idle_timeout=0.1, linger=0.1, write_high=2**30)
    body = b'{"model":"m","x":"' + b"a" * 20_000_000 + b'"}'
    async with world(limits=limits) as here:
        client = await here.client()
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(post(body=body))
        await until(lambda: here.leases.outcomes == [Outcome.OK])
        await until(lambda: here.front.connections == 0)


@both_loops
async def test_too_many_connections_are_told_so() -> None:
    async with world(limits=Limits(tick=0.01, connections=3, linger=0.2)) as here:
        here.leases.hold = True
        busy = [await here.client() for _ in range(3)]
        for client in busy:
            await client.send(post())
        await until(lambda: len(here.leases.waiting) == 3)
        for _ in range(40):
            extra = await here.client()
            reply = await extra.reply()
            assert (reply.status, reply.get("retry-after")) == (503, "5")
            assert await extra.rest() == b""
        busy[0].close()
        await until(lambda: here.front.connections == 2)
        assert (await here.once(get("/health"))).status == 200


@both_loops
async def test_the_longest_idle_gives_way_to_who_comes() -> None:
    async with world(limits=Limits(tick=0.01, connections=3, linger=0.2)) as here:
        slow, second, third = [await here.client() for _ in range(3)]
        await slow.send(b"POST /v1/chat/comp")  # and never more
        await second.send(get("/health"))
        await second.reply()
        await third.send(get("/health"))
        await third.reply()
        fresh = [await here.client() for _ in range(2)]
        for client in fresh:
            await client.send(get("/health"))
            assert (await client.reply()).status == 200
        for client in (slow, second):
            assert await client.rest() == b""
        await third.send(get("/health"))
        assert (await third.reply()).status == 200
        assert here.front.connections == 3


@both_loops
async def test_one_that_reads_nothing_gives_way_too() -> None:
    body = b'{"model":"m","x":"' + b"a" * 20_000_000 + b'"}'
    limits = Limits(tick=0.01, connections=1, write_high=2**30)
    async with world(limits=limits) as here:
        client = await here.client()
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(post(body=body))
        await until(lambda: here.leases.outcomes == [Outcome.OK])
        assert (await here.once(get("/health"))).status == 200
        await until(lambda: here.front.connections == 0)


@both_loops
async def test_a_bug_costs_one_connection(caplog: pytest.LogCaptureFixture) -> None:
    def acquire(*_: object) -> None:
        raise RuntimeError("a bug")

    async with world() as here:
        here.leases.acquire = acquire  # type: ignore[method-assign]
        client = await here.client()
        await client.send(post())
        assert await client.rest() == b""
        assert (await here.once(get("/health"))).status == 200
    assert "a bug" in caplog.text


class Pipe:
    """A transport, as far as writing goes."""

    def __init__(self) -> None:
        self.left = 0
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return self.left

    def can_write_eof(self) -> bool:
        return True

    def get_extra_info(self, name: str) -> None:
        assert name == "socket"

    def abort(self) -> None:
        self.aborted = True


async def connection(**limits: Any) -> tuple[ClientConnection, Pipe, Plane]:
    plane = Plane(
        asyncio.get_running_loop(),
        leases=FakeLeases(Target("", 0)),
        guard=Guard(),
        limits=Limits(**limits),
        on_done=None,
    )
    client, pipe = ClientConnection(plane), Pipe()
    client._transport = pipe  # type: ignore[assignment]
    return client, pipe, plane


async def test_a_slow_reader_is_not_a_stalled_one() -> None:
    client, pipe, plane = await connection(write_stall=60.0, write_rate=1000.0)
    now = plane.loop.time()
    pipe.left = 200_000
    client.pause_writing()
    client.sweep(now + 59)
    pipe.left = 140_000
    client.sweep(now + 61)
    pipe.left = 80_001  # one byte short
    client.sweep(now + 120)
    assert not pipe.aborted
    client.sweep(now + 122)
    assert pipe.aborted
    pipe.aborted = False
    client.resume_writing()
    client.sweep(now + 1000)
    assert not pipe.aborted


async def test_one_that_took_all_of_a_little_is_not_stalled() -> None:
    client, pipe, plane = await connection(write_stall=60.0)
    pipe.left = 10
    client.pause_writing()
    pipe.left = 0
    client.sweep(plane.loop.time() + 61)
    assert not pipe.aborted


async def test_a_broken_stream_is_flushed_before_it_is_cut() -> None:
    client, pipe, _ = await connection()
    pipe.left = 10
    client.break_off(reset=False)
    assert not pipe.aborted
    pipe.left = 0
    await until(lambda: pipe.aborted)


async def test_a_bug_in_reading_costs_one_connection(caplog: pytest.LogCaptureFixture) -> None:
    client, pipe, _ = await connection()
    client._phase = Phase.TUNNEL
    client.data_received(b"with no exchange")
    assert pipe.aborted
    assert "failed inside the relay" in caplog.text


@both_loops
async def test_the_longest_retry_after_is_a_setting() -> None:
    async with world(limits=Limits(tick=0.01, retry_after_max=7.5)) as here:
        here.leases.problems = [Problem(Code.QUEUE_FULL, "Full.", retry_after=99.0)]
        client = await here.client()
        await client.send(post())
        assert (await client.reply()).get("retry-after") == "7"


@both_loops
async def test_refusals_of_the_queue_have_the_shape_of_the_path() -> None:
    async with world() as here:
        full = Problem(Code.QUEUE_FULL, "Full.", retry_after=99.0)
        here.leases.problems = [full, full]
        client = await here.client()
        await client.send(post() + post("/v1/messages?beta=true"))
        openai, anthropic = await client.reply(), await client.reply()
        assert (openai.status, anthropic.status) == (503, 529)
        assert openai.get("retry-after") == anthropic.get("retry-after") == "30"
        assert openai.get("x-should-retry") == "true"
        assert json.loads(anthropic.body)["error"]["type"] == "overloaded_error"
        await client.send(post())
        assert (await client.reply()).status == 200
