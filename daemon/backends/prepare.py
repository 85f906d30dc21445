"""One model made ready to be served: engine found, weights read, every way to run it priced.

Reads files and may run an engine's ``--version``; call it in a thread. What reads weights and
prices them is imported with the first model: a daemon without any does without.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.backends.learned import Learned, identity_of
from daemon.config.finds import Engines, Find
from daemon.config.model import Model
from daemon.config.settings import Settings
from daemon.core.messages import ModelSpec
from daemon.core.problems import Code, Problem, ProblemError
from daemon.dialects.manner import Manner
from daemon.dialects.norms import Norms
from daemon.dialects.quirks import manner_of
from daemon.engines import tokens
from daemon.engines.base import Engine, Installed, Running
from daemon.engines.command import ROUTES
from daemon.engines.registry import Registry
from daemon.engines.tokens import Recipe
from daemon.ports import Edits
from daemon.weights.errors import WeightsError

if TYPE_CHECKING:
    from daemon.backends.ways import Ladder, Ways
    from daemon.engines import pricing
    from daemon.weights.facts import Weights
    from daemon.weights.footprint import Breakdown

LOAD_BYTES_PER_SECOND = 1.5e9  # first guess of a disk; real loads replace it
_ABSENT = (Code.NOT_PULLED,)


@dataclass(frozen=True, slots=True)
class Located:
    """A model's files on this disk."""

    path: Path | None
    mmproj: Path | None = None
    draft: Path | None = None
    template: Path | None = None


_PROJECTOR = ("--mmproj", "-mm")  # llama.cpp's words for it, given as arguments


@dataclass(frozen=True, slots=True)
class Prepared:
    """See the module. Where ``problem`` is set the model is listed but cannot be served."""

    model: Model
    engine_name: str | None
    spec: ModelSpec
    kind: str = "chat"
    engine: Engine | None = None
    installed: Installed | None = None
    beside: tuple[Installed, ...] = ()  # other versions here, one of which may still run it
    path: Path | None = None
    mmproj: Path | None = None
    draft: Path | None = None
    template: Path | None = None
    weights: Weights | None = None
    ways: Mapping[str, Running] = field(default_factory=dict)
    prices: Mapping[str, Breakdown] = field(default_factory=dict)  # of all pools together
    estimates: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # by pool
    keys: Mapping[str, str] = field(default_factory=dict)  # under which a way's measure is kept
    ladder_key: str = ""  # under which it is kept where on its ladder it stands
    identity: str = ""  # of its files, to see that they have changed
    host: str = "ram"  # the pool of what lies on no GPU
    routes: frozenset[str] = frozenset()
    engine_args: tuple[str, ...] = ()  # the engine's, the preset's, the user's: the last counts
    engine_env: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    edits: Edits | None = None  # to the bodies of its requests
    manner: Manner | None = None  # how it is spoken to
    recipe: Recipe | None = None  # how its tokens are counted while it is not loaded
    pulled: bool = True
    problem: Problem | None = None

    @property
    def best(self) -> Running | None:
        """The first way to run it: what it gets if there is room."""
        return next(iter(self.ways.values()), None)

    @property
    def sees(self) -> bool:
        """Whether images can be put to it: there is a projector, or the weights hold one and the
        engine uses it (mlx-lm does not)."""
        args = (*self.engine_args, *self.model.args)
        if not self.pulled:
            return self.model.mmproj is not None
        if self.mmproj is not None or any(word.startswith(_PROJECTOR) for word in args):
            return True
        return self.weights is not None and self.weights.vision and self.engine_name != "mlx-lm"

    @property
    def shown_kind(self) -> str:
        """Its kind as programs are told: one that chats and sees is "vision"."""
        return "vision" if self.kind == "chat" and self.sees else self.kind

    @property
    def source(self) -> str:
        """Where the weights come from, in one line."""
        if self.path is not None:
            return str(self.path)
        return f"hf:{self.model.hf}" if self.model.hf else (self.model.engine or "")

    @property
    def started_as(self) -> tuple[object, ...]:
        """Whatever a running process cannot take over: if this differs, it must start anew."""
        companions = (self.mmproj, self.draft, self.template)
        ways = tuple(variant.id for variant in self.spec.plain)
        files = (self.path, companions, self.identity)
        served = self.installed is not None  # its version may change: the next start takes it
        return (self.engine_name, served, files, self.kind, ways)

    @property
    def files(self) -> list[Path]:
        """Every file that a start reads."""
        weights = list(self.weights.files) if self.weights else [self.path] if self.path else []
        return [*weights, *(path for path in (self.mmproj, self.draft) if path is not None)]

    def promised(self, way: str) -> dict[str, int]:
        """Bytes by pool that a way may come to take after its start: prompts of before, checkpoints
        and results. An engine's log does not tell of them when it is ready."""
        price = self.prices.get(way)
        if price is None:
            return {}
        return {self.host: price.prompt_cache + price.checkpoints + price.output}

    def kept_alive(self, seconds: float) -> Prepared:
        """The same with another keep-alive."""
        model = replace(self.model, keep_alive=seconds)
        return replace(self, model=model, spec=replace(self.spec, keep_alive=seconds))

    @property
    def trained_context(self) -> int | None:
        return self.weights.n_ctx_train if self.weights else None


