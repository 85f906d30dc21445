"""Both ends of a relayed request, scripted to the byte, and a lease port that tests command."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from daemon.access.principals import LOCAL, Principal
from daemon.core.messages import Outcome
from daemon.core.problems import Code, Problem
from daemon.dialects.manner import Manner
from daemon.ports import Edits, Lease, ModelCard, Target, Tokens, Waits, Wish
from daemon.relay.front import Front
from daemon.relay.guard import Guard
from daemon.relay.limits import Limits
from daemon.relay.records import RequestRecord

DEADLINE = 10.0
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Any:
    """Run an async test on asyncio's own loop and on uvloop."""

    @functools.wraps(test)
    def run(loop: str, **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(asyncio.wait_for(test(**fixtures), 5 * DEADLINE))

    own = list(inspect.signature(test).parameters.values())
    extra = inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = inspect.Signature([extra, *own])  # type: ignore[attr-defined]
    return pytest.mark.parametrize("loop", LOOPS)(run)


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait for ``condition``, with a deadline."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - any condition, not only events
            await asyncio.sleep(0.002)
    assert condition(), what


async def pause(seconds: float) -> None:
    """A moment in which the relay, which shares the loop, reads and sends on what there is.

    Where the machine itself stood still that long, uvloop looks at its timers before its sockets:
    so a few rounds of the loop come behind it.
    """
    await asyncio.sleep(seconds)
    for _ in range(10):
        await asyncio.sleep(0)


# ---------------------------------------------------------------- leases


class FakeLease:
    keep_query = True

    def __init__(self, wish: Wish, target: Target, upstream_model: str) -> None:
        self.wish = wish
        self.model = wish.model
        self.upstream_model = upstream_model
        self.target = target
        self.headers = {"authorization": "Bearer per-start-key"}
        self.arrived = 12.5
        self.on_cancel: Callable[[Problem], None] | None = None
        self.ends: list[Outcome] = []
        self.status = 0
        self.sent: Callable[[], int] | None = None
        self.suspected = False
        self.edits: Edits | None = None
        self.manner: Manner | None = None
        self.rescued = 0

    def waits(self) -> Waits | None:
        return None

    def suspect(self) -> bool:
        return self.suspected

    def end(self, outcome: Outcome) -> None:
        self.ends.append(outcome)


class FakeWaiting:
    def __init__(self) -> None:
        self.cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


class FakeLeases:
    """Grants at once, unless told to let requests wait (``hold``) or to refuse (``problems``)."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.rename: dict[str, str] = {}
        self.keep_query = True
        self.edits: Edits | None = None
        self.spoken: Manner | None = None
        self.tokens: Tokens | None = None  # by the model's own tokenizer
        self.counted: list[bytes] = []
        self.unloaded: list[str] = []
        self.counting: list[tuple[Callable[[Tokens | None], None], FakeWaiting]] = []
        self.waits_for = ""  # told to clients that show it
        self.hold = False
        self.problems: list[Problem] = []
        self.wishes: list[Wish] = []
        self.leases: list[FakeLease] = []
        self.waiting: list[tuple[Wish, Callable[[Lease | Problem], None], FakeWaiting]] = []
        self.known = {
            "m": ModelCard("m", created=7),
            "org/big": ModelCard("org/big"),
        }
        self.draining = False

    def acquire(self, wish: Wish, done: Callable[[Lease | Problem], None]) -> FakeWaiting | None:
        self.wishes.append(wish)
        if self.hold:
            waiting = FakeWaiting()
            self.waiting.append((wish, done, waiting))
            return waiting
        self.answer(wish, done)
        return None

    def answer(self, wish: Wish, done: Callable[[Lease | Problem], None]) -> None:
        if self.problems:
            done(self.problems.pop(0))
            return
        lease = FakeLease(wish, self.target, self.rename.get(wish.model, wish.model))
        lease.keep_query = self.keep_query
        lease.edits = self.edits
        lease.manner = self.spoken
        self.leases.append(lease)
        done(lease)

    def cards(self, who: Principal = LOCAL) -> list[ModelCard]:
        return list(self.known.values())

    def card(self, name: str, route: str = "", who: Principal = LOCAL) -> ModelCard | Problem:
        missing = Problem(Code.MODEL_NOT_FOUND, f"There is no model {name!r}.")
        return self.known.get(name, missing)

    def manner(self, name: str, who: Principal = LOCAL) -> Manner | None:
        return self.spoken

    def count(
        self, name: str, chat: bytes, done: Callable[[Tokens | None], None]
    ) -> FakeWaiting | None:
        self.counted.append(chat)
        if self.hold:
            waiting = FakeWaiting()
            self.counting.append((done, waiting))
            return waiting
        done(self.tokens)
        return None

    def unload(self, name: str, who: Principal = LOCAL) -> Problem | None:
        card = self.card(name)
        if isinstance(card, Problem):
            return card
        self.unloaded.append(card.id)
        return None

    def waiting_text(self, name: str) -> str:
        return self.waits_for

    def check(self) -> None:
        """Every lease that was granted was ended exactly once, and nobody listens to it."""
        assert [lease.ends for lease in self.leases if len(lease.ends) != 1] == []
        assert [lease for lease in self.leases if lease.on_cancel is not None] == []

    @property
    def outcomes(self) -> list[Outcome]:
        return [end for lease in self.leases for end in lease.ends]


# ---------------------------------------------------------------- the backend


@dataclass
class Seen:
    """One request as the backend got it."""

    head: bytes
    body: bytes
    connection: int

    @property
    def line(self) -> str:
        return self.head.partition(b"\r\n")[0].decode()

    @property
    def fields(self) -> list[tuple[str, str]]:
        lines = self.head.decode("latin-1").split("\r\n")[1:-2]
        return [
            (name.lower(), value.strip()) for name, _, value in (li.partition(":") for li in lines)
        ]

    def get(self, name: str) -> str | None:
        return dict(self.fields).get(name)


class Conn:
    """One connection at the backend, for a script."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number
        self.gone = asyncio.Event()

    async def request(self) -> Seen:
        head = await self.reader.readuntil(b"\r\n\r\n")
        match = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)\r\n", head)
        body = await self.reader.readexactly(int(match[1])) if match else b""
        return Seen(head, body, self.number)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        self.writer.transport.abort()

    async def closed(self) -> None:
        """Wait until the relay closes."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass
        self.gone.set()


Script = Callable[[Conn, "Backend"], Awaitable[None]]


def ok(body: bytes, *extra: bytes, kind: bytes = b"application/json") -> bytes:
    lines = b"".join(line + b"\r\n" for line in extra)
    return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n%b" % (
        kind,
        len(body),
        lines,
        body,
    )


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def echo(conn: Conn, backend: Backend) -> None:
    """Answer each request with its own body, for as long as the connection lives."""
    while True:
        seen = await conn.request()
        backend.seen.append(seen)
        await conn.send(ok(seen.body or b"none"))


@dataclass
class Backend:
    script: Script = echo
    seen: list[Seen] = field(default_factory=list)
    conns: list[Conn] = field(default_factory=list)
    server: asyncio.Server | None = None
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    faults: list[BaseException] = field(default_factory=list)
    stopped: bool = False

    async def start(self, uds: str | None = None) -> Target:
        if uds is not None:
            self.server = await asyncio.start_unix_server(self._serve, uds)
            return Target("", 0, uds)
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return Target("127.0.0.1", self.server.sockets[0].getsockname()[1])

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conn = Conn(reader, writer, len(self.conns))
        if self.stopped:  # it was on its way in
            conn.reset()
            return
        self.conns.append(conn)
        task = asyncio.ensure_future(self._run(conn))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _run(self, conn: Conn) -> None:
        try:
            await self.script(conn, self)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception as error:
            self.faults.append(error)
        finally:
            conn.gone.set()
            conn.writer.close()

    async def stop(self) -> None:
        assert self.server is not None
        self.stopped = True
        self.server.close()
        for conn in self.conns:
            conn.writer.transport.abort()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        assert self.faults == []


# ---------------------------------------------------------------- the client


@dataclass
class Reply:
    status: int
    fields: list[tuple[str, str]]
    body: bytes
    raw: bytes

    def get(self, name: str) -> str | None:
        return dict(self.fields).get(name)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.fields]


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, list[tuple[str, str]], bytes]:
        async with asyncio.timeout(DEADLINE):
            raw = await self.reader.readuntil(b"\r\n\r\n")
        lines = raw.decode("latin-1").split("\r\n")[:-2]
        fields = []
        for line in lines[1:]:
            name, _, value = line.partition(":")
            fields.append((name.lower(), value.strip()))
        return int(lines[0].split(" ")[1]), fields, raw

    async def reply(self, *, head_only: bool = False) -> Reply:
        async with asyncio.timeout(DEADLINE):
            status, fields, raw = await self.head()
            while status == 100:
                status, fields, raw = await self.head()
            body = b"" if head_only else await self._body(status, dict(fields))
        return Reply(status, fields, body, raw)

    async def _body(self, status: int, fields: dict[str, str]) -> bytes:
        if status in (204, 304):
            return b""
        if "content-length" in fields:
            return await self.reader.readexactly(int(fields["content-length"]))
        if fields.get("transfer-encoding") != "chunked":
            return await self.reader.read()
        body = b""
        while piece := await self.chunk():
            body += piece
        return body

    async def chunk(self) -> bytes:
        async with asyncio.timeout(DEADLINE):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            data = await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def rest(self) -> bytes:
        """All until the relay closes or resets."""
        data = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(DEADLINE):
                while more := await self.reader.read(65536):
                    data += more
        return data

    async def ended_by_reset(self) -> bool:
        try:
            async with asyncio.timeout(DEADLINE):
                while await self.reader.read(65536):
                    pass
        except ConnectionResetError:
            return True
        return False

    def close(self) -> None:
        self.writer.close()


def post(
    path: str = "/v1/chat/completions",
    body: bytes = b'{"model":"m"}',
    *fields: str,
    method: str = "POST",
) -> bytes:
    lines = "".join(f"{line}\r\n" for line in fields)
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n{lines}\r\n".encode("latin-1") + body


def get(path: str, *fields: str, method: str = "GET") -> bytes:
    lines = "".join(f"{line}\r\n" for line in fields)
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n".encode("latin-1")


@dataclass
class World:
    front: Front
    leases: FakeLeases
    backend: Backend
    records: list[RequestRecord]
    clients: list[Client] = field(default_factory=list)

    async def client(self, port: int | None = None) -> Client:
        """A connection to the front, or to another of its ports."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port or self.front.port)
        client = Client(reader, writer)
        self.clients.append(client)
        return client

    async def once(self, data: bytes) -> Reply:
        """One request on a connection of its own."""
        client = await self.client()
        await client.send(data)
        reply = await client.reply(head_only=data.startswith(b"HEAD"))
        client.close()
        return reply


@contextlib.asynccontextmanager
async def world(
    script: Script = echo,
    *,
    limits: Limits | None = None,
    guard: Guard | None = None,
    uds: str | None = None,
) -> AsyncIterator[World]:
    """A front, a scripted backend behind it, and at the end: nothing left over."""
    backend = Backend(script)
    target = await backend.start(uds)
    leases = FakeLeases(target)
    records: list[RequestRecord] = []
    front = await Front.start(
        "127.0.0.1",
        0,
        leases=leases,
        guard=guard or Guard(),
        limits=limits or Limits(tick=0.01),
        on_done=records.append,
    )
    here = World(front, leases, backend, records)
    try:
        yield here
    finally:
        for client in here.clients:
            client.close()
        front.abort()
        await backend.stop()
        await until(lambda: front.connections == 0, "a client connection is left")
        await asyncio.sleep(0)
    leases.check()
