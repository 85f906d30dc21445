from __future__ import annotations

from typing import Any

import pytest

from daemon.access.principals import LOCAL
from daemon.core.problems import Code, Problem
from daemon.dialects.errors import Dialect
from daemon.relay.admission import Admitted
from daemon.relay.guard import Guard
from daemon.relay.heads import parse_head
from daemon.relay.limits import Limits
from daemon.relay.memo import again, learn
from daemon.relay.routes import Place, resolve
from tests.relay.corpus import REFUSED
from tests.relay.peers import both_loops, get, post, world

LIMITS = Limits(body_bytes=1000)
RAW = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 13\r\nX-Y: 13\r\n\r\n"
GUARD = Guard()


def known(raw: bytes = RAW) -> Any:
    place = resolve("POST", "/v1/messages")
    assert isinstance(place, Place)
    admitted = Admitted(place, Dialect.ANTHROPIC, LOCAL, "c", b"", place.upstream)
    return learn(raw, GUARD, parse_head(raw, LIMITS), admitted)


def test_only_the_length_may_differ() -> None:
    memo = known()
    for length in (b"0", b"7", b"1000", b"0000000000000999"):
        raw = RAW.replace(b"Length: 13", b"Length: " + length)
        assert again(memo, raw, GUARD, LIMITS)
        assert memo.head.length == int(length)
        assert parse_head(raw, LIMITS).fields != []


@pytest.mark.parametrize(
    "raw",
    [
        RAW.replace(b"Length: 13", b"Length: 1001"),
        RAW.replace(b"Length: 13", b"Length: "),
        RAW.replace(b"Length: 13", b"Length:  13"),
        RAW.replace(b"Length: 13", b"Length: +13"),
        RAW.replace(b"Length: 13", b"Length: 13 "),
        RAW.replace(b"Length: 13", b"Length: " + b"1" * 19),
        RAW.replace(b"X-Y: 13", b"X-Y: 14"),
        RAW.replace(b"X-Y: 13", b"X-Y: 13\r\nContent-Length: 14"),
        RAW.replace(b"X-Y: 13", b"X-Y: \r\nContent-Length: 13"),
        RAW.replace(b"Host: a", b"Host: b"),
        RAW.replace(b"HTTP/1.1", b"HTTP/1.0"),
        RAW.replace(b"Content-Length: 13\r\n", b"Transfer-Encoding: chunked\r\n"),
        RAW.replace(b"Content-Length: 13\r\n", b""),
        RAW.replace(b"POST", b"GET"),
    ],
)
def test_whatever_else_differs_is_read_anew(raw: bytes) -> None:
    assert not again(known(), raw, GUARD, LIMITS)


def test_another_guard_decides_anew() -> None:
    assert not again(known(), RAW, Guard(), LIMITS)


def test_heads_without_a_length_are_not_kept() -> None:
    assert known(RAW.replace(b"Content-Length: 13\r\n", b"")) is None


@both_loops
async def test_on_one_connection_no_head_stands_for_another() -> None:
    async with world() as here:
        client = await here.client()
        for number in range(12):
            body = b'{"model":"m","x":"%b"}' % (b"y" * number * 11)
            agent = f"User-Agent: {number // 4}"
            await client.send(post("/v1/messages", body, agent))
            assert (await client.reply()).body == body
            await client.send(post("/v1/completions", body, agent))
            assert (await client.reply()).body == body
            assert here.backend.seen[-1].line == "POST /v1/completions HTTP/1.1"
            assert here.backend.seen[-1].get("user-agent") == str(number // 4)
            await client.send(get("/health"))
            assert (await client.reply()).status == 200
        here.leases.rename = {"m": "other"}
        await client.send(post("/v1/completions"))
        assert (await client.reply()).body == b'{"model":"other"}'


@both_loops
async def test_bad_requests_are_refused_after_good_ones_too() -> None:
    limits = Limits(tick=0.01, head_timeout=0.1, body_silence=0.1)
    good = post()
    async with world() as here:
        clients = [await here.client() for _ in REFUSED]
        for client in clients:
            await client.send(good)
            assert (await client.reply()).status == 200
        here.front.set_limits(limits)  # no sooner: of what is sent, not of who has only come
        for client, (name, data) in zip(clients, REFUSED.items(), strict=True):
            before = len(here.backend.seen)
            await client.send(data)
            assert (await client.rest()).startswith(b"HTTP/1.1 4"), name
            assert len(here.backend.seen) == before, name


@both_loops
async def test_a_new_guard_is_asked_on_an_open_connection() -> None:
    async with world() as here:
        client = await here.client()
        await client.send(post())
        assert (await client.reply()).status == 200

        class Closed(Guard):
            def decide(self, head: object, peer: object) -> Problem:
                return Problem(Code.FORBIDDEN, "Closed.")

        here.front.set_guard(Closed())
        await client.send(post())
        assert (await client.reply()).status == 403
