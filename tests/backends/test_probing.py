"""Asking a backend on a connection of its own: whatever comes back is an answer, never an error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.backends.probing import Answer, _parse, answers, ask, healthy
from daemon.engines.base import Probe
from daemon.ports import Target

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(talk: Talk, uds: Path | None = None) -> AsyncIterator[Target]:
    """A server that does ``talk`` with each connection; gives its place."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except ConnectionError:
            return
        finally:
            writer.transport.abort()

    if uds is not None:
        server: asyncio.Server = await asyncio.start_unix_server(converse, uds)
        target = Target("", 0, str(uds))
    else:
        server = await asyncio.start_server(converse, "127.0.0.1", 0)
        target = Target("127.0.0.1", server.sockets[0].getsockname()[1])
    try:
        yield target
    finally:
        server.close()
        await server.wait_closed()


def saying(raw: bytes, heard: list[bytes] | None = None, *, hold: bool = False) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if heard is not None:
            heard.append(request + await asyncio.wait_for(reader.read(5), 5))
        writer.write(raw)
        await writer.drain()
        if hold:  # keeps the connection open: until the other side leaves
            await reader.read(1)

    return talk


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


async def test_one_request_on_a_connection_of_its_own() -> None:
    heard: list[bytes] = []
    async with serving(saying(OK, heard)) as target:
        answer = await ask(
            target,
            "POST",
            "/v1/x",
            body=b"12345",
            headers={"Authorization": "Bearer k"},
            deadline=5,
        )
    assert answer == Answer(200, b"hi")
    assert heard == [
        f"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1:{target.port}\r\nConnection: close\r\n"
        "Authorization: Bearer k\r\nContent-Type: application/json\r\n"
        "Content-Length: 5\r\n\r\n12345".encode()
    ]


@pytest.mark.parametrize("raw", [OK, OK.replace(b"Content-Length", b"CONTENT-length "), OK + b"x"])
async def test_a_server_that_does_not_hang_up_is_not_waited_for(raw: bytes) -> None:
    async with serving(saying(raw, hold=True)) as target:
        # waited for, it would be no answer at the deadline
        assert (await ask(target, "GET", "/", deadline=5)).status == 200


async def test_a_body_without_a_length_ends_with_the_connection() -> None:
    async with serving(saying(b"HTTP/1.0 503 No\r\n\r\nLoading")) as target:
        assert await ask(target, "GET", "/", deadline=5) == Answer(503, b"Loading")


async def test_an_endless_answer_is_cut() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with serving(talk) as target:
        answer = await ask(target, "GET", "/", deadline=5, limit=200_000)
    assert answer.status == 200
    assert 150_000 < len(answer.body) < 400_000


@pytest.mark.parametrize(
    "raw",
    [b"", b"nonsense", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\n",
     b"HTTP/1.1 " + b"9" * 5000 + b" OK\r\n\r\n"],
    ids=["silent", "nonsense", "no-status", "no-number", "no-end", "endless-status"],
)  # fmt: skip
async def test_what_is_no_answer(raw: bytes) -> None:
    async with serving(saying(raw)) as target:
        assert await ask(target, "GET", "/", deadline=5) == Answer(0)


async def test_nobody_there_and_nobody_who_answers() -> None:
    async with serving(saying(b"", hold=True)) as target:
        began = time.monotonic()
        assert await ask(target, "GET", "/", deadline=0.1) == Answer(0)
        assert time.monotonic() - began > 0.09
    assert await ask(target, "GET", "/", deadline=1) == Answer(0)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(b"HTTP/1.1 2".__add__))
def test_any_bytes_are_an_answer(raw: bytes) -> None:
    answer = _parse(raw)
    assert 0 <= answer.status <= 999


PROBE = Probe("/health", "POST", "/v1/completions", b"{}", healthy_text=b"healthy")


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [(b"200", b'{"status":"healthy"}', True), (b"200", b'{"status":"ill"}', False),
     (b"503", b"healthy", False), (b"204", b"healthy", False)],
)  # fmt: skip
async def test_healthy_is_200_and_the_text(status: bytes, body: bytes, expected: bool) -> None:
    raw = b"HTTP/1.1 " + status + b" x\r\n\r\n" + body
    async with serving(saying(raw)) as target:
        assert await healthy(target, PROBE, {}, deadline=5) is expected


async def test_without_a_health_path_an_open_port_is_healthy() -> None:
    bare = Probe(None, "POST", "/v1/completions", b"{}")
    async with serving(saying(b"")) as target:
        assert await healthy(target, bare, {}, deadline=5)
    assert not await healthy(target, bare, {}, deadline=1)


async def test_the_real_request_is_the_probes() -> None:
    heard: list[bytes] = []
    async with serving(saying(OK, heard)) as target:
        assert (await answers(target, PROBE, {"X-Key": "k"}, deadline=5)).status == 200
    assert heard[0].startswith(b"POST /v1/completions HTTP/1.1\r\n")
    assert b"X-Key: k\r\n" in heard[0]
    assert heard[0].endswith(b"\r\n\r\n{}")


async def test_a_unix_socket_is_asked_as_a_port_is(short_dir: Path) -> None:
    bare = Probe(None, "POST", "/v1/x", b"{}")
    async with serving(saying(OK), short_dir / "e.sock") as target:
        assert await ask(target, "GET", "/x", deadline=5) == Answer(200, b"hi")
        assert not await healthy(target, PROBE, {}, deadline=5), "it lacks the text"
        assert await healthy(target, bare, {}, deadline=5)
        assert (await answers(target, bare, {}, deadline=5)).status == 200
    assert await ask(target, "GET", "/", deadline=1) == Answer(0), "a file that nobody listens on"
    (short_dir / "e.sock").unlink(missing_ok=True)
    assert not await healthy(target, bare, {}, deadline=1)
