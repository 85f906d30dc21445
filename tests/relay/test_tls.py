"""The front over TLS: the same connections, other transports."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from daemon.lan.certificate import ensure
from daemon.relay.doors import MAIN
from daemon.relay.limits import Limits
from daemon.relay.listener import _HANDS_EACH, Listener
from tests.relay.peers import (
    Backend,
    Client,
    Conn,
    World,
    both_loops,
    get,
    ok,
    post,
    until,
    world,
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    import time

    folder = tmp_path_factory.mktemp("tls")
    made = ensure(folder, ["127.0.0.1"], life=9e6, renewal=1, now=time.time(), anew=False)
    return made.cert, made.key


@dataclass
class Safe:
    """A world with one more port, which speaks TLS."""

    here: World
    listener: Listener
    trust: ssl.SSLContext

    @property
    def port(self) -> int:
        port: int = self.listener.sock.getsockname()[1]
        return port

    async def client(self, receive: int | None = None) -> Client:
        sock = socket.socket()
        if receive is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=self.trust, server_hostname="127.0.0.1", limit=1 << 16
        )
        client = Client(reader, writer)
        self.here.clients.append(client)
        return client


def server_context(cert: str, key: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    return context


@contextlib.asynccontextmanager
async def safe(pair: tuple[str, str], here: World) -> AsyncIterator[Safe]:
    sock = socket.create_server(("127.0.0.1", 0))
    listener = here.front.open(sock, MAIN, server_context(*pair))
    yield Safe(here, listener, ssl.create_default_context(cafile=pair[0]))


@both_loops
async def test_a_request_and_the_next_on_the_same_connection(certificate: tuple[str, str]) -> None:
    async with world() as here, safe(certificate, here) as there:
        client = await there.client()
        for _ in range(2):
            await client.send(post())
            assert (await client.reply()).status == 200
        assert (await here.once(get("/health"))).status == 200, "loopback stays plain"
        (peer,) = {one.peer.address for one in here.front._plane.clients}
        assert peer == "127.0.0.1", "who it is is known as without TLS"


@both_loops
async def test_a_page_of_our_own_has_our_scheme(certificate: tuple[str, str]) -> None:
    async with world() as here, safe(certificate, here) as there:
        for scheme, plain, encrypted in (("http", 200, 403), ("https", 403, 200)):
            asked = get("/health", f"Origin: {scheme}://127.0.0.1")
            assert (await here.once(asked)).status == plain
            client = await there.client()
            await client.send(asked)
            assert (await client.reply()).status == encrypted


@both_loops
async def test_a_big_answer_is_held_back_for_a_slow_reader(certificate: tuple[str, str]) -> None:
    sent = 0
    piece = b"x" * 65536

    async def gush(conn: Conn, backend: Backend) -> None:
        nonlocal sent
        await conn.request()
        total = 400 * len(piece)
        await conn.send(f"HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n".encode())
        for _ in range(400):
            await conn.send(piece)
            sent += len(piece)

    async with world(gush) as here, safe(certificate, here) as there:
        client = await there.client(receive=65536)
        await client.send(post())
        await until(lambda: any(one._full for one in here.front._plane.clients))
        before = -1
        while before != sent:  # until nothing moves any more
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 300 * len(piece), "the backend waits for the client"
        reply = await client.reply()
        assert len(reply.body) == 400 * len(piece)


@both_loops
async def test_a_client_that_reads_nothing_is_cut(certificate: tuple[str, str]) -> None:
    async def gush(conn: Conn, backend: Backend) -> None:
        await conn.request()
        with contextlib.suppress(ConnectionError):
            await conn.send(ok(bytes(32 << 20)))

    limits = Limits(tick=0.01, write_stall=0.2)
    async with world(gush, limits=limits) as here, safe(certificate, here) as there:
        client = await there.client(receive=4096)
        await client.send(post())
        await until(lambda: here.front.connections == 1)
        await until(lambda: here.front.connections == 0, "it is reset")


@both_loops
async def test_a_broken_answer_is_not_taken_for_a_whole_one(certificate: tuple[str, str]) -> None:
    async def die(conn: Conn, backend: Backend) -> None:
        await conn.request()
        await conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await conn.send(b"5\r\nhello\r\n")
        conn.writer.close()

    async with world(die) as here, safe(certificate, here) as there:
        client = await there.client()
        await client.send(post())
        status, _, _ = await client.head()
        assert status == 200
        assert not (await client.rest()).endswith(b"0\r\n\r\n")
        await until(lambda: here.front.connections == 0)


@both_loops
async def test_a_client_that_leaves_is_noticed(certificate: tuple[str, str]) -> None:
    async with world() as here, safe(certificate, here) as there:
        here.leases.hold = True
        for polite in (True, False):
            client = await there.client()
            await client.send(post())
            await until(lambda: len(here.leases.waiting) == 1)
            if polite:
                client.close()
            else:
                client.writer.transport.abort()
            (_, _, waiting) = here.leases.waiting.pop()
            await until(lambda waiting=waiting: waiting.cancelled == 1)  # type: ignore[misc]


@both_loops
async def test_a_refusal_reaches_who_is_still_sending(certificate: tuple[str, str]) -> None:
    async with (
        world(limits=Limits(tick=0.01, body_bytes=1000, linger=0.3)) as here,
        safe(certificate, here) as there,
    ):
        client = await there.client()
        head = post(body=b"").replace(b"Content-Length: 0", b"Content-Length: 100000000")
        await client.send(head)
        for _ in range(20):
            client.writer.write(bytes(10_000))
        reply = await client.reply()
        assert reply.status == 413
        await until(lambda: here.front.connections == 0, "closed all the same")


@both_loops
async def test_plain_words_and_silence_are_no_handshake(certificate: tuple[str, str]) -> None:
    limits = Limits(tick=0.01, head_timeout=0.3)
    async with world(limits=limits) as here, safe(certificate, here) as there:
        plain = await here.client(there.port)
        await plain.send(get("/health"))
        assert b"200" not in await plain.rest()
        silent = await here.client(there.port)
        assert await silent.rest() == b"", "its time is over"
        await until(lambda: not here.front._plane.hands)


@both_loops
async def test_handshakes_that_stand_still_keep_nobody_out(certificate: tuple[str, str]) -> None:
    async with world() as here, safe(certificate, here) as there:
        silent = [await here.client(there.port) for _ in range(_HANDS_EACH + 5)]
        await until(lambda: len(here.front._plane.hands) == _HANDS_EACH)
        assert (await here.once(get("/health"))).status == 200
        client = await there.client()
        await client.send(get("/health"))
        assert (await client.reply()).status == 200
        assert await silent[0].rest() == b"", "the oldest has given way"
        here.front.close(there.listener)
        assert await silent[-1].rest() == b"", "nor is any left behind a closed port"
        await until(lambda: not here.front._plane.hands)


@both_loops
async def test_without_room_it_is_closed_without_a_word(certificate: tuple[str, str]) -> None:
    async with world() as here, safe(certificate, here) as there:
        here.front._plane.most = 0
        client = await here.client(there.port)
        assert await client.rest() == b""


@both_loops
async def test_another_certificate_from_the_next_connection_on(
    certificate: tuple[str, str], tmp_path: Path
) -> None:
    import time

    async with world() as here, safe(certificate, here) as there:
        old = await there.client()
        await old.send(get("/health"))
        assert (await old.reply()).status == 200
        made = ensure(tmp_path, ["127.0.0.1"], life=9e6, renewal=1, now=time.time(), anew=False)
        there.listener.tls = server_context(made.cert, made.key)
        there.trust = ssl.create_default_context(cafile=made.cert)
        new = await there.client()
        for client in (old, new):
            await client.send(get("/health"))
            assert (await client.reply()).status == 200
