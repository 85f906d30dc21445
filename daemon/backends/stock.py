"""What can be served: each model of the catalog with its engine, its weights and its price.

Preparing reads files and asks programs, so it happens in a thread, off the event loop; the result
is one immutable value that is swapped in as a whole. Starting a backend is then only writing out
what is known.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from daemon.backends.backend import Backend, digest
from daemon.backends.keeping import Keeper
from daemon.backends.learned import key_of
from daemon.backends.prepare import Prepared, Preparer
from daemon.backends.standings import Standings
from daemon.backends.terms import Places, Timing
from daemon.config.catalog import Catalog, foreign, means_small
from daemon.config.model import Model
from daemon.config.paths import Paths
from daemon.core.messages import (
    BackendExited,
    Event,
    ExitClass,
    ModelSpec,
    StartFailed,
    Variant,
)
from daemon.core.problems import Code, Problem, ProblemError
from daemon.dialects.manner import Manner, reachable
from daemon.engines.base import Installed, Launch, LaunchPlan
from daemon.engines.signatures import METAL_RETRY
from daemon.ports import Edits, Hold, ModelCard, Resolved, Route

ROUTE_WORDS = {
    Route.MESSAGES.value: "the Anthropic messages API",
    Route.COUNT_TOKENS.value: "Anthropic's token counting",
    Route.RESPONSES.value: "the OpenAI responses API",
    Route.AUDIO.value: "audio",
    Route.IMAGES.value: "images",
}


_REMEMBERED = 256
_TALKING = frozenset({"chat", "vision"})  # kinds of models
REMEDY = (
    "Metal did not start with its tensor units; it is run without them "
    f"({' '.join(f'{name}={value}' for name, value in METAL_RETRY.items())})."
)


def engine_key(installed: Installed) -> str:
    """By which it is known that this engine, in this version, needs a remedy."""
    return key_of("", [installed.engine, *installed.program], installed.version)


@dataclass(frozen=True, slots=True)
class Stock:
    """See the module. ``prepared`` holds every model of the file, and presets that are present."""

    catalog: Catalog
    prepared: Mapping[str, Prepared]
    preparer: Preparer
    paths: Paths
    timing: Timing
    mode: Literal["foreground", "service"]
    log_max_bytes: int
    log_keep: int
    created: int  # Unix seconds, for GET /v1/models
    totals: Mapping[str, int] = field(default_factory=dict)  # bytes that each pool has
    standings: Standings | None = None
    _taken: set[int] = field(default_factory=set)  # ports given out and perhaps not bound yet
    _unable: set[str] = field(default_factory=set)  # engines that could not make their socket
    # Asked for each request, and the same for as long as this stock is.
    _resolved: dict[tuple[str, str, bool, bool], Resolved] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def specs(self) -> dict[str, ModelSpec]:
        """What the scheduler must know of each model, with what is remembered of it now."""
        return {name: self._spec(item) for name, item in self.prepared.items()}

    def _spec(self, item: Prepared) -> ModelSpec:
        known = self.standings.get(item.ladder_key) if self.standings is not None else None
        return item.spec if known is None else replace(item.spec, standing=known)

    # ------------------------------------------------------------ naming

    def find(self, name: str, route: str = "") -> Prepared | Problem:
        """The model that ``name`` (exact, alias, pattern, default) means to who asks for
        ``route``; "" is none named."""
        model = self.catalog.resolve(name, route)
        if not name and model is None:
            hint = "Name one in `model`, or set server.default_model."
            return Problem(Code.MODEL_MISSING, "The request names no model.", hint)
        item = self.prepared.get(model.name) if model is not None else None
        if item is not None:
            return item
        if model is not None:  # a preset whose weights are not here
            return Problem(
                Code.NOT_PULLED,
                f"The weights of {model.name} are not on this machine.",
                f"Get them with: ctl pull {model.name}",
            )
        return self.unknown(name)

    def unknown(self, name: str) -> Problem:
        """No such model, with the nearest names."""
        near = self.catalog.nearest(name)
        have = sorted(self.prepared)
        if not have and not near:
            hint = "No model is configured yet. Add one: ctl add PATH or ctl add hf:OWNER/REPO"
        elif near and not foreign(name):
            hint = f"Did you mean {', '.join(near)}?"
        else:
            hint = f"There are: {', '.join(have[:10])}{' …' if len(have) > 10 else ''}"
        if foreign(name):  # a client's own choice, which no spelling would mend
            hint += " (server.default_model says who answers to such names)"
        return Problem(
            Code.MODEL_NOT_FOUND,
            f"There is no model named {name[:200]!r}.",
            hint,
            facts={"nearest": near},
        )

    def resolve(
        self, name: str, route: str, small: bool = False, movable: bool = True
    ) -> Resolved | Problem:
        """See ``supervisor.Stock``."""
        key = (name, route, small, movable)
        known = self._resolved.get(key)
        if known is not None:
            return known
        found = self._resolve(*key)
        if isinstance(found, Resolved):
            if len(self._resolved) >= _REMEMBERED:  # patterns match any number of names
                self._resolved.clear()
            self._resolved[key] = found
        return found

    def _resolve(self, name: str, route: str, small: bool, movable: bool) -> Resolved | Problem:
        item = self.find(name, route)
        if isinstance(item, Problem):
            return item
        if item.problem is not None:
            return item.problem
        if route != Route.UPSTREAM.value and route not in reachable(item.routes):
            return self._unsupported(item, route)
        way = self.catalog.settings.server.small_calls
        small = way != "own" and (
            small
            or route == Route.INFILL.value
            or (means_small(name) and self.catalog.meant(name) is None)
        )
        if not small or not movable:
            return Resolved(item.model.name, small)
        if way == "small_model":
            chosen = self._serving(self.catalog.small, route)
            return Resolved(chosen.model.name if chosen is not None else item.model.name, small)
        return Resolved(item.model.name, small, self._stand_ins(item, route))

    def edits(self, model: str) -> Edits | None:
        """See ``supervisor.Stock``."""
        item = self.prepared.get(model)
        return item.edits if item is not None else None

    def manner(self, model: str) -> Manner | None:
        """See ``supervisor.Stock``."""
        item = self.prepared.get(model)
        return item.manner if item is not None else None

    def _stand_ins(self, item: Prepared, route: str) -> tuple[str, ...]:
        """Who else may serve a small call, the likeliest first: the small model for another, the
        default one for it, then whoever is loaded of those that have a conversation at all."""
        small, default = self.catalog.small, self.catalog.default
        first = [default, small] if small is not None and item.model.name == small.name else [small]
        found = [one for model in first if (one := self._serving(model, route)) is not None]
        if route != Route.INFILL.value:  # there a model must have learnt it
            found += [one for _, one in sorted(self.prepared.items()) if one.kind in _TALKING]
        names = dict.fromkeys(
            one.model.name for one in found if one is not item and _serves(one, route)
        )
        return tuple(names)

    def _serving(self, model: Model | None, route: str) -> Prepared | None:
        item = self.prepared.get(model.name) if model is not None else None
        return item if item is not None and _serves(item, route) else None

    @staticmethod
    def _unsupported(item: Prepared, route: str) -> Problem:
        what = ROUTE_WORDS.get(route, route)
        speaks = ", ".join(sorted(reachable(item.routes))) or "nothing"
        return Problem(
            Code.UNSUPPORTED_DIALECT,
            f"{item.model.name} ({item.engine_name}, {item.kind}) does not serve {what}.",
            f"It serves: {speaks}.",
            facts={"routes": sorted(reachable(item.routes))},
        )

    # ------------------------------------------------------------ showing

    def cards(self, states: Mapping[str, str]) -> list[ModelCard]:
        return [self._card(item, states) for _, item in sorted(self.prepared.items())]

    def card(self, name: str, states: Mapping[str, str], route: str = "") -> ModelCard | Problem:
        item = self.find(name, route)
        return item if isinstance(item, Problem) else self._card(item, states)

    def _card(self, item: Prepared, states: Mapping[str, str]) -> ModelCard:
        name = item.model.name
        return ModelCard(
            id=name,
            aliases=tuple(a for a in item.model.aliases if "*" not in a),
            created=self.created,
            context=item.best.ctx if item.best else item.trained_context,
            state=states.get(name, "stopped"),
            engine=item.engine_name,
            max_output=item.model.max_output,
            kind=item.kind,
            present=item.pulled,
            facts=_facts(item),
        )

    # ------------------------------------------------------------ starting

    def begin(
        self, model: str, generation: int, variant: Variant, tell: Callable[[Event], None]
    ) -> Backend:
        """Start a backend; its news comes through ``tell``."""
        item = self.prepared.get(model)
        if item is None:
            raise ProblemError(self.unknown(model))
        if item.engine is None or item.installed is None:
            raise ProblemError(item.problem or self.unknown(model))
        if variant.id not in item.ways:  # the configuration was swapped a moment ago
            text = f"{model} was changed while it was about to start."
            raise ProblemError(Problem(Code.MODEL_UNAVAILABLE, text, "Ask again.", 1.0))
        place = self._place(item, generation)
        plan = self._plan(item, generation, variant, place)
        launch, installed = self._remedied(item.engine.launch(plan, item.installed), item.installed)
        backend = Backend(
            generation=generation,
            variant=variant,
            engine=item.engine,
            installed=installed,
            plan=plan,
            launch=launch,
            holding=_hold(plan, launch),
            places=self._places(model, generation),
            timing=self.timing,
            mode=self.mode,
            tell=self._learning(item.installed, tell) if plan.socket is not None else tell,
        )
        backend.begin()
        return backend

    def _place(self, item: Prepared, generation: int) -> Path | int:
        """Where a start is to listen: a socket where its engine can, else a port."""
        own = item.engine_name is not None and item.engine_name.startswith("command.")
        if item.installed is not None and item.installed.sockets:
            path = self.paths.engine_socket(item.model.name, generation)
            if path is not None and (own or engine_key(item.installed) not in self._unable):
                return path
        return free_port(self._taken)

    def _learning(self, installed: Installed, tell: Callable[[Event], None]) -> Callable[..., None]:
        """``tell``; and an engine that cannot listen on its socket (one that is kept out of our
        folder, as a snap is) gets a port at its next start."""

        def told(event: Event) -> None:
            if isinstance(event, BackendExited | StartFailed) and (
                event.exit_class is ExitClass.PORT
            ):
                self._unable.add(engine_key(installed))
            tell(event)

        return told

    def resume(self, keeper: Keeper, tell: Callable[[Event], None]) -> Backend | None:
        """The backend behind an earlier daemon's keeper, if it is what would be started today:
        same engine and version, same way to run it, same command line, and the same environment
        set by the user. Else None."""
        hello, facts = keeper.hello, keeper.hello.facts
        item = self.prepared.get(hello.backend)
        if item is None or item.engine is None or item.installed is None:
            return None
        variant = next((v for v in item.spec.variants if v.id == facts.get("variant")), None)
        same = (facts.get("engine"), facts.get("version"), facts.get("env")) == (
            item.engine.name,
            item.installed.version,
            digest(item.engine_env),
        )
        if variant is None or not same or hello.pid is None:
            return None
        try:
            plan = replace(
                self._plan(item, hello.generation, variant, _placed(facts)),
                secret=str(facts["secret"]),
                secret_file=Path(facts["secret_file"]),
            )
            started = float(facts["started_at"])
            launch = item.engine.launch(plan, item.installed)
        except (KeyError, TypeError, ValueError, ProblemError):
            return None
        if launch.argv != hello.argv:
            return None
        return Backend(
            generation=hello.generation,
            variant=variant,
            engine=item.engine,
            installed=item.installed,
            plan=plan,
            launch=launch,
            holding=_hold(plan, launch),
            places=self._places(item.model.name, hello.generation),
            timing=self.timing,
            mode=self.mode,
            tell=tell,
            keeper=keeper,
            mark=hello.mark,
            started_at=started,
            ready_at=started,
        )

    def _plan(
        self, item: Prepared, generation: int, variant: Variant, place: Path | int
    ) -> LaunchPlan:
        model = item.model
        running = item.ways[variant.id]
        stem = self.paths.backend_stem(model.name, generation)
        return LaunchPlan(
            model=model.name,
            path=item.path,
            running=running,
            kind=item.kind,
            port=place if isinstance(place, int) else 0,
            socket=place if isinstance(place, Path) else None,
            secret=secrets.token_urlsafe(24),
            secret_file=stem.with_suffix(".key"),
            mmproj=item.mmproj,
            draft=item.draft,
            template=item.template,
            args=item.engine_args,
            env=item.engine_env,
            options=item.options,
            memory_share=self._share(item, variant),
        )

    def _remedied(self, launch: Launch, installed: Installed) -> tuple[Launch, Installed]:
        """With what its engine needs to start here, and with a word of it. What the user has set
        himself stays as it is."""
        if self.standings is None or not self.standings.remedied(engine_key(installed)):
            return launch, installed
        env = {**METAL_RETRY, **launch.env}
        warning = " ".join(filter(None, (installed.warning, REMEDY)))
        return replace(launch, env=env), replace(installed, warning=warning)

    def _share(self, item: Prepared, variant: Variant) -> float | None:
        """Of a GPU's memory, what this variant was priced at; None elsewhere."""
        priced = next((v for v in item.spec.variants if v.id == variant.id), variant)
        shares = [
            need / self.totals[pool]
            for pool, need in priced.need.items()  # without the core's margin
            if pool.startswith("gpu") and self.totals.get(pool)
        ]
        return min(1.0, max(shares)) if shares else None

    def _places(self, model: str, generation: int) -> Places:
        stem = self.paths.backend_stem(model, generation)
        return Places(
            socket=stem.with_suffix(".sock"),
            record=stem.with_suffix(".json"),
            log=self.paths.model_log(model),
            log_max_bytes=self.log_max_bytes,
            log_keep=self.log_keep,
            cwd=self.paths.state_dir,
        )

    # ------------------------------------------------------------ changing

    def with_prepared(self, item: Prepared) -> Stock:
        """The same stock with one model prepared anew (``ctl load --ctx``, a finished pull)."""
        return replace(self, prepared={**self.prepared, item.model.name: item})


