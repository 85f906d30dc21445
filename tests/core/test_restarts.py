from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.lifecycle import State
from daemon.core.messages import Ask, ExitClass
from daemon.core.policy import Policy
from daemon.core.restarts import GiveUp, History, Life, Retry, after_exit, jitter
from tests.core.desk import Desk, model

POLICY = Policy()


def died(
    history: History,
    kind: ExitClass = ExitClass.CRASH,
    *,
    at: float = 0.0,
    served: float | None = 0.0,
    good: int = 0,
    repeated: bool = False,
    smaller: bool = False,
    policy: Policy = POLICY,
) -> Retry | GiveUp:
    life = Life(served, good, repeated)
    return after_exit(
        history, kind, model="m", generation=1, now=at, life=life, policy=policy, smaller=smaller
    )


def pause(choice: Retry | GiveUp, at: float = 0.0) -> float:
    assert isinstance(choice, Retry)
    return choice.at - at


def test_jitter_is_small_spread_and_always_the_same() -> None:
    factors = {jitter(f"m{n}", g, 0.2) for n in range(20) for g in range(20)}
    assert len(factors) > 350
    assert min(factors) >= 0.8
    assert max(factors) <= 1.2
    assert min(factors) < 0.85
    assert max(factors) > 1.15
    assert jitter("m", 1, 0.2) == jitter("m", 1, 0.2)
    assert jitter("m", 1, 0.0) == 1.0


