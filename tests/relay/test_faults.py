"""Hostile, broken and dying backends; leases taken back; our own bugs."""

from __future__ import annotations

import asyncio
import json

import pytest

from daemon.core.messages import Outcome
from daemon.core.problems import Code, Problem
from daemon.relay.exchange import Exchange
from daemon.relay.limits import Limits
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
    pause,
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


# ---------------------------------------------------------------- hostile and broken answers

HUGE = b"X-A: " + b"a" * 70_000
ONE = b"1\r\nx\r\n0\r\n\r\n"
MALFORMED = {
    "not http": b"hello\r\n\r\n",
    "status": b"HTTP/1.1 abc OK\r\n\r\n",
    "status 999": b"HTTP/1.1 999 No\r\nContent-Length: 0\r\n\r\n",
    "101": b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nxx",
    "101 bare": b"HTTP/1.1 101 S\r\n\r\nxx",
    "folded header": ok(b"x", b"X-A: b\r\n c: d"),
    "bare lf": b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx",
    "nul": ok(b"x", b"X-A: a\x00b"),
    "bare cr": ok(b"x", b"X-A: a\rSet-Cookie: b"),
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "length and chunks": CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\n") + ONE,
    "gzip, chunked": CHUNKED.replace(b": chunked", b": gzip, chunked") + ONE,
    "length of letters": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nx",
    "many headers": ok(b"x", *[b"X-%d: a" % number for number in range(200)]),
    "huge header": ok(b"x", HUGE),
    "endless header": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 1_000_000,
    "endless headers": b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 100_000,
    "endless hints": b"HTTP/1.1 103 Hints\r\nX: y\r\n\r\n" * 10_000,
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_answers_are_a_clear_error_and_not_tried_again(name: str) -> None:
    async with world(always(MALFORMED[name])) as here:
        client = await here.client()
        await client.send(post())
        reply = await client.reply()
        assert reply.status == 502
        assert json.loads(reply.body)["error"]["code"] == "upstream_error"
        assert reply.get("x-should-retry") == "false"
        assert here.leases.outcomes == [Outcome.UPSTREAM_ERROR]
        assert len(here.backend.seen) == 1
        # The client's connection is as good as before.
        await client.send(get("/health"))
        assert (await client.reply()).status == 200


@both_loops
async def test_bytes_nobody_asked_for_spoil_a_connection() -> None:
    async def chatty(conn: Conn, backend: Backend) -> None:
        while True:
            backend.seen.append(await conn.request())
            await conn.send(ok(b"right") + ok(b"poison"))

    async with world(chatty) as here:
        client = await here.client()
        for _ in range(3):
            await client.send(post())
            assert (await client.reply()).body == b"right"
        assert len(here.backend.conns) == 3


@both_loops
async def test_late_bytes_nobody_asked_for_spoil_a_connection() -> None:
    async def chatty(conn: Conn, backend: Backend) -> None:
        backend.seen.append(await conn.request())
        await conn.send(ok(b"right"))
        await asyncio.sleep(0.01)
        await conn.send(ok(b"poison"))
        await conn.closed()

    async with world(chatty) as here:
        client = await here.client()
        for number in range(2):
            await client.send(post())
            assert (await client.reply()).body == b"right"
            await asyncio.wait_for(here.backend.conns[number].gone.wait(), 5)


@both_loops
async def test_a_chunk_of_a_huge_size_is_passed_as_it_comes() -> None:
    async def huge(conn: Conn, backend: Backend) -> None:
        await conn.request()
        await conn.send(CHUNKED + b"7fffffffffffffff\r\n" + b"x" * 100_000)
        conn.reset()

    async with world(huge) as here:
        client = await here.client()
        await client.send(post())
        assert await client.rest()
        assert here.leases.outcomes == [Outcome.UPSTREAM_ERROR]


@both_loops
async def test_chunk_lines_and_trailers_do_not_go_on_for_ever() -> None:
    async def trailing(conn: Conn, backend: Backend) -> None:
        await conn.request()
        await conn.send(CHUNKED + chunk(b"x") + b"0\r\nX: ")
        while True:
            await conn.send(b"a" * 10_000)

    async with world(trailing) as here:
        client = await here.client()
        await client.send(post("/v1/messages"))
        assert await client.ended_by_reset()
        assert here.leases.outcomes == [Outcome.UPSTREAM_ERROR]


# ---------------------------------------------------------------- dying backends


@both_loops
async def test_a_stale_connection_is_replaced_without_anybody_noticing() -> None:
    async def once(conn: Conn, backend: Backend) -> None:
        backend.seen.append(await conn.request())
        await conn.send(ok(b"%d" % conn.number))
        await conn.request()  # and die without a byte: the idle race, made certain
        if conn.number % 2:
            conn.reset()

    async with world(once) as here:
        client = await here.client()
        for number in range(6):
            await client.send(post())
            assert (await client.reply()).body == b"%d" % number
        assert here.leases.outcomes == [Outcome.OK] * 6
        assert [wish.attempt for wish in here.leases.wishes] == [1] * 6


@both_loops
async def test_an_idle_connection_that_closes_is_not_used() -> None:
    async with world(always(ok(b"x"), close=True)) as here:
        client = await here.client()
        for number in range(3):
            await client.send(post())
            assert (await client.reply()).body == b"x"
            await asyncio.wait_for(here.backend.conns[number].gone.wait(), 5)


@both_loops
async def test_idle_connections_are_closed_after_a_while() -> None:
    async with world(limits=Limits(tick=0.01, pool_idle=0.05)) as here:
        await here.once(post())
        await asyncio.wait_for(here.backend.conns[0].gone.wait(), 5)


@both_loops
async def test_lost_before_any_byte_is_tried_once_more() -> None:
    async def second(conn: Conn, backend: Backend) -> None:
        backend.seen.append(await conn.request())
        if conn.number == 0:
            conn.reset()
            return
        await conn.send(ok(b"at last"))

    async with world(second) as here:
        reply = await here.once(post())
        assert (reply.status, reply.body) == (200, b"at last")
        assert here.leases.outcomes == [Outcome.LOST, Outcome.OK]
        again = here.leases.wishes[1]
        assert (again.attempt, again.arrived) == (2, 12.5)
        assert again.request_id == here.leases.wishes[0].request_id
        assert here.records[0].attempts == 2


@both_loops
async def test_lost_twice_is_an_error_in_the_dialect() -> None:
    async def partial(conn: Conn, backend: Backend) -> None:
        backend.seen.append(await conn.request())
        await conn.send(b"HTTP/1.1 200 OK\r\nContent-")

    async with world(partial) as here:
        openai = await here.once(post())
        anthropic = await here.once(post("/v1/messages"))
        assert (openai.status, anthropic.status) == (502, 500)
        assert json.loads(openai.body)["error"]["code"] == "upstream_error"
        assert json.loads(anthropic.body)["error"]["type"] == "api_error"
        assert openai.get("x-should-retry") == "true"
        assert here.leases.outcomes == [Outcome.LOST] * 4
        assert len(here.backend.seen) == 4


@both_loops
async def test_a_backend_that_takes_no_connection_is_lost() -> None:
    async with world() as here:
        assert here.backend.server is not None
        here.backend.server.close()
        await until(lambda: not here.backend.server.is_serving())  # type: ignore[union-attr]
        reply = await here.once(post())
        assert reply.status == 502
        assert here.leases.outcomes == [Outcome.LOST, Outcome.LOST]


@both_loops
async def test_the_second_attempt_may_wait_and_be_refused() -> None:
    die = asyncio.Event()

    async def script(conn: Conn, backend: Backend) -> None:
        backend.seen.append(await conn.request())
        await die.wait()

    async with world(script) as here:
        client = await here.client()
        await client.send(post())
        await until(lambda: here.backend.seen)
        here.leases.hold = True
        die.set()
        await until(lambda: here.leases.waiting)
        wish, done, _ = here.leases.waiting.pop()
        assert wish.attempt == 2
        done(Problem(Code.BACKOFF, "It crashed.", retry_after=2))
        reply = await client.reply()
        assert (reply.status, reply.get("retry-after")) == (503, "2")


def dies(sent: bytes) -> Script:
    async def script(conn: Conn, backend: Backend) -> None:
        await conn.request()
        await conn.send(sent)
        await pause(0.02)  # the relay must have sent it on before the end comes
        conn.reset()

    return script


@both_loops
async def test_a_chat_stream_that_breaks_says_so_and_has_no_clean_end() -> None:
    for last in (b"data: 1\n\n", b"data: 1\r\n\r\n"):
        async with world(dies(CHUNKED + chunk(b"data: 0\n\n") + chunk(last))) as here:
            client = await here.client()
            await client.send(post())
            raw = await client.rest()
            assert not raw.endswith(b"0\r\n\r\n")
            body = raw.partition(b"\r\n\r\n")[2]
            assert last in body
            event = body[body.index(b'data: {"error"') :]
            error = json.loads(event[6:].split(b"\n")[0])["error"]
            assert error["code"] == "upstream_error"
            assert "retry your request" in error["message"], "by which pi tries again"
            assert here.leases.outcomes == [Outcome.UPSTREAM_ERROR]
            assert len(here.leases.wishes) == 1


@both_loops
async def test_half_an_event_is_not_made_a_whole_one() -> None:
    """What came of it would be read as JSON: the connection breaks, and nothing is added."""
    for last in (b"data: hal", b"data: 1\n", b"\n"):
        async with world(dies(CHUNKED + chunk(b"data: {}") + chunk(last))) as here:
            client = await here.client()
            await client.send(post())
            status, _, _ = await client.head()
            assert status == 200
            assert await client.ended_by_reset()


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/v1/messages", CHUNKED + chunk(b"event: ping\n\n")),
        ("/v1/responses", CHUNKED + chunk(b"data: {}\n\n")),
        ("/v1/chat/completions", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
        (
            "/v1/chat/completions",
            CHUNKED.replace(b"text/event-stream", b"text/plain") + chunk(b"{"),
        ),
    ],
)
async def test_other_answers_that_break_are_reset(path: str, sent: bytes) -> None:
    async with world(dies(sent)) as here:
        client = await here.client()
        await client.send(post(path))
        status, _, _ = await client.head()
        assert status == 200
        assert await client.ended_by_reset()
        assert here.leases.outcomes == [Outcome.UPSTREAM_ERROR]
        assert (here.records[0].status, here.records[0].outcome) == (200, "upstream_error")


