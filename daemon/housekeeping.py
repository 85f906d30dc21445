"""What is done by the clock and decides nothing: looking at memory, pruning logs.

All of it goes by the loop's own clock: a time of day that is set back would stop it for as long.
Every policy timer is the core's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from daemon.backends.backend import Backend
from daemon.backends.learned import Learned, Promise, combined
from daemon.config.settings import Settings
from daemon.core.budget import total
from daemon.core.messages import Bytes, MemoryObserved
from daemon.files import DISK, Disk
from daemon.machine.process import footprints
from daemon.supervisor import Supervisor

log = logging.getLogger("modelport.housekeeping")

NEAR = 0.95  # of a pool's budget in use by backends: an unexplained end is memory's


@dataclass(frozen=True, slots=True)
class Rounds:
    """How often something is looked at, in seconds: while backends run what each takes (``sample``)
    and what the machine has left (``machine``), while memory settles the latter by ``settle``, and
    while a disk refuses something whether it still does (``disk``).
    ``log_max_age``: seconds after which a rotated log goes."""

    sample: float
    machine: float
    settle: float
    tidy: float
    disk: float
    log_max_age: float

    @classmethod
    def of(cls, settings: Settings) -> Rounds:
        """As configured."""
        timing = settings.timing
        return cls(
            sample=timing.memory_sample,
            machine=timing.machine_sample,
            settle=timing.settle_poll,
            tidy=timing.housekeeping,
            disk=timing.disk_retry,
            log_max_age=settings.logs.max_age,
        )


@dataclass(slots=True)
class Round:
    """Does ``work`` every ``seconds``, from :meth:`begin` to :meth:`end`, one at a time."""

    work: Callable[[], Awaitable[None]]
    seconds: float
    _task: asyncio.Task[None] | None = None

    @property
    def goes(self) -> bool:
        return self._task is not None

    def begin(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="round")

    def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def every(self, seconds: float) -> None:
        """From now on so often."""
        if seconds != self.seconds:
            self.seconds = seconds
            if self._task is not None:
                self.end()
                self.begin()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self.seconds)
            try:
                await self.work()
            except Exception:
                log.exception("a round of looking failed")


@dataclass(slots=True)
class Housekeeper:
    """Samples memory while it matters, and only then: an idle daemon sleeps."""

    supervisor: Supervisor
    promised: Callable[[Backend], Promise | None]
    learned: Learned
    learnt: Callable[[str], None]
    log_dir: Path
    rounds: Rounds
    attend: Callable[[bool], None] = lambda _: None  # whether the clock is read every few seconds
    disk: Disk = DISK
    _settling: asyncio.Task[None] | None = None
    _known: dict[str, dict[str, int]] = field(default_factory=dict)  # what was kept last, by key
    _sampling: Round = field(init=False)
    _looking: Round = field(init=False)
    _writing: Round = field(init=False)
    _tidying: Round = field(init=False)

    def __post_init__(self) -> None:
        self._sampling = Round(self.sample, self.rounds.sample)
        self._looking = Round(self.look_around, self.rounds.machine)
        self._writing = Round(self._write_late, self.rounds.disk)
        self._tidying = Round(partial(asyncio.to_thread, self.tidy), self.rounds.tidy)

    def start(self) -> None:
        self._tidying.begin()
        self.supervisor.wake_sampler = self.wake
        self.wake()
        loop = asyncio.get_running_loop()
        self.disk.on_trouble = partial(_soon, loop, self._writing.begin)
        if self.disk.troubles():  # from before
            self._writing.begin()

    def follow(self, settings: Settings) -> None:
        """Rounds as configured now. One that stays as it was is not begun anew."""
        self.rounds = Rounds.of(settings)
        self._sampling.every(self.rounds.sample)
        self._looking.every(self.rounds.machine)
        self._writing.every(self.rounds.disk)
        self._tidying.every(self.rounds.tidy)

    def stop(self) -> None:
        """No more jobs and timers, whoever comes or goes."""
        self.supervisor.wake_sampler = lambda: None
        self.disk.on_trouble = lambda: None
        if self._settling is not None:
            self._settling.cancel()
        for each in (self._sampling, self._looking, self._writing, self._tidying):
            each.end()

    def wake(self) -> None:
        """Backends came or went: look at memory now, and go on as long as there is a reason."""
        runs = bool(self.supervisor.backends)
        watched = runs or self.supervisor.scheduler.watches_memory
        self._sampling.every(self.rounds.sample)
        self._looking.every(self.rounds.machine)
        for each, busy in ((self._sampling, runs), (self._looking, watched)):
            if busy:
                each.begin()
            else:
                each.end()
        self.attend(runs)
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle(), name="settling")

    async def _settle(self) -> None:
        """Look often while a dead process's memory is not back."""
        while self.supervisor.scheduler.ledger.settling():
            await self._look()
            await asyncio.sleep(self.rounds.settle)

    async def look_around(self) -> None:
        """What the machine has left."""
        await self._look()

    async def _look(self) -> None:
        self.supervisor.look(await asyncio.to_thread(self.supervisor.free))  # a driver may be slow

    async def _write_late(self) -> None:
        """What the disk refused, once more."""
        if await asyncio.to_thread(self.disk.again):
            self._writing.end()
            if self.disk.troubles():  # met just now
                self._writing.begin()

    async def sample(self) -> None:
        """What each backend really takes."""
        runs = [run for run in self.supervisor.backends.values() if isinstance(run, Backend)]
        pids = {(run.model, run.generation): run.pid for run in runs if run.pid is not None}

        def look() -> dict[tuple[str, int], dict[str, int] | None]:
            return {key: footprints(pid) for key, pid in pids.items()}

        sizes = await asyncio.to_thread(look)
        seen: dict[tuple[str, int], Bytes] = {}
        for run in runs:
            key = (run.model, run.generation)
            # Of the memories that it is charged for: what a GPU's process has in main memory is
            # no measure of what it has on the card.
            held = {p: n for p, n in (sizes.get(key) or {}).items() if p in run.variant.need}
            if held:
                seen[key] = held
                run.measured = max(sum(held.values()), run.measured or 0)
                await self._learn(run, held)
        full = near_budget(seen.values(), self.supervisor.scheduler.ledger.budget)
        for run in runs:
            run.near_budget = bool(full & seen.get((run.model, run.generation), {}).keys())
        free = self.supervisor.scheduler.ledger.free  # as it was seen last
        self.supervisor.tell(MemoryObserved(free, seen))

    async def _learn(self, run: Backend, held: Bytes) -> None:
        """Keep what this command line really takes, for its next start."""
        promise = self.promised(run)
        if promise is None or run.ready_at is None:
            return
        told = run.allotted.by_pool(tuple(run.variant.need)) if run.allotted else {}
        taken = combined(told, held, promise.later)
        if taken == self._known.get(promise.key):
            return
        self._known[promise.key] = taken
        news = await asyncio.to_thread(
            self.learned.record,
            promise.key,
            run.model,
            run.variant.id,
            promise.estimated,
            taken,
            told=bool(told),
        )
        if news is not None:
            self.learnt(run.model)

    def tidy(self) -> None:
        """Remove rotated logs that are older than the user wants to keep."""
        limit = time.time() - self.rounds.log_max_age
        for path in self.log_dir.rglob("*.log.*"):  # those of the models lie one deeper
            try:
                if path.stat().st_mtime < limit:
                    path.unlink()
            except OSError as error:
                log.warning("an old log stays: %s", error)


def _soon(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    """In the loop, said from a thread; not at all once the loop is closed."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(work)


def near_budget(seen: Iterable[Bytes], budget: Bytes) -> frozenset[str]:
    """The pools of which backends were seen to take about all that they may."""
    taken = total(seen)
    return frozenset(p for p, n in taken.items() if n >= NEAR * budget.get(p, n + 1) > 0)
