"""One running engine process: started below its keeper, proven ready, stopped by the ladder.

It reports facts to the scheduler's shell as core events and decides nothing: what an exit means is
the engine's knowledge, what follows from it the core's.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from daemon.backends import dying, probing
from daemon.backends.keeping import (
    ExecFailed,
    Exited,
    Gone,
    Keeper,
    KeeperError,
    KeeperEvent,
    Lines,
    Lost,
    Order,
    OrderFile,
)
from daemon.backends.learned import heard
from daemon.backends.leftovers import reap, records
from daemon.backends.progress import Signs, Watch, signs_of_life
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

KEPT_LINES = 200  # matching lines of one life that are kept in memory
LOOK = 1.0  # seconds between two looks at whether a load goes on; the waits below end within one


@dataclass(frozen=True, slots=True)
class Timing:
    """The waits of a backend's life, in seconds (``[timing]``)."""

    start_stall: float
    ready_poll: float
    health_timeout: float
    probe_timeout: float
    stop_grace: float
    kill_grace: float
    keeper_start: float
    keeper_grace: float
    keeper_connect: float
    keeper_lost: float


@dataclass(frozen=True, slots=True)
class Places:
    """Where the files of one backend go."""

    socket: Path
    record: Path
    log: Path
    log_max_bytes: int
    log_keep: int
    cwd: Path


