"""What each way to run one model costs: the same for the scheduler and for people who plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from daemon.backends.learned import Learned, key_of
from daemon.config.model import Model
from daemon.config.settings import Settings
from daemon.core.problems import Code, Problem, ProblemError
from daemon.core.units import MIB
from daemon.engines import pricing
from daemon.engines.base import Running
from daemon.weights.facts import Weights
from daemon.weights.footprint import Breakdown

NOTHING = Breakdown(0, 0, 0, 0, 0)


@dataclass(slots=True)
class PriceList:
    """One model's, written down as it is asked for: ``prices`` of all pools together, ``estimates``
    by pool, and under which of ``keys`` the measure of a way is kept, each by the way's id.

    ``identity``: of its files. ``room``: the budget by pool, by which prompt caches are sized.
    ``learned``: what was measured before counts instead of the estimate.
    """

    model: str
    site: pricing.Site
    weights: Weights | None
    identity: str
    fixed: int | None
    disk_bytes: int
    room: Mapping[str, int]
    learned: Learned | None
    prices: dict[str, Breakdown] = field(default_factory=dict)
    estimates: dict[str, dict[str, int]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    def price(self, running: Running) -> Mapping[str, int]:
        """Bytes by pool to reserve for it. Raises ProblemError for args that say nonsense."""
        parts = self._parts(running)
        self.prices[running.id] = sum(parts.values(), NOTHING)
        need = self.estimates[running.id] = {pool: part.total for pool, part in parts.items()}
        if self.learned is None or self.fixed is not None:
            return need
        site = self.site
        way = [site.engine, site.kind, repr(replace(running, id="")), *site.args, *sorted(need)]
        key = self.keys[running.id] = key_of(self.identity, way, site.version)
        return self.learned.need(key, need)

    def cache(self, running: Running) -> int:
        """Bytes that it may have for prompts of before."""
        host = self.site.host
        if self.weights is None or host not in self.room:
            return 0
        left = self.room[host] - self._parts(running)[host].total
        there = pricing.on(self.site, running.gpus)
        return pricing.prompt_cache(self.weights, running, there, left)

    def helps(self, larger: Running, smaller: Running) -> bool:
        """Whether the second takes less than the first; what nobody can reckon is believed to."""
        before, after = self._parts(larger), self._parts(smaller)
        less = (after[pool].total < part.total for pool, part in before.items() if pool in after)
        unknown = self.fixed is not None or self.site.engine.startswith("command.")
        return unknown or any(less)

    def _parts(self, running: Running) -> dict[str, Breakdown]:
        there = pricing.on(self.site, running.gpus)
        return price_of(self.model, running, there, self.weights, self.fixed, self.disk_bytes)


def fixed_bytes(model: Model, settings: Settings) -> int | None:
    """The footprint that the user wrote for a command of his own."""
    command = settings.engines.command.get((model.engine or "").partition(".")[2])
    return command.footprint if command is not None else None


def price_of(
    model: str,
    running: Running,
    site: pricing.Site,
    weights: Weights | None,
    fixed: int | None = None,
    disk_bytes: int = 0,
) -> dict[str, Breakdown]:
    """Bytes by pool of one way to run a model. ``fixed``: what the user wrote instead;
    ``disk_bytes``: of weights of which nothing else is known.

    Raises ProblemError for args that say nonsense.
    """
    pool = site.devices[0] if site.devices else site.host
    if fixed is not None:
        return {pool: Breakdown(fixed, 0, 0, 0, 0)}
    if weights is None or site.engine.startswith("command."):
        own = pricing.OWN_BYTES.get(site.engine, 0)
        return {pool: Breakdown(disk_bytes, 0, 0, 0, own + 64 * MIB)}
    try:
        return pricing.price(weights, running, site)
    except ValueError as error:
        text = f"{model}: its args cannot be run: {error}."
        hint = "Correct `args` of the model or of its engine: ctl config edit"
        raise ProblemError(Problem(Code.MODEL_UNAVAILABLE, text, hint)) from None
