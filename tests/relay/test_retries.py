"""What is tried again, what is waited for, what is told: lost backends and slow ones."""

from __future__ import annotations

import asyncio
import json

import pytest

from daemon.core.messages import Outcome
from daemon.core.problems import Code, Problem
from daemon.ports import Route, Waits, Wish
from daemon.relay.heads import parse_head
from daemon.relay.limits import Limits
from daemon.relay.records import usage
from daemon.relay.retries import WHOLE, Budget, digest, ends, repeatable
from tests.relay.peers import (
    CHUNKED,
    Backend,
    Conn,
    FakeLease,
    Script,
    both_loops,
    chunk,
    get,
    ok,
    pause,
    post,
    until,
    world,
)

LOADING = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'


def busy(body: bytes) -> bytes:
    return b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def dies_first(times: int, then: bytes = b"at last") -> Script:
    """The first connections die with a request on them; from then on it answers."""

    async def script(conn: Conn, backend: Backend) -> None:
        while True:
            backend.seen.append(await conn.request())
            if conn.number < times:
                conn.reset()
                return
            await conn.send(ok(then))

    return script


# ---------------------------------------------------------------- what may be sent twice


def head(method: str = "POST") -> object:
    return parse_head(f"{method} /x HTTP/1.1\r\nHost: a\r\n\r\n".encode(), Limits())


@pytest.mark.parametrize(
    ("route", "method", "body", "expected"),
    [
        (Route.CHAT, "POST", b'{"model":"m"}', True),
        (Route.CHAT, "POST", b'{"model":"m","store":false}', True),
        (Route.CHAT, "POST", b'{"model":"m","store":null}', True),
        (Route.CHAT, "POST", b'{"messages":[{"store":true}],"model":"m"}', True),
        (Route.CHAT, "POST", b'{"model":"m","store":true}', False),
        (Route.RESPONSES, "POST", b'{"store" : true,"model":"m"}', False),
        (Route.AUDIO, "POST", b'--x\r\nname="store"\r\n\r\ntrue\r\n', True),
        (Route.UPSTREAM, "POST", b"", False),
        (Route.UPSTREAM, "GET", b"", True),
    ],
)
def test_inference_may_be_sent_twice_and_what_is_kept_may_not(
    route: Route, method: str, body: bytes, expected: bool
) -> None:
    assert repeatable(route, head(method), body) is expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/upstream/m/v1/files", b"{}"),
        ("/upstream/m/v1/batches", b"{}"),
        ("/v1/responses", b'{"model":"m","store":true}'),
    ],
)
@pytest.mark.parametrize("pooled", [False, True])
async def test_what_is_kept_is_never_sent_twice(path: str, body: bytes, pooled: bool) -> None:
    async with world(dies_first(9)) as here:
        if pooled:  # a connection from before, which dies with the request on it

            async def second(conn: Conn, backend: Backend) -> None:
                backend.seen.append(await conn.request())
                await conn.send(ok(b"first"))
                backend.seen.append(await conn.request())

            here.backend.script = second
            await here.once(post())
        reply = await here.once(post(path, body))
        assert reply.status == 502
        assert [seen.body for seen in here.backend.seen].count(body) == 1


# ---------------------------------------------------------------- the budget


def test_a_fifth_of_the_requests_and_three_at_the_least() -> None:
    budget = Budget()
    for active, allowed in ((1, 3), (10, 3), (20, 4), (100, 20)):
        budget.active, budget.again = active, allowed - 1
        assert budget.allows()
        budget.again = allowed
        assert not budget.allows()


@both_loops
async def test_when_everything_dies_at_once_not_everything_comes_twice() -> None:
    gate = asyncio.Event()

    async def script(conn: Conn, backend: Backend) -> None:
        backend.seen.append(await conn.request())
        await gate.wait()

    async with world(script) as here:
        clients = [await here.client() for _ in range(10)]
        for client in clients:
            await client.send(post())
        await until(lambda: len(here.backend.seen) == 10)
        here.leases.hold = True
        gate.set()
        await until(lambda: len(here.leases.outcomes) == 10)
        assert len(here.leases.waiting) == 3
        for wish, done, _ in here.leases.waiting:
            assert wish.attempt == 2
            done(Problem(Code.BACKOFF, "It crashed.", retry_after=2.0))
        replies = [await client.reply() for client in clients]
        assert sorted(reply.status for reply in replies) == [502] * 7 + [503] * 3
        assert {reply.get("x-should-retry") for reply in replies} == {"true"}
        budget = here.front._plane.budget
        assert (budget.active, budget.again) == (0, 0)


@both_loops
async def test_the_budget_is_given_back_whatever_happens() -> None:
    async with world(dies_first(1)) as here:
        assert (await here.once(post())).body == b"at last"
        here.leases.problems.append(Problem(Code.QUEUE_FULL, "Full.", retry_after=1.0))
        assert (await here.once(post())).status == 503
        here.leases.hold = True
        client = await here.client()
        await client.send(post())
        await until(lambda: here.leases.waiting)
        client.close()
        await until(lambda: here.leases.waiting[0][2].cancelled)
        budget = here.front._plane.budget
        await until(lambda: (budget.active, budget.again) == (0, 0))


