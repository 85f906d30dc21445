"""From a started process to one that serves: a real request answered, or why it will not be. And
what an earlier daemon's backend does now.
"""

from __future__ import annotations

import asyncio
import time
from enum import Enum, auto
from typing import TYPE_CHECKING

from daemon.backends import probing
from daemon.backends.liveness import at_work
from daemon.backends.progress import Signs, Watch
from daemon.core.messages import ExitClass
from daemon.engines.base import Verdict
from daemon.machine import observe
from daemon.machine.process import descendants, listens

if TYPE_CHECKING:
    from daemon.backends.backend import Backend

HEARD = 0.2  # of the wait for an answer; what an engine does on hearing a request is done in it
ADVICE_STRANGER = (
    "It is started again in another place. If the server runs in a container, say so: "
    "`elsewhere = true` in its [engines.command] table."
)
LOOK = 1.0  # seconds between two looks at whether a load goes on; the waits below end within one


async def until_ready(run: Backend) -> Verdict | None:
    """None once it answered a real request; else why it will not."""
    probe = asyncio.create_task(_probe(run), name=f"probe {run.model}")
    news = asyncio.create_task(run.news.wait(), name=f"news of {run.model}")
    timing = run.timing
    pause = min(LOOK, timing.start_stall / 4, timing.probe_timeout / 4)
    pause = max(pause, timing.ready_poll)  # either wait may be set to nothing
    try:
        watch = Watch(await asyncio.to_thread(run.signs_of_life), time.monotonic())
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
    target, poll = run.plan.target, run.timing.ready_poll
    limit = run.timing.health_timeout
    while not await probing.healthy(  # noqa: ASYNC110 (another process has no event for us)
        target, probe, headers, deadline=limit
    ):
        await asyncio.sleep(poll)
    run.timeline.healthy = time.monotonic()
    if (stranger := await _stranger(run)) is not None:
        return stranger
    while True:
        # No deadline of its own: the rules above end it, and mlx-lm loads only now.
        answer = await probing.answers(target, probe, headers, deadline=None)
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


async def _stranger(run: Backend) -> Verdict | None:
    """Why what answers in its place is none of its processes; None: it is, or that is not seen.
    Where an engine checks no key, nothing else would tell."""
    keeper, target, probe = run.keeper, run.plan.target, run.engine.probe(run.plan)
    if keeper is None or probe.elsewhere:
        return None
    # below the keeper: there is also what has lost its parent
    if await asyncio.to_thread(listens, keeper.hello.keeper_pid, target) is not False:
        return None
    # One that was killed in this moment listens no more: but then nobody answers there either.
    limit = run.timing.health_timeout
    if not await probing.healthy(target, probe, run.launch.headers, deadline=limit) or run.died:
        return None
    place = f"its socket {target.uds}" if target.uds is not None else f"port {target.port}"
    what = f"{place} is answered by another program than the one that was started"
    return Verdict(ExitClass.PORT, what, ADVICE_STRANGER)


# ---------------------------------------------------------------- one that is there already


class Found(Enum):
    """What a backend does that is to be taken over."""

    SERVES = auto()  # it answered a real request
    WORKS = auto()  # it did not, but goes on with something: a long prompt holds its slots
    FAILS = auto()


async def look_over(run: Backend, wait: float) -> Found:
    """Ask it one real request; where that is not answered in ``wait`` seconds, see what it does."""
    ask, headers = run.engine.probe(run.plan), run.launch.headers
    probe = asyncio.create_task(probing.answers(run.plan.target, ask, headers, deadline=None))
    try:
        # What it logs and does because it was asked is over by then, and no sign of work.
        await asyncio.wait({probe}, timeout=wait * HEARD)
        works = not probe.done() and await _works(run, probe, wait * (1 - HEARD))
        if probe.done():
            return Found.SERVES if 200 <= probe.result().status < 300 else Found.FAILS
        return Found.WORKS if works and not run.died else Found.FAILS
    finally:
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)


async def _works(run: Backend, probe: asyncio.Task[probing.Answer], wait: float) -> bool:
    """Whether it goes on with something in these seconds, if ``probe`` is not answered in them."""
    before, began = await asyncio.to_thread(run.signs_of_life), time.monotonic()
    await asyncio.wait({probe}, timeout=wait)
    if probe.done():
        return True
    after, own, computing = await asyncio.to_thread(_seen, run)
    return own and at_work(before, after, time.monotonic() - began, computing=computing)


def _seen(run: Backend) -> tuple[Signs, bool, bool]:
    """Its signs of life; whether it is who listens in its place; whether a GPU works for it."""
    signs, pid = run.signs_of_life(), run.pid
    if pid is None:
        return signs, False, False
    family = {pid, *descendants(pid)}
    return signs, listens(pid, run.plan.target) is True, observe.computing(family)
