"""Loads and pulls as jobs: they go on when nobody listens any more.

A job owns the iterator of steps. Whoever asked may watch the steps as lines; a watcher that leaves
or is slow changes nothing for the job.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final, TypeVar

from control_api.errors import detail
from control_api.schemas import ProgressLine
from daemon.core.problems import Code, Problem, ProblemError
from daemon.ports import Progress

log = logging.getLogger(__name__)
_T = TypeVar("_T")

KEPT_LINES: Final = 256  # for a slow watcher; older ones are dropped, the last line never
LAST_STEPS: Final = frozenset({"ready", "done", "failed"})


class Job:
    """One load or pull under way. ``error`` is set when it has failed."""

    def __init__(self) -> None:
        self.error: ProblemError | None = None
        self.ended = False
        self._lines: deque[ProgressLine] = deque(maxlen=KEPT_LINES)
        self._news = asyncio.Event()

    async def run(self, steps: AsyncIterator[Progress]) -> None:
        """Carry the steps to their end. Never raises, but for cancellation."""
        last = ""
        try:
            async for step in steps:
                self._put(_line(step))
                last = step.step
            if last not in LAST_STEPS:
                self._put(ProgressLine(step="done"))
        except ProblemError as error:
            self._fail(error)
        except asyncio.CancelledError:
            self._fail(ProblemError(Problem(Code.SHUTTING_DOWN, "The daemon is stopping.")))
            raise
        except Exception:
            log.exception("a job of the control API ended badly")
            self._fail(ProblemError(Problem(Code.INTERNAL, "The daemon failed; see its log.")))
        finally:
            self.ended = True
            self._news.set()

    async def started(self, seconds: float) -> None:
        """Wait for the first step or the end, but no longer than ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return

    async def next_line(self, seconds: float) -> ProgressLine | None:
        """The next line; None after the last. Raises ``TimeoutError`` when ``seconds`` are over."""
        while not self._lines:
            if self.ended:
                return None
            self._news.clear()
            async with asyncio.timeout(seconds):
                await self._news.wait()
        return self._lines.popleft()

    def _put(self, line: ProgressLine) -> None:
        self._lines.append(line)
        self._news.set()

    def _fail(self, error: ProblemError) -> None:
        self.error = error
        problem = error.problem
        self._put(ProgressLine(step="failed", text=problem.text, error=detail(problem)))


class Jobs:
    """Owner of all jobs; :meth:`close` ends those that are left when the daemon stops."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, steps: AsyncIterator[Progress], name: str) -> Job:
        """Begin a job; it ends with its iterator, or at :meth:`close`."""
        job = Job()
        self._own(asyncio.create_task(job.run(steps), name=name))
        return job

    async def finish(self, work: Coroutine[Any, Any, _T], name: str) -> _T:
        """Wait for work that must not be cut in the middle when whoever asked leaves."""
        task = asyncio.create_task(work, name=name)
        self._own(task)
        return await asyncio.shield(task)

    def _own(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # whoever waited has had it raised; if nobody waits any more, it is told here
            log.debug("%s: %s", task.get_name(), error)

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _line(step: Progress) -> ProgressLine:
    return ProgressLine(
        step=step.step, text=step.text, fraction=step.fraction, facts=dict(step.facts)
    )
