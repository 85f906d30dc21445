"""What is configured now: settings, catalog and stock, and how they change.

A whole new value is built and validated in a thread, then compared, then swapped in; a broken file
leaves the old value running and says why. Only models that really changed are touched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from daemon.backends.prepare import Prepared
from daemon.backends.stock import Stock
from daemon.config.diff import Changes, diff
from daemon.config.mistakes import ConfigError
from daemon.config.model import Model
from daemon.config.settings import Settings
from daemon.core.lifecycle import State
from daemon.core.messages import BudgetChanged
from daemon.core.problems import Code, Problem, ProblemError
from daemon.ports import Progress
from daemon.pulling import Pulls
from daemon.reading import Reader, Reading
from daemon.supervisor import Supervisor
from daemon.telemetry.bus import Bus
from daemon.translate import policy
from daemon.views import ReloadView

log = logging.getLogger("modelport.config")


@dataclass(slots=True)
class Configured:
    """See the module. ``problem`` says why the newest file is not the one in force."""

    reader: Reader
    supervisor: Supervisor
    bus: Bus
    settings: Settings
    pulls: Pulls = field(init=False)
    applied: Callable[[Settings], None] = lambda _: None  # what else follows settings at a reload
    budget_source: str = ""
    problem: str = ""
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _stock: Stock | None = None
    _overridden: dict[str, int] = field(default_factory=dict)  # model -> context of this run

    def __post_init__(self) -> None:
        self.pulls = Pulls(self.bus, self._arrived)

    @property
    def stock(self) -> Stock:
        """What can be served. Raises ProblemError while the daemon is still starting."""
        if self._stock is None:
            raise ProblemError(Problem(Code.MODEL_UNAVAILABLE, "The daemon is starting.", "", 1.0))
        return self._stock

    @property
    def config_path(self) -> Path:
        return self.reader.paths.config_file

    # ------------------------------------------------------------ changing

    def take(self, reading: Reading, touched: frozenset[str]) -> None:
        """Swap the new value in and tell the scheduler."""
        self.settings, self._stock = reading.settings, reading.stock
        self.budget_source = reading.budget_source
        self.supervisor.stock = reading.stock
        self.supervisor.queue_timeout = reading.settings.server.queue_timeout
        self.supervisor.scheduler.policy = policy(reading.settings)
        self.supervisor.tell(BudgetChanged(reading.budget))
        self.applied(reading.settings)
        self.supervisor.catalog(reading.stock.specs(), touched)

    async def reload(self) -> ReloadView:
        """Read the file again; what did not change is not touched, what is broken not taken."""
        async with self._changing:
            try:
                reading = await asyncio.to_thread(self.reader.again)
            except (ConfigError, ProblemError) as error:
                return self._refused(error)
            changes = diff(self.stock.catalog, reading.stock.catalog)
            touched = self._touched(changes, reading.stock)
            self._overridden.clear()
            self.take(reading, touched)
            self.problem = ""
            view = _view(changes, touched)
            self.bus.publish("reload", "", _told(view), {"changed": view.changed})
            return view

    def _refused(self, error: ConfigError | ProblemError) -> ReloadView:
        if isinstance(error, ConfigError):
            self.problem, mistakes = error.report(), error.to_json()
        else:
            self.problem, mistakes = error.problem.text, []
        self.bus.publish("reload_refused", "", "the configuration was not taken: it has mistakes")
        log.warning("%s", self.problem)
        empty: list[str] = []
        return ReloadView(
            ok=False,
            added=empty,
            removed=empty,
            changed=empty,
            relabelled=empty,
            settings=empty,
            needs_restart=empty,
            problem=self.problem,
            mistakes=mistakes,
        )

    def _touched(self, changes: Changes, new: Stock) -> frozenset[str]:
        """Models whose process must start anew: changed, on a changed engine, or with other
        weights, variants or engine than before."""
        touched = set(changes.changed) | set(self._overridden)
        for name, item in new.prepared.items():
            old = self.stock.prepared.get(name)
            if old is None:
                continue
            if item.engine_name in changes.engines or item.started_as != old.started_as:
                touched.add(name)
        return frozenset(touched & new.prepared.keys())

    # ------------------------------------------------------------ one model

    def named(self, name: str) -> Prepared | Problem:
        """A model by any of its names, presets that are not on the disk included."""
        model = self.stock.catalog.find(name) or self.stock.catalog.resolve(name)
        if model is None:
            return self.stock.unknown(name)
        return self.stock.prepared.get(model.name) or self.bare(model.name)

    def bare(self, name: str) -> Prepared:
        """A preset of the catalog whose weights are not here."""
        return self.stock.preparer.prepare(self.stock.catalog.presets[name])

    async def ensure(self, name: str, ctx: int | None) -> Prepared:
        """The model in the stock and known to the scheduler, with ``ctx`` for this run if given."""
        item = self.named(name)
        if isinstance(item, Problem):
            raise ProblemError(item)
        model = item.model
        changed = ctx is not None and (item.best is None or ctx != item.best.ctx)
        if ctx is None and name in self._overridden and not self._running(name):
            model, changed = self._original(name), True
            del self._overridden[name]
        elif changed and ctx is not None:
            model = replace(model, ctx=ctx, ctx_written=True, fit="refuse")
            self._overridden[name] = ctx
        elif name in self.stock.prepared:
            return item
        item = await asyncio.to_thread(self.stock.preparer.prepare, model)
        self._restock(item, anew=changed)
        return item

    def _running(self, name: str) -> bool:
        page = self.supervisor.scheduler.pages.get(name)
        return page is not None and page.state in (State.STARTING, State.READY, State.DRAINING)

    def _original(self, name: str) -> Model:
        catalog = self.stock.catalog
        return catalog.models.get(name) or catalog.presets[name]

    def _restock(self, item: Prepared, *, anew: bool) -> None:
        self._stock = self.stock.with_prepared(item)
        self.supervisor.stock = self._stock
        touched = frozenset({item.model.name} if anew else ())
        self.supervisor.catalog(self.stock.specs(), touched)

    # ------------------------------------------------------------ pulling

    async def pull(self, name: str) -> AsyncIterator[Progress]:
        """Bring a model's files; ends when they are there. Raises ProblemError."""
        model = self._original(name)
        if model.repo is None or self.reader.present(model):
            yield Progress("pull", f"{name} is on this machine", 1.0)
            return
        async for step in self.pulls.watch(model, self.settings.timing.download_stall):
            yield step

    async def _arrived(self, model: Model) -> None:
        item = await asyncio.to_thread(self.stock.preparer.prepare, model)
        self._restock(item, anew=True)


def _view(changes: Changes, touched: frozenset[str]) -> ReloadView:
    return ReloadView(
        ok=True,
        added=list(changes.added),
        removed=list(changes.removed),
        changed=sorted(touched),
        relabelled=sorted({*changes.relabelled, *changes.retuned}),
        settings=list(changes.keys),
        needs_restart=list(changes.needs_restart),
    )


def _told(view: ReloadView) -> str:
    parts = [
        f"{what} {', '.join(names)}"
        for what, names in (
            ("added", view.added),
            ("removed", view.removed),
            ("changed", view.changed),
            ("relabelled", view.relabelled),
            ("settings", view.settings),
        )
        if names
    ]
    restart = f"; needs a restart: {', '.join(view.needs_restart)}" if view.needs_restart else ""
    return f"configuration read again: {'; '.join(parts) or 'nothing changed'}{restart}"
