"""A line between relay and backend that delays, splits, truncates, resets or stalls answers.

Seeded: the same seed spoils the same byte.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable
from dataclasses import dataclass, field

from daemon.ports import Target

FAULTS = ("delay", "split", "truncate", "reset", "stall")
_RESET = struct.pack("ii", 1, 0)


@dataclass
class Line:
    """Each connection through it gets a fault of its own. ``span``: bytes before the last fault."""

    backend: Target
    luck: random.Random
    span: int = 2000
    faults: list[str] = field(default_factory=list)  # as they were given out
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    server: asyncio.Server | None = None

    async def __aenter__(self) -> Target:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return Target("127.0.0.1", self.server.sockets[0].getsockname()[1])

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._keep(self._both(reader, writer))

    def _keep(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def _both(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = self.luck.choice(FAULTS)
        self.faults.append(fault)
        there, back = await asyncio.open_connection(self.backend.host, self.backend.port)
        up = self._keep(self._copy(reader, back))
        try:
            await self._spoil(fault, there, writer)
        except ConnectionError:
            pass
        finally:
            up.cancel()
            for end in (writer, back):
                end.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()  # the relay left: so does the line

    async def _spoil(
        self, fault: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        left = self.luck.randrange(self.span) if fault in ("truncate", "reset", "stall") else None
        while data := await reader.read(65536):
            for piece in self._pieces(fault, data):
                if left is not None and len(piece) >= left:
                    writer.write(piece[:left])
                    await writer.drain()
                    await self._end(fault, writer)
                    return
                writer.write(piece)
                await writer.drain()
                if left is not None:
                    left -= len(piece)
                if fault in ("delay", "split"):
                    await asyncio.sleep(self.luck.choice((0, 0, 0.001, 0.003)))

    def _pieces(self, fault: str, data: bytes) -> list[bytes]:
        if fault == "delay":
            return [data]
        cuts = sorted(self.luck.randrange(len(data) + 1) for _ in range(6))
        return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]

    async def _end(self, fault: str, writer: asyncio.StreamWriter) -> None:
        if fault == "stall":
            self.stalled.set()
            await asyncio.Event().wait()  # until the line is cut
        if fault == "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    async def __aexit__(self, *_: object) -> None:
        assert self.server is not None
        self.server.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
