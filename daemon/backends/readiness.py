"""From a started process to one that serves: a real request answered, or why it will not be."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from daemon.backends import probing
from daemon.backends.progress import Watch
from daemon.core.messages import ExitClass
from daemon.engines.base import Verdict

if TYPE_CHECKING:
    from daemon.backends.backend import Backend

LOOK = 1.0  # seconds between two looks at whether a load goes on; the waits below end within one


async def until_ready(run: Backend) -> Verdict | None:
    """None once it answered a real request; else why it will not."""
    probe = asyncio.create_task(_probe(run), name=f"probe {run.model}")
    news = asyncio.create_task(run.news.wait(), name=f"news of {run.model}")
    timing = run.timing
    pause = min(LOOK, timing.start_stall / 4, timing.probe_timeout / 4)
    pause = max(pause, timing.ready_poll)  # either wait may be set to nothing
    watch = Watch(await asyncio.to_thread(run.signs_of_life), time.monotonic())
    try:
        while not (run.died or run.asked):
            await asyncio.wait({probe, news}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            if probe.done():
                return probe.result()
            watch.look(await asyncio.to_thread(run.signs_of_life), time.monotonic())
            if (why := _hanging(run, watch)) is not None:
                return Verdict(ExitClass.HANG, why)
        return None
    finally:
        for task in (probe, news):
            task.cancel()
        await asyncio.gather(probe, news, return_exceptions=True)


def _hanging(run: Backend, watch: Watch) -> str | None:
    """Why nothing more is to be hoped for; None while it is."""
    stall, patience = run.timing.start_stall, run.timing.probe_timeout
    if watch.looked - watch.since > stall:
        return f"no sign of progress for {stall:g} s while loading"
    healthy = run.timeline.healthy
    if not healthy or run.engine.probe(run.plan).loads:
        return None
    if watch.looked - max(healthy, watch.moved_at) > patience:
        return f"no answer to its first request for {patience:g} s, though it is loaded"
    return None


async def _probe(run: Backend) -> Verdict | None:
    probe = run.engine.probe(run.plan)
    headers = run.launch.headers
    port, poll = run.plan.port, run.timing.ready_poll
    limit = run.timing.health_timeout
    while not await probing.healthy(  # noqa: ASYNC110 (another process has no event for us)
        port, probe, headers, deadline=limit
    ):
        await asyncio.sleep(poll)
    run.timeline.healthy = time.monotonic()
    while True:
        # No deadline of its own: the rules above end it, and mlx-lm loads only now.
        answer = await probing.answers(port, probe, headers, deadline=None)
        if 200 <= answer.status < 300:
            return None
        if answer.status not in (0, 503):  # 503: still loading
            await run.hear_out()
            said = answer.body[:300].decode("utf-8", "replace")
            verdict = run.engine.classify(None, [*run.lines, said], ready=False, asked=False)
            if verdict.exit_class is ExitClass.HANG:  # no line of its log explains it
                detail = f"its first answer was {answer.status}: {' '.join(said.split())}"
                return Verdict(ExitClass.HANG, detail, verdict.advice)
            return verdict
        await asyncio.sleep(poll)
