"""Heads of answers that were read before are read no other way; whole chunks are that."""

from __future__ import annotations

import asyncio
import random

import pytest

from daemon.ports import Target
from daemon.relay import answers
from daemon.relay.answers import recall, whole_chunk
from daemon.relay.limits import Limits
from daemon.relay.upstream import Upstream
from tests.relay.peers import Backend, Conn, both_loops, chunk, ok, post, world
from tests.relay.test_fuzz import Asker, Wire


@pytest.fixture(autouse=True)
def nothing_known() -> None:
    answers._known.clear()


class Told(Asker):
    """Notes heads, too."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, list[tuple[bytes, bytes]], int | None, bytes]] = []

    def answered(self, answer: answers.Answer, data: bytes, ended: bool) -> None:
        self.seen.append((answer.status, answer.fields, answer.length, answer.written()))
        super().answered(answer, data, ended)


def told(*pieces: bytes, head_only: bool = False, upgrade: bytes = b"") -> tuple[Told, list[bool]]:
    """What an owner hears of an answer in these pieces, and whether the connection was kept."""
    kept: list[bool] = []
    upstream = Upstream(Target("", 0), Limits(), lambda _, usable: kept.append(usable))
    owner, wire = Told(), Wire()
    upstream.connection_made(wire)  # type: ignore[arg-type]
    upstream.ask(owner, b"", (b"",), head_only=head_only, upgrade=upgrade)
    for piece in pieces:
        upstream.data_received(piece)
    return owner, kept


HEAD = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"


@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found", b"503 Busy"])
def test_a_known_head_means_the_same(status: bytes) -> None:
    first, _ = told(HEAD % (status, 5, b"Server: x\r\n") + b"hello")
    assert recall(HEAD % (status, 7, b"Server: x\r\n")) is not None
    for cut in range(1, 11):
        whole = HEAD % (status, 11, b"Server: x\r\n") + b"hello again"
        owner, kept = told(whole[:-cut], whole[-cut:])
        assert (owner.data, owner.ends, kept) == (b"hello again", 1, [True])
        # The fields are those of the first time: the length is told beside them.
        code, fields, _, start = first.seen[0]
        assert owner.seen == [(code, fields, 11, start)]


@pytest.mark.parametrize(
    "head",
    [
        HEAD % (b"200 OK", 5, b"Connection: close\r\n"),  # not kept: nothing to gain
        HEAD % (b"204 No Content", 5, b""),
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1100 + b"\r\nContent-Length: 5\r\n\r\n",
    ],
)
def test_what_is_not_learnt(head: bytes) -> None:
    told(head + b"hello")
    assert answers._known == {}


def test_what_was_learnt_is_not_used_where_it_means_something_else() -> None:
    plain = HEAD % (b"200 OK", 5, b"")
    told(plain + b"hello")
    assert len(answers._known) == 1
    owner, kept = told(plain, head_only=True)  # of a HEAD request: no body follows
    assert (owner.data, owner.ends, kept) == (b"", 1, [False])
    owner, _ = told(plain + b"hello", upgrade=b"websocket")
    assert (owner.data, owner.ends) == (b"hello", 1)
    owner, kept = told(plain + b"hello" + plain)  # two answers to one request
    assert (owner.data, owner.ends, kept) == (b"hello", 1, [False])
    for other in (b"X: y\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 6\r\n"):
        assert recall(HEAD % (b"200 OK", 5, other)) is None
    assert recall(plain[:-1]) is None
    empty, kept = told(HEAD % (b"200 OK", 0, b""))
    assert (empty.data, empty.ends, kept) == (b"", 1, [True])


def test_what_is_kept_is_bounded() -> None:
    for number in range(1000):
        told(HEAD % (b"200 OK", 5, b"X: %d\r\n" % number) + b"hello")
    assert len(answers._known) <= 256


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (chunk(b"x"), True),
        (chunk(b"\r\n" * 9), True),
        (b"00A\r\n0123456789\r\n", True),
        (b"0\r\n\r\n", False),
        (b"", False),
        (b"\r\n", False),
        (chunk(b"x") + chunk(b"y"), False),
        (chunk(b"x")[:-1], False),
        (b"1\r\nxxx", False),
        (b"1;a=b\r\nx\r\n", False),
        (b"+1\r\nx\r\n", False),
        (b" 1\r\nx\r\n", False),
        (b"1_0\r\n" + b"x" * 16 + b"\r\n", False),
        (b"g\r\nx\r\n", False),
        (b"000000001\r\nx\r\n", False),
        ("١\r\nx\r\n".encode(), False),
    ],
)
def test_a_whole_chunk(data: bytes, whole: bool) -> None:
    assert whole_chunk(data) is whole


@both_loops
async def test_streams_come_through_however_their_chunks_are_cut() -> None:
    """Whole chunks pass as they are, all else through llhttp: in any order, the same bytes."""
    luck = random.Random(7)
    texts = [bytes([97 + luck.randrange(26)]) * luck.choice((1, 9, 300)) for _ in range(40)]

    async def cut(conn: Conn, backend: Backend) -> None:
        while True:
            await conn.request()
            await conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            left = b""
            for text in texts:
                data = left + chunk(text)
                at = luck.choice((len(data), len(data), luck.randrange(len(data) + 1)))
                await conn.send(data[:at])
                left = data[at:]
                await asyncio.sleep(luck.choice((0, 0.001, 0.002)))
            await conn.send(left + b"0\r\nX-Sum: 1\r\n\r\n")

    async with world(cut) as here:
        for line in (b"HTTP/1.1", b"HTTP/1.0"):
            reply = await here.once(post().replace(b"HTTP/1.1", line))
            assert reply.body == b"".join(texts)


@both_loops
async def test_the_second_answer_is_as_good_as_the_first() -> None:
    async def counting(conn: Conn, backend: Backend) -> None:
        while True:
            backend.seen.append(await conn.request())
            await conn.send(ok(b"n" * len(backend.seen), b"Server: x"))

    async with world(counting) as here:
        client = await here.client()
        for number in range(1, 6):
            await client.send(post())
            reply = await client.reply()
            assert reply.body == b"n" * number
            assert reply.get("server") is None
        assert len(here.backend.conns) == 1
        assert len(answers._known) == 1
