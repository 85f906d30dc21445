"""Mutated bytes from both sides: no bug comes to light, and no two peers see different requests."""

from __future__ import annotations

import asyncio
import os
import random
import re
from typing import Any

import httptools
import pytest

from daemon.ports import Target
from daemon.relay.answers import Answer
from daemon.relay.body import Parts
from daemon.relay.client import ClientConnection
from daemon.relay.guard import Guard
from daemon.relay.limits import Limits
from daemon.relay.plane import Plane
from daemon.relay.upstream import Fault, Owner, Upstream
from tests.relay.corpus import PASSED, REFUSED
from tests.relay.peers import CHUNKED, FakeLeases, chunk, ok

LONG = os.environ.get("HYPOTHESIS_PROFILE") in ("long", "nightly")
COUNT = 50_000 if LONG else 4000
BYTES = [b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"\xff", b"\r\n\r\n"]
LINES = [b"Host: b\r\n", b"Content-Length: 4\r\n", b"Transfer-Encoding: chunked\r\n", b" x\r\n"]


def mutate(data: bytes, luck: random.Random) -> bytes:
    for _ in range(luck.choice((0, 1, 1, 2, 4))):
        at = luck.randrange(len(data) or 1)
        what = luck.randrange(6)
        if what == 0:
            data = data[:at] + data[at + luck.choice((1, 1, 5)) :]
        elif what == 1:
            data = data[:at] + luck.choice(BYTES) + data[at:]
        elif what == 2:
            data = data[:at] + luck.choice(BYTES) + data[at + 1 :]
        elif what == 3:
            lines = data.splitlines(keepends=True)
            place = luck.randrange(len(lines) + 1)
            data = b"".join([*lines[:place], luck.choice(LINES + lines), *lines[place:]])
        elif what == 4:
            data = data[:at] + data
        else:
            data = data[: at + 1]
    return data


def pieces(data: bytes, luck: random.Random) -> list[bytes]:
    cuts = sorted(luck.randrange(len(data) + 1) for _ in range(luck.choice((0, 1, 3))))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def set_write_buffer_limits(self, *_: int) -> None: ...

    def get_extra_info(self, name: str) -> Any:
        return None if name == "socket" else ("127.0.0.1", 1)

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    write_eof = abort = close


