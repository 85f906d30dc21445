from __future__ import annotations

import pytest

from daemon.core.lifecycle import IllegalTransition, State
from daemon.core.messages import Ask, ModelSpec, Ticket, Variant
from daemon.core.page import Page
from daemon.core.policy import Policy
from tests.core.desk import Desk, model

POLICY = Policy()


def page(
    name: str = "m",
    *,
    state: State = State.READY,
    load: float = 2.0,
    stop: float = 0.5,
    keep_alive: float = 900.0,
    pinned: bool = False,
    priority: float = 0.0,
) -> Page:
    variants = (
        Variant("full", {"ram": 8}),
        Variant("half", {"ram": 4}),
        Variant("rung1", {"ram": 3}, rung=1),
        Variant("rung2", {"ram": 2}, rung=2),
    )
    spec = ModelSpec(name, variants, 1, keep_alive, pinned, priority, load, stop)
    return Page(spec, state=state)


def waiting(one: Page, arrived: float, *, load: bool = False) -> Page:
    number = len(one.queue) + len(one.loads) + 1
    ticket = Ticket(number, one.name, "c", "key", arrived, arrived + 300, load=load)
    if load:
        one.loads[number] = ticket
    else:
        one.queue.push(ticket, arrived)
    return one


def test_a_new_page_takes_its_estimates_from_the_catalog() -> None:
    one = page(load=7.0, stop=0.25, pinned=True)
    assert (one.load_seconds, one.stop_seconds, one.pinned) == (7.0, 0.25, True)
    assert one.price() == {}
    one.variant = one.spec.variants[1]
    assert one.price() == {"ram": 4}


def test_an_illegal_move_is_loud() -> None:
    one = page(state=State.STOPPED)
    with pytest.raises(IllegalTransition):
        one.move(State.DRAINING)
    assert one.state is State.STOPPED


def test_a_model_is_wanted_by_requests_loads_or_itself() -> None:
    one = page()
    assert not one.waits()
    assert waiting(page(), 1.0).waits()
    assert waiting(page(), 1.0, load=True).waits()
    one.wanted_since = 0.0
    assert one.waits()


def test_the_oldest_wish_counts_whatever_its_kind() -> None:
    one = waiting(waiting(page(), 5.0), 4.0, load=True)
    assert one.oldest() == 4.0
    one.wanted_since = 3.0
    assert one.oldest() == 3.0
    assert waiting(page(), 5.0).oldest() == 5.0


def test_a_step_of_priority_is_worth_half_a_minute_of_age_and_no_more() -> None:
    urgent, patient = waiting(page("z", priority=1.0), 40.0), waiting(page("a"), 10.0)
    assert urgent.age_key(POLICY) == (10.0, "z")
    assert sorted([urgent, patient], key=lambda p: p.age_key(POLICY)) == [patient, urgent]
    earlier = waiting(page("z", priority=1.0), 39.9)
    assert earlier.age_key(POLICY) < patient.age_key(POLICY)


def test_ladder_steps_are_allowed_only_after_that_many_memory_failures() -> None:
    one = page()
    assert [v.id for v in one.allowed()] == ["full", "half"]
    one.smallest, one.rung = 1, 1
    assert [v.id for v in one.allowed()] == ["half", "rung1"]
    one.smallest, one.rung = 3, 2
    assert [v.id for v in one.allowed()] == ["rung2"]


def test_time_in_starting_adds_up() -> None:
    one = page(state=State.STARTING)
    one.starting_total, one.started_at = 5.0, 100.0
    assert one.starting_seconds(103.0) == 8.0
    one.state = State.READY
    assert one.starting_seconds(103.0) == 5.0


def test_keep_alive_counts_from_the_later_of_ready_and_last_release() -> None:
    one = page(keep_alive=60.0)
    one.ready_at = 50.0
    assert one.expires_at() == 110.0
    one.last_used = 70.0
    assert one.expires_at() == 130.0


@pytest.mark.parametrize("busy", ["leases", "queue", "loads", "pinned", "never", "draining"])
def test_keep_alive_does_not_run(busy: str) -> None:
    one = page(keep_alive=-1.0 if busy == "never" else 0.0)
    match busy:
        case "leases":
            one.leases[1] = 0
        case "queue":
            waiting(one, 0.0)
        case "loads":
            waiting(one, 0.0, load=True)
        case "pinned":
            one.pinned = True
        case "draining":
            one.state = State.DRAINING
        case _:
            assert busy == "never"
    assert one.expires_at() is None


def test_a_keep_alive_of_zero_is_at_once() -> None:
    one = page(keep_alive=0.0)
    one.ready_at = 50.0
    assert one.expires_at() == 50.0


