"""What fits together: for several models, at which quantisation, context and cache type. Pure.

Each model comes with its options; one of each is chosen so that all stay loaded at once and as
little as possible is lost. What an option loses against the best is a number by rules of thumb
(``loss``): what counts is their order, which follows what people do by hand when room is tight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from daemon.core.budget import fits, minus, total
from daemon.core.messages import Bytes

KV_LOSS = {"f16": 0.0, "q8_0": 1.0, "q4_0": 6.0}
"""A cache in 8 bits is hardly noticed; in 4 bits long contexts and tool calls suffer."""

CONTEXT_LOSS = 4.0
"""For half the context that could be had: more than a step of quantisation above 4 bits."""

BEST_BITS = 8.5  # Q8_0: more is not better
BITS_LOSS = 1.2  # a bit less per weight, from 8.5 down to 4.5 …
LOW_BITS, LOW_BITS_LOSS = 4.5, 10.0  # … and below, where models break


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run one model. ``context``: tokens of a slot; ``cache``: KV type; ``here``: its
    weights are on the disk (others are estimates)."""

    quant: str
    context: int
    cache: str
    need: Bytes
    loss: float
    here: bool = True


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model of the plan with all its options."""

    model: str
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """``chosen``: an option for each model that has a place, in the order asked. ``left_out``:
    those that have none, with what the smallest of their options lacks."""

    chosen: dict[str, Option]
    left_out: dict[str, Bytes]

    @property
    def need(self) -> Bytes:
        return total(option.need for option in self.chosen.values())


def loss(bits: float, context: int, best_context: int, cache: str) -> float:
    """How much worse than the best this is. ``bits``: per weight, as stored."""
    missing = max(0.0, BEST_BITS - max(bits, LOW_BITS))
    lost = BITS_LOSS * missing + LOW_BITS_LOSS * max(0.0, LOW_BITS - bits)
    halvings = math.log2(best_context / context) if 0 < context < best_context else 0.0
    return round(lost + CONTEXT_LOSS * halvings + KV_LOSS[cache], 6)


def plan(wanted: Sequence[Wanted], budget: Bytes) -> Plan:
    """The options of least total loss that fit together. Where nothing does, the last named that
    takes part in the trouble is left out, and so on: what is named first matters most."""
    left: list[Wanted] = []
    there = list(wanted)
    while there:
        found = _search([_useful(each) for each in there], budget)
        if found is not None:
            chosen = dict(zip((w.model for w in there), found, strict=True))
            room = minus(budget, total(o.need for o in found))
            return Plan(chosen, {w.model: _lacking(w, room) for w in reversed(left)})
        left.append(there.pop())
    return Plan({}, {w.model: _lacking(w, budget) for w in reversed(left)})


def _lacking(wanted: Wanted, room: Bytes) -> Bytes:
    """What the smallest option needs beyond ``room``."""
    least = min(wanted.options, key=lambda o: sum(o.need.values()))
    return {pool: n for pool, n in minus(least.need, room).items() if n > 0}


def _useful(wanted: Wanted) -> list[Option]:
    """By loss, without those that cost no less than a better one."""
    kept: list[Option] = []
    for option in sorted(wanted.options, key=lambda o: (o.loss, sum(o.need.values()))):
        if not any(fits(better.need, option.need) for better in kept):
            kept.append(option)
    return kept


def _search(options: Sequence[Sequence[Option]], budget: Bytes) -> list[Option] | None:
    """Branch and bound: each model's options by loss, cut where even the best rest is worse than
    what is known or where even the smallest rest does not fit."""
    if any(not each for each in options):
        return None
    rest_loss = [0.0] * (len(options) + 1)
    rest_need: list[Bytes] = [{} for _ in range(len(options) + 1)]
    for index in range(len(options) - 1, -1, -1):
        rest_loss[index] = rest_loss[index + 1] + options[index][0].loss
        pools = {pool for option in options[index] for pool in option.need}
        least = {pool: min(o.need.get(pool, 0) for o in options[index]) for pool in pools}
        rest_need[index] = total([rest_need[index + 1], least])
    best: tuple[float, list[Option]] = (math.inf, [])

    def descend(index: int, room: Bytes, lost: float, chosen: list[Option]) -> None:
        nonlocal best
        if index == len(options):
            best = (lost, chosen)
            return
        for option in options[index]:
            if lost + option.loss + rest_loss[index + 1] >= best[0]:
                break  # the others lose more
            after = minus(room, option.need)
            if all(n >= 0 for n in after.values()) and fits(rest_need[index + 1], after):
                descend(index + 1, after, lost + option.loss, [*chosen, option])

    descend(0, budget, 0.0, [])
    return best[1] or None
