"""Seconds awake: sleep and clock jumps take nothing from anybody's time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.machine.awake import OFTEN, Awake, elapsed


class Clocks:
    def __init__(self) -> None:
        self.monotonic = 100.0
        self.always = 1000.0
        self.slept: list[float] = []
        self.awake = Awake(30.0, monotonic=lambda: self.monotonic, elapsed=lambda: self.always)
        self.awake.on_wake = self.slept.append

    def passes(self, seconds: float) -> None:
        self.monotonic += seconds
        self.always += seconds

    def suspended(self, seconds: float) -> None:
        self.always += seconds


def test_time_passes() -> None:
    clocks = Clocks()
    clocks.awake.attend(True)
    before = clocks.awake()
    clocks.passes(5)
    assert clocks.awake() - before == 5
    assert clocks.slept == []


def test_a_suspended_machine_is_noticed_and_costs_no_time() -> None:
    clocks = Clocks()
    clocks.awake.attend(True)
    before = clocks.awake()
    clocks.passes(2)
    clocks.suspended(8 * 3600)
    assert clocks.awake() - before == 2
    assert clocks.slept == [8 * 3600]
    clocks.passes(2)
    clocks.awake()
    assert len(clocks.slept) == 1, "told once"


def test_sleep_between_two_hasty_readings_is_told_a_moment_later() -> None:
    clocks = Clocks()
    clocks.awake.attend(True)
    clocks.passes(1)
    clocks.awake()
    clocks.passes(OFTEN / 4)
    clocks.suspended(3600)
    clocks.awake()
    assert clocks.slept == [], "not each reading compares the clocks"
    for _ in range(3):
        clocks.passes(OFTEN / 3)
        clocks.awake()
    assert clocks.slept == [pytest.approx(3600)]


def test_a_stopped_process_loses_no_time_either() -> None:
    """SIGSTOP: its own clock ran on, though it could do nothing."""
    clocks = Clocks()
    clocks.awake.attend(True)
    before = clocks.awake()
    clocks.passes(60)
    assert clocks.awake() == before
    assert clocks.slept == [60]
    clocks.passes(3)
    assert clocks.awake() - before == 3


def test_unattended_any_silence_is_honest() -> None:
    clocks = Clocks()
    before = clocks.awake()
    clocks.passes(3600)
    clocks.suspended(3600)
    assert clocks.awake() - before == 3600
    clocks.awake.attend(True)
    clocks.awake()
    assert clocks.slept == [], "nor is what was before it began to be attended"


def test_a_short_sleep_is_none() -> None:
    clocks = Clocks()
    clocks.awake.attend(True)
    clocks.suspended(29)
    clocks.awake()
    assert clocks.slept == []


@given(st.lists(st.tuples(st.sampled_from(["passes", "suspended", "attend"]), st.floats(0, 1e5))))
def test_it_never_goes_back_and_never_ahead_of_the_machine(steps: list[tuple[str, float]]) -> None:
    clocks = Clocks()
    begin, last = clocks.monotonic, clocks.awake()
    for step, seconds in steps:
        if step == "attend":
            clocks.awake.attend(seconds > 5e4)
        else:
            getattr(clocks, step)(seconds)
        now = clocks.awake()
        assert last <= now <= last + (clocks.monotonic - begin) + 1e-6
        last = now


def test_the_clock_that_counts_sleep_goes_on() -> None:
    before = elapsed()
    assert elapsed() >= before > 0
