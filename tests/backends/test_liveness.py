"""Whether a backend goes on with its work: what was seen and when in, what to do out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.backends.liveness import STRIKES, Glance, Pulse, Step
from daemon.backends.progress import Signs

MIB = 1 << 20
STALL, PATIENCE, EVERY = 120.0, 60.0, 5.0
STILL = Glance(1, 0, Signs(logged=100, memory=50 * MIB, cpu=3.0))


def pulse() -> Pulse:
    return Pulse(STALL, PATIENCE)


def until(
    one: Pulse, seen: Glance, wanted: Step, begin: float = 0.0, most: float = 1000.0
) -> float:
    """Look every few seconds until it says so; the time."""
    now = begin
    while now <= begin + most:
        if one.look(seen, now) is wanted:
            return now
        now += EVERY
    raise AssertionError(f"no {wanted} within {most} s")


def test_silence_is_probed_and_then_given_up() -> None:
    one = pulse()
    asked = until(one, STILL, Step.PROBE)
    assert STALL < asked <= STALL + 2 * EVERY
    ended = until(one, STILL, Step.GIVE_UP, asked + EVERY)
    assert asked + PATIENCE < ended <= asked + PATIENCE + 2 * EVERY


def test_without_requests_nothing_is_looked_at() -> None:
    one = pulse()
    idle = replace(STILL, requests=0)
    assert {one.look(idle, float(at)) for at in range(0, 10_000, 100)} == {Step.REST}
    # and what was idle for an hour has its whole patience once it has work
    assert one.look(STILL, 20_000.0) is Step.WATCH
    assert one.look(STILL, 20_000.0 + STALL) is Step.WATCH


SIGNS_OF_WORK: dict[str, Callable[[int], Glance]] = {
    "bytes of answers": lambda n: replace(STILL, relayed=n),
    "its log": lambda n: replace(STILL, signs=replace(STILL.signs, logged=100 + n)),
    "its memory": lambda n: replace(STILL, signs=replace(STILL.signs, memory=n * 2 * MIB)),
    "the disk": lambda n: replace(STILL, signs=replace(STILL.signs, read=n * MIB)),
    "one core": lambda n: replace(STILL, signs=replace(STILL.signs, cpu=3 + n * EVERY)),
    "little CPU, as one that feeds a GPU": lambda n: replace(
        STILL, signs=replace(STILL.signs, cpu=3 + n * EVERY * 0.02)
    ),
    "its slots": lambda n: replace(STILL, slots=f"{n}"),
    "a GPU": lambda n: replace(STILL, computing=True),
}


@pytest.mark.parametrize("name", SIGNS_OF_WORK)
def test_whoever_works_is_left_alone_for_ever(name: str) -> None:
    one, sign = pulse(), SIGNS_OF_WORK[name]
    for look in range(2000):
        assert one.look(sign(look), look * EVERY) is Step.WATCH


@pytest.mark.parametrize("name", SIGNS_OF_WORK)
def test_a_sign_while_it_is_asked_gives_it_time_again(name: str) -> None:
    """The probe waits behind a long prefill in the one slot: that is no reason to end it."""
    one, sign = pulse(), SIGNS_OF_WORK[name]
    asked = until(one, STILL, Step.PROBE)
    for look in range(1, 500):
        assert one.look(sign(look), asked + look * EVERY) is Step.WATCH


def test_a_server_that_only_waits_is_no_worker() -> None:
    """Python's servers take some CPU time though they wait; ours to look at them costs too."""
    one = pulse()
    now = 0.0
    while (step := one.look(replace(STILL, signs=Signs(cpu=now * 0.003)), now)) is Step.WATCH:
        now += EVERY
        assert now < 1000
    assert step is Step.PROBE


