"""The words of this package: pools and the sources that know them."""

from __future__ import annotations

from dataclasses import dataclass
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
    take of it, None where that is not less than ``total``; ``source`` names who said so."""

    name: str
    total: int
    free: int
    limit: int | None
    source: str


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """All pools of a machine. ``ram_total`` in bytes; ``platform`` as ``sys.platform``."""

    pools: tuple[PoolFacts, ...]
    ram_total: int
    platform: str

    def pool(self, name: str) -> PoolFacts | None:
        """The pool of that name, or None."""
        return next((pool for pool in self.pools if pool.name == name), None)


class Source(Protocol):
    """Someone who knows pools: the kernel, a driver. None of them raises for what is missing."""

    def pools(self) -> tuple[PoolFacts, ...]:
        """The pools as they are now. May take a second at the first call; call it in a thread."""

    def free(self) -> dict[str, int]:
        """Free bytes by pool, cheaply: it is asked every few seconds."""
