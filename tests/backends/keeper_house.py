"""Real keepers and small engines for the tests, and the check that nothing of them is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from daemon.backends.keeping import Gone, Keeper, KeeperEvent, Lines, Order

DEADLINE = 25.0  # seconds; nothing here takes a tenth of it on an idle machine


WAIT = "import signal; print('up', flush=True); signal.pause()"
DEAF = "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True)\n"
DEAF_WAIT = DEAF + "while True: signal.pause()"
# a grandchild in a session of its own that ignores TERM and holds the output pipe
CHILD = """
import os, signal, sys
signal.signal(15, signal.SIG_IGN)
ready, child_ready = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        os.write(child_ready, b"x")
        while True: signal.pause()
    while True: signal.pause()
os.read(ready, 1)
print("up", flush=True)
"""


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait for another process to make ``condition`` true."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true in {DEADLINE} s"
        await asyncio.sleep(0.005)


class Events(list[KeeperEvent]):
    """What a keeper told, in order; a callback."""

    def __call__(self, event: KeeperEvent) -> None:
        self.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]

    @property
    def lines(self) -> list[str]:
        return [line for event in self.of(Lines) for line in event.lines]


class House:
    """One test's folder, orders and processes; all of them carry a tag in their command line."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="k-"))  # short: a socket path has 100 bytes
        self.tag = f"tag{uuid.uuid4().hex[:12]}"

    def engine(self, code: str, *args: str) -> tuple[str, ...]:
        """Command line of an engine that runs ``code``; ``tag`` is its last argument."""
        return (sys.executable, "-I", "-S", "-c", code, *args, self.tag)

    def order(self, argv: tuple[str, ...], **changes: Any) -> Order:
        fields: dict[str, Any] = {
            "backend": self.tag,
            "generation": 7,
            "argv": argv,
            "env": {"PATH": os.environ["PATH"]},
            "socket": self.root / "run" / "b7.sock",
            "record": self.root / "run" / "b7.json",
            "log": self.root / "log" / "model.log",
            "log_max_bytes": 1 << 20,
            "log_keep": 2,
            "mode": "foreground",
            "grace": 0.2,
            "stop_grace": 0.2,
            "lost_grace": 0.2,
        }
        return Order(**{**fields, **changes})

    def pids(self) -> dict[int, str]:
        """Living processes of this house."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if self.tag in line:
                        found[int(entry.name)] = line
        return found

    async def empty(self) -> None:
        """Wait until nothing of this house lives."""
        await until(lambda: not self.pids(), f"the end of {self.pids()}")

    def text(self, suffix: str = "") -> str:
        path = self.root / "log" / f"model.log{suffix}"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def leave(self) -> None:
        end = time.monotonic() + DEADLINE
        while (left := self.pids()) and time.monotonic() < end:
            time.sleep(0.01)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.root)
        assert not left, f"left behind: {left}"


def house() -> Iterator[House]:
    """Body of the fixture ``house``: every process must be gone when the test is over."""
    made = House()
    yield made
    made.leave()


async def gone(keeper: Keeper, events: Events) -> None:
    """Wait for the end of everything, say bye, and see the keeper leave."""
    assert await keeper.wait_gone(DEADLINE), events
    assert events[-1] == Gone()
    assert await keeper.close()


async def begin(order: Order) -> tuple[Keeper, Events]:
    events = Events()
    return await Keeper.start(order, on_event=events, patience=DEADLINE), events


def is_up(house: House) -> bool:
    return "up" in house.text()