def test_log_lines_about_our_own_question_are_no_work() -> None:
    """llama-server logs each request, also the one for its slots."""
    one = pulse()
    for look in range(100):
        seen = replace(STILL, slots="same", signs=replace(STILL.signs, logged=look * 80))
        if one.look(seen, look * EVERY) is Step.PROBE:
            return
    raise AssertionError("taken for work")


def test_a_good_answer_is_a_new_beginning() -> None:
    one = pulse()
    asked = until(one, STILL, Step.PROBE)
    assert one.answered(True, 0, asked + 1) is Step.WATCH
    assert until(one, STILL, Step.PROBE, asked + EVERY) > asked + STALL


def test_a_bad_answer_is_the_end_unless_others_are_served() -> None:
    one = pulse()
    asked = until(one, STILL, Step.PROBE)
    assert one.answered(False, 0, asked + 1) is Step.GIVE_UP
    one = pulse()
    asked = until(one, STILL, Step.PROBE)
    assert one.answered(False, 7, asked + 1) is Step.WATCH


def test_three_failures_in_a_row_are_asked_about() -> None:
    one = pulse()
    assert [one.status(500) for _ in range(STRIKES)] == [False, False, True]
    assert one.look(replace(STILL, requests=0), 0.0) is Step.PROBE
    assert one.answered(True, 0, 1.0) is Step.WATCH
    assert one.look(replace(STILL, requests=0), 2.0) is Step.REST, "one client's broken requests"


@pytest.mark.parametrize("between", [200, 404, 501])
def test_failures_that_are_not_in_a_row_are_nothing(between: int) -> None:
    one = pulse()
    told = [one.status(code) for _ in range(20) for code in (500, 502, between)]
    assert not any(told)


def test_who_left_says_nothing() -> None:
    one = pulse()
    assert [one.status(code) for code in (500, 0, 500, 0, 500)][-1]


# ---------------------------------------------------------------- whatever is seen

Looks = st.lists(
    st.tuples(
        st.floats(0.1, 50.0),  # seconds since the last look
        st.integers(0, 2),  # requests
        st.integers(0, 1),  # more bytes
        st.sampled_from([0.0, 0.001, 0.5]),  # share of a core
        st.sampled_from(["", "a", "b"]),
    ),
    min_size=1,
    max_size=80,
)


@given(Looks)
def test_nobody_is_given_up_who_was_not_silent_long_enough(looks: list[tuple[float, ...]]) -> None:
    """Before the end there are ``stall`` and ``patience`` seconds without bytes or a busy core, all
    of them with requests in flight or a question open, and a probe was asked for exactly once."""
    one = pulse()
    now = cpu = 0.0
    relayed, lively, probes = 0, 0.0, 0
    for seconds, requests, more, share, slots in looks:
        now += seconds
        cpu += share * seconds
        relayed += int(more)
        if more or share > 0.1 or (not requests and not probes):
            lively = now
        seen = Glance(int(requests), relayed, Signs(cpu=cpu), str(slots))
        step = one.look(seen, now)
        if step is Step.PROBE:
            probes += 1
            assert now - lively > STALL
        elif step is Step.GIVE_UP:
            assert now - lively > PATIENCE
            return
        assert probes <= 1
        if step is Step.REST:
            assert not requests


@given(Looks, st.floats(0.1, 20.0))
def test_whoever_is_silent_for_good_is_found(looks: list[tuple[float, ...]], every: float) -> None:
    """Whatever came before: a backend with work that does nothing is given up in bounded time."""
    one = pulse()
    now = cpu = 0.0
    relayed = 0
    for seconds, requests, more, share, slots in looks:
        now += seconds
        cpu += share * seconds
        relayed += int(more)
        one.look(Glance(int(requests), relayed, Signs(cpu=cpu), str(slots)), now)
    silent = Glance(1, relayed, Signs(cpu=cpu))
    begin = now
    while one.look(silent, now) is not Step.GIVE_UP:
        now += every
        assert now - begin <= STALL + PATIENCE + 4 * every + EVERY