# ---------------------------------------------------------------- still loading


def loads(times: int) -> Script:
    """llama-server that wakes up: 503 for a while, head and body in two writes."""

    async def script(conn: Conn, backend: Backend) -> None:
        while True:
            backend.seen.append(await conn.request())
            if len(backend.seen) <= times:
                raw = busy(LOADING)
                await conn.send(raw[: -len(LOADING)])
                await asyncio.sleep(0.005)
                await conn.send(raw[-len(LOADING) :])
            else:
                await conn.send(ok(b"loaded"))

    return script


@both_loops
async def test_a_backend_that_is_loading_is_waited_for() -> None:
    async with world(loads(3), limits=Limits(tick=0.01, loading_poll=0.005)) as here:
        reply = await here.once(post())
        assert (reply.status, reply.body) == (200, b"loaded")
        assert len(here.backend.seen) == 4
        assert here.leases.outcomes == [Outcome.OK]
        assert here.records[0].attempts == 1


@both_loops
async def test_but_not_for_ever() -> None:
    limits = Limits(tick=0.01, loading_poll=0.005, loading_wait=0.05)
    async with world(loads(10_000), limits=limits) as here:
        reply = await here.once(post())
        assert (reply.status, reply.body) == (503, LOADING)


@both_loops
async def test_a_client_that_leaves_meanwhile_ends_it() -> None:
    limits = Limits(tick=0.01, loading_poll=0.005)
    async with world(loads(10_000), limits=limits) as here:
        client = await here.client()
        await client.send(post())
        await until(lambda: len(here.backend.seen) > 2)
        client.close()
        await until(lambda: here.leases.outcomes == [Outcome.CLIENT_GONE])
        seen = len(here.backend.seen)
        await asyncio.sleep(0.05)
        assert len(here.backend.seen) <= seen + 1