class Preparer:
    """Prepares models with one set of engines, one machine and one configuration."""

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        pool_names: Sequence[str],
        environ: Mapping[str, str],
        locate: Callable[[Model], Located],
        *,
        learned: Learned | None = None,
        room: Mapping[str, int] | None = None,
        devices: Mapping[str, str] | None = None,
        totals: Mapping[str, int] | None = None,
    ) -> None:
        """``learned``: what was measured before counts instead of the estimate. ``room``: the
        budget by pool, by which prompt caches are sized; without it there are none.
        ``devices``: what the drivers call the GPUs of pools. ``totals``: what each pool has: on
        another machine a model may stand elsewhere on its ladder."""
        self._registry = registry
        self._settings = settings
        self._pools = tuple(pool_names)
        self._devices = devices or {}
        self._environ = environ
        self._locate = locate
        self._learned = learned
        self._room = room or {}
        self._totals = totals or {}
        self._found: dict[str, Installed | Problem] = {}
        self._others: dict[str, tuple[Installed, ...]] = {}

    def prepare(self, model: Model) -> Prepared:
        """Everything that can be known before a start; what is wrong becomes ``problem``."""
        spec = _spec(model, None)
        item = Prepared(model, model.engine, spec, kind=model.kind or "chat")
        try:
            return self._prepare(model, item)
        except ProblemError as error:
            return replace(item, problem=error.problem, pulled=error.problem.code not in _ABSENT)
        except WeightsError as error:
            hint = "Is it complete? Pull or copy it again."
            problem = Problem(Code.MODEL_UNAVAILABLE, f"{model.name}: {error}.", hint)
            return replace(item, problem=problem)

    def engines(self, finds: Iterable[Find]) -> Engines:
        """Which engine would run such weights as were found. Asks programs, once each."""
        wanted = {(f.facts.form, f.facts.kind) for f in finds if f.facts and f.facts.form}
        return {(form, kind): self._registry.choose(form, kind) for form, kind in sorted(wanted)}

    def _prepare(self, model: Model, item: Prepared) -> Prepared:
        from daemon.weights.describe import describe

        command = (model.engine or "").startswith("command.")
        place = Located(None) if command and not (model.path or model.hf) else self._locate(model)
        weights = None
        if place.path is not None and place.path.exists():
            try:
                weights = describe(place.path, mmproj=place.mmproj, draft=place.draft)
            except WeightsError:
                if not command:  # whose weights may be of any form
                    raise
        kind = model.kind or (weights.kind if weights else "chat")
        engine, installed = self._engine(model, weights, kind)
        item = replace(
            item,
            engine_name=engine.name,
            kind=kind,
            engine=engine,
            installed=installed,
            beside=self._beside(engine.name),
            path=place.path,
            mmproj=place.mmproj,
            draft=place.draft,
            template=place.template,
            weights=weights,
            routes=_routes(engine, kind, model),
            recipe=tokens.recipe(installed, place.path, place.template),
        )
        item = self._priced(item)
        context = item.best.ctx if item.best else None
        blind = weights is not None and not command and not item.sees
        manner = manner_of(model, engine.name, item.routes, context, blind=blind)
        return replace(item, manner=manner, edits=_edits(manner.norms))

    def _engine(self, model: Model, weights: Weights | None, kind: str) -> tuple[Engine, Installed]:
        """The engine named for it, else the best one here that runs such weights.

        Raises ProblemError: ENGINE_MISSING with the line that installs it, or updates it where it
        is too old for the model.
        """
        architecture = weights.architecture if weights is not None else ""

        def unfit(installed: Installed) -> Problem | None:
            return self._registry.unfit(installed, model.min_engine, architecture)

        def fits(installed: Installed) -> bool:
            return unfit(installed) is None

        name: str | Problem | None = model.engine
        if name is None:
            if weights is None:
                text = f"{model.name} has neither an engine nor weights."
                hint = "Set `engine`, `path` or `hf` of the model."
                raise ProblemError(Problem(Code.CONFIG_INVALID, text, hint))
            name = self._registry.choose(form_of(model, weights), kind, fits)
        if isinstance(name, Problem):
            raise ProblemError(name)
        if name not in self._found:
            try:
                self._found[name] = self._registry.find(name)
            except ProblemError as error:
                self._found[name] = error.problem
        installed = self._found[name]
        if isinstance(installed, Problem):
            raise ProblemError(installed)
        if (problem := unfit(installed)) is not None:
            raise ProblemError(replace(problem, message=f"{model.name}: {problem.message}"))
        return self._registry.get(name), installed

    def _beside(self, name: str) -> tuple[Installed, ...]:
        if name not in self._others:
            self._others[name] = self._registry.beside(name)
        return self._others[name]

    def _priced(self, item: Prepared) -> Prepared:
        from daemon.backends.prices import PriceList, fixed_bytes
        from daemon.backends.ways import Asked, contexts, ways
        from daemon.engines import pricing

        model = item.model
        assert item.engine is not None
        name = item.engine.name
        entry = self._settings.engines.entry(name)
        args = (*entry.args, *model.args_for(name))
        env = {**entry.env, **model.env_for(name)}
        site = self._site(item, args)
        identity = identity_of(item.files)
        cost = PriceList(
            model.name,
            site,
            item.weights,
            identity,
            fixed_bytes(model, self._settings),
            _disk_bytes(item),
            self._room,
            self._learned,
        )
        asked = Asked(model.ctx, model.ctx_limit, model.min_ctx, model.slots, model.fit != "refuse")
        trained = item.trained_context or None
        places = pricing.placements(site, self._pools, model.pool)
        down = self._ladder(item, site, contexts(asked, trained, item.kind)[0], cost.helps)
        found = ways(asked, trained, item.kind, cost.price, cost.cache, down, places, self._devices)
        ladder_key = self._ladder_key(item, identity, site, found)
        return replace(
            item,
            ladder_key=ladder_key,
            identity=identity,
            ways=found.runs,
            prices=cost.prices,
            estimates=cost.estimates,
            keys=cost.keys,
            host=site.host,
            engine_args=args,
            engine_env=env,
            spec=_spec(model, found, item.weights.disk_bytes if item.weights else 0, ladder_key),
        )

    def _ladder(
        self,
        item: Prepared,
        site: pricing.Site,
        largest: int,
        helps: Callable[[Running, Running], bool],
    ) -> Ladder | None:
        """What may be given up after running out of memory; None: nothing."""
        from daemon.backends.rungs import ladder_of

        return ladder_of(
            item.model,
            self._settings,
            site,
            largest,
            helps,
            item.weights,
            accelerated=item.installed is not None and bool(item.installed.accelerators),
            kind=item.kind,
            projector=item.mmproj is not None,
        )

    def _ladder_key(self, item: Prepared, identity: str, site: pricing.Site, found: Ways) -> str:
        from daemon.backends.rungs import mark_of

        settings = [repr(self._settings.memory.budget), self._settings.memory.tier]
        told = [*settings, item.kind, item.engine_name or "", *site.args]
        return mark_of(identity, site.version, told, found, self._totals)

    def _site(self, item: Prepared, args: tuple[str, ...]) -> pricing.Site:
        """Where it runs, and by which command line."""
        from daemon.engines import pricing

        installed = item.installed
        return pricing.site(
            item.engine.name if item.engine else "",
            item.kind,
            args,
            self._pools,
            version=installed.version if installed else "",
            accelerated=installed is not None and bool(installed.accelerators),
            pool=item.model.pool,
        )