def test_pauses_double_from_one_second_to_a_minute() -> None:
    calm = Policy(backoff_jitter=0.0, breaker_crashes=99)
    history = History()
    pauses = [pause(died(history, policy=calm)) for _ in range(9)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_the_pause_is_jittered_by_model_and_generation() -> None:
    assert pause(died(History())) == pytest.approx(jitter("m", 1, 0.2))


def test_years_of_crashes_do_not_overflow() -> None:
    history = History(consecutive=5000)
    assert pause(died(history)) <= 72.0


@pytest.mark.parametrize("kind", [ExitClass.CRASH, ExitClass.HANG])
def test_the_fifth_crash_within_ten_minutes_opens_the_breaker(kind: ExitClass) -> None:
    history = History()
    for at in (0.0, 100.0, 200.0, 300.0):
        assert isinstance(died(history, kind, at=at), Retry)
    assert died(history, kind, at=400.0) == GiveUp(700.0)


def test_crashes_older_than_ten_minutes_are_forgotten() -> None:
    history = History()
    for at in (0.0, 100.0, 200.0, 300.0):
        died(history, at=at)
    assert isinstance(died(history, at=600.0), Retry)
    assert len(history.crashes) == 4
    assert died(history, at=650.0) == GiveUp(950.0)


def test_ten_good_minutes_clear_the_past() -> None:
    history = History()
    for _ in range(4):
        died(history)
    assert died(history, at=1.0, served=599.9) == GiveUp(301.0)
    history = History([0.0] * 4, consecutive=4, ports=3)
    assert pause(died(history, at=1.0, served=600.0), 1.0) == pytest.approx(jitter("m", 1, 0.2))
    assert history.crashes == [1.0]
    assert history.ports == 0


@pytest.mark.parametrize(
    ("served", "good", "forgotten"),
    [(120.0, 20, True), (119.9, 20, False), (120.0, 19, False), (None, 99, False)],
)
def test_twenty_good_answers_in_two_minutes_clear_it_too(
    served: float | None, good: int, forgotten: bool
) -> None:
    history = History([0.0] * 4, consecutive=4)
    choice = died(history, at=1.0, served=served, good=good)
    assert isinstance(choice, Retry) is forgotten
    assert (history.crashes == [1.0]) is forgotten


def test_crashes_by_one_request_count_as_one() -> None:
    history = History()
    for at in range(20):
        assert isinstance(died(history, at=float(at), repeated=at > 0), Retry)
    assert history.crashes == [19.0]
    assert history.consecutive == 1, "and the pauses do not grow"
    for at in range(20, 23):
        assert isinstance(died(history, at=float(at)), Retry)
    assert isinstance(died(history, at=23.0), GiveUp)
    assert isinstance(died(history, at=700.0, repeated=True), Retry)
    assert history.crashes == [700.0], "of those that are long ago none is left to stand for it"


deaths = st.tuples(
    st.floats(0.0, 400.0),  # seconds since the last
    st.sampled_from([ExitClass.CRASH, ExitClass.HANG, ExitClass.PORT]),
    st.none() | st.floats(0.0, 900.0),
    st.integers(0, 30),
    st.booleans(),
)


@given(st.lists(deaths, max_size=40))
def test_whatever_happens_pauses_stay_in_bounds_and_the_breaker_counts_right(
    story: list[tuple[float, ExitClass, float | None, int, bool]],
) -> None:
    history, now = History(), 0.0
    counted: list[float] = []  # an account of our own
    ports = 0
    for gap, kind, served, good, repeated in story:
        now += gap
        choice = died(history, kind, at=now, served=served, good=good, repeated=repeated)
        if kind is ExitClass.PORT and ports < 3:
            ports += 1
            assert choice == Retry(now)
            continue
        if Life(served, good).healthy(POLICY):
            counted, ports = [], 0
        counted = [t for t in counted if now - t < 600.0]
        counted = [*(counted[:-1] if repeated else counted), now]
        if len(counted) >= 5:
            assert choice == GiveUp(now + 300.0)
        else:
            assert pause(choice, now) + 1e-6 >= 0.8
            assert pause(choice, now) <= 72.0 + 1e-6


def test_a_permanent_failure_is_not_tried_again() -> None:
    history = History()
    assert died(history, ExitClass.PERMANENT) == GiveUp(None)
    assert history.crashes == []


def test_a_taken_port_is_another_try_at_once_three_times() -> None:
    history = History()
    for _ in range(3):
        assert died(history, ExitClass.PORT, at=9.0) == Retry(9.0)
    assert history.crashes == []
    assert pause(died(history, ExitClass.PORT, at=9.0), 9.0) > 0.7
    assert history.crashes == [9.0]


def test_out_of_memory_means_smaller_after_a_second_and_never_trips_the_breaker() -> None:
    history = History()
    for _ in range(7):
        assert died(history, ExitClass.OUT_OF_MEMORY, at=3.0, smaller=True) == Retry(4.0)
    assert history == History()


def test_without_a_smaller_way_a_start_is_given_up_and_a_life_was_a_crash() -> None:
    history = History()
    choice = died(history, ExitClass.OUT_OF_MEMORY, at=3.0, served=None)
    assert choice == GiveUp(303.0)
    assert pause(died(history, ExitClass.OUT_OF_MEMORY, at=3.0), 3.0) < 1.3
    assert history.crashes == [3.0]


def test_clearing_forgets_all() -> None:
    history = History([1.0], consecutive=3, ports=2)
    history.clear()
    assert history == History()


# ---------------------------------------------------------------- at the desk


def test_after_a_crash_it_is_tried_again_on_demand_only() -> None:
    desk = Desk(model("a"))
    desk.serve("a")
    assert desk.exit("a", ExitClass.CRASH, "segfault") == []
    assert desk.state("a") is State.BACKOFF
    assert desk.core.ledger.committed == {}, "who waits to be tried again holds no memory"
    assert desk.due == pytest.approx(jitter("a", 1, 0.2))
    assert desk.at(100.0) == []
    assert desk.state("a") is State.STOPPED
    assert desk.arrive("a") == ["start a full"]


def test_who_asks_during_the_backoff_waits_for_its_end() -> None:
    desk = Desk(model("a"))
    desk.serve("a")
    desk.exit("a", ExitClass.CRASH)
    assert desk.arrive("a") == []
    assert desk.at(0.79) == []
    assert desk.at(1.21) == ["start a full"]


def test_a_crash_loop_does_not_hold_up_the_others() -> None:
    desk = Desk(model("a"), model("b"))
    desk.arrive("a")
    desk.arrive("b")
    assert desk.core.claim == "b"
    assert desk.exit("a", ExitClass.CRASH) == ["start b full"]


@pytest.mark.parametrize("how", ["pinned", "loaded", "adopted"])
def test_what_the_user_wanted_comes_back_by_itself(how: str) -> None:
    desk = Desk(model("a", pinned=how == "pinned"))
    if how == "loaded":
        desk.arrive("a", load=True)
    if how == "adopted":
        desk.adopt("a")
    desk.ready("a")
    for _ in range(2):
        desk.exit("a", ExitClass.CRASH)
        assert desk.at(desk.now + 3.0) == ["start a full"]
        desk.ready("a")


def test_what_was_loaded_by_hand_is_ordinary_again_once_it_was_unloaded_for_being_idle() -> None:
    desk = Desk(model("a", keep_alive=60.0))
    desk.arrive("a", load=True)
    desk.ready("a")
    assert desk.at(60.0) == ["stop a idle"]
    desk.exit("a")
    desk.serve("a")
    desk.exit("a", ExitClass.CRASH)
    assert desk.at(100.0) == []


def test_the_breaker_refuses_all_then_lets_one_try() -> None:
    desk = Desk(model("a"))
    desk.arrive("a")
    for _ in range(4):
        desk.exit("a", ExitClass.CRASH, "segfault")
        assert desk.at(desk.now + 20.0) == ["start a full"]
    assert desk.exit("a", ExitClass.CRASH, "segfault") == ["reject 1 model_unavailable"]
    assert desk.state("a") is State.FAILED
    failed_at = desk.now
    assert desk.arrive("a") == ["reject 2 model_unavailable"]
    assert desk.problem.facts["half_open_in"] == 300.0
    assert "segfault" in desk.problem.message
    assert desk.at(failed_at + 299.9) == []
    assert desk.arrive("a") == ["reject 3 model_unavailable"]
    desk.at(failed_at + 300.0)
    assert desk.arrive("a") == ["start a full"]
    assert desk.exit("a", ExitClass.CRASH) == ["reject 4 model_unavailable"]
    assert desk.state("a") is State.FAILED
    desk.at(desk.now + 300.0)
    desk.serve("a", 1.0)
    assert desk.state("a") is State.READY


@pytest.mark.parametrize("remedy", ["load", "reset", "catalog"])
def test_a_permanent_failure_lasts_until_somebody_does_something(remedy: str) -> None:
    desk = Desk(model("a"))
    desk.arrive("a")
    assert desk.exit("a", ExitClass.PERMANENT, "bad magic") == ["reject 1 model_unavailable"]
    assert "half_open_in" not in desk.problem.facts
    desk.at(100_000.0)
    assert desk.arrive("a") == ["reject 2 model_unavailable"]
    match remedy:
        case "load":
            assert desk.arrive("a", load=True) == ["start a full"]
            return
        case "reset":
            desk.ask(Ask.RESET, "a")
        case _:
            desk.catalog(model("a"), touched="a")
    assert desk.state("a") is State.STOPPED
    assert desk.arrive("a") == ["start a full"]


def test_an_untouched_failure_stays_and_reset_ends_a_backoff_too() -> None:
    desk = Desk(model("a"), model("b"))
    desk.arrive("a")
    desk.exit("a", ExitClass.PERMANENT)
    desk.catalog(model("a"), model("b"))
    assert desk.state("a") is State.FAILED
    desk.serve("b")
    desk.exit("b", ExitClass.CRASH)
    desk.ask(Ask.RESET)
    assert (desk.state("a"), desk.state("b")) == (State.STOPPED, State.STOPPED)
    assert desk.page("b").history == History()


def test_a_pinned_model_is_started_by_a_reset() -> None:
    """Nobody waits for it, but it should run."""
    desk = Desk(model("a", pinned=True))
    desk.ready("a")
    desk.exit("a", ExitClass.PERMANENT)
    assert desk.state("a") is State.FAILED
    assert desk.ask(Ask.RESET, "a") == ["start a full"]


def test_another_port_is_tried_at_once() -> None:
    desk = Desk(model("a"))
    desk.arrive("a")
    for _ in range(3):
        assert desk.exit("a", ExitClass.PORT) == ["start a full"]
    assert desk.exit("a", ExitClass.PORT) == []
    assert desk.state("a") is State.BACKOFF


def test_a_failed_start_is_killed_and_only_the_exit_frees_its_memory() -> None:
    desk = Desk(model("a"), model("b"))
    desk.arrive("a")
    desk.arrive("b")
    assert desk.start_failed("a", ExitClass.HANG) == ["kill a hang"]
    assert desk.start_failed("a", ExitClass.HANG) == [], "once"
    assert desk.core.ledger.committed == {"ram": 6}
    assert desk.at(200.0) == []
    assert desk.exit("a", ExitClass.CLEAN) == ["start b full"]
    assert desk.state("a") is State.BACKOFF, "it was killed because it failed"
    problem = desk.page("a").problem
    assert problem is not None
    assert problem.facts == {"exit_class": "hang", "detail": "stalled"}


def test_a_permanently_failed_start_is_not_tried_again() -> None:
    desk = Desk(model("a"))
    desk.arrive("a")
    desk.start_failed("a", ExitClass.PERMANENT)
    assert desk.exit("a", ExitClass.CLEAN) == ["reject 1 model_unavailable"]


def test_an_unhealthy_backend_is_killed_and_its_requests_are_ended() -> None:
    desk = Desk(model("a"))
    desk.serve("a")
    desk.arrive("a")
    assert desk.unhealthy("a") == ["cancel 1 upstream_error", "kill a hang"]
    assert desk.problem.message == "The backend of a failed: no answer."
    desk.end(1)
    desk.exit("a", ExitClass.CLEAN)
    assert desk.at(2.0) == ["start a full"]
    assert desk.ready("a") == ["grant 2 a/0"]


def test_an_unhealthy_one_that_was_told_to_stop_is_not_news() -> None:
    desk = Desk(model("a"))
    desk.idle("a")
    desk.ask(Ask.UNLOAD, "a")
    assert desk.unhealthy("a") == []
    desk.exit("a", ExitClass.CRASH)
    assert desk.state("a") is State.STOPPED, "however it ends, we had asked for it"


def test_real_loads_and_stops_replace_the_estimates() -> None:
    desk = Desk(model("a", load=2.0, stop=0.5))
    desk.idle("a", 30.0)
    desk.ask(Ask.UNLOAD, "a")
    desk.at(31.5)
    desk.exit("a")
    assert (desk.page("a").load_seconds, desk.page("a").stop_seconds) == (30.0, 1.5)


def test_metal_is_tried_once_more_and_given_up_for_good() -> None:
    """The shell changes what can be changed between the two; see ``stock.REMEDY``."""
    history = History()
    assert died(history, ExitClass.METAL_INIT, at=5.0) == Retry(5.0)
    assert died(history, ExitClass.METAL_INIT, at=6.0) == GiveUp(None)
    healthy = POLICY.healthy_after
    assert died(history, ExitClass.METAL_INIT, at=7.0, served=healthy) == Retry(7.0)
    history.clear()
    assert died(history, ExitClass.METAL_INIT, at=8.0) == Retry(8.0)
    assert history.crashes == [], "no crash of the engine's own"


def test_metal_that_starts_after_all_serves_who_waited() -> None:
    desk = Desk(model("a", 8))
    desk.arrive("a")
    assert desk.exit("a", ExitClass.METAL_INIT) == ["start a full"]
    assert desk.ready("a") == ["grant 1 a/0"]


def test_metal_that_never_starts_is_told() -> None:
    desk = Desk(model("a", 8))
    desk.arrive("a")
    desk.exit("a", ExitClass.METAL_INIT)
    assert desk.exit("a", ExitClass.METAL_INIT) == ["reject 1 model_unavailable"]
    assert desk.state("a") is State.FAILED
    desk.ask(Ask.RESET, "a")
    assert desk.arrive("a") == ["start a full"]
