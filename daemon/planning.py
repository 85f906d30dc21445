"""What fits together: for several models, at which quantisation, context and cache type. Pure.

Each model comes with its options; one of each is chosen so that all stay loaded at once and as
little as possible is lost. What an option loses against the best is a number by rules of thumb
(``loss``): what counts is their order, which follows what people do by hand when room is tight.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from daemon.backends.sizing import Sized
from daemon.backends.ways import Asked, contexts
from daemon.core.budget import fits, minus, total
from daemon.core.messages import Bytes
from daemon.engines import pricing
from daemon.engines.base import Running
from daemon.weights.ggml import CACHE_TYPES
from daemon.weights.quants import bits

KV_LOSS = {"f16": 0.0, "q8_0": 1.0, "q4_0": 6.0}
"""A cache in 8 bits is hardly noticed; in 4 bits long contexts and tool calls suffer."""

CONTEXT_LOSS = 4.0
"""For half the context that could be had: more than a step of quantisation above 4 bits."""

BEST_BITS = 8.5  # Q8_0: more is not better
BITS_LOSS = 1.2  # a bit less per weight, from 8.5 down to 4.5 …
LOW_BITS, LOW_BITS_LOSS = 4.5, 10.0  # … and below, where models break

PULL_LOSS = 5.0
"""For weights that must be fetched where others of the model are here: a little more than 8 bits
gain over 4, so that only what does not fit otherwise is a reason to download."""

MOST_STEPS = 50_000  # of a search: a second or two
ROUNDING = 1e-9  # of sums of losses

LAST_RESORT = {"q4_0": 100.0}
"""Cache types that are offered only where more models stay with them, and for as few as may be."""


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run one model. ``context``: tokens of a slot, 0 where it has none; ``cache``: KV
    type; ``here``: its weights are on the disk (others are estimates); ``pools``: where the bulk of
    it lies."""

    quant: str
    context: int
    cache: str
    need: Bytes
    loss: float
    here: bool = True
    pools: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model of the plan with all its options."""

    model: str
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """``chosen``: an option for each model that has a place, in the order asked. ``left_out``:
    those that have none, with what they lack at least beside the others.
    """

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
    return round(lost + CONTEXT_LOSS * halvings + KV_LOSS.get(cache, 0.0), 6)


def plan(wanted: Sequence[Wanted], budget: Bytes) -> Plan:
    """The options of least total loss that fit together. Where not all do, a model is left out that
    does not fit beside those named before it: what is named first matters most."""
    kept: list[Wanted] = list(wanted)
    found = _search([_useful(each) for each in kept], budget)
    if found is None:
        kept, found = [], []
        for each in wanted:
            more = _search([_useful(w) for w in (*kept, each)], budget)
            if more is not None:
                kept, found = [*kept, each], more
    names = {w.model for w in kept}
    left = [w for w in wanted if w.model not in names]
    room = minus(budget, total(o.need for o in _tightest(kept, budget))) if left else {}
    return Plan(
        dict(zip((w.model for w in kept), found, strict=True)),
        {w.model: _lacking(w, room) for w in left},
    )


def _tightest(wanted: Sequence[Wanted], budget: Bytes) -> Sequence[Option]:
    """The options that take the fewest bytes together."""
    by_need = [
        [replace(o, loss=float(sum(o.need.values()))) for o in each.options] for each in wanted
    ]
    return _search([_useful(Wanted("", tuple(each))) for each in by_need], budget) or ()


def _lacking(wanted: Wanted, room: Bytes) -> Bytes:
    """What the options need beyond ``room``: of that which lacks least."""
    lacks = [
        {pool: n for pool, n in minus(option.need, room).items() if n > 0}
        for option in wanted.options
    ]
    return min(lacks, key=lambda each: sum(each.values()))


def _useful(wanted: Wanted) -> list[Option]:
    """By loss, without those that cost no less than a better one."""
    kept: list[Option] = []
    for option in sorted(wanted.options, key=lambda o: (o.loss, sum(o.need.values()))):
        if not any(fits(better.need, option.need) for better in kept):
            kept.append(option)
    return kept


@dataclass(frozen=True, slots=True)
class _Rest:
    """What the models from one on lose at least, by the bytes of ``pools`` that they get: as if
    each could be run between two of its options too. ``needs`` grow, ``losses`` fall."""

    pools: tuple[str, ...]
    needs: tuple[float, ...]
    losses: tuple[float, ...]

    def least(self, free: Bytes) -> float:
        room = sum(free.get(pool, 0) for pool in self.pools)
        index = bisect.bisect_right(self.needs, room) - 1
        if index < 0:
            return math.inf
        if index == len(self.needs) - 1:
            return self.losses[-1]
        share = (room - self.needs[index]) / (self.needs[index + 1] - self.needs[index])
        return self.losses[index] + share * (self.losses[index + 1] - self.losses[index])


def _rests(options: Sequence[Sequence[Option]], pools: tuple[str, ...]) -> list[_Rest]:
    """For each index, of the models from there on; the last is of none."""
    need, lost = 0.0, 0.0
    steps: list[tuple[float, float]] = []  # (bytes, loss) from option to option, most gain first
    found = [_Rest(pools, (0.0,), (0.0,))]
    for each in reversed(options):
        hull = _hull((sum(o.need.get(pool, 0) for pool in pools), o.loss) for o in each)
        need, lost = need + hull[0][0], lost + hull[0][1]
        steps += [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(hull)]
        steps.sort(key=lambda step: step[1] / step[0])
        needs, losses = [need], [lost]
        for more, less in steps:
            needs.append(needs[-1] + more)
            losses.append(losses[-1] + less)
        found.append(_Rest(pools, tuple(needs), tuple(losses)))
    return found[::-1]


def _hull(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The lower convex hull of (bytes, loss), from the fewest bytes to the least loss."""
    hull: list[tuple[float, float]] = []
    for point in sorted(points):
        if hull and point[1] >= hull[-1][1]:
            continue  # more bytes for nothing
        while len(hull) > 1 and _above(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _above(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether ``b`` lies on or above the line from ``a`` to ``c``."""
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])


def _search(options: Sequence[Sequence[Option]], budget: Bytes) -> list[Option] | None:
    """Branch and bound: each model's options by loss, cut where even the best rest is worse than
    what is known. After ``MOST_STEPS`` it gives the best that it knows: a dozen models on two GPUs
    can take that many, few on one need some hundred."""
    if any(not each for each in options):
        return None
    pools = sorted({pool for each in options for option in each for pool in option.need})
    gpus = tuple(pool for pool in pools if pool.startswith("gpu"))
    groups = [*((pool,) for pool in pools), *([gpus] if len(gpus) > 1 else [])]
    # Without any pool there is nothing to divide, but still a best option of each.
    rests = list(zip(*(_rests(options, group) for group in groups or [()]), strict=True))
    best: tuple[float, list[Option]] = (math.inf, [])
    steps = 0

    def descend(index: int, room: Bytes, lost: float, chosen: list[Option]) -> None:
        nonlocal best, steps
        steps += 1
        if index == len(options):
            best = (lost, chosen)
            return
        ahead = rests[index + 1]
        for option in options[index]:
            so_far = lost + option.loss
            if so_far + ahead[0].losses[-1] >= best[0] or steps > MOST_STEPS:
                break  # the others lose more
            if fits(option.need, room):
                after = minus(room, option.need)
                if so_far + max(rest.least(after) for rest in ahead) < best[0] - ROUNDING:
                    descend(index + 1, after, so_far, [*chosen, option])

    descend(0, budget, 0.0, [])
    return best[1] or None


# ------------------------------------------------------------ from models to options


def options(
    choices: Sequence[Sized], *, ctx: int | None = None, caches: Iterable[str] = ("f16", "q8_0")
) -> tuple[Option, ...]:
    """Every way to run a model: ``choices`` are its quantisations (and pools).

    ``ctx`` fixes the context of a slot; else it goes from the wanted one down to ``min_ctx``.
    Raises ProblemError for args that say nonsense.
    """
    some_here = any(each.here for each in choices)
    found: list[Option] = []
    for each in choices:
        tried = context_steps(each, ctx)
        quality = bits(each.quant) or BEST_BITS
        fetched = PULL_LOSS if some_here and not each.here else 0.0
        written = written_cache(each)
        for cache in (
            (cache for cache in caches if takes(each, cache)) if not written else [written]
        ):
            for context in tried:
                need = each.need(running(each, context, cache))
                lost = (
                    loss(quality, context, tried[0], cache) + fetched + LAST_RESORT.get(cache, 0.0)
                )
                found.append(
                    Option(each.quant, context, cache, need, lost, each.here, each.site.pools)
                )
    return tuple(found)


def running(sized: Sized, context: int, cache: str = "f16") -> Running:
    """A way to run it, for its price."""
    return Running("", max(1, context), sized.model.slots, type_k=cache, type_v=cache)


def context_steps(sized: Sized, ctx: int | None = None) -> tuple[int, ...]:
    """Contexts of a slot to try, largest first; (0,) for a model that has none to choose."""
    model = sized.model
    if sized.weights is None:
        return (ctx or model.ctx or 0,)
    if (written := written_context(sized)) is not None:
        return (written,)
    if ctx is not None:
        return (ctx,)
    asked = Asked(model.ctx, model.ctx_limit, model.min_ctx, model.slots, shrink=True)
    return contexts(asked, sized.trained, sized.kind)


def written_context(sized: Sized) -> int | None:
    """The context of a slot where the model's args fix it, whatever is planned."""
    if sized.weights is None or sized.site.engine not in pricing.LLAMA:
        return None
    small, large = (
        pricing.shape(sized.weights, Running("", ctx, sized.model.slots), sized.site)
        for ctx in (1024, 2048)
    )
    return small.ctx // small.slots if small.ctx == large.ctx else None


def written_cache(sized: Sized) -> str | None:
    """The KV type where the model's args fix it."""
    if sized.weights is None or sized.site.engine not in pricing.LLAMA:
        return None
    one, other = (
        pricing.shape(sized.weights, running(sized, 1024, cache), sized.site).type_k
        for cache in ("f16", "q8_0")
    )
    return one if one == other else None


def takes(sized: Sized, cache: str) -> bool:
    """Whether the model can be run with this KV type: llama.cpp's engines only, flash attention on,
    keys and values of whole blocks; encoders have no cache worth it."""
    if cache == "f16":
        return True
    weights, site = sized.weights, sized.site
    if weights is None or site.engine not in pricing.LLAMA or sized.kind in ("embedding", "rerank"):
        return False
    block = CACHE_TYPES[cache][0]
    whole = all(
        layer.key_length % block == 0 and (layer.mla or layer.value_length % block == 0)
        for layer in weights.layers
        if layer.kv_heads
    )
    return whole and pricing.shape(weights, running(sized, 1024), site).flash


def on_each_gpu(sized: Sized, pools: Sequence[str]) -> tuple[Sized, ...]:
    """The model on each of several GPUs and on all of them, as the daemon tries it: the one that it
    would be on by itself first."""
    places = pricing.placements(sized.site, pools, sized.model.pool)
    return tuple(replace(sized, site=pricing.on(sized.site, gpus)) for gpus in places)


def best(ask: Callable[[Sequence[str]], Sequence[Wanted]], budget: Bytes) -> Plan:
    """The plan; with a cache in 4 bits only where that lets more models stay.

    ``ask``: the models with their options, for these cache types.
    """
    usual = [cache for cache in KV_LOSS if cache not in LAST_RESORT]
    found = plan(ask(usual), budget)
    if found.left_out:
        small = plan(ask(list(KV_LOSS)), budget)
        if len(small.left_out) < len(found.left_out):
            return small
    return found


def prompt_caches(chosen: Sequence[tuple[Sized, Option]], room: Bytes) -> list[int]:
    """Bytes that each model may keep for prompts of before, of what the plan leaves: an equal
    share each. The daemon would size them as if the others were not there."""
    left, sizes = dict(room), []
    for index, (sized, option) in enumerate(chosen):
        size, host = 0, sized.site.host
        if sized.weights is not None and sized.site.engine in pricing.LLAMA:
            sharing = sum(1 for other, _ in chosen[index:] if other.site.host == host)
            share = max(0, left.get(host, 0)) // sharing
            way = running(sized, option.context, option.cache)
            # It takes a quarter of what it is told is left.
            size = pricing.prompt_cache(sized.weights, way, sized.site, 4 * share)
            left[host] = left.get(host, 0) - size
        sizes.append(size)
    return sizes


def largest(sized: Sized, budget: Bytes, *, slots: int, step: int = 1024) -> int | None:
    """The largest context of a slot, up to what it was trained for, with which it fits ``budget``
    alone: a multiple of ``step`` below that. None where not even one step fits.
    """
    most = written_context(sized) or sized.trained or sized.model.ctx_limit

    def fit(context: int) -> bool:
        return fits(sized.need(replace(running(sized, context), slots=slots)), budget)

    if fit(most):
        return most
    low, high = 0, -(-most // step)  # high does not fit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fit(middle * step) else (low, middle)
    return low * step or None