def _spec(model: Model, found: Ways | None, size: int = 0, ladder: str = "") -> ModelSpec:
    return ModelSpec(
        model.name,
        found.variants if found is not None else (),
        alone=found.alone if found is not None else 0,
        ladder=ladder,
        slots=model.slots,
        keep_alive=model.keep_alive,
        pinned=model.pin,
        priority=float(model.priority),
        load_estimate=1.0 + size / LOAD_BYTES_PER_SECOND,
    )


def _edits(norms: Norms) -> Edits | None:
    """What is done to the bodies of its requests that its engine gets as they came."""
    if not (norms.default or norms.force or norms.with_tools or norms.strip):
        return None
    return Edits(_texts(norms.default), _texts(norms.force), _texts(norms.with_tools), norms.strip)


def _texts(values: Mapping[str, object]) -> dict[str, bytes]:
    return {name: json.dumps(value).encode() for name, value in values.items()}


def form_of(model: Model, weights: Weights) -> str:
    """The form that engines choose by: ``gguf``, ``mlx`` or ``safetensors``."""
    if weights.format == "gguf":
        return "gguf"
    return "mlx" if model.form == "mlx" or "bit" in weights.quantisation else "safetensors"


def _routes(engine: Engine, kind: str, model: Model) -> frozenset[str]:
    """What the engine serves itself; the user's ``dialects`` narrow it or (command) say it."""
    own = engine.routes(kind)
    if kind != "chat" or model.dialects is None:
        return own
    every = frozenset().union(*ROUTES.values())
    return (own - every).union(*(ROUTES[dialect] for dialect in model.dialects))


def _disk_bytes(item: Prepared) -> int:
    """The size of weights of which nothing else is known; 0 where there are none."""
    if item.weights is not None:
        return item.weights.disk_bytes
    if item.path is None:
        return 0
    files = item.path.rglob("*") if item.path.is_dir() else [item.path]
    return sum(file.stat().st_size for file in files if file.is_file())
