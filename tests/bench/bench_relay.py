"""What the relay adds: ``python -m tests.bench.bench_relay [--loop asyncio|uvloop]``.

Backend, relay and a bare forwarder of bytes (uvloop, no HTTP: what one more hop costs on this
machine at least) are processes of their own; the client is a plain blocking socket. The three
ways take turns, so that all meet the same noise; medians are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import socket
import statistics
import time
from multiprocessing.connection import Connection

import uvloop

from daemon.ports import Target
from daemon.relay.front import Front
from daemon.relay.guard import Guard
from tests.relay.peers import FakeLeases

ANSWER = b'{"choices":[{"message":{"content":"' + b"x" * 300 + b'"}}]}'
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(ANSWER),
    ANSWER,
)
EVENT = b'data: {"choices":[{"delta":{"content":"token"}}]}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
CHUNKS = 2000
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class _Backend(asyncio.Protocol):
    """Answers each complete request; a path with /stream by paced chunks."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return
        at = self.data.lower().find(b"content-length: ")
        size = int(self.data[at + 16 : self.data.find(b"\r\n", at)])
        if len(self.data) < end + 4 + size:
            return
        stream = b'"stream":true' in self.data
        self.data = b""
        if stream:
            self.transport.write(STREAM_HEAD)  # type: ignore[attr-defined]
            self.left = CHUNKS
            self.more()
        else:
            self.transport.write(PLAIN)  # type: ignore[attr-defined]

    def more(self) -> None:
        if self.left == 0:
            self.transport.write(b"0\r\n\r\n")  # type: ignore[attr-defined]
            return
        self.left -= 1
        self.transport.write(CHUNK)  # type: ignore[attr-defined]
        asyncio.get_running_loop().call_later(0.001, self.more)


def _backend(port: Connection) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(_Backend, "127.0.0.1", 0)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def _relay(port: Connection, backend: int, loop: str, profile: str) -> None:
    async def main() -> None:
        leases = FakeLeases(Target("127.0.0.1", backend))
        leases.acquire = _grant(leases)  # type: ignore[method-assign]
        front = await Front.start("127.0.0.1", 0, leases=leases, guard=Guard())
        port.send(front.port)
        await asyncio.to_thread(port.recv)
        port.send(time.process_time())
        if profile:
            import cProfile

            prof = cProfile.Profile()
            prof.enable()
            await asyncio.to_thread(port.recv)
            prof.disable()
            prof.dump_stats(profile)
        else:
            await asyncio.to_thread(port.recv)
        port.send(time.process_time())

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


class _Wire(asyncio.Protocol):
    """One side of the bare forwarder."""

    def __init__(self, other: _Wire | None = None) -> None:
        self.other = other
        self.early = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        if self.early:
            self.transport.write(self.early)  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        if self.other.transport is None:
            self.other.early += data
        else:
            self.other.transport.write(data)


def _forwarder(port: Connection, backend: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        tasks = set()

        def factory() -> _Wire:
            near = _Wire()
            near.other = far = _Wire(near)
            tasks.add(loop.create_task(loop.create_connection(lambda: far, "127.0.0.1", backend)))
            return near

        server = await loop.create_server(factory, "127.0.0.1", 0)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def _grant(leases: FakeLeases):  # type: ignore[no-untyped-def]
    from tests.relay.peers import FakeLease

    def acquire(wish, done):  # type: ignore[no-untyped-def]
        done(FakeLease(wish, leases.target, wish.model))

    return acquire


def _request(size: int, stream: bool) -> bytes:
    start = b'{"model":"qwen3-coder","stream":%b,"messages":[{"role":"user","content":"' % (
        b"true" if stream else b"false"
    )
    body = start + b"x" * (size - len(start) - 4) + b'"}]}'
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8123\r\nAccept-Encoding: gzip\r\n"
        b"Connection: keep-alive\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
        b"User-Agent: OpenAI/Python 3.52.0\r\nX-Stainless-Lang: python\r\n"
        b"Authorization: Bearer local\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


class _Client:
    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def plain(self, request: bytes) -> float:
        start = time.perf_counter()
        self.sock.sendall(request)
        data = b""
        while not data.endswith(b'"}}]}'):
            data += self.sock.recv(65536)
        return time.perf_counter() - start

    def stream(self, request: bytes) -> None:
        self.sock.sendall(request)
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data = data[-8:] + self.sock.recv(65536)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", default="uvloop", choices=LOOPS)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--profile", default="")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    backend = context.Process(target=_backend, args=(theirs,), daemon=True)
    backend.start()
    backend_port = ours.recv()
    forwarder = context.Process(target=_forwarder, args=(theirs, backend_port), daemon=True)
    forwarder.start()
    bare_port = ours.recv()
    pipe, theirs = context.Pipe()
    relay = context.Process(
        target=_relay, args=(theirs, backend_port, options.loop, options.profile), daemon=True
    )
    relay.start()
    relay_port = pipe.recv()
    try:
        _measure(options, pipe, _Client(backend_port), _Client(bare_port), _Client(relay_port))
    finally:
        for process in (relay, forwarder, backend):
            process.terminate()
            process.join()


def _measure(
    options: argparse.Namespace, pipe: Connection, direct: _Client, bare: _Client, relayed: _Client
) -> None:
    for size in (1024, 100 * 1024):
        request = _request(size, False)
        for way in (direct, bare, relayed):
            for _ in range(300):
                way.plain(request)
        count = options.count if size == 1024 else options.count // 10
        turns = [[way.plain(request) for way in (direct, bare, relayed)] for _ in range(count)]
        plain, hop, through = (statistics.median(way) * 1e6 for way in zip(*turns, strict=True))
        print(
            f"{options.loop:8} {size // 1024:4} KiB: direct {plain:.1f} µs; added by a bare hop "
            f"{hop - plain:.1f} µs, by the relay {through - plain:.1f} µs (medians of {count})"
        )
    pipe.send("go")
    before = pipe.recv()
    if options.profile:
        request = _request(1024, False)
        for _ in range(options.count):
            relayed.plain(request)
    else:
        relayed.stream(_request(1024, True))
    pipe.send("stop")
    used = pipe.recv() - before
    if not options.profile:
        print(f"{options.loop:8} stream: {used / CHUNKS * 1e6:.1f} µs of CPU a chunk ({CHUNKS})")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    main()
