"""Many seeds of the core's world, over all processors: ``python -m tests.core.simulate [SEEDS]``.

Prints how far it is and the worst wait against the design's bound; the first seed that breaks an
invariant is printed with the end of its log, and the exit status is 1.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from multiprocessing import Pool

from tests.core.world import World

CHUNK = 50


def is_calm(seed: int) -> bool:
    """Every fourth world has only requests in it, and its waits are measured."""
    return seed % 4 == 3


def life(seed: int) -> World:
    """Run one seed. Raises AssertionError, with the end of its log, if an invariant breaks."""
    world = World(seed, calm=is_calm(seed))
    try:
        world.run()
    except Exception as error:
        tail = "\n".join(f"{at:9.3f} {what}" for at, what in world.log[-40:])
        raise AssertionError(f"seed {seed}: {error!r}\n{tail}") from error
    return world


def chunk(first: int) -> tuple[float, int, str]:
    """Some seeds: the worst share of a bound, how many tickets there were, the first failure."""
    worst, tickets = 0.0, 0
    for seed in range(first, first + CHUNK):
        try:
            world = life(seed)
        except AssertionError as error:
            return worst, tickets, str(error)
        worst = max(worst, world.worst_share)
        tickets += len(world.outcomes)
    return worst, tickets, ""


def main(arguments: Sequence[str]) -> int:
    seeds = int(arguments[0]) if arguments else 100_000
    began = time.monotonic()
    worst, tickets = 0.0, 0
    with Pool(os.cpu_count()) as pool:
        firsts = range(0, seeds, CHUNK)
        for done, (share, count, failure) in enumerate(pool.imap_unordered(chunk, firsts), 1):
            worst, tickets = max(worst, share), tickets + count
            if failure:
                print(f"\n{failure}")
                return 1
            seconds = time.monotonic() - began
            line = (
                f"{min(done * CHUNK, seeds)} of {seeds} seeds, {tickets} tickets, {seconds:.0f} s"
            )
            print(f"\r{line}, worst wait/bound {worst:.2f}", end="", flush=True)
    print("\nevery invariant held")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
