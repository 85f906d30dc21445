"""The ways to run a model, best first: contexts from wanted to smallest allowed. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from daemon.core.messages import Variant
from daemon.engines.base import Running

# Unless a context is written. Longer inputs are rare, and llama.cpp keeps a row of logits for each
# token of a batch: with 8192 tokens and a large vocabulary that alone takes 8 GB.
EMBEDDING_CTX = 2048
NOWHERE: Mapping[str, str] = {}


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


def ways(
    asked: Asked,
    trained: int | None,
    kind: str,
    price: Callable[[Running], Mapping[str, int]],
    cache: Callable[[Running], int] | None = None,
    placements: Sequence[tuple[str, ...]] = ((),),
    devices: Mapping[str, str] = NOWHERE,
) -> tuple[dict[str, Running], tuple[Variant, ...]]:
    """Every way with what it costs (``price``: bytes by pool), as core and engine see it.

    ``cache``: bytes that a way may have for prompts of before. That is the first thing to be given
    up: the largest context comes with it, then without, and smaller ones have none.
    ``placements``: the GPUs of each way to place it, best first; ``devices``: what their driver
    calls them.
    """
    runs: dict[str, Running] = {}
    variants: list[Variant] = []

    def add(running: Running) -> None:
        runs[running.id] = running
        variants.append(Variant(running.id, dict(price(running))))

    for index, ctx in enumerate(contexts(asked, trained, kind)):
        slots = f" x {asked.slots} slots" if asked.slots > 1 else ""
        for gpus in placements:
            seen = tuple(filter(None, (devices.get(gpu, "") for gpu in gpus)))
            where = f" on {' + '.join(gpus)}" if gpus else ""
            running = Running(
                f"context {ctx}{slots}{where}", ctx, asked.slots, gpus=gpus, visible=seen
            )
            if index == 0 and cache is not None and (size := cache(running)):
                add(replace(running, id=f"{running.id} with a prompt cache", prompt_cache=size))
            add(running)
    return runs, tuple(variants)
