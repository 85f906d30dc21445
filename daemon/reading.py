"""Reading what is configured: from settings, files and the machine to one consistent value.

Reads files and asks programs, so it runs in a thread.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from daemon.backends.learned import Learned
from daemon.backends.leftovers import records
from daemon.backends.prepare import Located, Prepared, Preparer
from daemon.backends.standings import Standings
from daemon.backends.stock import Stock
from daemon.config.catalog import Catalog
from daemon.config.finds import FileId, Find
from daemon.config.load import load
from daemon.config.model import Model
from daemon.config.paths import Paths, expanded
from daemon.config.presets import Preset, load_presets
from daemon.config.settings import Settings
from daemon.core.budget import NOTHING
from daemon.core.messages import ModelSpec
from daemon.core.problems import Code, Problem, ProblemError
from daemon.discovery.header import Known
from daemon.discovery.look import look, places_of
from daemon.downloads import locate as cache
from daemon.downloads.locate import held, locate, locate_file
from daemon.downloads.wanted import hub_file
from daemon.engines.install.shelf import Shelf
from daemon.engines.registry import Registry
from daemon.logs.redact import Redactor
from daemon.machine import observe
from daemon.machine.base import MachineFacts
from daemon.machine.budget import budget
from daemon.machine.pressure import Marks, marks
from daemon.settling import Found, Settler
from daemon.translate import backend_timing, budget_text

if TYPE_CHECKING:
    from daemon.backends.sizing import Sized


@dataclass(frozen=True, slots=True)
class Reading:
    """One consistent reading of file, environment and machine."""

    settings: Settings
    stock: Stock
    budget: Mapping[str, int]
    budget_source: str
    marks: Mapping[str, Marks]  # of free bytes: when another program is short of memory


@dataclass(slots=True)
class Reader:
    """Reads, again and again."""

    paths: Paths
    environ: Mapping[str, str]
    flags: Mapping[str, object]
    mode: Literal["foreground", "service"]
    learned: Learned = field(init=False)
    standings: Standings = field(init=False)
    hidden: Redactor = field(default_factory=Redactor)  # what no log may tell
    on_battery: bool = False  # whether [power] on_battery counts
    kept: frozenset[str] = frozenset()  # models that the calendar keeps now, by its own names
    finds: tuple[Find, ...] = ()  # models on this machine, as last looked
    held: Mapping[FileId, str] = field(default_factory=dict)  # files of the other models
    served: set[str] = field(default_factory=set)  # names of found models that are prepared
    asked: set[str] = field(default_factory=set)  # presets whose weights somebody had chosen
    known: Known = field(init=False)
    _facts: MachineFacts | None = None
    _room: Mapping[str, int] = field(default_factory=dict)
    _chosen: dict[str, str] = field(default_factory=dict)  # the weights that presets were given

    def __post_init__(self) -> None:
        self.learned = Learned(self.paths.state_dir / "learned.json")
        self.standings = Standings(self.paths.state_dir / "ladder.json")
        self.known = Known(self.paths.cache_dir / "found.json")

    @property
    def facts(self) -> MachineFacts:
        """The machine, as it was when last read."""
        assert self._facts is not None, "the machine is looked at by read()"
        return self._facts

    def again(self, held: Mapping[str, int] = NOTHING) -> Reading:
        """Read the file anew, and the machine: a GPU's limit may have been raised.

        ``held``: bytes by pool that our own backends take. Raises ConfigError with all mistakes,
        ProblemError.
        """
        settings = load(
            self.paths.config_file,
            environ=self.environ,
            flags=self.flags,
            missing_ok=not self.paths.config_named,
        )
        return self.read(settings, held)

    def read(self, settings: Settings, held: Mapping[str, int] = NOTHING) -> Reading:
        """Everything that follows from settings. Reads files and asks programs: for a thread."""
        self.standings.load()
        facts = self._facts = observe.facts().without(held)
        amounts = self._room = budget(budget_text(settings), settings.memory.tier, facts)
        self.finds = ()
        catalog = self.catalog(settings)
        preparer = self.preparer(settings)
        prepared = {name: preparer.prepare(model) for name, model in catalog.models.items()}
        for name, model in catalog.presets.items():
            if name not in catalog.undecided and self.present(model):
                prepared[name] = preparer.prepare(model)
        self.held = files_held(prepared)
        self.finds = self.look(settings, read=False)
        catalog = catalog.with_found(self.finds, self.held).kept(self.kept)
        left = {record.backend for record in records(self.paths.backends_dir)}
        for name in sorted((self.served | left) & catalog.found.keys()):
            prepared[name] = preparer.prepare(catalog.found[name])
            self.served.add(name)
        stock = Stock(
            catalog=catalog,
            engines=preparer.engines(self.finds),
            prepared=prepared,
            preparer=preparer,
            paths=self.paths,
            timing=backend_timing(settings),
            mode=self.mode,
            log_max_bytes=settings.logs.max_size,
            log_keep=settings.logs.keep,
            created=int(time.time()),
            totals={pool.name: pool.total for pool in facts.pools},
            standings=self.standings,
            hidden=self.hidden,
        )
        source = "memory.budget" if settings.memory.budget is not None else "the machine"
        written = amounts if settings.memory.budget is not None else ()
        watched = marks(facts, settings.memory.tier, by_hand=written)
        return Reading(settings, stock, amounts, source, watched)

    def catalog(self, settings: Settings, before: Catalog | None = None) -> Catalog:
        """All models, as they are with the power that there is now, and in the windows
        of the calendar that are open. ``before``: the catalog of the same settings until now."""
        if self.on_battery:
            from daemon.config.powered import on_battery

            settings = on_battery(settings)
        presets = load_presets()
        settler = self._settler(settings, presets)
        pick = partial(settler.needed, before=before, asked=self.asked)
        catalog = Catalog.build(settings, presets, form=settler.form, pick=pick)
        return catalog.with_found(self.finds, self.held).kept(self.kept)

    def _settler(self, settings: Settings, presets: Mapping[str, Preset]) -> Settler:
        """What gives presets the weights that suit this machine."""
        registry = self._registry(settings, Found)
        pools = tuple(pool.name for pool in self.facts.pools)

        def size(model: Model) -> Sized:
            from daemon.backends.sizing import Sizer  # with the first that is weighed

            return Sizer(settings, presets, registry, pools, self.files_of).size(model)

        return Settler(size, registry, self._room, self.present, self._chosen, held)

    def _registry(self, settings: Settings, kind: type[Registry] = Registry) -> Registry:
        cache, shelf = self.paths.cache_dir / "engines.json", Shelf(self.paths.engines_dir)
        return kind(settings, self.environ, cache, shelf=shelf)

    def look(self, settings: Settings, *, read: bool = True) -> tuple[Find, ...]:
        """The models that are on this machine now. ``read``: also headers that are new."""
        if not settings.discovery.enabled:
            return ()
        where = places_of(settings.discovery, self.environ, cache.default_cache())
        return look(where, self.known, read=read)

    def preparer(self, settings: Settings) -> Preparer:
        """What makes models ready under these settings; it has looked for no engine yet."""
        registry = self._registry(settings)
        pools = [pool.name for pool in self.facts.pools]
        return Preparer(
            registry,
            settings,
            pools,
            self.environ,
            self.files_of,
            learned=self.learned,
            room=self._room,
            devices={pool.name: pool.device for pool in self.facts.pools},
            totals={pool.name: pool.total for pool in self.facts.pools},
        )

    def files_of(self, model: Model) -> Located:
        """The files of a model on this disk; raises ProblemError where they are not."""
        if model.path is not None:
            if not model.path.exists():
                hint = "Correct its path in the configuration: ctl config edit"
                if model.name in self.served:
                    hint = "It was found there; ctl ls --all shows what is there now."
                text = f"{model.name}: there is no {model.path}."
                raise ProblemError(Problem(Code.MODEL_UNAVAILABLE, text, hint))
            return Located(model.path, *self._companions(model, model.path.parent))
        found = self._cached(model)
        if found is None:
            raise ProblemError(self.missing(model))
        return Located(found, *self._companions(model, found.parent))

    def bare(self, stock: Stock, name: str) -> Prepared:
        """A preset of the catalog whose weights are not here (or came when nobody looked), or a
        found model that nobody has named yet."""
        catalog = stock.catalog
        if name in catalog.found:
            return stock.unnamed(name)
        model = catalog.presets[name]
        return Prepared(
            model,
            model.engine,
            ModelSpec(name, ()),
            kind=model.kind or "chat",
            pulled=False,
            problem=self.missing(model),
        )

    @staticmethod
    def missing(model: Model) -> Problem:
        """Its weights are nowhere on this disk, and how to get them."""
        how = model.install or f"ctl pull {model.name}"
        text = f"The weights of {model.name} are not on this machine."
        return Problem(Code.NOT_PULLED, text, f"Get them with: {how}")

    def _cached(self, model: Model) -> Path | None:
        if model.repo is None:
            return None
        return locate(model.repo, model.quant, model.file)

    def _companions(
        self, model: Model, folder: Path
    ) -> tuple[Path | None, Path | None, Path | None]:
        """Projector, draft model and template: a path, ``hf:REPO/FILE``, or beside the weights."""

        def find(value: str | None) -> Path | None:
            if value is None or value == "embedded":
                return None
            if value.startswith("hf:"):
                path = locate_file(*hub_file(value))
            else:
                given = expanded(value)
                path = given if given.is_absolute() else folder / given
            if path is None or not path.exists():
                text = f"{model.name} needs {value}, which is not on this machine."
                hint = f"Get it with: ctl pull {model.name}"
                raise ProblemError(Problem(Code.NOT_PULLED, text, hint))
            return path

        return find(model.mmproj), find(model.draft), find(model.template)

    def complete(self, model: Model) -> bool:
        """Whether its weights and all that goes with them are here. Looks at files."""
        if not self.present(model):
            return False
        try:
            self.files_of(model)
        except ProblemError as error:
            return error.problem.code is not Code.NOT_PULLED
        return True

    def present(self, model: Model) -> bool:
        """Whether its weights are on this disk. Looks at files."""
        if model.path is not None:
            return model.path.exists()
        return self._cached(model) is not None


def files_held(prepared: Mapping[str, Prepared]) -> dict[FileId, str]:
    """Which file is served by which model of the configuration or its presets. Looks at files."""
    held: dict[FileId, str] = {}
    for name, item in prepared.items():
        if item.weights is not None and (file := file_id(item.weights.files[0])) is not None:
            held.setdefault(file, name)
    return held


def file_id(path: Path) -> FileId | None:
    """Which file that is, by whatever name; None: there is none. Looks at it."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
