"""A front in a process of its own, for attacks:
``python -P -m tests.relay.standing LOOP LIMITS [DESCRIPTORS]``.

``LIMITS`` is a JSON object of those that differ. It prints its port, and how many clients it has
whenever it gets SIGUSR1. Below ``/upstream/m/`` are 8 MiB; everything else is echoed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import signal
import sys
from contextlib import suppress

from daemon.relay.front import Front
from daemon.relay.guard import Guard
from daemon.relay.limits import Limits
from tests.relay.peers import LOOPS, Backend, Conn, FakeLeases, ok

BIG = ok(bytes(8 << 20))


async def serving(conn: Conn, backend: Backend) -> None:
    try:
        while True:
            seen = await conn.request()
            await conn.send(ok(seen.body) if seen.body else BIG)
    finally:
        conn.writer.close()
        with suppress(OSError, TimeoutError):  # a reset that nobody looked at would be logged
            async with asyncio.timeout(1.0):
                await conn.writer.wait_closed()


async def serve(limits: Limits) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    backend = Backend(serving)
    leases = FakeLeases(await backend.start())
    front = await Front.start("127.0.0.1", 0, leases=leases, guard=Guard(), limits=limits)
    loop.add_signal_handler(signal.SIGUSR1, lambda: print(front.connections, flush=True))
    print(front.port, flush=True)
    await stop.wait()
    front.abort()
    await backend.stop()


if __name__ == "__main__":
    logging.basicConfig(level="INFO")
    if len(sys.argv) > 3:
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[3]),) * 2)
    with asyncio.Runner(loop_factory=LOOPS[sys.argv[1]]) as runner:
        runner.run(serve(Limits(**json.loads(sys.argv[2]))))
