"""Jobs and owned work: nothing is lost, nothing is cut in the middle, nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from control_api.jobs import KEPT_LINES, Jobs
from daemon.core.problems import Code, Problem, ProblemError
from daemon.ports import Progress
from tests.control_api.fake import until


async def many(count: int) -> AsyncIterator[Progress]:
    for number in range(count):
        yield Progress("pull", str(number))


async def for_ever() -> AsyncIterator[Progress]:
    yield Progress("start", "")
    await asyncio.Event().wait()


async def test_a_slow_watcher_loses_the_oldest_lines_never_the_last() -> None:
    jobs = Jobs()
    job = jobs.start(many(2 * KEPT_LINES), "many")
    await job.started(5)
    await until(lambda: job.ended)
    lines = []
    while (line := await job.next_line(5)) is not None:
        lines.append(line)
    assert len(lines) == KEPT_LINES
    assert lines[-1].step == "done"
    await jobs.close()


async def test_close_ends_what_is_left_and_tells_the_watcher() -> None:
    jobs = Jobs()
    job = jobs.start(for_ever(), "for ever")
    assert (await job.next_line(5)) is not None
    with pytest.raises(TimeoutError):
        await job.next_line(0.01)
    await jobs.close()
    line = await job.next_line(5)
    assert line is not None
    assert line.error is not None
    assert line.error.code == "shutting_down"
    assert await job.next_line(5) is None


async def test_work_goes_on_when_its_waiter_leaves() -> None:
    jobs, gate, done = Jobs(), asyncio.Event(), asyncio.Event()

    async def work() -> str:
        await gate.wait()
        done.set()
        return "result"

    waiter = asyncio.create_task(jobs.finish(work(), "work"))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    gate.set()
    async with asyncio.timeout(5):
        await done.wait()
    assert await jobs.finish(work(), "work") == "result"
    await jobs.close()


async def test_its_error_reaches_the_waiter() -> None:
    jobs = Jobs()

    async def work() -> None:
        raise ProblemError(Problem(Code.BACKOFF, "Not now."))

    with pytest.raises(ProblemError, match="Not now"):
        await jobs.finish(work(), "work")
    await jobs.close()
