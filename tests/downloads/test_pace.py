from __future__ import annotations

import pytest

from daemon.downloads.pace import WARM, WINDOW, Pace


def test_too_early_to_say() -> None:
    pace = Pace()
    assert (pace.rate(), pace.left(0, 100)) == (None, None)
    pace.add(0.0, 0)
    pace.add(WARM - 0.1, 100)
    assert pace.rate() is None


def test_a_steady_download() -> None:
    pace = Pace()
    for second in range(60):
        pace.add(float(second), second * 1000)
    assert pace.rate() == pytest.approx(1000)
    assert pace.left(59_000, 159_000) == pytest.approx(100)
    assert pace.left(5, 0) is None, "nobody knows how much it is"
    assert pace.left(10, 5) == 0


def test_it_follows_the_last_seconds_alone() -> None:
    pace = Pace()
    for second in range(100):
        pace.add(float(second), second * 1000)
    for second in range(100, 100 + 2 * int(WINDOW)):
        pace.add(float(second), 100_000 + (second - 100) * 10)
    assert pace.rate() == pytest.approx(10)


def test_nothing_comes() -> None:
    pace = Pace()
    for second in range(30):
        pace.add(float(second), 500)
    assert pace.rate() is None


def test_another_process_counts_from_zero() -> None:
    pace = Pace()
    for second in range(10):
        pace.add(float(second), second * 1000)
    pace.add(10.0, 0)
    assert pace.rate() is None
    pace.add(14.0, 400)
    assert pace.rate() == pytest.approx(100)


def test_it_keeps_few_samples() -> None:
    pace = Pace()
    for number in range(10_000):
        pace.add(number * 0.1, number)
    assert len(pace._seen) < 2 * WINDOW / 0.5 + 3