def _serves(item: Prepared, route: str) -> bool:
    return item.problem is None and route in reachable(item.routes)


def _placed(facts: Mapping[str, Any]) -> Path | int:
    """Where an earlier daemon's start listens; before there were sockets of engines, facts told of
    a port alone. KeyError, TypeError, ValueError."""
    path = facts.get("listens")
    return int(facts["port"]) if path is None else Path(path)


def _facts(item: Prepared) -> dict[str, object]:
    """What programs ask of a model beyond its name, where it is known: size in bytes, …"""
    weights = item.weights
    found: dict[str, object] = {"slots": item.model.slots}
    if weights is not None:
        found |= {
            "size": weights.disk_bytes,
            "format": weights.format,
            "architecture": weights.architecture,
            "quantisation": weights.quantisation,
            "n_ctx_train": weights.n_ctx_train,
        }
    elif item.model.size is not None:
        found["size"] = item.model.size
    return {name: value for name, value in found.items() if value not in ("", 0)}


def _hold(plan: LaunchPlan, launch: Launch) -> Hold:
    return Hold(
        plan.target,
        launch.upstream_model or plan.model,
        dict(launch.headers),
        launch.keep_query,
    )


def free_port(taken: set[int]) -> int:
    """A free loopback port, not given out lately. The engine binds it; if another program is
    faster, the engine's exit says so and the start is repeated on another one."""
    for _ in range(100):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in taken:
            if len(taken) > 64:
                taken.clear()
            taken.add(port)
            return port
    raise ProblemError(Problem(Code.INTERNAL, "No free loopback port was found."))