@both_loops
async def test_a_clean_end_too_early_is_no_end() -> None:
    async def short(conn: Conn, backend: Backend) -> None:
        await conn.request()
        await conn.send(CHUNKED + chunk(b"data: 1\n\n"))

    async with world(short) as here:
        client = await here.client()
        await client.send(post("/v1/messages"))
        assert await client.ended_by_reset()


# ---------------------------------------------------------------- leases taken back


@both_loops
async def test_a_lease_taken_back_before_any_byte_is_answered_with_the_reason() -> None:
    async def mute(conn: Conn, backend: Backend) -> None:
        backend.seen.append(await conn.request())
        await conn.closed()

    async with world(mute) as here:
        client = await here.client()
        await client.send(post())
        await until(lambda: here.backend.seen)
        cancel = here.leases.leases[0].on_cancel
        assert cancel is not None
        cancel(Problem(Code.UNLOADED, "Unloaded by force.", retry_after=1))
        reply = await client.reply()
        assert (reply.status, "Unloaded by force" in reply.body.decode()) == (503, True)
        await asyncio.wait_for(here.backend.conns[0].gone.wait(), 5)
        assert here.leases.outcomes == [Outcome.UPSTREAM_ERROR]
        assert len(here.leases.wishes) == 1
        await client.send(get("/health"))
        assert (await client.reply()).status == 200


