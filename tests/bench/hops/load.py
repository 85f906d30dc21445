"""The clients: one that waits for each answer, sixty-four at once, and hundreds of open streams."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import statistics
import subprocess
import time
from pathlib import Path
from typing import cast

from tests.bench.hops.backend import ANSWER, EVENT
from tests.bench.hops.proxies import SLOTS, STREAM_MODELS, Way

_FIELDS = (
    b"Host: 127.0.0.1\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
    b"Accept: application/json\r\nContent-Type: application/json\r\n"
    b"User-Agent: OpenAI/Python 3.52.0\r\nX-Stainless-Lang: python\r\n"
    b"X-Stainless-Package-Version: 3.52.0\r\nX-Stainless-Os: Linux\r\n"
    b"X-Stainless-Retry-Count: 0\r\nAuthorization: Bearer local\r\n"
)


def request(model: str, size: int = 0, more: str = "", path: str = "/v1/chat/completions") -> bytes:
    """A chat request as the OpenAI client writes it, with a body of ``size`` bytes."""
    start = f'{{"model": "{model}", {more}"messages": [{{"role": "user", "content": "'.encode()
    body = start + b"x" * (size - len(start) - 4) + b'"}]}'
    return b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (
        path.encode(),
        _FIELDS,
        len(body),
        body,
    )


class Caller:
    """One client on one kept connection, blocking: no event loop's time is in what it measures."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 30)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def seconds(self, data: bytes) -> float:
        """From the first byte sent to the last received."""
        began = time.perf_counter()
        self.sock.sendall(data)
        got = self.sock.recv(65536)
        while not got.endswith(ANSWER):
            more = self.sock.recv(65536)
            assert more, got[-200:]
            got += more
        return time.perf_counter() - began


ROW = 100
"""Requests that a way answers in a row. Taking turns after each would leave every proxy with caches
that the others have emptied: none would be alone on its processor."""


def latencies(ways: list[Way], size: int, count: int) -> list[float]:
    """Medians in µs. The ways take turns, row by row, so that all meet the same noise."""
    callers = [(Caller(way.plain), request(way.model, size)) for way in ways]
    for caller, data in callers:
        for _ in range(50):
            caller.seconds(data)
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(count // ROW):
        for (caller, data), kept in zip(callers, times, strict=True):
            for _ in range(5):
                caller.seconds(data)
            kept.extend(caller.seconds(data) for _ in range(ROW))
    for caller, _ in callers:
        caller.sock.close()
    return [statistics.median(kept) * 1e6 for kept in times]


_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["User-Agent"] = "OpenAI/Python 3.52.0"
wrk.headers["Authorization"] = "Bearer local"
wrk.body = '{"model": "%s", "messages": [{"role": "user", "content": "'
  .. string.rep("x", 900) .. '"}]}'
"""


def rate(way: Way, folder: Path, seconds: float, clients: int = 64) -> tuple[float, float]:
    """Requests a second, and µs of the proxy's processor time for each."""
    before, began = way.cpu_seconds() if way.pid else 0.0, time.monotonic()
    if shutil.which("wrk"):
        script = folder / "post.lua"
        script.write_text(_SCRIPT % way.model)
        words = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "-s", str(script)]
        url = f"http://127.0.0.1:{way.plain}/v1/chat/completions"
        said = subprocess.run([*words, url], capture_output=True, text=True, check=True).stdout
        assert "Non-2xx" not in said, said
        found = re.search(r"(\d+) requests in", said)
        assert found is not None, said
        count = int(found[1])
    else:
        count = asyncio.run(_many(way, seconds, clients))
    wall = time.monotonic() - began
    spent = way.cpu_seconds() - before if way.pid else 0.0
    return count / wall, spent / count * 1e6


class _Asker(asyncio.Protocol):
    """Asks again as soon as it is answered; for where there is no wrk."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.count = 0
        self.got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.data)

    def data_received(self, data: bytes) -> None:
        self.got += data
        if self.got.endswith(ANSWER):
            self.got = b""
            self.count += 1
            self.transport.write(self.data)


async def _many(way: Way, seconds: float, clients: int) -> int:
    loop, data = asyncio.get_running_loop(), request(way.model, 1000)
    askers = [_Asker(data) for _ in range(clients)]
    for asker in askers:
        await loop.create_connection(lambda asker=asker: asker, "127.0.0.1", way.plain)  # type: ignore[misc]
    await asyncio.sleep(seconds)
    for asker in askers:
        asker.transport.close()
    return sum(asker.count for asker in askers)


class _Listener(asyncio.Protocol):
    """Counts the events of one stream."""

    def __init__(self) -> None:
        self.events = 0
        self.first = asyncio.get_running_loop().create_future()
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.events += data.count(EVENT)
        if self.events and not self.first.done():
            self.first.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


class Streams:
    """``count`` streams through ``way``, open until :meth:`close`."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.listeners: list[_Listener] = []

    async def open(self, count: int, pace: int, chunks: int) -> None:
        """Ask for all of them, and wait for each one's first event."""
        loop, more = (
            asyncio.get_running_loop(),
            f'"stream": true, "pace": {pace}, "chunks": {chunks}, ',
        )
        for number in range(count):
            model = f"stream{number // SLOTS % STREAM_MODELS}"
            _, listener = await loop.create_connection(_Listener, "127.0.0.1", self.way.stream)
            listener.transport.write(request(model, 1000, more, self.way.stream_path))
            self.listeners.append(listener)
        await asyncio.wait_for(asyncio.gather(*(one.first for one in self.listeners)), 30)

    def events(self) -> int:
        assert not any(one.lost for one in self.listeners), "a stream was cut"
        return sum(one.events for one in self.listeners)

    async def close(self) -> None:
        for one in self.listeners:
            one.transport.abort()
        await asyncio.sleep(0.5)


async def chunk_cost(way: Way, seconds: float, count: int = 100, pace: int = 20) -> float:
    """µs of the proxy's processor time for each event of ``count`` streams."""
    streams = Streams(way)
    await streams.open(count, pace, 1_000_000)
    await asyncio.sleep(0.5)
    events, spent = streams.events(), way.cpu_seconds()
    await asyncio.sleep(seconds)
    events, spent = streams.events() - events, way.cpu_seconds() - spent
    await streams.close()
    return spent / events * 1e6


async def stream_memory(way: Way, count: int = 1000) -> float:
    """KiB for each of ``count`` open streams, beyond what a few had needed before."""
    warm = Streams(way)
    await warm.open(20, 1, 0)
    await warm.close()
    before = way.rss()
    streams = Streams(way)
    await streams.open(count, 1, 0)
    await asyncio.sleep(0.5)
    used = way.rss() - before
    streams.events()
    await streams.close()
    return used / count / 1024
