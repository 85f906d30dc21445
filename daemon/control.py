"""What the control API and ``ctl`` may ask of the daemon: the ``ControlPort``.

Answers come from the scheduler's book and the stock; wishes become events. Nothing is decided here.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from daemon.access.keys import Wanted
from daemon.access.store import KeyStore
from daemon.backends.backend import Backend
from daemon.backends.prepare import Prepared
from daemon.benchmarks import Benchmarks, bench_of
from daemon.bringing import Bringing
from daemon.config.paths import Paths
from daemon.configured import Configured
from daemon.core.messages import Ask, OperatorAsked
from daemon.core.page import Page
from daemon.core.problems import Code, Problem, ProblemError
from daemon.finding import Finder
from daemon.keys import Keys
from daemon.loading import gone, ready
from daemon.picture import (
    backend_view,
    claim_view,
    failed_lines,
    fit_view,
    left,
    model_view,
    pinned_text,
    pool_view,
    reset_text,
    resident,
    troubles,
    wait_view,
)
from daemon.ports import LoadFit, Progress
from daemon.requests import Requests
from daemon.supervisor import Supervisor
from daemon.telemetry.bus import Bus
from daemon.telemetry.incidents import Book
from daemon.verdicts import Served, Verdicts
from daemon.views import (
    BackendView,
    BenchView,
    EventView,
    FindingView,
    FitView,
    IncidentView,
    KeyView,
    LanView,
    ListenerView,
    MeasuredView,
    ModelView,
    PullView,
    ReloadView,
    RequestView,
    ScheduleView,
    StatusView,
    StoryView,
    VerdictView,
)


@dataclass(slots=True)
class Control:
    """See ``daemon.ports.ControlPort``. ``stop`` ends the daemon."""

    supervisor: Supervisor
    configured: Configured
    bus: Bus
    paths: Paths
    mode: Literal["foreground", "service"]
    version: str
    stop: Callable[[], None]
    requests: Requests = field(default_factory=Requests)
    url: str = ""
    started_at: float = field(default_factory=time.time)
    record: Book = field(default_factory=Book)  # of incidents
    listeners: Callable[[], list[ListenerView]] = list  # beside the fixed port
    lan: Callable[[], LanView] = LanView  # nobody from other machines, until told
    proofs: Verdicts = field(default_factory=Verdicts)
    power: Callable[[], str] = str  # in words
    lines: Callable[[], list[ScheduleView]] = list  # of the calendar
    key_ring: Keys = field(init=False)
    measurements: Benchmarks = field(init=False)
    bringing: Bringing = field(init=False)
    finder: Finder = field(init=False)

    def __post_init__(self) -> None:
        self.finder = Finder(self.configured, self.supervisor.clock)
        self.bringing = Bringing(self.configured, self.finder.look)
        self.key_ring = Keys(KeyStore(self.paths.keys_file))
        self.measurements = Benchmarks(self.paths.state_dir / "history.db")

    # ------------------------------------------------------------ looking

    def status(self) -> StatusView:
        core, now = self.supervisor.scheduler, self.supervisor.clock()
        pages = core.pages.values()
        told = core.explain(now)
        return StatusView(
            version=self.version,
            pid=os.getpid(),
            mode=self.mode,
            url=self.url,
            started_at=self.started_at,
            config=str(self.configured.config_path),
            config_problem=self.configured.problem,
            log=str(self.paths.daemon_log),
            pools=[pool_view(pool, self.configured.budget_source) for pool in told.pools],
            backends=len(self.supervisor.backends),
            leases=sum(len(page.leases) for page in pages),
            queue=sum(len(page.queue) for page in pages),
            claim=claim_view(told.claim, now) if told.claim else None,
            waiting=[wait_view(wait, now) for wait in told.waiting],
            paused=told.paused,
            paused_left=left(told.paused_until, now),
            thrash_ratio=round(told.thrash_ratio, 3),
            advice=told.advice.text if told.advice else "",
            draining=self.supervisor.draining,
            counters=dict(self.supervisor.counters),
            troubles=[*troubles(self.supervisor.backends.values()), *failed_lines(self.lines())],
            listeners=self.listeners(),
            lan=self.lan(),
            small_model=self._small(),
            power=self.power(),
        )

    def _small(self) -> str:
        small = self.configured.stock.catalog.small
        return small.name if small is not None else ""

    async def look(self, name: str = "") -> None:
        """See ``ControlPort``."""
        await (self.finder.meant(name) if name else self.finder.look())
        if name:
            await self.configured.decide(name)

    async def decide(self) -> None:
        """See ``ControlPort``."""
        await self.configured.decide()

    def models(self, *, presets: bool = False, found: bool = False) -> list[ModelView]:
        stock = self.configured.stock
        items = dict(stock.prepared)
        own = stock.catalog.presets if presets else ()
        for name in (*own, *(stock.catalog.found if found else ())):
            if name not in items:
                items[name] = self.configured.bare(name)
        return [self._model(item) for _, item in sorted(items.items())]

    def model(self, name: str) -> ModelView:
        return self._model(self._find(name))

    def _find(self, name: str) -> Prepared:
        item = self.configured.named(name)
        if isinstance(item, Problem):
            raise ProblemError(item)
        return item

    def _model(self, item: Prepared) -> ModelView:
        page = self.supervisor.scheduler.pages.get(item.model.name)
        tested = self.proofs.last(Served.of(item))
        catalog, now = self.configured.stock.catalog, self.supervisor.clock()
        return model_view(item, page, catalog, tested, now, time.time())

    def backends(self) -> list[BackendView]:
        pages = self.supervisor.scheduler.pages
        return [
            self._backend(pages[name], run)
            for name, run in sorted(self.supervisor.backends.items())
            if isinstance(run, Backend) and name in pages
        ]

    def _backend(self, page: Page, run: Backend) -> BackendView:
        charged = dict(self.supervisor.scheduler.ledger.charged(page.name))
        rescued = self.supervisor.rescued.get(page.name, 0)
        return backend_view(page, run, charged, rescued, self.supervisor.clock(), time.time())

    # ------------------------------------------------------------ loading

    async def fit(self, name: str, *, ctx: int | None = None) -> FitView:
        """See ``ControlPort``."""
        from daemon.preflight import Way, gpu_limit, preflight  # for people who ask beforehand

        item = await self.configured.sized(name, ctx)
        pages, ledger = self.supervisor.scheduler.pages, self.supervisor.scheduler.ledger
        setting = self.configured.original(item.model.name).fit if ctx is None else "refuse"
        found = preflight(
            item.model.name,
            [Way(item.ways[v.id].ctx, v.need) for v in item.spec.plain],
            ledger.budget,
            [
                resident(page, ledger.charged(name))
                for name, page in pages.items()
                if page.state.resident
            ],
            frozenset(name for name, page in pages.items() if page.pinned),
            shrink=setting != "refuse",
            limit=gpu_limit(self.configured.reader.facts, ledger.budget),
        )
        return fit_view(found, setting, ledger.budget)

    async def load(
        self, name: str, *, ctx: int | None = None, fit: LoadFit | None = None
    ) -> AsyncIterator[Progress]:
        """See ``ControlPort``. The load goes on when the caller leaves."""
        await self.configured.decide(name)
        item = self._find(name)
        engine = f" ({item.engine_name})" if item.engine_name else ""
        yield Progress("resolve", f"{item.model.name}{engine}")
        for warning in item.model.warnings:
            yield Progress("note", warning)
        if not item.pulled:
            async for step in self.bringing.pull(item.model.name, anyway=fit == "ignore"):
                yield step
        elif item.model.choice is not None:
            yield Progress("choose", item.model.choice.text)
        item = await self.configured.ensure(item.model.name, ctx, fit)
        if item.problem is not None:
            raise ProblemError(item.problem)
        try:
            async for step in ready(self.supervisor, self.bus, item.model.name):
                yield step
        except ProblemError:
            self.configured.end_override(item.model.name)
            raise

    async def pull(self, name: str) -> AsyncIterator[Progress]:
        """See ``ControlPort``."""
        async for step in self.bringing.pull(name):
            yield step
        yield await self.bringing.done(name)

    def pulls(self) -> list[PullView]:
        """See ``ControlPort``."""
        return self.bringing.views()

    def pulling(self, name: str) -> PullView:
        """See ``ControlPort``."""
        return self.bringing.view(name)

    async def cancel_pull(self, name: str) -> PullView:
        """See ``ControlPort``."""
        return await self.bringing.cancel(name)

    async def unload(self, name: str | None, *, force: bool = False) -> list[str]:
        """See ``ControlPort``. Waits until running requests have ended (unless forced)."""
        wanted = [self._find(name).model.name] if name is not None else None
        going = [n for n in self.supervisor.backends if wanted is None or n in wanted]
        runs = {n: self.supervisor.backends[n] for n in going}
        self.supervisor.tell(OperatorAsked(Ask.UNLOAD, wanted[0] if wanted else None, force))
        await gone(self.supervisor, self.bus, runs)
        return going

    # ------------------------------------------------------------ the rest

    def pin(self, name: str, pinned: bool) -> None:
        item = self._find(name)
        model = item.model.name
        if model not in self.supervisor.scheduler.pages:
            raise ProblemError(item.problem or self.configured.stock.unknown(name))
        self.supervisor.tell(OperatorAsked(Ask.PIN if pinned else Ask.UNPIN, model))
        self.bus.publish("pin" if pinned else "unpin", model, pinned_text(model, pinned))

    def pause(self, seconds: float | None, *, hold: bool, force: bool) -> None:
        self.supervisor.tell(OperatorAsked(Ask.PAUSE, None, force, seconds, hold))

    def resume(self) -> bool:
        paused = self.supervisor.scheduler.paused is not None
        self.supervisor.tell(OperatorAsked(Ask.RESUME))
        return paused

    def reset(self, name: str) -> str:
        """See ``ControlPort``."""
        model = self._find(name).model.name
        page = self.supervisor.scheduler.pages.get(model)
        crashes = len(page.history.crashes) if page is not None else 0
        state = page.state.label if page is not None else "stopped"
        degraded = page.degraded() if page is not None else ""
        self.configured.remedy(model, needed=False)
        self.supervisor.tell(OperatorAsked(Ask.RESET, model))
        facts = {"crashes": crashes, "state": state}
        if degraded:
            facts["degraded"] = degraded
        text = reset_text(model, crashes, state, degraded)
        self.bus.publish("reset", model, text, facts)
        return text

    async def reload(self) -> ReloadView:
        return await self.configured.reload()

    def log_path(self, name: str | None) -> str:
        if name is None:
            return str(self.paths.daemon_log)
        item = self.configured.named(name)
        if isinstance(item, Prepared):
            return str(self.paths.model_log(item.model.name))
        path = Path(self.paths.model_log(name))  # a model that is gone may have left its log
        if path.exists():
            return str(path)
        raise ProblemError(item)

    def incidents(self, name: str, limit: int) -> list[IncidentView]:
        """See ``ControlPort``."""
        if not name:
            return self.record.of(None)[:limit]
        item = self.configured.named(name)
        found = self.record.of(item.model.name if isinstance(item, Prepared) else name)
        if isinstance(item, Problem) and not found:
            text = f"There is no model named {name[:200]!r}, and none of that name died."
            raise ProblemError(Problem(Code.MODEL_NOT_FOUND, text, item.hint))
        return found[:limit]

    def stories(self, incidents: Sequence[IncidentView]) -> list[StoryView]:
        """See ``ControlPort``."""
        from daemon.telemetry.stories import stories  # once something has died

        return stories(incidents, self.supervisor.states())

    def verdicts(self, name: str) -> list[VerdictView]:
        """See ``ControlPort``."""
        return self.proofs.of(Served.of(self._find(name)))

    def judge(self, name: str, findings: Sequence[FindingView]) -> VerdictView:
        """See ``ControlPort``."""
        served = Served.of(self._find(name))
        found = self.proofs.keep(served, findings, self.version)
        if found is None:
            text = f"No finding says anything of {served.model}."
            raise ProblemError(Problem(Code.INVALID_REQUEST, text))
        self.bus.publish("tested", served.model, f"{served.model} was tested: {found.verdict}")
        return found

    async def benchmarks(self, name: str, limit: int) -> list[BenchView]:
        """See ``ControlPort``. A model that is gone may have some."""
        if not name:
            return await self.measurements.of(None, limit)
        item = self.configured.named(name)
        meant = item.model.name if isinstance(item, Prepared) else name
        found = await self.measurements.of(meant, limit)
        if isinstance(item, Problem) and not found:
            raise ProblemError(item)
        return found

    async def keep_benchmark(self, name: str, measured: MeasuredView) -> BenchView:
        """See ``ControlPort``."""
        item = self._find(name)
        made = bench_of(item, self.supervisor, measured, time.time(), self.version)
        kept = await self.measurements.keep(made)
        self.bus.publish("benched", kept.model, f"{kept.model} was measured")
        return kept

    async def keys(self) -> list[KeyView]:
        """See ``ControlPort``: those that ``ctl`` made while we started, too."""
        await self.key_ring.look()
        now = time.time()
        return [key.view(now) for key in self.key_ring.listed()]

    async def add_key(self, wanted: Wanted) -> tuple[KeyView, str]:
        """See ``ControlPort``."""
        key, text = await self.key_ring.add(wanted)
        return key.view(time.time()), text

    async def remove_key(self, name: str) -> None:
        """See ``ControlPort``."""
        await self.key_ring.remove(name)

    def request(self, request_id: str) -> RequestView:
        return self.requests.view(request_id)

    def schedule(self) -> list[ScheduleView]:
        return self.lines()

    def history(self, after: int) -> list[EventView]:
        return self.bus.history(after)

    def subscribe(self, callback: Callable[[EventView], None]) -> Callable[[], None]:
        return self.bus.subscribe(callback)

    def shutdown(self) -> None:
        self.stop()
