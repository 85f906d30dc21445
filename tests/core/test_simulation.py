"""The scheduler in a seeded world: every invariant at every step."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.simulate import life, main
from tests.core.world import World

SEEDS = int(os.environ.get("MODELPORT_SEEDS", "1000"))
FEW = 200  # so many are quicker here than in processes of their own


@pytest.mark.timeout(1500)
def test_invariants_hold_in_every_seed(capsys: pytest.CaptureFixture[str]) -> None:
    tickets, worst = few(SEEDS) if SEEDS <= FEW else many(SEEDS)
    with capsys.disabled():
        print(f" [{SEEDS} seeds, {tickets} tickets, worst wait/bound {worst:.2f}] ", end="")
    assert tickets > SEEDS * 50, "the world did not ask for enough"
    assert worst <= 1.0, "I4: the bound of the design"


def few(seeds: int) -> tuple[int, float]:
    worlds = [life(seed) for seed in range(seeds)]
    return sum(len(w.outcomes) for w in worlds), max(w.worst_share for w in worlds)


def many(seeds: int) -> tuple[int, float]:
    """Over all processors."""
    program = [sys.executable, "-P", "-m", "tests.core.simulate", str(seeds)]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(program, env=environ, capture_output=True, text=True, timeout=1490)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    said = re.search(r"(\d+) tickets, \d+ s, worst wait/bound ([\d.]+)\nevery", done.stdout)
    assert said is not None, done.stdout
    return int(said[1]), float(said[2])


def test_same_facts_give_the_same_orders() -> None:
    first, second = World(7), World(7)
    first.run()
    second.run()
    assert first.log == second.log


def test_the_command_tells_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["50"]) == 0
    assert "50 of 50 seeds" in capsys.readouterr().out


def test_a_failing_seed_is_named_with_the_end_of_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: World) -> None:
        raise AssertionError("broken")

    monkeypatch.setattr(World, "check", broken)
    with pytest.raises(AssertionError, match=r"seed 1: AssertionError\(.broken.\)\n.*Catalog"):
        life(1)


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
    mine = [str(what) for _, what in world.log]
    script = (
        "from tests.core.world import World; w = World(11); w.run(); "
        "print('\\n'.join(str(what) for _, what in w.log))"
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
