"""Backends that live and do nothing are found; those that work, however slowly, are left alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from daemon.backends.backend import Backend
from daemon.core.lifecycle import State
from daemon.core.messages import (
    BackendAdopted,
    BackendReady,
    Event,
    ExitClass,
    ModelSpec,
    Outcome,
    RequestArrived,
    Ticket,
)
from daemon.core.policy import Policy
from daemon.core.scheduler import Scheduler
from daemon.leases import Held, Queued
from daemon.ports import Lease, Target
from daemon.supervisor import Supervisor
from daemon.telemetry.bus import Bus
from daemon.watching import Patience, Watcher
from tests.backends.backend_house import VARIANT, Stage

pytestmark = pytest.mark.processes

SECONDS = 15.0
QUICK = Patience(interval=0.05, stall=0.4, probe=0.4, slots=0.3)
# Where it is left alone: a busy machine may let an engine wait for longer than QUICK's probe.
CALM = replace(QUICK, probe=1.0)
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


class Ward:
    """A supervisor, a watcher, and one real backend that was taken over."""

    def __init__(self, stage: Stage, patience: Patience) -> None:
        self.stage = stage
        self.supervisor = Supervisor(Scheduler({"ram": 1 << 30}, Policy(backoff=0.01)), Bus(), 60.0)
        self.supervisor.catalog({"tiny": ModelSpec("tiny", (VARIANT,), slots=4)}, frozenset())
        self.watcher = Watcher(self.supervisor, patience)
        self.watcher.start()
        self.backend: Backend | None = None
        self.leases: list[Held] = []
        self.sent = 0

    async def admit(self, *flags: str) -> Backend:
        """Start it and wait until it is ready."""
        backend, told = self.stage.begin(*flags)
        await told.have(BackendReady)
        assert backend._task is not None
        await backend._task  # what it logged until then is heard
        backend.tell = self._tell(told.append)
        self.supervisor.adopt("tiny", backend)
        self.supervisor.tell(BackendAdopted("tiny", 1, VARIANT))
        self.backend = backend
        return backend

    def _tell(self, also: Callable[[Event], None]) -> Callable[[Event], None]:
        def tell(event: Event) -> None:
            also(event)
            self.supervisor.tell(event)

        return tell

    def lease(self) -> Held:
        """A request is given to it."""
        got: list[Lease] = []
        number = len(self.leases) + 1
        ticket = Ticket(number, "tiny", "c", "p", self.supervisor.clock(), 1e12)
        queued = Queued(ticket, got.append, self.supervisor)  # type: ignore[arg-type]
        self.supervisor._waiting[number] = queued
        self.supervisor.tell(RequestArrived(ticket))
        (lease,) = got
        assert isinstance(lease, Held)
        lease.sent = lambda: self.sent
        self.leases.append(lease)
        return lease

    async def ask(self, path: str = "/v1/chat/completions", **more: object) -> int:
        """A request to the engine itself."""
        assert self.backend is not None
        url = f"http://127.0.0.1:{self.backend.plan.port}{path}"
        headers = dict(self.backend.launch.headers)
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json={**BODY, **more}, headers=headers) as answer,
        ):
            await answer.read()
            return answer.status

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.supervisor.bus.history(0)]

    async def replaced(self) -> dict[str, object]:
        """Wait until it was ended as unwell; what was told of its end."""
        async with asyncio.timeout(SECONDS):
            while "exited" not in self.kinds:  # noqa: ASYNC110 (the bus has no event for us)
                await asyncio.sleep(0.01)
        (event,) = [e for e in self.supervisor.bus.history(0) if e.kind == "exited"]
        return event.facts

    async def rounds(self, seconds: float) -> None:
        """Let it be looked at for so long, many times its patience."""
        await asyncio.sleep(seconds)
        assert "exited" not in self.kinds


@pytest.fixture
async def ward(short_dir: Path) -> AsyncIterator[Ward]:
    stage = Stage(short_dir)
    made = Ward(stage, QUICK)
    yield made
    await made.watcher.stop()
    await stage.close()


async def test_one_that_accepts_and_never_answers_is_replaced(ward: Ward) -> None:
    """llama.cpp#27388: wedged in the middle of an answer, its health ok."""
    backend = await ward.admit()
    assert backend.pid is not None
    ward.lease()
    os.kill(backend.pid, signal.SIGSTOP)  # no byte, no CPU time, and connections still open
    told = await ward.replaced()
    assert told["exit_class"] == ExitClass.HANG
    assert "no sign of progress" in str(told["detail"])
    assert "1 request in flight" in str(told["detail"])


async def test_one_whose_generations_hang_is_replaced(ward: Ward) -> None:
    control = ward.stage.root / "control"
    await ward.admit("--control", str(control))
    control.write_text(json.dumps({"hang_answer": True}))
    ward.lease()
    assert (await ward.replaced())["exit_class"] == ExitClass.HANG


async def test_a_long_prefill_that_burns_cpu_is_left_alone(ward: Ward) -> None:
    """No byte for many times the patience, and the one-token request waits behind it."""
    ward.watcher.patience = replace(QUICK, probe=2.0)
    await ward.admit("--busy-s", "3.5", "-np", "1", "--skip", "1")
    asking = asyncio.create_task(ward.ask())
    ward.lease()
    await ward.rounds(3.0)
    assert await asking == 200


