"""What is configured now: settings, catalog and stock, and how they change.

A whole new value is built and validated in a thread, then compared, then swapped in; a broken file
leaves the old value running and says why. Only models that really changed are touched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from daemon.backends.backend import Backend
from daemon.backends.learned import Promise, identity_of
from daemon.backends.prepare import Prepared
from daemon.backends.stock import Stock
from daemon.config.catalog import Catalog
from daemon.config.diff import diff
from daemon.config.finds import Engines
from daemon.config.mistakes import ConfigError
from daemon.config.model import Model
from daemon.config.settings import Settings
from daemon.core.budget import total
from daemon.core.lifecycle import State
from daemon.core.messages import ExitClass, Standing
from daemon.core.problems import Code, Problem, ProblemError
from daemon.downloads import pulled, unfinished
from daemon.downloads.pulled import Pulled
from daemon.downloads.unfinished import Unfinished
from daemon.overrides import Overrides, for_run
from daemon.ports import LoadFit
from daemon.pulling import Pulls
from daemon.reading import Reader, Reading
from daemon.reloads import refused, starts_anew, summary, view_of
from daemon.remembered import Remembered
from daemon.supervisor import Supervisor
from daemon.telemetry.bus import Bus
from daemon.translate import policy
from daemon.views import EventView, ReloadView

log = logging.getLogger("modelport.config")


@dataclass(slots=True)
class Configured:
    """See the module. ``problem`` says why the newest file is not the one in force."""

    reader: Reader
    supervisor: Supervisor
    bus: Bus
    settings: Settings
    pulls: Pulls = field(init=False)
    kept: Remembered = field(init=False)
    applied: Callable[[Settings], None] = lambda _: None  # what else follows settings at a reload
    followed: Callable[[Settings], Awaitable[list[str]]] | None = None  # the same, in its own time
    budget_source: str = ""
    problem: str = ""
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _stock: Stock | None = None
    _overrides: Overrides = field(init=False)
    _stale: set[str] = field(default_factory=set)  # models whose footprint has been measured anew
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _looking: set[str] = field(default_factory=set)  # at whose files we look just now
    _stamps: dict[str, str] = field(default_factory=dict)  # of found models, as they were prepared

    def __post_init__(self) -> None:
        self._overrides = Overrides(self.supervisor)
        record = Pulled(self.reader.paths.state_dir / pulled.FILE)
        self.pulls = Pulls(
            self.bus,
            self.arrived,
            record=record,
            unfinished=Unfinished(self.reader.paths.state_dir / unfinished.FILE),
            parallel=lambda: self.settings.downloads.parallel,
        )
        self.kept = Remembered(self.reader.standings)
        self.bus.subscribe(self._told)
        self.supervisor.remember = self.remember
        self.supervisor.refused = self.look_again

    @property
    def stock(self) -> Stock:
        """What can be served. Raises ProblemError while the daemon is still starting."""
        if self._stock is None:
            raise ProblemError(Problem(Code.MODEL_UNAVAILABLE, "The daemon is starting.", "", 1.0))
        return self._stock

    def prepared(self, name: str) -> Prepared | None:
        """A model as its next start will be; None: there is none of that name, or not yet."""
        return self._stock.prepared.get(name) if self._stock is not None else None

    @property
    def config_path(self) -> Path:
        return self.reader.paths.config_file

    # ------------------------------------------------------------ changing

    def take(self, reading: Reading, touched: frozenset[str], *, pins: bool = True) -> None:
        """Swap the new value in and tell the scheduler, all in one moment.

        ``pins`` False: nothing is started by this; what runs already is looked at first.
        """
        self.settings, self._stock = reading.settings, reading.stock
        self.budget_source = reading.budget_source
        self.supervisor.stock = reading.stock
        self.supervisor.queue_timeout = reading.settings.server.queue_timeout
        core = self.supervisor.scheduler
        core.policy = core.ledger.policy = policy(reading.settings)
        self.applied(reading.settings)
        specs = reading.stock.specs()
        if not pins:
            specs = {name: replace(spec, pinned=False) for name, spec in specs.items()}
        self.supervisor.catalog(specs, touched, reading.budget)
        self.supervisor.look(
            low={pool: mark.low for pool, mark in reading.marks.items()},
            high={pool: mark.high for pool, mark in reading.marks.items()},
        )

    async def reload(self, anew: frozenset[str] = frozenset()) -> ReloadView:
        """Read the file again; what did not change is not touched, what is broken not taken.

        ``anew``: models that may start again, whatever became of them; those that run go on.
        Raises ProblemError while the daemon is stopping.
        """
        async with self._changing:
            try:
                held = self._held()
                reading = await asyncio.to_thread(self.reader.again, held)
            except (ConfigError, ProblemError) as error:
                return self._refused(error)
            self._refuse_if_stopping()
            changes = diff(self.stock.catalog, reading.stock.catalog)
            was, new = self.stock.prepared, reading.stock.prepared
            touched = starts_anew(changes, was, new, self._overrides.of, self.runs)
            touched |= {name for name in anew & was.keys() if not self.runs(name)}
            self._overrides.of.clear()
            self.take(reading, touched)
            self.problem = ""
            troubles = await self.followed(reading.settings) if self.followed is not None else []
            view = view_of(changes, touched, troubles)
            self.bus.publish("reload", "", summary(view), {"changed": view.changed})
            return view

    async def powered(self, on_battery: bool) -> bool:
        """The machine runs on its battery from now on, or no longer; False if that is no news.
        What runs is not touched: keep-alives and the default model change, and nothing else."""
        async with self._changing:
            if on_battery == self.reader.on_battery or self.supervisor.draining:
                return False
            self.reader.on_battery = on_battery
            await self._retune()
            return True

    async def hold(self, names: frozenset[str]) -> bool:
        """The calendar keeps just these models from now on; False if that is no news. What runs is
        not touched, and what does not run is not started."""
        async with self._changing:
            if names == self.reader.kept or self.supervisor.draining:
                return False
            self.reader.kept = names
            await self._retune()
            return True

    async def _retune(self) -> None:
        """The catalog anew, where only keep-alives, the default model and what is chosen of presets
        that are not here are others."""
        catalog = await asyncio.to_thread(self.reader.catalog, self.settings, self.stock.catalog)
        self._stock = self.stock.retuned(catalog)
        self._overrides.retune(lambda name: self.original(name).keep_alive)
        self.supervisor.stock = self._stock
        self.supervisor.catalog(self._stock.specs(), frozenset())

    def _held(self) -> dict[str, int]:
        """Bytes by pool that our backends take now, or are about to."""
        ledger = self.supervisor.scheduler.ledger
        return total(ledger.charged(name) for name in self.supervisor.backends)

    def _refuse_if_stopping(self) -> None:
        """Nothing may be started any more, so nothing is changed either."""
        if self.supervisor.draining:
            raise ProblemError(self.supervisor.stopping)

    def _refused(self, error: ConfigError | ProblemError) -> ReloadView:
        view = refused(error)
        self.problem = view.problem
        self.bus.publish("reload_refused", "", "the configuration was not taken: it has mistakes")
        log.warning("%s", self.problem)
        return view

    # ------------------------------------------------------------ one model

    def named(self, name: str) -> Prepared | Problem:
        """A model by any of its names, presets that are not on the disk included; the default
        model does not stand in for a name that is none."""
        model = self.stock.catalog.meant(name)
        if model is None:
            return self.stock.unknown(name)
        return self.stock.prepared.get(model.name) or self.bare(model.name)

    def bare(self, name: str) -> Prepared:
        """A preset of the catalog whose weights are not here (or came when nobody looked), or a
        found model that nobody has named yet."""
        return self.reader.bare(self.stock, name)

    async def decide(self, name: str = "") -> None:
        """Choose the weights of a preset that nobody has asked for before, by any of its names;
        without a name of all presets. Choosing takes time and memory, so it waits until then.
        Raises ProblemError while the daemon is still starting."""
        model = self.stock.catalog.meant(name) if name else None
        if name and (model is None or model.name not in self.stock.catalog.undecided):
            return
        async with self._changing:
            undecided = self.stock.catalog.undecided
            wanted = undecided & {model.name} if model is not None else undecided
            if wanted and not self.supervisor.draining:
                self.reader.asked |= wanted
                await self._retune()

    async def sized(self, name: str, ctx: int | None) -> Prepared:
        """The model with every context from the wanted one (``ctx``, else as configured) down to
        its smallest, priced; nothing is changed by it. Raises ProblemError."""
        await self.decide(name)
        item = self.named(name)
        if isinstance(item, Problem):
            raise ProblemError(item)
        model = for_run(self.original(item.model.name), ctx, "shrink")
        fresh = await asyncio.to_thread(self._prepare, model, item.problem is not None)
        if fresh.problem is not None:
            raise ProblemError(fresh.problem)
        return fresh

    async def ensure(self, name: str, ctx: int | None, fit: LoadFit | None = None) -> Prepared:
        """The model in the stock and known to the scheduler, with ``ctx`` and ``fit`` for this run
        if given.

        What could not be served is looked at again. Raises ProblemError, also for a context that
        can never fit; then all is as before.
        """
        usual = ctx is None and fit is None
        await self.decide(name)
        async with self._changing:
            item = self.named(name)
            if isinstance(item, Problem):
                raise ProblemError(item)
            name = item.model.name
            back = usual and name in self._overrides.of and not self.runs(name)
            if usual and item.problem is None and not back and name in self.stock.prepared:
                return item
            model = self.original(name) if usual else for_run(self.original(name), ctx, fit)
            fresh = await asyncio.to_thread(self._prepare, model, item.problem is not None)
            if usual:
                self._overrides.of.pop(name, None)
            elif fresh.problem is not None:
                return fresh
            else:
                if fit == "ignore":
                    fresh = self._overrides.squeezed(fresh)
                self._overrides.take(fresh, self.stock.prepared.get(name, fresh))
            self._restock(fresh, anew=not self._overrides.runs_as(fresh))
            return fresh

    def learnt(self, name: str) -> None:
        """What this model takes has turned out otherwise: its next start is charged so."""
        self._stale.add(name)

    async def _reprice(self, name: str) -> None:
        async with self._changing:
            if name in self._overrides.of or name not in self.stock.prepared:
                return
            fresh = await asyncio.to_thread(self._prepare, self.original(name), False)
            if fresh.problem is None and not self.supervisor.draining:
                self._restock(fresh, anew=False)

    def promised(self, run: Backend) -> Promise | None:
        """What was reckoned with for this backend; None where nothing is to be learned of it."""
        return self.stock.reckoned(run)

    def _prepare(self, model: Model, look_again: bool) -> Prepared:
        """In a thread. ``look_again``: also for engines, which may have been installed since."""
        preparer = self.reader.preparer(self.settings) if look_again else self.stock.preparer
        return preparer.prepare(model)

    def _told(self, event: EventView) -> None:
        """A run has ended: what was learned of it counts; for good: so does its own context."""
        if event.kind == "exited" and event.model in self._stale:
            self._stale.discard(event.model)
            task = asyncio.get_running_loop().create_task(self._reprice(event.model))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if event.kind == "exited" and event.facts.get("exit_class") == ExitClass.METAL_INIT:
            self.remedy(event.model)  # its next start comes after this
        if self._overrides.ended(event):
            asyncio.get_running_loop().call_soon(self.end_override, event.model)

    def end_override(self, name: str) -> None:
        """As configured again, unless it runs (again)."""
        if self.runs(name) or self.supervisor.draining:
            return
        override = self._overrides.of.pop(name, None)
        if override is not None:
            self._restock(override.usual, anew=False)

    def original(self, name: str) -> Model:
        """As it is configured, whatever one run was given."""
        model = self.stock.catalog.known(name)
        if model is None:
            raise ProblemError(self.stock.unknown(name))
        return model

    def _restock(self, item: Prepared, *, anew: bool) -> None:
        self._refuse_if_stopping()
        if (find := self.stock.catalog.finds.get(item.model.name)) is not None:
            self.reader.served.add(item.model.name)
            self._stamps[item.model.name] = find.stamp
        self._stock = self.stock.with_prepared(item)
        self.supervisor.stock = self._stock
        touched = frozenset({item.model.name} if anew else ())
        self.supervisor.catalog(self.stock.specs(), touched)

    # ------------------------------------------------------------ what is found

    @property
    def quiet(self) -> asyncio.Lock:
        """Held by whoever changes what can be served."""
        return self._changing

    def runs(self, name: str) -> bool:
        """Whether a process serves it now, or is about to."""
        return self._overrides.running(name)

    def refound(self, catalog: Catalog, engines: Engines) -> None:
        """What was found is otherwise now; what runs is not touched by it. Under ``quiet``."""
        gone = {
            name
            for name in self.stock.catalog.found.keys() & self.stock.prepared.keys()
            if not self.runs(name) and self._stamps.get(name) != catalog.stamp(name)
        }
        self._stock = self.stock.with_found(catalog, engines, gone)
        self.reader.served -= gone
        self.supervisor.stock = self._stock
        self.supervisor.catalog(self._stock.specs(), frozenset())

    # ------------------------------------------------------------ what the scheduler tells

    def remember(self, name: str, standing: Standing | None) -> None:
        """Where a model stands on its ladder, for the next life of the daemon."""
        item = self.stock.prepared.get(name)
        if item is not None and item.ladder_key:
            self.kept.standing(item.ladder_key, name, standing)

    def remedy(self, name: str, *, needed: bool = True) -> None:
        """The engine of this model could not start Metal: from now on it is started without the
        part that fails, where the user has said nothing of it. Or (not ``needed``) as ever again.
        """
        item = self.stock.prepared.get(name)
        if item is not None and (news := self.kept.remedied(item, needed=needed)):
            text, facts = news
            asyncio.get_running_loop().call_soon(self.bus.publish, "remedy", name, text, facts)

    async def written(self) -> None:
        """Wait until all that is to be remembered is on the disk."""
        await self.kept.written()

    def look_again(self, name: str) -> None:
        """A model that was given up is asked for: if its files are others now, it may start."""
        if name in self._looking or self.supervisor.draining:
            return
        self._looking.add(name)
        task = asyncio.get_running_loop().create_task(self._mended(name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._looking.discard(name))

    async def _mended(self, name: str) -> None:
        async with self._changing:
            item = self.stock.prepared.get(name)
            if item is None or not item.identity:
                return
            if await asyncio.to_thread(identity_of, item.files) == item.identity:
                return
            fresh = await asyncio.to_thread(self._prepare, self.original(name), False)
            page = self.supervisor.scheduler.pages.get(name)
            failed = page is not None and page.state is State.FAILED
            if failed and fresh.problem is None and not self.supervisor.draining:
                self._overrides.of.pop(name, None)
                self._restock(fresh, anew=True)

    # ------------------------------------------------------------ pulling

    async def arrived(self, pulled: Model) -> None:
        """Its files are here now: it can be served, if it is configured."""
        async with self._changing:
            name = pulled.name
            known = self.stock.catalog.known(name)
            if known is not None and known.hf != pulled.hf:  # the file was read again meanwhile
                self._refuse_if_stopping()
                await self._retune()
            model = self.stock.catalog.known(name)
            if model is None:  # removed meanwhile
                return
            item = await asyncio.to_thread(self._prepare, model, True)
            self._overrides.of.pop(name, None)
            self._restock(item, anew=True)
