"""What can be served: each model of the catalog with its engine, its weights and its price.

Preparing reads files and asks programs, so it happens in a thread, off the event loop; the result
is one immutable value that is swapped in as a whole. Starting a backend is then only writing out
what is known.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from daemon.backends.backend import Backend, digest
from daemon.backends.keeping import Keeper
from daemon.backends.learned import Promise, key_of
from daemon.backends.moved import same_command
from daemon.backends.names import Names
from daemon.backends.prepare import Prepared, Preparer
from daemon.backends.standings import Standings
from daemon.backends.terms import Places, Timing
from daemon.config.catalog import Catalog
from daemon.config.finds import Engines
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
from daemon.engines.base import Installed, Launch, LaunchPlan
from daemon.engines.signatures import METAL_RETRY
from daemon.logs.redact import Redactor
from daemon.ports import Hold

REMEDY = (
    "Metal did not start with its tensor units; it is run without them "
    f"({' '.join(f'{name}={value}' for name, value in METAL_RETRY.items())})."
)


def engine_key(installed: Installed) -> str:
    """By which it is known that this engine, in this version, needs a remedy."""
    return key_of("", [installed.engine, *installed.program], installed.version)


@dataclass(frozen=True, slots=True)
class Stock(Names):
    """See the module, and ``Names`` for which of them a request means."""

    preparer: Preparer
    paths: Paths
    timing: Timing
    mode: Literal["foreground", "service"]
    log_max_bytes: int
    log_keep: int
    totals: Mapping[str, int] = field(default_factory=dict)  # bytes that each pool has
    standings: Standings | None = None
    hidden: Redactor = field(default_factory=Redactor)  # learns the keys of engines
    _taken: set[int] = field(default_factory=set)  # ports given out and perhaps not bound yet
    _unable: set[str] = field(default_factory=set)  # engines that could not make their socket

    def specs(self) -> dict[str, ModelSpec]:
        """What the scheduler must know of each model, with what is remembered of it now."""
        return {name: self._spec(item) for name, item in self.prepared.items()}

    def _spec(self, item: Prepared) -> ModelSpec:
        known = self.standings.get(item.ladder_key) if self.standings is not None else None
        return item.spec if known is None else replace(item.spec, standing=known)

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
        self.hidden.add(plan.secret)
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
        same engine, same way to run it, same command line (but for where an upgrade has put the
        program), and the same environment set by the user; in the version in use, or in another
        one that is here. Else None."""
        hello, facts = keeper.hello, keeper.hello.facts
        item = self.prepared.get(hello.backend)
        if item is None or item.engine is None or item.installed is None:
            return None
        variant = next((v for v in item.spec.variants if v.id == facts.get("variant")), None)
        same = (facts.get("engine"), facts.get("env")) == (
            item.engine.name,
            digest(item.engine_env),
        )
        if variant is None or not same or hello.pid is None:
            return None
        for installed in (item.installed, *item.beside):
            if facts.get("version") == installed.version:
                run = self._resumed(replace(item, installed=installed), keeper, variant, tell)
                if run is not None:
                    return run
        return None

    def _resumed(
        self, item: Prepared, keeper: Keeper, variant: Variant, tell: Callable[[Event], None]
    ) -> Backend | None:
        """See :meth:`resume`; of one version of its engine."""
        hello, facts = keeper.hello, keeper.hello.facts
        if item.engine is None or item.installed is None:
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
        if not same_command(hello.argv, launch.argv, item.installed.program):
            return None
        self.hidden.add(plan.secret)
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

    def retuned(self, catalog: Catalog) -> Stock:
        """The same stock by a catalog that differs in what no process knows: who is the default,
        how long a model may be idle."""
        prepared = dict(self.prepared)
        for name, item in self.prepared.items():
            model = catalog.known(name)
            if model is not None:
                prepared[name] = item.kept_alive(model.keep_alive)
        return replace(self, catalog=catalog, prepared=prepared)

    def with_found(self, catalog: Catalog, engines: Engines, gone: Set[str]) -> Stock:
        """The same stock by a catalog that differs in what was found; ``gone``: found models that
        are no longer here, or as others."""
        prepared = {}
        for name, item in self.prepared.items():
            if name not in gone:
                known = catalog.found.get(name)
                prepared[name] = item if known is None else replace(item, model=known)
        return replace(self, catalog=catalog, prepared=prepared, engines=engines)

    def reckoned(self, run: Backend) -> Promise | None:
        """What was reckoned with for this backend; None where nothing is to be learned of it."""
        item = self.prepared.get(run.model)
        way = run.variant.id
        if item is None or item.installed is None or way not in item.keys:
            return None
        if run.installed.version != item.installed.version:  # the next start has another
            return None
        return Promise(item.keys[way], item.estimates[way], item.promised(way))

    def with_prepared(self, item: Prepared) -> Stock:
        """The same stock with one model prepared anew (``ctl load --ctx``, a finished pull)."""
        return replace(self, prepared={**self.prepared, item.model.name: item})


def _placed(facts: Mapping[str, Any]) -> Path | int:
    """Where an earlier daemon's start listens; before there were sockets of engines, facts told of
    a port alone. KeyError, TypeError, ValueError."""
    path = facts.get("listens")
    return int(facts["port"]) if path is None else Path(path)


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
