"""The scheduler in a seeded world: every invariant at every step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.world import World

SEEDS = int(os.environ.get("MODELPORT_SEEDS", "250"))


@pytest.mark.timeout(600)
def test_invariants_hold_in_every_seed() -> None:
    outcomes = 0
    for seed in range(SEEDS):
        world = World(seed)
        try:
            world.run()
        except Exception:
            tail = "\n".join(f"{at:9.3f} {what}" for at, what in world.log[-40:])
            print(f"seed {seed}\n{tail}")
            raise
        outcomes += len(world.outcomes)
    assert outcomes > SEEDS * 50, "the world did not ask for enough"


def test_same_facts_give_the_same_orders() -> None:
    first, second = World(7), World(7)
    first.run()
    second.run()
    assert first.log == second.log


def test_nobody_waits_for_ever_behind_a_busy_neighbour() -> None:
    waits = []
    for seed in range(40):
        world = World(seed + 10_000)
        world.run()
        waits.append(world.worst_wait)
    assert max(waits) < 330.0, "the queue's own deadline is the longest wait there is"


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_order_of_sets_decides_nothing(hash_seed: str) -> None:
    """Another interpreter, with another hashing of names, gives the same orders."""
    world = World(11)
    world.run()
    mine = [what for _, what in world.log]
    script = (
        "from tests.core.world import World; w = World(11); w.run(); "
        "print('\\n'.join(what for _, what in w.log))"
    )
    theirs = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert theirs.stdout.splitlines() == mine
