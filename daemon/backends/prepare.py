"""One model made ready to be served: engine found, weights read, every way to run it priced.

Reads files and may run an engine's ``--version``; call it in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from daemon.backends.ways import Asked, ways
from daemon.config.model import Model
from daemon.config.settings import Settings
from daemon.core.messages import ModelSpec, Variant
from daemon.core.problems import Code, Problem, ProblemError
from daemon.core.units import MIB
from daemon.engines import llama
from daemon.engines.base import Engine, Installed, Running
from daemon.engines.command import ROUTES
from daemon.engines.registry import Registry
from daemon.weights.describe import describe
from daemon.weights.errors import WeightsError
from daemon.weights.facts import Weights
from daemon.weights.footprint import Breakdown, Shape, estimate, estimate_mlx

OWN_BYTES = {"xllamacpp": 24 * MIB, "vllm-mlx": 672 * MIB, "vllm": 2048 * MIB}
"""What a process of this engine takes beside what the footprint formulas count (a Python
interpreter, libraries); resident sizes as measured, vllm's from its documentation."""
LOAD_BYTES_PER_SECOND = 1.5e9  # first guess of a disk; real loads replace it
LLAMA = ("llama-server", "xllamacpp")
_ABSENT = (Code.NOT_PULLED,)


@dataclass(frozen=True, slots=True)
class Located:
    """A model's files on this disk."""

    path: Path | None
    mmproj: Path | None = None
    draft: Path | None = None
    template: Path | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """See the module. Where ``problem`` is set the model is listed but cannot be served."""

    model: Model
    engine_name: str | None
    spec: ModelSpec
    kind: str = "chat"
    engine: Engine | None = None
    installed: Installed | None = None
    path: Path | None = None
    mmproj: Path | None = None
    draft: Path | None = None
    template: Path | None = None
    weights: Weights | None = None
    ways: Mapping[str, Running] = field(default_factory=dict)
    prices: Mapping[str, Breakdown] = field(default_factory=dict)
    routes: frozenset[str] = frozenset()
    engine_args: tuple[str, ...] = ()  # the engine's, the preset's, the user's: the last counts
    engine_env: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    pulled: bool = True
    problem: Problem | None = None

    @property
    def best(self) -> Running | None:
        """The first way to run it: what it gets if there is room."""
        return next(iter(self.ways.values()), None)

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
        version = self.installed.version if self.installed else None
        return (self.engine_name, version, self.path, companions, self.kind, tuple(self.ways))

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
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._pools = tuple(pool_names)
        self._environ = environ
        self._locate = locate
        self._found: dict[str, Installed | Problem] = {}

    def prepare(self, model: Model) -> Prepared:
        """Everything that can be known before a start; what is wrong becomes ``problem``."""
        item = Prepared(model, model.engine, _spec(model, ()), kind=model.kind or "chat")
        try:
            return self._prepare(model, item)
        except ProblemError as error:
            return replace(item, problem=error.problem, pulled=error.problem.code not in _ABSENT)
        except WeightsError as error:
            hint = "Is it complete? Pull or copy it again."
            problem = Problem(Code.MODEL_UNAVAILABLE, f"{model.name}: {error}.", hint)
            return replace(item, problem=problem)

    def _prepare(self, model: Model, item: Prepared) -> Prepared:
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
            path=place.path,
            mmproj=place.mmproj,
            draft=place.draft,
            template=place.template,
            weights=weights,
            routes=_routes(engine, kind, model),
        )
        return self._priced(item)

    def _engine(self, model: Model, weights: Weights | None, kind: str) -> tuple[Engine, Installed]:
        """The engine named for it, else the best one here that runs such weights.

        Raises ProblemError: ENGINE_MISSING with the line that installs it.
        """
        name: str | Problem | None = model.engine
        if name is None:
            if weights is None:
                text = f"{model.name} has neither an engine nor weights."
                hint = "Set `engine`, `path` or `hf` of the model."
                raise ProblemError(Problem(Code.CONFIG_INVALID, text, hint))
            name = self._registry.choose(_form(model, weights), kind)
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
        return self._registry.get(name), installed

    def _priced(self, item: Prepared) -> Prepared:
        model = item.model
        assert item.engine is not None
        name = item.engine.name
        entry = self._settings.engines.entry(name)
        args = (*entry.args, *model.args_for(name))
        env = {**entry.env, **model.env_for(name)}
        prices: dict[str, Breakdown] = {}

        def price(running: Running) -> int:
            prices[running.id] = _price(item, running, args, self._fixed(model))
            return prices[running.id].total

        asked = Asked(model.ctx, model.ctx_limit, model.min_ctx, model.slots, model.fit != "refuse")
        trained = item.trained_context or None
        runs, variants = ways(asked, trained, item.kind, self._pool(item), price)
        return replace(
            item,
            ways=runs,
            prices=prices,
            engine_args=args,
            engine_env=env,
            spec=_spec(model, variants, item.weights.disk_bytes if item.weights else 0),
        )

    def _fixed(self, model: Model) -> int | None:
        """The footprint that the user wrote for a command of his own."""
        command = self._settings.engines.command.get((model.engine or "").partition(".")[2])
        return command.footprint if command is not None else None

    def _pool(self, item: Prepared) -> str:
        """Where it runs: as written, else the memory of the accelerator that its engine can use."""
        if item.model.pool is not None:
            return item.model.pool
        if "unified" in self._pools:
            return "unified"
        gpus = [pool for pool in self._pools if pool != "ram"]
        uses = item.installed is not None and bool(item.installed.accelerators)
        return gpus[0] if gpus and uses else "ram"