@pytest.mark.parametrize(
    "answer",
    [
        busy(b'{"error":"no slot"}'),
        busy(LOADING + b" " * 5000),
        b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(LOADING) + b"0\r\n\r\n",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_any_other_503_is_passed_on(answer: bytes) -> None:
    async def script(conn: Conn, backend: Backend) -> None:
        while True:
            backend.seen.append(await conn.request())
            await conn.send(answer)

    async with world(script) as here:
        client = await here.client()
        for count in (1, 2):
            await client.send(post())
            assert (await client.reply()).status == 503
            assert len(here.backend.seen) == count
        assert [lease.status for lease in here.leases.leases] == [503, 503]


# ---------------------------------------------------------------- suspects


async def suspected(here: object) -> None:
    leases = here.leases  # type: ignore[attr-defined]
    answer = leases.answer

    def suspect(wish: Wish, done: object) -> None:
        answer(wish, done)
        leases.leases[-1].suspected = True

    leases.answer = suspect


@both_loops
async def test_a_suspect_that_loses_its_second_backend_is_not_to_be_sent_again() -> None:
    async with world(dies_first(9)) as here:
        assert (await here.once(post())).get("x-should-retry") == "true"
        await suspected(here)
        assert (await here.once(post())).get("x-should-retry") == "false"


@both_loops
async def test_a_messages_stream_tells_why_only_if_it_is_for_good() -> None:
    async def breaks(conn: Conn, backend: Backend) -> None:
        await conn.request()
        await conn.send(CHUNKED + chunk(b"event: ping\ndata: {}\n\n"))
        await pause(0.02)
        conn.reset()

    async with world(breaks) as here:
        client = await here.client()
        await client.send(post("/v1/messages"))
        await client.head()
        assert await client.ended_by_reset()
        await suspected(here)
        client = await here.client()
        await client.send(post("/v1/messages", b'{"model":"m"}', "X-Request-Id: mine"))
        raw = await client.rest()
        event = raw[raw.index(b"event: error\ndata: ") :].split(b"\n")[1]
        told = json.loads(event.removeprefix(b"data: "))
        assert (told["type"], told["request_id"]) == ("error", "mine")
        assert "retry" not in told["error"]["message"]
        assert not raw.endswith(b"0\r\n\r\n"), "and it is no clean end all the same"


def test_a_body_has_a_mark() -> None:
    long = b"a" * WHOLE + b"b" * WHOLE
    assert digest(b"x") == digest(bytearray(b"x")) != digest(b"y")
    assert digest(long) == digest(ends(long)) == digest(ends(ends(long)))
    assert len(ends(long)) <= WHOLE
    assert digest(long) != digest(long[:-1] + b"c")
    assert digest(long) != digest(b"b" + long[1:])
    assert digest(long) != digest(b"a" + long)


@both_loops
async def test_the_mark_is_that_of_the_body_until_the_end() -> None:
    body = b'{"model":"m","x":"' + b"y" * (2 * WHOLE) + b'"}'
    hold = asyncio.Event()

    async def script(conn: Conn, backend: Backend) -> None:
        await conn.request()
        await conn.send(CHUNKED + chunk(b"data: 1\n\n"))
        await hold.wait()
        await conn.send(b"0\r\n\r\n")

    async with world(script) as here:
        client = await here.client()
        await client.send(post(body=body))
        wish = await _first(here.leases.wishes)
        assert wish.mark() == digest(body)
        await client.head()
        assert wish.mark() == digest(body)
        hold.set()
        assert await client.chunk() == b"data: 1\n\n"
        assert await client.chunk() == b""


async def _first(wishes: list[Wish]) -> Wish:
    await until(lambda: wishes)
    return wishes[0]


# ---------------------------------------------------------------- why was that slow?


@both_loops
async def test_an_answer_says_how_long_it_waited() -> None:
    async with world() as here:
        reply = await here.once(post())
        assert reply.get("x-request-id")
        (name, value) = (reply.get("server-timing") or "").split(";dur=")
        assert (name, float(value) < 30_000) == ("queue", True)
        assert (await here.once(get("/health"))).get("server-timing") is None
        here.leases.problems.append(Problem(Code.QUEUE_TIMEOUT, "Too long.", retry_after=1.0))
        refused = await here.once(post())
        assert (refused.get("server-timing") or "").startswith("queue;dur=")


@both_loops
async def test_and_for_what(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Waits(0.0125, 0.4, 8.3, ("old", "older"))
    monkeypatch.setattr(FakeLease, "waits", lambda self: waits)
    usage = b'{"usage":{"prompt_tokens":9,"completion_tokens":4}}'

    async def script(conn: Conn, backend: Backend) -> None:
        await conn.request()
        await conn.send(ok(usage))

    async with world(script) as here:
        reply = await here.once(post())
        assert reply.get("server-timing") == "queue;dur=12.5, evict;dur=400.0, load;dur=8300.0"
        record = here.records[0]
        assert (record.queue, record.evict, record.load) == (0.0125, 0.4, 8.3)
        assert (record.evicted, record.tokens_in, record.tokens_out) == (("old", "older"), 9, 4)


@both_loops
async def test_tokens_are_read_from_the_end_of_a_stream() -> None:
    last = b'data: {"choices":[],"usage":{"completion_tokens":7,"prompt_tokens":3}}\n\n'

    async def script(conn: Conn, backend: Backend) -> None:
        await conn.request()
        await conn.send(CHUNKED + chunk(b'data: {"usage":{"completion_tokens":1}}\n\n'))
        await asyncio.sleep(0.01)
        await conn.send(chunk(last))
        await asyncio.sleep(0.01)
        await conn.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with world(script) as here:
        await here.once(post())
        record = here.records[0]
        assert (record.tokens_in, record.tokens_out) == (3, 7)


USED = b'"usage":{"prompt_tokens":3,"completion_tokens":7,"total":{"a":1}}'


@pytest.mark.parametrize("size", [1, 5, 30])
@pytest.mark.parametrize("form", ["chunks", "pieces of a chunk", "events", "whole"])
async def test_tokens_are_read_wherever_an_engine_cuts_its_answer(form: str, size: int) -> None:
    """In small chunks, in pieces of one, with more events behind it than one, without chunks."""
    event = b'data: {"choices":[],' + USED + b"}\n\n"
    cut = [event[at : at + size] for at in range(0, len(event), size)]
    whole = ok(b'{"x":"' + b"y" * 5000 + b'",' + USED + b"}")
    head, end = whole[:-60], whole[-60:]
    pieces = {
        "chunks": [CHUNKED, chunk(b"data: 1\n\n"), *map(chunk, cut), chunk(b"data: [DONE]\n\n")],
        "pieces of a chunk": [CHUNKED, b"%x\r\n" % len(event), *cut, b"\r\n"],
        "events": [CHUNKED, chunk(event), *[chunk(b"data: %d\n\n" % n) for n in range(size)]],
        "whole": [head, *[end[at : at + size] for at in range(0, len(end), size)]],
    }[form]

    async def script(conn: Conn, backend: Backend) -> None:
        await conn.request()
        for piece in pieces if form == "whole" else [*pieces, b"0\r\n\r\n"]:
            await conn.send(piece)
            await asyncio.sleep(0.001)

    async with world(script) as here:
        await here.once(post())
        record = here.records[0]
        assert (record.tokens_in, record.tokens_out) == (3, 7)


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (b"", (None, None)),
        (b'{"usage": {"input_tokens" : 3, "output_tokens": 7}}', (3, 7)),
        (b'event: message_delta\ndata: {"usage":{"output_tokens":8}}', (None, 8)),
        (b'"prompt_tokens":1' + b" " * 5000 + b'"completion_tokens":2', (None, 2)),
        (b'{"content":"completion_tokens: 9"}', (None, None)),
    ],
)
def test_usage_at_the_end_of_an_answer(tail: bytes, expected: tuple[int | None, ...]) -> None:
    assert usage(tail) == expected
