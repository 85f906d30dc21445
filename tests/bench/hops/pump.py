"""The least that a proxy of this language can do: bytes from one socket to the other, unread.

python -P -m tests.bench.hops.pump PORT PLAIN

No head is parsed, no body looked at, nothing is decided: what this costs, anything written in
Python on this event loop costs as well.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import cast

import uvloop


class Half(asyncio.Protocol):
    """One side; ``other`` is where its bytes go."""

    transport: asyncio.Transport
    other: Half

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.other.transport.abort()


class Client(Half):
    """Connects to the backend once it is there, and is read from then on."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()
        self.task = asyncio.create_task(self.connect())

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, self.other = await loop.create_connection(Half, "127.0.0.1", self.port)
        self.other.other = self
        self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if hasattr(self, "other"):
            self.other.transport.abort()


async def serve(port: int, plain: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(lambda: Client(plain), "127.0.0.1", port)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
