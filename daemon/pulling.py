"""Pulls as jobs: one per model, any number of watchers, going on when they leave.

So many at a time as ``downloads.parallel`` allows, the others in their turn. What is under way is
written down: a daemon that was ended in the middle takes it up again when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from daemon.config.model import Model
from daemon.core.problems import Code, Problem, ProblemError
from daemon.downloads.pace import Pace
from daemon.downloads.pull import (
    Patience,
    PulledFiles,
    PullProgress,
    pull,
)
from daemon.downloads.pulled import Pulled
from daemon.downloads.unfinished import Unfinished
from daemon.downloads.wanted import HUB, pull_request
from daemon.ports import Progress
from daemon.telemetry.bus import Bus
from daemon.views import PullView

log = logging.getLogger("modelport.pulls")

Step = Progress | ProblemError | None  # None: it is there
STOPPED = Problem(
    Code.SHUTTING_DOWN,
    "The daemon is stopping.",
    "What came so far is kept, and the pull goes on when the daemon is back.",
    5.0,
)


@dataclass(slots=True)
class Job:
    """One download, waiting for its turn or under way."""

    model: Model
    patience: Patience
    again: bool  # taken up from an earlier life of the daemon
    began: float = field(default_factory=time.time)
    running: bool = False
    end: ProblemError = field(default_factory=lambda: ProblemError(STOPPED))  # unless it tells one
    pace: Pace = field(default_factory=Pace)
    progress: PullProgress = field(default_factory=PullProgress)
    last: Progress | None = None
    files: PulledFiles | None = None
    watchers: list[asyncio.Queue[Step]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    def tell(self, step: Progress) -> None:
        self.last = step
        for queue in self.watchers:
            queue.put_nowait(step)

    @property
    def view(self) -> PullView:
        """For people and programs."""
        at = self.progress
        return PullView(
            name=self.model.name,
            source=f"{HUB}{self.model.hf}",
            state="running" if self.running else "waiting",
            done=at.done,
            total=at.total,
            rate=self.pace.rate(),
            left=self.pace.left(at.done, at.total),
            file=at.file,
            note=self.last.text if self.last is not None else "",
            began=self.began,
            watchers=len(self.watchers),
        )


@dataclass(slots=True)
class Pulls:
    """The running downloads. ``arrived`` is called when a model's files are there; ``record`` tells
    an uninstall which of them are ours; ``unfinished`` outlives us; ``parallel``: at a time."""

    bus: Bus
    arrived: Callable[[Model], Coroutine[Any, Any, None]]
    changed: Callable[[], None] = lambda: None  # one more, or one less
    record: Pulled | None = None
    unfinished: Unfinished | None = None
    parallel: Callable[[], int] = lambda: 2
    clock: Callable[[], float] = time.monotonic
    _jobs: dict[str, Job] = field(default_factory=dict)
    _freed: asyncio.Event = field(default_factory=asyncio.Event)
    _closed: bool = False

    @property
    def busy(self) -> bool:
        """Whether anything is being brought."""
        return bool(self._jobs)

    def views(self) -> list[PullView]:
        """All of them, the oldest first."""
        return [job.view for job in self._jobs.values()]

    def view(self, name: str) -> PullView | None:
        """The one of this model; None: nothing of it is being brought."""
        job = self._jobs.get(name)
        return job.view if job is not None else None

    def unknown(self, name: str) -> Problem:
        """Nothing is being brought by this name; what is."""
        there = ", ".join(self._jobs)
        hint = f"There are: {there}" if there else "Nothing is being pulled."
        text = f"No pull of {name[:200]!r} is under way."
        return Problem(Code.PULL_UNKNOWN, text, hint)

    async def watch(
        self, model: Model, patience: Patience, *, again: bool = False
    ) -> AsyncIterator[Progress]:
        """Bring a model's files, or watch who already does. Ends when they are there.

        Raises ProblemError.
        """
        if self._closed:
            raise ProblemError(STOPPED)
        job = self._jobs.get(model.name) or self._begin(model, patience, again=again)
        queue: asyncio.Queue[Step] = asyncio.Queue()
        if job.last is not None:  # how far it is, for who comes later
            queue.put_nowait(job.last)
        job.watchers.append(queue)
        try:
            while (step := await queue.get()) is not None:
                if isinstance(step, ProblemError):
                    raise step
                yield step
        finally:
            if queue in job.watchers:
                job.watchers.remove(queue)

    def _begin(self, model: Model, patience: Patience, *, again: bool) -> Job:
        job = self._jobs[model.name] = Job(model, patience, again)
        job.task = asyncio.create_task(self._run(job), name=f"pull {model.name}")
        self.changed()
        return job

    async def _run(self, job: Job) -> None:
        name, end = job.model.name, None
        keep = True  # it is unfinished business, unless it comes to an end of its own
        try:
            await self._noted(name, begun=True)
            await self._turn(job)
            await self._fetch(job)
            await self.arrived(job.model)
            self._publish("pulled", job, f"{name} was pulled")
            keep = False
        except ProblemError as error:
            end = error
            keep = job.again and error.problem.code is Code.NOT_PULLED  # no network yet
            self._publish("pull_failed", job, error.problem.text)
        except asyncio.CancelledError:
            end, keep = job.end, job.end.problem is STOPPED
            raise
        except Exception as error:
            log.exception("pulling %s failed", name)
            end = ProblemError(Problem(Code.PULL_FAILED, f"Pulling {name} failed: {error}"))
            keep = False
        finally:
            if not keep:
                await asyncio.shield(self._noted(name, begun=False))
            self._over(job, end)

    async def _noted(self, name: str, *, begun: bool) -> None:
        if self.unfinished is not None:
            note = self.unfinished.begin if begun else self.unfinished.end
            await asyncio.to_thread(note, name)

    async def _turn(self, job: Job) -> None:
        """Wait until so few are under way that this one may begin, too."""
        while True:
            running = [one for one in self._jobs.values() if one.running]
            first = next(one for one in self._jobs.values() if not one.running)
            if len(running) < max(1, self.parallel()) and first is job:
                break
            names = ", ".join(one.model.name for one in running)
            job.tell(Progress("pull", f"waits for its turn behind {names or first.model.name}"))
            self._freed.clear()
            await self._freed.wait()
        job.running = True
        self._freed.set()  # there may be room for another one
        source = "" if job.model.name.startswith(HUB) else f" from {HUB}{job.model.hf}"
        self._publish("pull", job, f"{job.model.name} is being pulled{source}")

    def _publish(self, kind: str, job: Job, text: str) -> None:
        facts: dict[str, object] = {"source": f"{HUB}{job.model.hf}"}
        if job.progress.total:
            facts |= {"done": job.progress.done, "total": job.progress.total}
        self.bus.publish(kind, job.model.name, text, facts)

    def _over(self, job: Job, end: ProblemError | None) -> None:
        if self._jobs.get(job.model.name) is job:
            del self._jobs[job.model.name]
        self._freed.set()
        self.changed()
        watchers, job.watchers = job.watchers, []
        for queue in watchers:
            queue.put_nowait(end)

    async def _fetch(self, job: Job) -> None:
        def told(step: PullProgress) -> None:
            job.pace.add(self.clock(), step.fetched)
            job.progress = step
            job.tell(told_of(step, job.pace))

        model = job.model
        if model.choice is not None:
            self.bus.publish("chosen", model.name, f"{model.name}: {model.choice.text}")
        request = pull_request(model)
        if self.record is not None:
            await asyncio.to_thread(self.record.begin, request)
        patience = replace(job.patience, steady=job.again)
        job.files = await pull(request, told, cache_dir=None, patience=patience)

    async def cancel(self, name: str) -> PullView:
        """End one; its process is gone afterwards. What came so far stays for the next pull.

        Raises ProblemError (PULL_UNKNOWN).
        """
        job = self._jobs.get(name)
        if job is None or job.task is None:
            raise ProblemError(self.unknown(name))
        view = job.view
        text = f"The pull of {name} was cancelled."
        hint = f"What came so far is kept; go on with: ctl pull {name}"
        job.end = ProblemError(Problem(Code.PULL_FAILED, text, hint, facts={"cancelled": True}))
        await self._end(job)
        self._publish("pull_cancelled", job, text)
        return view

    async def _end(self, job: Job) -> None:
        if job.task is not None:
            job.task.cancel()
            await asyncio.gather(job.task, return_exceptions=True)
        if self._jobs.get(job.model.name) is job:  # cancelled before it ran: it has told nobody
            self._over(job, job.end)

    async def close(self) -> None:
        """End all and begin no more; what came so far stays and is resumed."""
        self._closed = True
        await asyncio.gather(*(self._end(job) for job in list(self._jobs.values())))


def told_of(step: PullProgress, pace: Pace) -> Progress:
    """One line of a pull's progress; in its facts ``rate`` (bytes per second) and ``left``
    (seconds), where they are known."""
    facts: dict[str, object] = {"done": step.done, "total": step.total, "file": step.file}
    rate, left = pace.rate(), pace.left(step.done, step.total)
    if rate is not None and left is not None and not step.note:
        facts |= {"rate": round(rate), "left": round(left, 1)}
    fraction = step.done / step.total if step.total else None
    text = step.note or (f"pulling {step.file}" if step.file else "asking the hub")
    return Progress("pull", text, fraction, facts)