def _spec(model: Model, variants: tuple[Variant, ...], size: int = 0) -> ModelSpec:
    return ModelSpec(
        model.name,
        variants,
        slots=model.slots,
        keep_alive=model.keep_alive,
        pinned=model.pin,
        priority=float(model.priority),
        load_estimate=1.0 + size / LOAD_BYTES_PER_SECOND,
    )


def _form(model: Model, weights: Weights) -> str:
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


def _price(item: Prepared, running: Running, args: Sequence[str], fixed: int | None) -> Breakdown:
    """Bytes of one way to run a model, by the formulas of its engine."""
    name = item.engine.name if item.engine else ""
    own = OWN_BYTES.get(name, 0)
    if fixed is not None:
        return Breakdown(fixed, 0, 0, 0, 0)
    if item.weights is None or name.startswith("command."):
        return Breakdown(_disk_bytes(item), 0, 0, 0, own + 64 * MIB)
    if name in LLAMA:
        price = estimate(item.weights, _shape(item, item.weights, running, args))
    else:
        price = estimate_mlx(item.weights, running.ctx, slots=running.slots)
    return replace(price, overhead=price.overhead + own)


def _shape(item: Prepared, weights: Weights, running: Running, args: Sequence[str]) -> Shape:
    """How llama.cpp is really asked to run it. Raises ProblemError for args that say nonsense."""
    memory = llama.memory_settings(running, item.kind, args)
    try:
        return Shape(
            memory.n_ctx or weights.n_ctx_train or running.ctx,  # -c 0: as long as it was trained
            memory.slots,
            memory.ubatch,
            memory.type_k,
            memory.type_v,
            memory.prompt_cache,
            memory.unified,
            swa_full="--swa-full" in args,
            checkpoints=memory.checkpoints,
        )
    except ValueError as error:
        text = f"{item.model.name}: its args cannot be run: {error}."
        hint = "Correct `args` of the model or of its engine: ctl config edit"
        raise ProblemError(Problem(Code.MODEL_UNAVAILABLE, text, hint)) from None


def _disk_bytes(item: Prepared) -> int:
    """The size of weights of which nothing else is known; 0 where there are none."""
    if item.weights is not None:
        return item.weights.disk_bytes
    if item.path is None:
        return 0
    files = item.path.rglob("*") if item.path.is_dir() else [item.path]
    return sum(file.stat().st_size for file in files if file.is_file())
