"""The ways to run a model, best first: contexts from wanted to smallest allowed, the GPUs of each,
and the steps of the out-of-memory ladder. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from daemon.core.messages import Variant
from daemon.engines.base import Running
from daemon.engines.ladder import Step, Steps

# Unless a context is written. Longer inputs are rare, and llama.cpp keeps a row of logits for each
# token of a batch: with 8192 tokens and a large vocabulary that alone takes 8 GB.
EMBEDDING_CTX = 2048
NOWHERE: Mapping[str, str] = {}
# The rung after that of giving up the prompt cache, also where there is none: whether there is one
# hangs on what happens to be free, and a rung that is remembered must mean the same tomorrow.
ALONE = 2


@dataclass(frozen=True, slots=True)
class Asked:
    """What the configuration says of a model's context and slots (tokens of one slot).

    ``ctx`` None: the largest that fits, up to ``limit``. ``shrink``: down to ``min_ctx``.
    """

    ctx: int | None
    limit: int
    min_ctx: int
    slots: int
    shrink: bool


@dataclass(frozen=True, slots=True)
class Ladder:
    """What may be done after running out of memory. ``floor``: the smallest context to halve down
    to (None: the context stays). ``helps``: whether the second way takes less than the first."""

    steps: Steps
    args: Sequence[str]
    floor: int | None
    helps: Callable[[Running, Running], bool]


@dataclass(frozen=True, slots=True)
class Ways:
    """``runs``: for the engine. ``variants``: the same for the core, with what each costs.
    ``alone``: see ``ModelSpec``."""

    runs: Mapping[str, Running]
    variants: tuple[Variant, ...]
    alone: int = 0


@dataclass(frozen=True, slots=True)
class _Way:
    running: Running
    rung: int
    until: int | None


def contexts(asked: Asked, trained: int | None, kind: str) -> tuple[int, ...]:
    """Contexts to try, largest first: powers of two and the points halfway between two."""
    if asked.ctx is not None:
        largest = asked.ctx
    else:
        largest = min(trained or asked.limit, asked.limit)
        if kind in ("embedding", "rerank"):
            largest = min(largest, EMBEDDING_CTX)
    if not asked.shrink:
        return (largest,)
    floor = min(asked.min_ctx, largest)
    grid: set[int] = {largest, floor}
    power = 1
    while power < largest:
        grid.update({power, power + power // 2})
        power *= 2
    return tuple(sorted((c for c in grid if floor <= c <= largest), reverse=True))


def halves(largest: int, floor: int) -> tuple[int, ...]:
    """The contexts below the largest, each half of the one before, down to the floor."""
    found: list[int] = []
    while largest > floor:
        largest = max(floor, largest // 2)
        found.append(largest)
    return tuple(found)


def ways(
    asked: Asked,
    trained: int | None,
    kind: str,
    price: Callable[[Running], Mapping[str, int]],
    cache: Callable[[Running], int] | None = None,
    ladder: Ladder | None = None,
    placements: Sequence[tuple[str, ...]] = ((),),
    devices: Mapping[str, str] = NOWHERE,
) -> Ways:
    """Every way with what it costs (``price``: bytes by pool), as core and engine see it.

    ``cache``: bytes that a way may have for prompts of before. That is the first thing to be given
    up: the largest context comes with it, then without, and smaller ones have none.
    ``placements``: the GPUs of each way to place it, best first; ``devices``: what their driver
    calls them.
    """
    fitting = contexts(asked, trained, kind)
    slots = f" x {asked.slots} slots" if asked.slots > 1 else ""
    plain = [Running(f"context {ctx}{slots}", ctx, asked.slots) for ctx in fitting]
    places = [(gpus, tuple(filter(None, map(devices.get, gpus)))) for gpus in placements]
    first = [_placed(plain[0], *place) for place in places]
    sizes = {way.id: cache(way) if cache is not None else 0 for way in first}
    alone = 0
    if ladder is None:
        found = [_Way(running, 0, 0) for running in plain]
    else:
        alone = ALONE
        found = list(_rungs(plain, ladder, alone))
    found = [replace(way, running=_placed(way.running, *p)) for way in found for p in places]
    for way in reversed(first):
        if size := sizes[way.id]:
            at = next(i for i, one in enumerate(found) if one.running.id == way.id)
            cached = replace(way, id=f"{way.id} with a prompt cache", prompt_cache=size)
            found.insert(at, _Way(cached, 0, 0))
    variants = tuple(
        Variant(
            way.running.id,
            dict(price(way.running)),
            way.rung,
            way.until,
            way.running.slots if way.running.slots != asked.slots else None,
        )
        for way in found
    )
    return Ways({way.running.id: way.running for way in found}, variants, alone)


def _placed(running: Running, gpus: tuple[str, ...], visible: tuple[str, ...]) -> Running:
    """The same on these GPUs; none: wherever the engine goes by itself."""
    if not gpus:
        return running
    what, comma, given_up = running.id.partition(", ")
    words = f"{what} on {' + '.join(gpus)}{comma}{given_up}"
    return replace(running, id=words, gpus=gpus, visible=visible)


def _rungs(plain: Sequence[Running], ladder: Ladder, alone: int) -> Iterator[_Way]:
    """Context by context, from the largest: as it is, then after each step. Rung ``alone`` has the
    plain ones once more; from there each step is a rung, then each half of the context, then what
    is moved to the processor."""
    steps = list(_helpful(plain[0], ladder.steps.before, ladder))
    largest = plain[0].ctx
    floor = ladder.floor if ladder.floor is not None and ladder.steps.context else largest
    lower = halves(largest, floor)
    lower = tuple(c for c in lower if ladder.helps(plain[0], replace(plain[0], ctx=c)))
    first_half = alone + len(steps) + 1
    fitting = {running.ctx: running for running in plain}
    running = plain[0]
    for ctx in sorted({*fitting, *lower}, reverse=True):
        running = replace(plain[0], id=plain[0].id.replace(str(largest), str(ctx), 1), ctx=ctx)
        deep = sum(ctx <= limit for limit in lower)  # halves that this context is good for
        for done, step in enumerate([None, *steps]):
            if step is not None:
                running = _after(running, step, ladder)
            last = done == len(steps)
            rung = alone + done if done else 0
            until = first_half + deep - 1 if last else alone + done
            if ctx not in fitting:
                if not last:
                    continue
                rung = first_half + lower.index(ctx)
            yield _Way(running, rung, until)
    rung = first_half + len(lower)
    for step in _helpful(running, ladder.steps.after, ladder):
        running = _after(running, step, ladder)
        yield _Way(running, rung, rung)
        rung += 1


def _after(running: Running, step: Step, ladder: Ladder) -> Running:
    base = running.id
    if step.changes.get("slots") == 1:
        base = base.replace(f" x {running.slots} slots", "")
    more, _, last = base.rpartition(", ")
    if last.endswith("layers on the GPU"):  # of fewer than before
        base = more
    return replace(step.of(running, ladder.args), id=f"{base}, {step.words}")


def _helpful(running: Running, steps: Sequence[Step], ladder: Ladder) -> Iterator[Step]:
    """Those that make it smaller, each after the ones before."""
    for step in steps:
        smaller = _after(running, step, ladder)
        if step.blind or ladder.helps(running, smaller):
            yield step
            running = smaller
