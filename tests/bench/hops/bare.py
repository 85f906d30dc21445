"""The relay alone, granted whatever it asks: what of modelport's cost is not the landlord's.

python -P -m tests.bench.hops.bare PORT PLAIN STREAM [PROFILE]
"""

from __future__ import annotations

import asyncio
import cProfile
import signal
import sys
from collections.abc import Callable

import uvloop

from daemon.core.problems import Problem
from daemon.ports import Lease, Target, Wish
from daemon.relay.front import Front
from daemon.relay.guard import Guard
from tests.relay.peers import FakeLease, FakeLeases

_KEY = {"authorization": "Bearer per-start-key"}


class _Grants(FakeLeases):
    def __init__(self, plain: Target, stream: Target) -> None:
        super().__init__(plain)
        self.stream = stream

    def acquire(self, wish: Wish, done: Callable[[Lease | Problem], None]) -> None:
        target = self.stream if wish.model.startswith("stream") else self.target
        lease = FakeLease(wish, target, wish.model)
        lease.headers = _KEY
        done(lease)


async def serve(port: int, plain: int, stream: int) -> None:
    leases = _Grants(Target("127.0.0.1", plain), Target("127.0.0.1", stream))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    done: list[object] = []
    front = await Front.start(
        "127.0.0.1", port, leases=leases, guard=Guard(), on_done=lambda record: done.clear()
    )
    await stop.wait()
    front.abort()


def main() -> None:
    port, plain, stream = map(int, sys.argv[1:4])
    profile = cProfile.Profile() if len(sys.argv) > 4 else None
    if profile is not None:
        profile.enable()
    uvloop.run(serve(port, plain, stream))
    if profile is not None:
        profile.disable()
        profile.dump_stats(sys.argv[4])


if __name__ == "__main__":
    main()