@both_loops
async def test_a_backend_declared_dead_before_any_byte_is_tried_once_more() -> None:
    async def mute(conn: Conn, backend: Backend) -> None:
        backend.seen.append(await conn.request())
        if conn.number == 1:
            await conn.send(ok(b"at last"))
        await conn.closed()

    async with world(mute) as here:
        client = await here.client()
        await client.send(post())
        await until(lambda: here.backend.seen)
        cancel = here.leases.leases[0].on_cancel
        assert cancel is not None
        cancel(Problem(Code.UPSTREAM_ERROR, "It died.", retry_after=1))
        assert (await client.reply()).body == b"at last"
        assert here.leases.outcomes == [Outcome.LOST, Outcome.OK]


@both_loops
async def test_a_lease_taken_back_in_a_stream_ends_it() -> None:
    async def endless(conn: Conn, backend: Backend) -> None:
        await conn.request()
        await conn.send(CHUNKED + chunk(b"data: 1\n\n"))
        await conn.closed()

    for path in ("/v1/chat/completions", "/v1/messages"):
        async with world(endless) as here:
            client = await here.client()
            await client.send(post(path))
            await client.head()
            await client.chunk()
            cancel = here.leases.leases[0].on_cancel
            assert cancel is not None
            cancel(Problem(Code.UNLOADED, "Unloaded by force.", retry_after=1.0))
            if path == "/v1/messages":
                assert await client.ended_by_reset()
            else:
                raw = await client.rest()
                assert b"Unloaded by force" in raw
                assert not raw.endswith(b"0\r\n\r\n")
            await asyncio.wait_for(here.backend.conns[0].gone.wait(), 5)
            assert here.leases.outcomes == [Outcome.UPSTREAM_ERROR]


