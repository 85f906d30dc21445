"""One running engine process: started below its keeper, proven ready, stopped by the ladder.

It reports facts to the scheduler's shell as core events and decides nothing: what an exit means is
the engine's knowledge, what follows from it the core's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from daemon.backends import dying, marks
from daemon.backends.keeping import (
    ExecFailed,
    Exited,
    Gone,
    Keeper,
    KeeperError,
    KeeperEvent,
    Lines,
    LogTrouble,
    Lost,
    Order,
    OrderFile,
)
from daemon.backends.learned import heard
from daemon.backends.leftovers import reap_recorded
from daemon.backends.progress import Signs, signs_of_life
from daemon.backends.readiness import Found, look_over, until_ready
from daemon.backends.terms import Places, Timeline, Timing
from daemon.config.paths import expanded
from daemon.core.messages import (
    BackendExited,
    BackendReady,
    Event,
    ExitClass,
    StartFailed,
    Variant,
)
from daemon.engines.base import Engine, Installed, Launch, LaunchPlan, Verdict
from daemon.engines.memory_log import Allotted
from daemon.ports import Hold

log = logging.getLogger("modelport.backends")

KEPT_LINES, KEPT_BYTES = 200, 16 << 10  # of the matching lines of one life, kept in memory
# Why an engine could not be run, where trying again may help: a full disk, no descriptors left …
PASSING = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM}
)


@dataclass(slots=True)
class Backend:
    """See the module. ``tell`` takes facts; it is never called after ``BackendExited``."""

    generation: int
    variant: Variant
    engine: Engine
    installed: Installed
    plan: LaunchPlan
    launch: Launch
    holding: Hold
    places: Places
    timing: Timing
    mode: Literal["foreground", "service"]
    tell: Callable[[Event], None]
    keeper: Keeper | None = None
    mark: str = ""  # of this start: all that the engine starts carries it
    started_at: float = field(default_factory=time.time)
    ready_at: float | None = None
    asked: bool = False
    hurried: bool = False  # asked to end at once
    died: bool = False  # the process ended, though not all that it started
    measured: int | None = None
    allotted: Allotted | None = None  # what the engine said of its memory, once it is ready
    lines: list[str] = field(default_factory=list)
    status: int | None = None  # how its process ended, as in subprocess
    ended_at: float | None = None  # and when, in Unix seconds, if its keeper says so
    unattended: bool = False  # it ended while no daemon was there
    log_trouble: LogTrouble | None = None  # if something of its log was lost
    failure: Verdict | None = None  # what was wrong with it, unless we asked it to stop
    near_budget: bool = False  # it was last seen to take about all that there is
    heard: int = 0  # such lines in all
    heard_loading: int = 0  # of them, until it was ready
    timeline: Timeline = field(default_factory=Timeline)
    news: asyncio.Event = field(default_factory=asyncio.Event)  # it died, or must stop
    _verdict: Verdict | None = None
    _task: asyncio.Task[None] | None = None
    _closing: asyncio.Task[None] | None = None
    _over: bool = False

    @property
    def model(self) -> str:
        return self.plan.model

    @property
    def pid(self) -> int | None:
        return self.keeper.hello.pid if self.keeper else None

    # ------------------------------------------------------------ start

    def begin(self) -> None:
        """Start it; all further news comes through ``tell``."""
        self.timeline.ordered = time.monotonic()
        self.mark = marks.fresh(self.model, self.generation)
        self._task = asyncio.create_task(self._run(), name=f"backend {self.model}")

    async def _run(self) -> None:
        try:
            await self._start()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("starting %s failed", self.model)
            text = f"could not be started: {error}"
            if self.keeper is None:
                self._finish(ExitClass.PERMANENT, text)
            elif not self.died:  # it lives, and only its exit frees its memory
                self._fail(Verdict(ExitClass.PERMANENT, text))

    async def _start(self) -> None:
        try:
            self.keeper = await Keeper.start(
                self._order(), on_event=self.on_event, patience=self.timing.keeper_start
            )
        except KeeperError as error:
            await self._reap()  # it may have been killed between the start and its first word
            self._finish(ExitClass.CRASH, f"its keeper did not start: {error}")
            return
        self.timeline.spawned = time.monotonic()
        if self._over:  # it ended before its keeper could be named
            self._closing = asyncio.create_task(self._close(self.keeper))
            return
        if self.asked:  # told to stop while the keeper came up
            self.kill() if self.hurried else self.stop()
            return
        verdict = await until_ready(self)
        if self.died or self.asked:
            return
        if verdict is not None:
            self._fail(verdict)
            return
        self.timeline.ready = time.monotonic()
        self.ready_at = time.time()
        self.tell(BackendReady(self.model, self.generation))
        await self.hear_out()
        self.heard_loading = self.heard
        said = await asyncio.to_thread(heard, self.places.log)
        self.allotted = said if said.complete() else None

    def _order(self) -> Order:
        return Order(
            backend=self.model,
            generation=self.generation,
            argv=self.launch.argv,
            env=marks.marked(self.launch.env, self.mark),
            cwd=expanded(self.launch.cwd) if self.launch.cwd else self.places.cwd,
            socket=self.places.socket,
            record=self.places.record,
            log=self.places.log,
            log_max_bytes=self.places.log_max_bytes,
            log_keep=self.places.log_keep,
            pattern=self.engine.pattern,
            needles=self.engine.needles,
            mode=self.mode,
            grace=self.timing.keeper_grace,
            stop_grace=self.timing.stop_grace,
            kill_grace=self.timing.kill_grace,
            connect_grace=self.timing.keeper_connect,
            lost_grace=self.timing.keeper_lost,
            files=tuple(OrderFile(Path(path), text) for path, text in self.launch.files.items()),
            leaves=(self.plan.socket,) if self.plan.socket is not None else (),
            mark=self.mark,
            facts={
                "model": self.model,
                "engine": self.engine.name,
                "version": self.installed.version,
                "port": self.plan.port,
                "listens": None if self.plan.socket is None else str(self.plan.socket),
                "secret": self.plan.secret,
                "secret_file": str(self.plan.secret_file),
                "env": digest(self.plan.env),
                "variant": self.variant.id,
                "need": dict(self.variant.need),
                "started_at": self.started_at,
            },
        )

    async def look_over(self, wait: float) -> Found:
        """What it does now that it is to be adopted: see ``readiness.look_over``."""
        return await look_over(self, wait)

    async def hear_out(self) -> None:
        """What the engine logged before it answered is with us: the first round makes the keeper
        read it, the second comes behind what it told of it."""
        with contextlib.suppress(KeeperError):
            for _ in range(2):
                if self.keeper is not None:
                    await self.keeper.refresh()

    async def said_serving(self) -> list[str]:
        """The matching lines of its log since it was ready, up to this moment."""
        await self.hear_out()
        new = self.heard - self.heard_loading
        return self.lines[-new:] if new else []

    def signs_of_life(self) -> Signs:
        """Of all that it runs. For a thread."""
        return signs_of_life(self.places.log, self.pid)

    # ------------------------------------------------------------ news of the keeper

    def on_event(self, event: KeeperEvent) -> None:
        """The keeper's news."""
        match event:
            case Lines(lines=lines):
                self.lines = _newest([*self.lines, *lines])
                self.heard += len(lines)
            case LogTrouble():
                self._log_trouble(event)
            case ExecFailed(errno=number, text=text):
                failed = ExitClass.CRASH if number in PASSING else ExitClass.PERMANENT
                self._verdict = self.failure = Verdict(failed, f"could not be run: {text}")
            case Exited():
                self._judge(event)
            case Gone():
                verdict = self._verdict or Verdict(ExitClass.CRASH, "it ended")
                detail = dying.words(verdict, self.status, (self.plan.secret,))
                self._finish(verdict.exit_class, detail)
            case Lost():
                self._task = asyncio.create_task(self._lost(), name=f"reap {self.model}")

    async def _lost(self) -> None:
        """The keeper is gone without a word: what is proven to be ours is ended."""
        self.died = True
        self.news.set()
        try:
            verdict = await self._reap()
            log.warning("the keeper of %s was lost; its engine: %s", self.model, verdict)
        finally:
            self._finish(ExitClass.CRASH, "its keeper was lost")

    async def _reap(self) -> str:
        """End what a keeper left, by its record and the mark of this start."""
        files = [*map(Path, self.launch.files), self.places.socket]
        files += [self.plan.socket] if self.plan.socket is not None else []
        return await asyncio.to_thread(reap_recorded, self.places.record, files, self.mark)

    def _log_trouble(self, event: LogTrouble) -> None:
        """Its log has lost something; said when that begins, and when it is over."""
        before, self.log_trouble = self.log_trouble, event
        if event.errno is not None and (before is None or before.errno is None):
            why = os.strerror(event.errno)
            log.warning("the log of %s cannot be written, it serves on: %s", self.model, why)
        elif event.errno is None and before is not None and before.errno is not None:
            lost = event.dropped
            log.info("the log of %s is written again; it lacks %d bytes", self.model, lost)

    def _judge(self, end: Exited) -> None:
        self.died, self.status, self.ended_at = True, end.status, end.time
        self.news.set()
        verdict = self.engine.classify(
            end.status,
            self.lines,
            ready=self.ready_at is not None,
            asked=self.asked,
            near_budget=self.near_budget,
        )
        self._verdict = verdict = dying.with_last(verdict, end.last)
        if not self.asked:
            self.failure = verdict

    def _fail(self, verdict: Verdict) -> None:
        """It lives and will not serve."""
        self.failure = verdict
        detail = dying.words(verdict, None, (self.plan.secret,))
        self.tell(StartFailed(self.model, self.generation, verdict.exit_class, detail))

    def _finish(self, exit_class: ExitClass, detail: str) -> None:
        """Everything of it is gone: said once."""
        if self._over:
            return
        self._over = self.died = True
        self.news.set()
        if self.keeper is not None:
            self._closing = asyncio.create_task(self._close(self.keeper))
        self.tell(BackendExited(self.model, self.generation, exit_class, detail))

    async def _close(self, keeper: Keeper) -> None:
        if not await keeper.close():
            log.warning("the keeper of %s did not leave in time", self.model)

    async def closed(self) -> None:
        """Wait until the keeper has been reaped as well (bounded by the keeper's own deadline)."""
        if self._over and self._task is not None:  # it may have ended before we knew its keeper
            await asyncio.wait({self._task})
        if self._closing is not None:
            await self._closing

    # ------------------------------------------------------------ end

    def stop(self) -> None:
        """The ladder: TERM, a second TERM after the grace, KILL of all that is left."""
        self.asked = True
        self.news.set()
        if self.keeper is not None:
            self.keeper.stop(self.timing.stop_grace, self.timing.kill_grace)

    def kill(self) -> None:
        """At once: what does not answer is not asked."""
        self.asked = self.hurried = True
        self.news.set()
        if self.keeper is not None:
            self.keeper.kill()

    async def detach(self) -> None:
        """The daemon leaves and its successor will come: the keeper waits for it."""
        self._over = True
        if self._task is not None:
            self._task.cancel()
            # A keeper that is just coming up ends its engine: cut short, it would leave an orphan.
            await asyncio.wait({self._task})
        if self.keeper is not None:
            await self.keeper.detach(self.timing.keeper_grace)

    @property
    def verdict(self) -> Verdict | None:
        """What its end meant, once it ended."""
        return self._verdict


def _newest(lines: list[str]) -> list[str]:
    """As many of the last lines as are kept, one in any case."""
    room, first = KEPT_BYTES, len(lines)
    while first > max(0, len(lines) - KEPT_LINES):
        room -= len(lines[first - 1]) + 1
        if room < 0 and first < len(lines):
            break
        first -= 1
    return lines[first:]


def digest(env: Mapping[str, str]) -> str:
    """A mark by which a later daemon sees whether it would set the same; it tells no value."""
    return hashlib.sha256(json.dumps(sorted(env.items())).encode()).hexdigest()[:16]