@pytest.mark.parametrize(
    ("gap", "load", "expected"),
    [
        (0.0, 100.0, 0.5),  # at least half a second
        (0.2, 100.0, 0.5),
        (1.5, 100.0, 3.0),  # twice the usual gap
        (9.0, 100.0, 8.0),  # at most eight seconds
        (9.0, 4.0, 2.0),  # at most half a reload
        (0.0, 0.4, 0.2),  # the upper bound wins
    ],
)
def test_linger(gap: float, load: float, expected: float) -> None:
    one = page(load=load)
    one.gap = gap
    assert one.linger(POLICY) == pytest.approx(expected)
    assert expected == pytest.approx(min(max(2 * gap, 0.5), 8, load / 2))


@pytest.mark.parametrize(
    ("target", "victim", "stop", "expected"),
    [(0.1, 0.1, 0.1, 2.0), (3.0, 4.0, 1.0, 16.0), (30.0, 30.0, 1.0, 60.0)],
)
def test_quantum_is_twice_the_price_of_the_swap_within_bounds(
    target: float, victim: float, stop: float, expected: float
) -> None:
    assert page(load=victim, stop=stop).quantum(page(load=target), POLICY) == expected


def test_a_busy_one_is_taken_after_a_quantum_of_both() -> None:
    one, target = page(load=2.0, stop=0.5), waiting(page(load=2.0), 100.0)
    one.leases[1] = 0
    one.ready_at = 50.0
    assert one.takeable_at(target, POLICY) == 109.0  # the head has waited a quantum
    one.ready_at = 120.0
    assert one.takeable_at(target, POLICY) == 129.0  # the victim has served a quantum
    del one.leases[1]
    assert waiting(one, 0.0).takeable_at(target, POLICY) == 129.0


def test_an_idle_one_is_taken_after_its_linger_or_its_turn() -> None:
    one, target = page(load=100.0), waiting(page(load=2.0), 0.0)
    one.gap, one.last_used = 1.0, 100.0
    assert one.takeable_at(target, POLICY) == 60.0, "its turn was over long ago"
    one.ready_at = 99.0
    assert one.takeable_at(target, POLICY) == 102.0


def test_one_that_drains_can_be_had_at_once() -> None:
    assert page(state=State.DRAINING).takeable_at(waiting(page(), 0.0), POLICY) == 0.0


def test_who_was_started_for_somebody_serves_them_first() -> None:
    one, target = waiting(page(), 0.0), waiting(page(), 0.0)
    one.started_for = {1, 99}
    assert one.unserved()
    assert one.takeable_at(target, POLICY) is None
    one.by_hand = True
    assert not one.unserved(), "loaded by hand: not protected"
    one.by_hand, one.started_for = False, {99}
    assert not one.unserved(), "those that it was started for have all left"
    loaded = waiting(page(), 0.0, load=True)
    loaded.started_for = {1}
    assert loaded.unserved()


# ---------------------------------------------------------------- keep-alive


def test_keep_alive_is_exact_and_counts_from_the_last_release() -> None:
    desk = Desk(model("a", keep_alive=60.0))
    lease = desk.serve("a", 20.0)
    assert desk.due is None, "busy: the clock does not run"
    desk.at(25.0)
    desk.end(lease)
    assert desk.due == 85.0
    assert desk.at(84.999) == []
    assert desk.at(85.0) == ["stop a idle"]
    assert desk.exit("a") == []
    assert (desk.state("a"), desk.due) == (State.STOPPED, None)


def test_keep_alive_counts_from_ready_not_from_arrival() -> None:
    desk = Desk(model("a", keep_alive=60.0))
    desk.arrive("a", load=True)
    desk.at(100.0)
    assert desk.ready("a") == ["loaded 1 a"]
    assert desk.due == 160.0


def test_a_request_in_the_last_moment_wins() -> None:
    desk = Desk(model("a", keep_alive=60.0))
    desk.idle("a")
    desk.now = 60.0
    assert desk.arrive("a") == ["grant 2 a/0"]


def test_zero_is_at_once_and_negative_is_never() -> None:
    desk = Desk(model("a", keep_alive=0.0), model("b", 4))
    desk.idle("b")
    lease = desk.serve("a", 5.0)
    desk.arrive("a")
    assert desk.end(lease) == ["grant 3 a/0"]
    assert desk.end(3) == ["stop a idle"]
    desk.exit("a")
    assert desk.due is None
    assert desk.state("b") is State.READY


def test_a_load_is_answered_even_if_nothing_is_kept_alive() -> None:
    desk = Desk(model("a", keep_alive=0.0))
    desk.arrive("a", load=True)
    assert desk.ready("a") == ["loaded 1 a"]
    assert desk.at(0.0) == ["stop a idle"]
    assert desk.exit("a") == []


def test_a_pinned_model_is_not_unloaded_for_being_idle() -> None:
    desk = Desk(model("a", keep_alive=5.0, pinned=True))
    desk.ready("a")
    assert desk.due is None
    desk.ask(Ask.UNPIN, "a")
    assert desk.due == 5.0
