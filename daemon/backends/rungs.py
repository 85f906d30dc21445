"""What the ladder of one model is made of, by what is configured. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from daemon.backends.learned import key_of
from daemon.backends.ways import Ladder, Ways
from daemon.config.model import Model
from daemon.config.settings import Settings
from daemon.engines import ladder, pricing
from daemon.engines.base import Running
from daemon.weights.facts import Weights

AGGRESSIVE: Final = 4  # a context of which nothing smaller is written goes down to a quarter of it


def ladder_of(
    model: Model,
    settings: Settings,
    site: pricing.Site,
    largest: int,
    helps: Callable[[Running, Running], bool],
    weights: Weights | None,
    *,
    accelerated: bool,
    kind: str,
    projector: bool,
) -> Ladder | None:
    """What may be given up after running out of memory; None: nothing. ``largest``: its context."""
    memory = settings.memory
    if memory.degrade == "off":
        return None
    entry = settings.engines.entry(site.engine)
    template = settings.engines.command.get(site.engine.partition(".")[2])
    case = ladder.Case(
        site.engine,
        kind,
        weights,
        args=site.args,
        written=(*entry.args, *model.own_args),
        slots_written=model.slots_written,
        aggressive=memory.degrade == "aggressive",
        gpu=(accelerated and site.host != "ram") or bool(site.devices),
        projector=projector,
        offload=memory.allow_cpu_offload,
        takes_ctx=template is None or any("{ctx}" in word for word in template.argv),
    )
    floor = floor_of(model, largest, aggressive=case.aggressive)
    return Ladder(ladder.steps(case), site.args, floor, helps)


def floor_of(model: Model, largest: int, *, aggressive: bool) -> int | None:
    """The context down to which the ladder may halve; None: it stays."""
    if aggressive and model.min_ctx >= largest:
        return max(1, largest // AGGRESSIVE)
    if model.ctx_written and model.fit == "refuse" and not aggressive:
        return None
    return model.min_ctx


def mark_of(
    identity: str, version: str, told: Sequence[str], found: Ways, totals: Mapping[str, int]
) -> str:
    """A mark of all that a standing hangs on: with any other file (``identity``), engine
    (``version``), memory (``totals``) or configuration (``told``) a model begins at full size.

    Prompt caches are left out: whether there is one hangs on what is free at the moment.
    """
    lasting = [v for v in found.variants if not found.runs[v.id].prompt_cache]
    rungs = [f"{v.id} {v.rung} {v.until}" for v in lasting]
    machine = [f"{pool} {size}" for pool, size in sorted(totals.items())]
    return key_of(identity, [*told, *rungs, *machine], version)
