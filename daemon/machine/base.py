"""The words of this package: pools and the sources that know them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

RAM: Final = "ram"
UNIFIED: Final = "unified"
GPU_PREFIX: Final = "gpu"

# Where a pool's limit comes from, as far as it matters for its budget.
USER_LIMIT: Final = "iogpu.wired_limit_mb"
METAL_LIMIT: Final = "recommendedMaxWorkingSetSize"
GUESSED_LIMIT: Final = "share of the memory"


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """One memory. ``total``, ``free``, ``limit`` in bytes; ``limit`` is what the system lets us
    take of it, None where that is not less than ``total``; ``source`` names who said so.
    ``device`` is what an engine is told to use it (NVIDIA: the UUID of the card or MIG instance;
    AMD: the PCI address); "" where there is nothing to choose."""

    name: str
    total: int
    free: int
    limit: int | None
    source: str
    device: str = ""


@dataclass(frozen=True, slots=True)
class Shared:
    """A GPU without memory of its own: it works in the machine's. ``limit``: bytes that its driver
    lets it take, None for no limit of its own; ``source`` and ``device`` as in PoolFacts."""

    limit: int | None
    source: str
    device: str = ""


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """All pools of a machine. ``ram_total`` in bytes; ``platform`` as ``sys.platform``."""

    pools: tuple[PoolFacts, ...]
    ram_total: int
    platform: str

    def pool(self, name: str) -> PoolFacts | None:
        """The pool of that name, or None."""
        return next((pool for pool in self.pools if pool.name == name), None)

    def without(self, held: Mapping[str, int]) -> MachineFacts:
        """As it would be without processes that take ``held`` bytes by pool."""
        pools = tuple(
            replace(pool, free=min(pool.total, pool.free + held.get(pool.name, 0)))
            for pool in self.pools
        )
        return replace(self, pools=pools)


def unify(pools: Iterable[PoolFacts], shared: Shared | None) -> tuple[PoolFacts, ...]:
    """The pools as they are, or main memory as the one pool ``unified`` where a GPU shares it.

    A card with memory of its own wins: beside it a shared GPU is the small one of the processor.
    """
    found = tuple(pools)
    if shared is None or any(pool.name != RAM for pool in found):
        return found
    return tuple(_unified(pool, shared) for pool in found)


def _unified(pool: PoolFacts, shared: Shared) -> PoolFacts:
    limits = [limit for limit in (pool.limit, shared.limit) if limit is not None]
    limit = min(limits, default=None)
    if limit is not None and limit >= pool.total:
        limit = None
    return replace(
        pool,
        name=UNIFIED,
        limit=limit,
        source=f"{pool.source}; {shared.source}",
        device=shared.device,
    )


class Source(Protocol):
    """Someone who knows pools: the kernel, a driver. None of them raises for what is missing."""

    def pools(self) -> tuple[PoolFacts, ...]:
        """The pools as they are now. May take a second at the first call; call it in a thread."""

    def free(self) -> dict[str, int]:
        """Free bytes by pool, cheaply: it is asked every few seconds."""


class Cards(Source, Protocol):
    """A source of GPUs, which also knows who holds what on them."""

    def of_processes(self, pids: Collection[int]) -> dict[str, int]:
        """Bytes that processes hold together, by pool. Cards that do not tell are left out; those
        of a shared GPU go by the name ``unified``."""

    def shared(self) -> Shared | None:
        """The GPU that works in the machine's memory, where this source knows one."""