async def test_one_that_sends_bytes_is_left_alone(ward: Ward) -> None:
    ward.watcher.patience = CALM
    backend = await ward.admit()
    lease = ward.lease()
    lease.status = 200
    for _ in range(30):
        ward.sent += 1
        await ward.rounds(0.05)
    assert backend.ready_at


async def test_one_that_was_slow_and_answers_us_goes_on(ward: Ward) -> None:
    """No sign of work at all, but one token when asked: its client's request is odd, not it."""
    ward.watcher.patience = CALM
    record = ward.stage.root / "record"
    await ward.admit("--record", str(record))
    ward.lease()
    before = len(record.read_text().splitlines())
    await ward.rounds(2.0)
    assert len(record.read_text().splitlines()) > before


async def test_an_idle_backend_is_not_woken_and_nothing_runs(ward: Ward) -> None:
    record = ward.stage.root / "record"
    await ward.admit("--record", str(record))
    lease = ward.lease()
    lease.end(Outcome.OK)
    async with asyncio.timeout(SECONDS):
        while ward.watcher._task is not None:  # noqa: ASYNC110 (it ends by itself)
            await asyncio.sleep(0.01)
    before = record.read_text()
    await asyncio.sleep(1.0)
    assert ward.watcher._task is None
    assert record.read_text() == before


async def test_three_failures_and_it_is_asked_and_ended(ward: Ward) -> None:
    """llama.cpp#27309: health ok, every request a 500, and the log says out of memory (which may be
    read before the third)."""
    control = ward.stage.root / "control"
    await ward.admit("--control", str(control))
    control.write_text(json.dumps({"health_lies": True}))
    for _ in range(3):
        if ward.supervisor.scheduler.pages["tiny"].state is not State.READY:
            break
        lease = ward.lease()
        try:
            lease.status = await ward.ask()
        except aiohttp.ClientError:  # it was ended just then
            break
        assert lease.status == 500
        lease.end(Outcome.OK)
    told = await ward.replaced()
    assert told["exit_class"] == ExitClass.OUT_OF_MEMORY
    assert "error state" in str(told["detail"])


async def test_a_client_whose_requests_fail_costs_nobody_a_backend(ward: Ward) -> None:
    """A template that raises is a 500 as well: the engine itself is sound."""
    ward.watcher.patience = CALM
    record = ward.stage.root / "record"
    await ward.admit("--record", str(record))
    for _ in range(7):
        lease = ward.lease()
        lease.status = 500
        lease.end(Outcome.OK)
    await ward.rounds(1.5)
    assert len(record.read_text().splitlines()) > 2, "it was asked"


async def test_after_sleep_every_backend_is_asked(ward: Ward) -> None:
    ward.watcher.patience = CALM
    closed: list[Target] = []
    ward.supervisor.close_connections = closed.append
    record = ward.stage.root / "record"
    await ward.admit("--record", str(record))
    before = len(record.read_text().splitlines())
    ward.watcher.slept(3600.0)
    slept = [event for event in ward.supervisor.bus.history(0) if event.kind == "slept"]
    assert [event.facts for event in slept] == [{"seconds": 3600, "asked": 1}]
    async with asyncio.timeout(SECONDS):
        while len(record.read_text().splitlines()) == before:  # noqa: ASYNC110 (another process)
            await asyncio.sleep(0.01)
    await ward.rounds(1.5)
    assert len(closed) == 1


async def test_one_that_did_not_outlive_the_sleep_is_replaced(ward: Ward) -> None:
    backend = await ward.admit()
    assert backend.pid is not None
    os.kill(backend.pid, signal.SIGSTOP)
    ward.watcher.slept(3600.0)
    assert (await ward.replaced())["exit_class"] == ExitClass.HANG


async def test_one_that_is_doubted_is_asked_without_any_request(ward: Ward) -> None:
    """As a busy one that was taken over: left alone while it works, however long it is silent."""
    ward.watcher.patience = CALM
    backend = await ward.admit("-np", "1", "--busy-s", "1.5", "--skip", "1")
    work = asyncio.create_task(ward.ask())
    ward.watcher.doubt("tiny", 2, "not this one")
    assert ward.watcher._patients == {}
    ward.watcher.doubt("tiny", backend.generation, "it did not answer")
    async with asyncio.timeout(SECONDS):
        while not any(p.probe for p in ward.watcher._patients.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await work == 200
    assert "exited" not in ward.kinds


async def test_one_that_is_doubted_and_hangs_is_replaced(ward: Ward) -> None:
    backend = await ward.admit()
    assert backend.pid is not None
    os.kill(backend.pid, signal.SIGSTOP)
    ward.watcher.doubt("tiny", backend.generation, "it did not answer")
    assert (await ward.replaced())["exit_class"] == ExitClass.HANG


async def test_stopping_leaves_no_question_open(ward: Ward) -> None:
    backend = await ward.admit()
    assert backend.pid is not None
    os.kill(backend.pid, signal.SIGSTOP)
    ward.watcher.patience = Patience(0.05, 0.1, 60.0, 0.1)
    ward.lease()
    async with asyncio.timeout(SECONDS):
        while not any(p.probe for p in ward.watcher._patients.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await ward.watcher.stop()
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert not {name for name in names if name.startswith("liveness")}
    ward.lease()
    assert ward.watcher._task is None
