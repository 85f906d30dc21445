"""A short chaos: every request has one well-formed outcome, and at the end nothing is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.play import play
from tests.e2e.seeds import share

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


@pytest.mark.parametrize("seed", share(1, 10))
def test_fifteen_seconds_of_chaos(short_dir: Path, seed: int) -> None:
    report = play(short_dir, seed=seed, seconds=15.0)
    assert not report.wrong, "\n".join([*report.lines(), *report.actions])
    assert report.outcomes["answer"], report.lines()
    assert report.asked >= sum(report.outcomes.values()) > 20
