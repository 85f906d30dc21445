"""What a model was given for one run: a context, or a load that was tried all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from daemon.backends.prepare import Prepared
from daemon.config.model import Model
from daemon.core.admission import never_fits
from daemon.core.budget import fits, minus, total
from daemon.core.lifecycle import State
from daemon.core.page import Page
from daemon.core.problems import ProblemError
from daemon.ports import LoadFit
from daemon.supervisor import Supervisor
from daemon.views import EventView

RUNS = (State.STARTING, State.READY, State.DRAINING)


@dataclass(frozen=True, slots=True)
class Override:
    """A context for one run: of the generations above ``since``. Then it is as ``usual`` again."""

    usual: Prepared
    since: int


@dataclass(slots=True)
class Overrides:
    """See the module. ``of``: by the model's name."""

    supervisor: Supervisor
    of: dict[str, Override] = field(default_factory=dict)

    def take(self, fresh: Prepared, usual: Prepared) -> None:
        """This one from now on, then as ``usual`` again. Raises ProblemError where it never fits,
        and nothing is changed."""
        ledger, spec = self.supervisor.scheduler.ledger, fresh.spec
        if not any(fits(variant.need, ledger.budget) for variant in spec.plain):
            raise ProblemError(never_fits(Page(spec), ledger, ()))
        page = self.supervisor.scheduler.pages.get(spec.name)
        known = self.of.get(spec.name)
        usual = known.usual if known is not None else usual
        since = page.generation if page is not None else 0
        if self.runs_as(fresh):
            since -= 1  # the present run is of it already
        self.of[spec.name] = Override(usual, since)

    def ended(self, event: EventView) -> bool:
        """Whether this ends for good the run that it was for."""
        override = self.of.get(event.model)
        if override is None or event.facts.get("generation", 0) <= override.since:
            return False
        return event.kind == "failed" or bool(event.kind == "exited" and event.facts.get("asked"))

    def retune(self, keep_alive: Callable[[str], float]) -> None:
        """What comes after is kept alive as is configured now."""
        for name, override in self.of.items():
            usual = override.usual.kept_alive(keep_alive(name))
            self.of[name] = replace(override, usual=usual)

    def squeezed(self, item: Prepared) -> Prepared:
        """Charged with no more than there is beside the pins, so that it is tried all the same."""
        core = self.supervisor.scheduler
        pins = [p for p in core.pages.values() if p.pinned and p.name != item.model.name]
        room = minus(core.ledger.budget, total(core.ledger.charged(p.name) for p in pins))
        variants = tuple(
            replace(v, need={pool: min(n, max(0, room.get(pool, 0))) for pool, n in v.need.items()})
            for v in item.spec.variants
        )
        return replace(item, spec=replace(item.spec, variants=variants))

    def running(self, name: str) -> bool:
        """Whether a process serves it now, or is about to."""
        page = self.supervisor.scheduler.pages.get(name)
        return page is not None and page.state in RUNS

    def runs_as(self, item: Prepared) -> bool:
        """Whether what runs now is one of the ways to run it."""
        page = self.supervisor.scheduler.pages.get(item.model.name)
        variant = page.variant if page is not None and page.state in RUNS else None
        return variant is not None and variant.id in item.ways


def for_run(model: Model, ctx: int | None, fit: LoadFit | None) -> Model:
    """As this one load asks: with just this context unless it may ``shrink``."""
    if ctx is not None:
        floor = min(ctx, model.min_ctx)
        model = replace(model, ctx=ctx, ctx_written=True, ctx_limit=ctx, min_ctx=floor)
    return replace(model, fit="shrink" if fit == "shrink" else "refuse")
