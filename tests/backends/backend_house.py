"""Backends for the tests: stand-in engines below real keepers, and what they told."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil

from daemon.backends.backend import Backend
from daemon.backends.terms import Places, Timing
from daemon.core.messages import BackendExited, Event, Variant
from daemon.engines.base import Installed, LaunchPlan, Running
from daemon.engines.command import Command, Template
from daemon.ports import Hold
from tests.fakes.start import argv as fake_argv
from tests.ports import free_port

DEADLINE = 20.0  # seconds; nothing here takes a tenth of it on an idle machine
FAKE = tuple(fake_argv())
TIMING = Timing(
    start_stall=10.0,
    ready_poll=0.01,
    health_timeout=1.0,
    probe_timeout=10.0,
    stop_grace=2.0,
    kill_grace=2.0,
    keeper_start=20.0,
    keeper_grace=0.3,
    keeper_connect=20.0,
    keeper_lost=2.0,
)
VARIANT = Variant("context 4096", {"ram": 1 << 20})


class Told(list[Event]):
    """What a backend told, in order."""

    async def have(self, kind: type[Event] | None = None, count: int = 1) -> Event:
        """Wait for the ``count``-th event (of that kind)."""
        end = time.monotonic() + DEADLINE
        while len(found := [e for e in self if kind is None or isinstance(e, kind)]) < count:
            assert time.monotonic() < end, f"only {list(self)}"
            await asyncio.sleep(0.005)
        return found[count - 1]

    async def ended(self) -> BackendExited:
        event = await self.have(BackendExited)
        assert isinstance(event, BackendExited)
        return event


class Stage:
    """One test's folder and backends. Whatever they told is checked at the end: :meth:`close`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: list[tuple[Backend, Told]] = []
        self.detached: set[int] = set()
        for name in ("run", "log"):
            (root / name).mkdir(mode=0o700, exist_ok=True)

    def plan(self, generation: int = 1, port: int = 0) -> LaunchPlan:
        return LaunchPlan(
            model="tiny",
            path=None,
            running=Running(VARIANT.id, 4096, 1),
            kind="chat",
            port=port or free_port(),
            secret="canary",
            secret_file=self.root / "run" / f"b{generation}.key",
        )

    def make(
        self,
        *flags: str,
        timing: Timing = TIMING,
        program: tuple[str, ...] = FAKE,
        ready: str = "/health",
        generation: int = 1,
        cwd: str | None = None,
        service: bool = False,
        elsewhere: bool = False,
        by_socket: bool = False,
        **waits: float,
    ) -> tuple[Backend, Told]:
        """A backend that has not begun. ``flags`` are the stand-in's, ``waits`` change timing."""
        place = ("--host", "{socket}") if by_socket else ("--port", "{port}")
        keys = (*place, "--api-key-file", "{key_file}")
        template = Template(
            "fake", (*program, *keys, *flags), ready=ready, cwd=cwd, elsewhere=elsewhere
        )
        engine = Command(template)
        plan = self.plan(generation)
        if by_socket:
            plan = replace(plan, port=0, socket=self.root / "run" / f"b{generation}.engine.sock")
        launch = engine.launch(plan, Installed(engine.name, program[:1], "1.0"))
        told = Told()
        stem = self.root / "run" / f"b{generation}"
        backend = Backend(
            generation=generation,
            variant=VARIANT,
            engine=engine,
            installed=Installed(engine.name, program[:1], "1.0"),
            plan=plan,
            launch=launch,
            holding=Hold(plan.target, plan.model, launch.headers, True),
            places=Places(
                socket=stem.with_suffix(".sock"),
                record=stem.with_suffix(".json"),
                log=self.root / "log" / "tiny.log",
                log_max_bytes=1 << 20,
                log_keep=2,
                cwd=self.root,
            ),
            timing=replace(timing, **waits),
            mode="service" if service else "foreground",
            tell=told.append,
        )
        self.made.append((backend, told))
        return backend, told

    def begin(self, *flags: str, **changes: object) -> tuple[Backend, Told]:
        backend, told = self.make(*flags, **changes)  # type: ignore[arg-type]
        backend.begin()
        return backend, told

    async def detach(self, backend: Backend) -> None:
        self.detached.add(backend.generation)
        await backend.detach()

    def log(self) -> str:
        path = self.root / "log" / "tiny.log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def logged(self, text: str) -> None:
        end = time.monotonic() + DEADLINE
        while text not in self.log():
            assert time.monotonic() < end, f"no {text!r} in the log:\n{self.log()}"
            await asyncio.sleep(0.005)

    async def grandchild(self) -> int:
        """Of the engine, once its keeper has written down what the engine said of it."""
        line = re.compile(r"grandchild (\d+)\n")
        await until(lambda: line.search(self.log()), "word of a grandchild")
        (pid,) = line.findall(self.log())
        return int(pid)

    def left(self) -> list[str]:
        """Files of keepers that are still there."""
        return sorted(path.name for path in (self.root / "run").iterdir())

    async def close(self) -> None:
        """End everything; each backend must have told its exit once, last, and leave no file."""
        for backend, told in self.made:
            if backend.generation in self.detached or backend._task is None:
                continue
            if not any(isinstance(event, BackendExited) for event in told):
                backend.kill()
                await told.ended()
            await backend.closed()
            exits = [event for event in told if isinstance(event, BackendExited)]
            assert exits == told[-1:], told
            assert backend.generation == exits[0].generation
            assert not alive(backend.pid), "its process lives"
        assert self.left() == []


def alive(pid: int | None) -> bool:
    """Whether the process runs: a zombie does not."""
    with contextlib.suppress(psutil.Error):
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for other processes to make a condition true."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true"
        await asyncio.sleep(0.005)
