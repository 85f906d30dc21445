"""Whether a load goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daemon.backends.progress import Signs, Watch, moved, progressed, signs_of_life

MIB = 1 << 20


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (Signs(100, 50 * MIB, 1.0), False),
        (Signs(101, 50 * MIB, 1.0), True),
        (Signs(20, 50 * MIB, 1.0), True),  # rotated
        (Signs(100, 50 * MIB + 200_000, 1.02), False),  # what 100 polls cost
        (Signs(100, 51 * MIB, 1.0), True),
        (Signs(100, 40 * MIB, 1.0), True),
        (Signs(100, 50 * MIB, 1.5), True),
    ],
)
def test_what_counts_as_progress(now: Signs, expected: bool) -> None:
    mark = Signs(100, 50 * MIB, 0.5)
    assert progressed(mark, Signs(100, 50 * MIB, 1.0), now, 1.0) is expected


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (Signs(100, 50 * MIB, 900.0), False),  # computing alone, however much
        (Signs(101, 50 * MIB, 0.5), True),
        (Signs(100, 51 * MIB, 0.5), True),
        (Signs(100, 50 * MIB, 0.5, read=MIB), True),
        (Signs(100, 50 * MIB, 0.5, read=MIB - 1), False),
    ],
)
def test_what_counts_as_moving(now: Signs, expected: bool) -> None:
    assert moved(Signs(100, 50 * MIB, 0.5), now) is expected


def test_what_computes_for_ever_progresses_and_does_not_move() -> None:
    watch = Watch(Signs(1, MIB, 0.0), 10.0)
    for second in range(11, 20):
        watch.look(Signs(1, MIB, float(second)), float(second))
    assert (watch.looked, watch.since, watch.moved_at) == (19.0, 19.0, 10.0)


def test_memory_that_grows_slowly_beside_much_computing_adds_up() -> None:
    watch = Watch(Signs(1, 0, 0.0), 0.0)
    for second in range(1, 10):
        watch.look(Signs(1, second * MIB // 4, float(second)), float(second))
    assert (watch.since, watch.moved_at) == (9.0, 8.0)


def test_what_does_nothing_does_not_progress() -> None:
    watch = Watch(Signs(1, MIB, 5.0), 1.0)
    watch.look(Signs(1, MIB, 5.05), 2.0)
    assert (watch.looked, watch.since, watch.moved_at) == (2.0, 1.0, 1.0)


def test_the_signs_of_a_process(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 7)
    signs = signs_of_life(log, os.getpid())
    assert signs.logged == 7
    assert signs.memory > MIB
    assert signs.cpu > 0
    assert signs_of_life(tmp_path / "none", 2**22 - 1) == Signs()
    assert signs_of_life(tmp_path / "none", None) == Signs()