@both_loops
async def test_a_bug_of_the_port_ends_the_request_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world() as here:
        here.leases.hold = True
        client = await here.client()
        await client.send(post())
        await until(lambda: here.leases.waiting)
        _, done, _ = here.leases.waiting.pop()
        done("neither lease nor problem")  # type: ignore[arg-type]
        assert await client.ended_by_reset()
        here.leases.hold = False
        assert (await here.once(post())).status == 200
    assert "failed inside the relay" in caplog.text


@both_loops
async def test_a_bug_of_the_listener_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as here:

        def broken(_: object) -> None:
            raise RuntimeError("a bug")

        here.front._plane.on_done = broken
        client = await here.client()
        for _ in range(2):
            await client.send(post())
            assert (await client.reply()).status == 200
    assert "access hook" in caplog.text


@both_loops
async def test_a_lease_taken_back_too_late_changes_nothing() -> None:
    async with world() as here:
        here.leases.hold = True
        client = await here.client()
        await client.send(post())
        await until(lambda: here.leases.waiting)
        wish, done, _ = here.leases.waiting.pop()
        here.leases.answer(wish, done)
        cancel = here.leases.leases[0].on_cancel
        assert cancel is not None
        assert (await client.reply()).status == 200
        cancel(Problem(Code.UNLOADED, "Too late."))
        here.leases.hold = False
        await client.send(post())
        assert (await client.reply()).status == 200
        assert here.leases.outcomes == [Outcome.OK, Outcome.OK]


@pytest.mark.parametrize("name", ["answered", "continued", "failed", "passed"])
async def test_a_bug_in_an_answer_ends_that_request_only(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    async with world(dies(CHUNKED + chunk(b"data: 1\n\n"))) as here:
        with monkeypatch.context() as patch:
            patch.setattr(Exchange, name, broken)
            if name in ("continued", "passed"):
                here.backend.script = paced if name == "passed" else halved
            client = await here.client()
            await client.send(post())
            await client.rest()
            assert here.leases.outcomes == [Outcome.UPSTREAM_ERROR]
        here.backend.script = echo
        assert (await here.once(post())).status == 200
    assert "a bug" in caplog.text


async def halved(conn: Conn, backend: Backend) -> None:
    await conn.request()
    await conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
    await pause(0.02)
    await conn.send(b"other")
    await conn.closed()


async def paced(conn: Conn, backend: Backend) -> None:
    await conn.request()
    await conn.send(CHUNKED)
    await pause(0.02)
    await conn.send(chunk(b"data: 1\n\n"))
    await conn.closed()
