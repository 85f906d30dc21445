"""Loads and unloads, watched by whoever asked for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

from daemon.backends.backend import Backend
from daemon.core.lifecycle import State
from daemon.core.problems import Problem, ProblemError
from daemon.orders import Runs
from daemon.ports import Lease, Progress
from daemon.supervisor import Supervisor
from daemon.telemetry.bus import Bus
from daemon.views import EventView

LOAD_PATIENCE = 24 * 3600.0  # an operator waits as long as he likes; Ctrl-C ends it


async def ready(supervisor: Supervisor, bus: Bus, name: str) -> AsyncIterator[Progress]:
    """Load it and tell the steps until it is ready. The load goes on when the caller leaves.
    Raises ProblemError where it comes to nothing."""
    began = time.monotonic()
    steps: asyncio.Queue[Progress | Lease | Problem] = asyncio.Queue()
    end = bus.subscribe(lambda event: _tell_step(event, name, steps))
    try:
        supervisor.load(name, steps.put_nowait, LOAD_PATIENCE)
        page = supervisor.scheduler.pages.get(name)
        if page is not None and page.state is State.STOPPED and page.loads:
            claim = supervisor.scheduler.claim
            yield Progress("wait", f"waits for memory (first in turn: {claim or name})")
        while True:
            step = await steps.get()
            if isinstance(step, Problem):
                raise ProblemError(step)
            if not isinstance(step, Progress):
                break
            yield step
    finally:
        end()
    yield _done(supervisor, name, time.monotonic() - began)


def _done(supervisor: Supervisor, name: str, seconds: float) -> Progress:
    ledger = supervisor.scheduler.ledger
    run = supervisor.backends.get(name)
    facts: dict[str, object] = {
        "seconds": round(seconds, 3),
        "footprint": dict(ledger.charged(name)),
    }
    if isinstance(run, Backend):
        facts |= {"variant": run.variant.id, "warning": run.installed.warning}
    return Progress("ready", f"{name} is ready", 1.0, facts)


async def gone(supervisor: Supervisor, bus: Bus, runs: Mapping[str, Runs]) -> None:
    """Wait until none of these processes is ours any more."""
    news = asyncio.Event()
    end = bus.subscribe(lambda event: news.set())
    try:
        while any(supervisor.backends.get(n) is run for n, run in runs.items()):
            news.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), 1.0)
    finally:
        end()


_STEPS = {"start": "start", "evict": "evict", "backoff": "wait", "exited": "wait", "stop": "evict"}


def _tell_step(
    event: EventView, name: str, steps: asyncio.Queue[Progress | Lease | Problem]
) -> None:
    """An event as a step of this load: the model's own, and whoever makes room for it."""
    concerns = event.model == name or event.facts.get("claim") == name
    made_room = event.kind in ("stop", "exited") and event.facts.get("reason") == "evict"
    if (concerns or made_room) and event.kind in _STEPS:
        steps.put_nowait(Progress(_STEPS[event.kind], event.text, None, event.facts))