@dataclass(slots=True)
class Timeline:
    """When the steps of a start were done (monotonic seconds; 0: not yet)."""

    ordered: float = 0.0
    spawned: float = 0.0
    healthy: float = 0.0
    ready: float = 0.0


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
    started_at: float = field(default_factory=time.time)
    ready_at: float | None = None
    asked: bool = False
    hurried: bool = False  # asked to end at once
    died: bool = False  # the process ended, though not all that it started
    measured: int | None = None
    allotted: Allotted | None = None  # what the engine said of its memory, once it is ready
    lines: list[str] = field(default_factory=list)
    status: int | None = None  # how its process ended, as in subprocess
    failure: Verdict | None = None  # what was wrong with it, unless we asked it to stop
    near_budget: bool = False  # it was last seen to take about all that there is
    heard: int = 0  # such lines in all
    heard_loading: int = 0  # of them, until it was ready
    timeline: Timeline = field(default_factory=Timeline)
    _verdict: Verdict | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)  # it died, or must stop
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
            self._finish(ExitClass.CRASH, f"its keeper did not start: {error}")
            return
        self.timeline.spawned = time.monotonic()
        if self._over:  # it ended before its keeper could be named
            self._closing = asyncio.create_task(self._close(self.keeper))
            return
        if self.asked:  # told to stop while the keeper came up
            self.kill() if self.hurried else self.stop()
            return
        verdict = await self._until_ready()
        if self.died or self.asked:
            return
        if verdict is not None:
            self._fail(verdict)
            return
        self.timeline.ready = time.monotonic()
        self.ready_at = time.time()
        self.tell(BackendReady(self.model, self.generation))
        await self._hear_out()
        self.heard_loading = self.heard
        said = await asyncio.to_thread(heard, self.places.log)
        self.allotted = said if said.complete() else None

    def _order(self) -> Order:
        return Order(
            backend=self.model,
            generation=self.generation,
            argv=self.launch.argv,
            env=dict(self.launch.env),
            cwd=Path(self.launch.cwd).expanduser() if self.launch.cwd else self.places.cwd,
            socket=self.places.socket,
            record=self.places.record,
            log=self.places.log,
            log_max_bytes=self.places.log_max_bytes,
            log_keep=self.places.log_keep,
            pattern=self.engine.pattern,
            mode=self.mode,
            grace=self.timing.keeper_grace,
            stop_grace=self.timing.stop_grace,
            kill_grace=self.timing.kill_grace,
            connect_grace=self.timing.keeper_connect,
            lost_grace=self.timing.keeper_lost,
            files=tuple(OrderFile(Path(path), text) for path, text in self.launch.files.items()),
            facts={
                "model": self.model,
                "engine": self.engine.name,
                "version": self.installed.version,
                "port": self.plan.port,
                "secret": self.plan.secret,
                "secret_file": str(self.plan.secret_file),
                "env": digest(self.plan.env),
                "variant": self.variant.id,
                "need": dict(self.variant.need),
                "started_at": self.started_at,
            },
        )

    async def _until_ready(self) -> Verdict | None:
        """None once it answered a real request; else why it will not."""
        probe = asyncio.create_task(self._probe(), name=f"probe {self.model}")
        news = asyncio.create_task(self._news.wait(), name=f"news of {self.model}")
        timing = self.timing
        pause = min(LOOK, timing.start_stall / 4, timing.probe_timeout / 4)
        pause = max(pause, timing.ready_poll)  # either wait may be set to nothing
        watch = Watch(await asyncio.to_thread(self._signs_of_life), time.monotonic())
        try:
            while not (self.died or self.asked):
                await asyncio.wait(
                    {probe, news}, timeout=pause, return_when=asyncio.FIRST_COMPLETED
                )
                if probe.done():
                    return probe.result()
                watch.look(await asyncio.to_thread(self._signs_of_life), time.monotonic())
                if (why := self._hanging(watch)) is not None:
                    return Verdict(ExitClass.HANG, why)
            return None
        finally:
            for task in (probe, news):
                task.cancel()
            await asyncio.gather(probe, news, return_exceptions=True)

    def _hanging(self, watch: Watch) -> str | None:
        """Why nothing more is to be hoped for; None while it is."""
        stall, patience = self.timing.start_stall, self.timing.probe_timeout
        if watch.looked - watch.since > stall:
            return f"no sign of progress for {stall:g} s while loading"
        healthy = self.timeline.healthy
        if not healthy or self.engine.probe(self.plan).loads:
            return None
        if watch.looked - max(healthy, watch.moved_at) > patience:
            return f"no answer to its first request for {patience:g} s, though it is loaded"
        return None

    async def _probe(self) -> Verdict | None:
        probe = self.engine.probe(self.plan)
        headers = self.launch.headers
        port, poll = self.plan.port, self.timing.ready_poll
        limit = self.timing.health_timeout
        while not await probing.healthy(  # noqa: ASYNC110 (another process has no event for us)
            port, probe, headers, deadline=limit
        ):
            await asyncio.sleep(poll)
        self.timeline.healthy = time.monotonic()
        while True:
            # No deadline of its own: the rules above end it, and mlx-lm loads only now.
            answer = await probing.answers(port, probe, headers, deadline=None)
            if 200 <= answer.status < 300:
                return None
            if answer.status not in (0, 503):  # 503: still loading
                await self._hear_out()
                said = answer.body[:300].decode("utf-8", "replace")
                verdict = self.engine.classify(None, [*self.lines, said], ready=False, asked=False)
                if verdict.exit_class is ExitClass.HANG:  # no line of its log explains it
                    detail = f"its first answer was {answer.status}: {' '.join(said.split())}"
                    return Verdict(ExitClass.HANG, detail, verdict.advice)
                return verdict
            await asyncio.sleep(poll)

    async def answers_now(self, deadline: float) -> bool:
        """One real request to a backend that is being adopted."""
        probe = self.engine.probe(self.plan)
        answer = await probing.answers(
            self.plan.port, probe, self.launch.headers, deadline=deadline
        )
        return 200 <= answer.status < 300

    async def _hear_out(self) -> None:
        """What the engine logged before it answered is with us: the first round makes the keeper
        read it, the second comes behind what it told of it."""
        with contextlib.suppress(KeeperError):
            for _ in range(2):
                if self.keeper is not None:
                    await self.keeper.refresh()

    async def said_serving(self) -> list[str]:
        """The matching lines of its log since it was ready, up to this moment."""
        await self._hear_out()
        new = self.heard - self.heard_loading
        return self.lines[-new:] if new else []

    def _signs_of_life(self) -> Signs:
        """Of all that it runs. For a thread."""
        return signs_of_life(self.places.log, self.pid)

    # ------------------------------------------------------------ news of the keeper

    def on_event(self, event: KeeperEvent) -> None:
        """The keeper's news."""
        match event:
            case Lines(lines=lines):
                self.lines = [*self.lines, *lines][-KEPT_LINES:]
                self.heard += len(lines)
            case ExecFailed(text=text):
                self._verdict = Verdict(ExitClass.PERMANENT, f"could not be run: {text}")
                self.failure = self._verdict
            case Exited(status=status):
                self._judge(status)
            case Gone():
                verdict = self._verdict or Verdict(ExitClass.CRASH, "it ended")
                detail = dying.words(verdict, self.status, (self.plan.secret,))
                self._finish(verdict.exit_class, detail)
            case Lost():
                self._task = asyncio.create_task(self._lost(), name=f"reap {self.model}")

    async def _lost(self) -> None:
        """The keeper is gone without a word: what its record proves to be ours is ended."""
        self.died = True
        self._news.set()
        try:
            files = [Path(path) for path in self.launch.files]
            verdict = await asyncio.to_thread(reap_recorded, self.places.record, files)
            log.warning("the keeper of %s was lost; its engine: %s", self.model, verdict)
        finally:
            self._finish(ExitClass.CRASH, "its keeper was lost")

    def _judge(self, status: int) -> None:
        self.died, self.status = True, status
        self._news.set()
        verdict = self.engine.classify(
            status,
            self.lines,
            ready=self.ready_at is not None,
            asked=self.asked,
            near_budget=self.near_budget,
        )
        self._verdict = verdict
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
        self._news.set()
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
        self._news.set()
        if self.keeper is not None:
            self.keeper.stop(self.timing.stop_grace, self.timing.kill_grace)

    def kill(self) -> None:
        """At once: what does not answer is not asked."""
        self.asked = self.hurried = True
        self._news.set()
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


def digest(env: Mapping[str, str]) -> str:
    """A mark by which a later daemon sees whether it would set the same; it tells no value."""
    return hashlib.sha256(json.dumps(sorted(env.items())).encode()).hexdigest()[:16]


DYING = 1.0  # seconds: the kernel closes a killed keeper's socket a moment before it is dead


def reap_recorded(path: Path, files: Iterable[Path] = ()) -> str:
    """End the engine that this record describes, by pid, start time and command line, and remove
    its private ``files`` (a killed keeper does not). Blocks."""
    found = next((record for record in records(path.parent) if record.path == path), None)
    deadline = time.monotonic() + DYING
    while found is not None and found.keeper_alive and time.monotonic() < deadline:
        time.sleep(0.005)
    verdict = reap(found).value if found is not None else "no record"
    for file in files:
        file.unlink(missing_ok=True)
    return verdict