class Recorder:
    """A backend that notes what it is asked, and answers at once."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, bytes]] = []

    def ask(self, owner: Owner, head: bytes, body: Parts, **_: object) -> None:
        self.asked.append((head, b"".join(body)))
        answer = Answer(200, [])
        answer.length = 2
        owner.answered(answer, b"ok", True)


class Parsed:
    """What llhttp makes of what we sent on."""

    def __init__(self) -> None:
        self.body = b""
        self.messages = 0

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.messages += 1


def recorded() -> tuple[Plane, Recorder]:
    """A plane whose every request ends at a recorder."""
    backend = Recorder()
    plane = Plane(
        asyncio.get_running_loop(),
        leases=FakeLeases(Target("127.0.0.1", 1)),
        guard=Guard(),
        limits=Limits(),
        on_done=None,
    )
    plane.pool.take = lambda _: backend  # type: ignore[assignment,method-assign,return-value]
    return plane, backend


def sent(plane: Plane, parts: list[bytes]) -> bytes:
    """What a client gets that sends ``parts`` one after the other, as long as it may."""
    wire, client = Wire(), ClientConnection(plane)
    client.connection_made(wire)  # type: ignore[arg-type]
    for part in parts:
        if not wire.closed:
            client.data_received(part)
    client.connection_lost(None)
    return wire.written


async def test_requests(caplog: pytest.LogCaptureFixture) -> None:
    luck = random.Random(4)
    plane, backend = recorded()
    seeds = list(PASSED.values()) * 3 + list(REFUSED.values())
    answered = 0
    for _ in range(COUNT):
        data = mutate(b"".join(luck.choices(seeds, k=luck.choice((1, 2, 3)))), luck)
        before = len(backend.asked)
        written = sent(plane, pieces(data, luck))
        good = written.count(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n")
        assert len(backend.asked) - before == good
        # After "close" nothing more is taken from a connection.
        assert b"x-request-id: " not in written.partition(b"connection: close")[2]
        answered += good
    assert answered > COUNT / 6
    for head, body in backend.asked:
        seen = Parsed()
        httptools.HttpRequestParser(seen).feed_data(head + body)
        assert (seen.messages, seen.body) == (1, body)
        assert head.count(b"\r\ncontent-length: ") == 1
        assert b"\r\ntransfer-encoding: " not in head
    assert not plane.clients
    plane.close()
    assert caplog.text == ""


_OURS = re.compile(rb"req_[0-9a-f]{14}|queue;dur=[0-9.]+|HTTP/1.1 100 Continue\r\n\r\n")


async def test_where_the_bytes_are_cut_changes_nothing() -> None:
    """A sample of the corpus, each cut in two at every byte; and each byte for itself."""
    plane, backend = recorded()
    good, bad = list(PASSED.values()), [data for data in REFUSED.values() if len(data) < 1000]
    step = 1 if LONG else 3
    for number, data in enumerate((*good[::step], *bad[::step])):
        whole = _OURS.sub(b"", sent(plane, [data]))
        asked = len(backend.asked)
        cuts = [[data[:at], data[at:]] for at in range(1, len(data))]
        cuts.append([bytes([byte]) for byte in data])
        for parts in cuts:
            # What was written of a refusal may be more of a reason, not another verdict.
            written = _OURS.sub(b"", sent(plane, parts))
            assert written[:12] == whole[:12], parts
            if number < len(good[::step]):
                assert written == whole, parts
        if number >= len(good[::step]):
            assert len(backend.asked) == asked
    plane.close()


class Asker:
    """Owner of an exchange with a backend; notes how it ended."""

    def __init__(self) -> None:
        self.heads = 0
        self.ends = 0
        self.data = b""

    def answered(self, answer: Answer, data: bytes, ended: bool) -> None:
        self.heads += 1
        assert 100 < answer.status < 600
        for name, value in answer.fields:
            assert not {b"\r", b"\n", b"\0"} & {bytes([byte]) for byte in name + value}
        self.continued(data, ended)

    def continued(self, data: bytes, ended: bool) -> None:
        self.data += data
        self.ends += ended

    def passed(self, data: bytes) -> None:
        self.data += data.partition(b"\r\n")[2][:-2]

    def failed(self, fault: Fault, text: str) -> None:
        assert text
        self.ends += 1

    def backend_full(self, full: bool) -> None: ...

    def crashed(self) -> None:
        raise AssertionError("a bug in reading an answer")


ANSWERS = [
    ok(b"hello", b"X-A: b"),
    CHUNKED + chunk(b"hel") + chunk(b"lo") + b"0\r\n\r\n",
    CHUNKED + chunk(b"hello") + b"0\r\nX-T: 1\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"hello"),
    b"HTTP/1.0 200 OK\r\n\r\nhello",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello",
]


def test_answers(caplog: pytest.LogCaptureFixture) -> None:
    luck = random.Random(5)
    ended = 0
    for number in range(COUNT):
        answer = mutate(luck.choice(ANSWERS), luck)
        upstream = Upstream(Target("", 0), Limits(), lambda *_: None)
        wire, owner = Wire(), Asker()
        upstream.connection_made(wire)  # type: ignore[arg-type]
        upgrade = b"" if number % 3 else b"websocket"
        raw = luck.random() < 0.5
        upstream.ask(owner, b"", (b"",), head_only=number % 7 == 0, upgrade=upgrade, raw=raw)
        for piece in pieces(answer, luck):
            if not wire.closed:
                upstream.data_received(piece)
        upstream.connection_lost(None)
        assert owner.ends == 1, answer
        assert owner.heads <= 1
        ended += owner.data == b"hello"
    assert ended > COUNT / 6
    assert caplog.text == ""
