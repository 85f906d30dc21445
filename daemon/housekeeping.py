"""What is done by the clock and decides nothing: looking at memory, pruning logs.

APScheduler keeps the calendar; its jobs post facts. Every policy timer is the core's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from daemon.backends.backend import Backend
from daemon.core.messages import Bytes, MemoryObserved
from daemon.machine.process import footprints
from daemon.supervisor import Supervisor

log = logging.getLogger("modelport.housekeeping")


@dataclass(slots=True)
class Housekeeper:
    """Samples memory while it matters, and only then: an idle daemon sleeps."""

    supervisor: Supervisor
    free: Callable[[], Bytes]
    log_dir: Path
    sample_every: float  # seconds, while backends run
    settle_every: float  # seconds, while memory settles
    tidy_every: float
    log_max_age: float
    _calendar: AsyncIOScheduler = field(default_factory=lambda: AsyncIOScheduler(timezone="UTC"))
    _settling: asyncio.Task[None] | None = None
    _sampling: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._calendar.start()
        self._calendar.add_job(self.tidy, "interval", seconds=self.tidy_every, id="tidy")
        self.supervisor.wake_sampler = self.wake
        self.wake()

    def stop(self) -> None:
        """No more jobs and timers, whoever comes or goes."""
        self.supervisor.wake_sampler = lambda: None
        if self._calendar.running:
            self._calendar.shutdown(wait=False)
        if self._settling is not None:
            self._settling.cancel()
        if self._sampling is not None:
            self._sampling.cancel()

    def wake(self) -> None:
        """Backends came or went: look at memory now, and go on as long as there is a reason."""
        busy = bool(self.supervisor.backends)
        job = self._calendar.get_job("sample")
        if busy and job is None:
            self._calendar.add_job(self.sample, "interval", seconds=self.sample_every, id="sample")
        elif not busy and job is not None:
            job.remove()
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle(), name="settling")

    async def _settle(self) -> None:
        """Look often while a dead process's memory is not back."""
        while self.supervisor.scheduler.ledger.settling():
            free = await asyncio.to_thread(self.free)  # a program to run on some machines
            self.supervisor.tell(MemoryObserved(free))
            await asyncio.sleep(self.settle_every)

    async def sample(self) -> None:
        """What each backend really takes, and what the machine has left."""
        self._sampling = asyncio.current_task()
        runs = [run for run in self.supervisor.backends.values() if isinstance(run, Backend)]
        pids = {(run.model, run.generation): run.pid for run in runs if run.pid is not None}

        def look() -> tuple[Bytes, dict[tuple[str, int], dict[str, int] | None]]:
            return self.free(), {key: footprints(pid) for key, pid in pids.items()}

        free, sizes = await asyncio.to_thread(look)
        seen: dict[tuple[str, int], Bytes] = {}
        for run in runs:
            key = (run.model, run.generation)
            # Of the memories that it is charged for: what a GPU's process has in main memory is
            # no measure of what it has on the card.
            held = {p: n for p, n in (sizes.get(key) or {}).items() if p in run.variant.need}
            if held:
                seen[key] = held
                run.measured = max(sum(held.values()), run.measured or 0)
        self.supervisor.tell(MemoryObserved(free, seen))

    def tidy(self) -> None:
        """Remove rotated logs that are older than the user wants to keep."""
        limit = time.time() - self.log_max_age
        for path in self.log_dir.rglob("*.log.*"):  # those of the models lie one deeper
            try:
                if path.stat().st_mtime < limit:
                    path.unlink()
            except OSError as error:
                log.warning("an old log stays: %s", error)
