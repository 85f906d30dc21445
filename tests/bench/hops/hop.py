"""A forwarder of bytes that reads none of them: the least that any proxy of Python costs.

python -P -m tests.bench.hops.hop PORT BACKEND
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import cast

import uvloop


class Side(asyncio.Protocol):
    """One connection of a pair."""

    def __init__(self, other: Side | None = None) -> None:
        self.other = other
        self.early = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self.early:
            self.transport.write(self.early)

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        if self.other.transport is None:
            self.other.early += data
        else:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.abort()
        self.transport = self.other = None


async def serve(port: int, backend: int) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    tasks: set[asyncio.Task[object]] = set()

    def near() -> Side:
        one = Side()
        one.other = Side(one)
        task = loop.create_task(loop.create_connection(lambda: one.other, "127.0.0.1", backend))
        tasks.add(task)  # type: ignore[arg-type]
        task.add_done_callback(tasks.discard)
        return one

    await loop.create_server(near, "127.0.0.1", port, backlog=1024)
    await stop.wait()


if __name__ == "__main__":
    uvloop.run(serve(*map(int, sys.argv[1:3])))
