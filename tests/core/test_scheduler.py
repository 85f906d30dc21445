"""Who is loaded, who waits, who goes: one walk per rule. Models take 6 of 10 bytes unless said."""

from __future__ import annotations

import pytest

from daemon.core.lifecycle import State
from daemon.core.messages import Ask, ExitClass, Variant
from tests.core.desk import Desk, model

HALF = Variant("half", {"ram": 4})

# ---------------------------------------------------------------- dispatch


def test_what_fits_starts_at_once_and_serves_in_order() -> None:
    desk = Desk(model("a"))
    assert desk.arrive("a") == ["start a full"]
    assert desk.arrive("a") == []
    assert desk.ready("a") == ["grant 1 a/0"]
    assert desk.end(1) == ["grant 2 a/0"]
    assert desk.end(2) == []
    assert desk.arrive("a") == ["grant 3 a/0"]


def test_a_lease_names_the_lowest_free_slot() -> None:
    desk = Desk(model("a", slots=3))
    for _ in range(5):
        desk.arrive("a")
    assert desk.ready("a") == ["grant 1 a/0", "grant 2 a/1", "grant 3 a/2"]
    assert desk.end(2) == ["grant 4 a/1"]
    assert desk.end(1) == ["grant 5 a/0"]


def test_two_small_models_live_side_by_side() -> None:
    desk = Desk(model("a", 5), model("b", 5))
    assert desk.arrive("a") == ["start a full"]
    assert desk.arrive("b") == ["start b full"]


def test_a_load_joins_the_start_in_progress_and_takes_no_lease() -> None:
    desk = Desk(model("a"))
    desk.arrive("a")
    assert desk.arrive("a", load=True) == []
    assert desk.ready("a") == ["loaded 2 a", "grant 1 a/0"]
    assert desk.page("a").leases == {1: 0}
    assert desk.arrive("a", load=True) == ["loaded 3 a"]


def test_a_start_is_finished_even_if_nobody_waits_for_it_any_more() -> None:
    desk = Desk(model("a"))
    desk.arrive("a")
    assert desk.cancel(1) == []
    assert desk.at(100.0) == []
    assert desk.ready("a") == []
    assert desk.state("a") is State.READY


# ---------------------------------------------------------------- never fits


def test_what_can_never_fit_is_refused_at_once_with_the_numbers() -> None:
    desk = Desk(model("a", 12))
    assert desk.arrive("a") == ["reject 1 model_too_large"]
    assert desk.problem.facts == {
        "needed": {"ram": 12},
        "budget": {"ram": 10},
        "variant": "full",
    }
    assert desk.arrive("a", load=True) == ["reject 2 model_too_large"]


def test_it_is_refused_at_once_behind_a_claim_too() -> None:
    desk = Desk(model("a"), model("b"), model("huge", 12), model("late", 9))
    desk.serve("a", 2.0)
    desk.arrive("b")
    assert desk.arrive("huge") == ["reject 3 model_too_large"]
    assert desk.arrive("late") == []
    assert desk.budget(ram=8) == ["reject 4 model_too_large"]
    assert desk.core.claim == "b"


def test_when_pins_are_in_the_way_they_are_named_at_once() -> None:
    desk = Desk(model("a", 6, pinned=True), model("b"))
    desk.ready("a")
    assert desk.arrive("b") == ["reject 1 all_pinned"]
    assert desk.problem.facts["pinned"] == ["a"]
    assert desk.problem.message == (
        "b needs 6 B at the least (full), but pinned models hold 6 B of 10 B."
    )


def test_a_pin_that_is_on_its_way_out_is_waited_for() -> None:
    desk = Desk(model("a", 6, pinned=True), model("b"))
    desk.ready("a")
    desk.arrive("a")
    desk.ask(Ask.UNLOAD, "a")
    assert desk.arrive("b") == []
    assert desk.end(1) == ["stop a unload"]
    assert desk.exit("a") == ["start b full"]


def test_a_pinned_model_that_does_not_fit_does_not_stand_in_the_way() -> None:
    desk = Desk(model("big", 12, pinned=True), model("a"))
    assert desk.state("big") is State.STOPPED
    assert desk.arrive("a") == ["start a full"]


# ---------------------------------------------------------------- claims and victims


def test_an_idle_victim_lingers_half_a_second() -> None:
    desk = Desk(model("a"), model("b"))
    desk.idle("a", 2.0)
    assert desk.arrive("b") == []
    assert desk.core.claim == "b"
    assert desk.due == 2.5
    assert desk.at(2.49) == []
    assert desk.at(2.5) == ["stop a evict"]
    assert desk.exit("a") == ["start b full"]
    assert desk.ready("b") == ["grant 2 b/0"]


def test_an_idle_victim_lingers_for_twice_its_usual_gap() -> None:
    """An agent that comes back after a second or two finds its model still there."""
    desk = Desk(model("a"), model("b"))
    desk.idle("a", 20.0)
    for _ in range(2):
        desk.at(desk.now + 2.0)
        desk.arrive("a")
        desk.end(desk.ticket)
    gap = 0.5 * (0.5 * 0.0 + 0.5 * 2.0) + 0.5 * 2.0
    desk.arrive("b")
    assert desk.due == pytest.approx(desk.now + 2 * gap)
    desk.at(desk.now + 2.0)
    assert desk.arrive("a") == [f"grant {desk.ticket} a/0"]


def test_a_gap_is_learned_even_if_the_model_went_meanwhile() -> None:
    """Else two agents would swap at each request, for ever: each finds its model gone."""
    desk = Desk(model("a", load=20.0), model("b", load=20.0))
    desk.idle("a", 20.0)
    desk.arrive("b")
    assert desk.at(20.5) == ["stop a evict"]
    desk.at(21.5)
    desk.arrive("a")
    assert desk.page("a").gap == 0.75
    assert desk.page("a").linger(desk.core.policy) == 1.5


def test_a_long_absence_is_no_return() -> None:
    desk = Desk(model("a"))
    desk.idle("a")
    desk.at(8.0)
    desk.arrive("a")
    desk.end(2)
    assert desk.page("a").gap == 4.0
    desk.at(17.0)
    desk.arrive("a")
    assert desk.page("a").gap == 4.0


def test_a_busy_victim_is_taken_when_both_had_their_quantum() -> None:
    desk = Desk(model("a", load=2.0), model("b", load=2.0), model("c", 1))
    lease = desk.serve("a", 2.0)
    desk.at(20.0)
    assert desk.arrive("b") == []
    assert desk.due == 29.0  # 2 × (load of b + load of a + stop) after b arrived
    assert desk.at(28.9) == []
    desk.arrive("a")
    assert desk.end(lease) == ["grant 3 a/0"], "until then it goes on serving"
    assert desk.at(29.0) == []
    assert desk.state("a") is State.DRAINING
    assert desk.arrive("a") == [], "a drain takes no new lease"
    assert desk.end(3) == ["stop a evict"]
    assert desk.exit("a") == ["start b full"]


def test_a_freshly_started_one_serves_whom_it_was_started_for() -> None:
    """The next in line has waited long, and still has to let them have a turn."""
    desk = Desk(model("a", load=20.0), model("b", load=20.0))
    desk.arrive("a")
    desk.arrive("b")
    desk.at(100.0)
    assert desk.ready("a") == ["grant 1 a/0"]
    assert desk.end(1) == []
    assert desk.due == 100.5
    desk.at(100.5)
    desk.exit("a")
    desk.arrive("a")
    desk.at(120.5)
    assert desk.ready("b") == ["grant 2 b/0"]
    assert desk.due == 180.5, "a quantum, at most a minute"


def test_the_oldest_claims_first_and_priority_is_only_age() -> None:
    desk = Desk(model("a"), model("b"), model("c", priority=1.0))
    desk.serve("a", 2.0)
    desk.arrive("b")
    desk.at(10.0)
    desk.arrive("c")
    assert desk.core.claim == "c", "thirty seconds are worth more than ten"
    desk.cancel(3)
    assert desk.core.claim == "b"
    desk.at(60.0)
    desk.arrive("c")
    assert desk.core.claim == "b"


def test_at_most_one_claim_at_a_time() -> None:
    desk = Desk(model("a", 5), model("b", 5), model("c", 5), model("d", 5))
    desk.idle("a", 2.0)
    desk.idle("b", 2.0)
    assert desk.arrive("c") == ["stop a evict"]
    assert desk.arrive("d") == []
    assert desk.at(10.0) == [], "b has lingered long enough, but c has the claim"
    assert desk.core.claim == "c"
    assert desk.exit("a") == ["start c full", "stop b evict"]
    assert desk.exit("b") == ["start d full"]


def test_a_claim_whose_last_waiter_leaves_is_dropped_and_its_victim_serves_on() -> None:
    desk = Desk(model("a", slots=2), model("b"))
    desk.serve("a", 2.0)
    desk.arrive("b")
    desk.at(11.0)
    assert desk.arrive("a") == []
    assert desk.state("a") is State.DRAINING
    assert desk.cancel(2) == ["grant 3 a/1"]
    assert desk.state("a") is State.READY
    assert desk.core.claim is None


def test_several_victims_leave_together_or_not_at_all() -> None:
    desk = Desk(model("a", 5), model("b", 5), model("c", 9))
    desk.idle("a", 2.0)
    lease = desk.serve("b", 2.0)
    desk.arrive("c")
    assert desk.at(12.9) == [], "the idle one waits for the busy one's quantum"
    assert desk.at(13.0) == ["stop a evict"]
    assert desk.state("b") is State.DRAINING
    assert desk.exit("a") == []
    assert desk.end(lease) == ["stop b evict"]
    assert desk.exit("b") == ["start c full"]


def test_idle_before_busy_then_the_least_recently_used() -> None:
    desk = Desk(model("busy", 3), model("cold", 3), model("warm", 3), model("new", 4))
    for name in ("busy", "cold", "warm"):
        desk.serve(name, 1.0)
    desk.end(2)
    desk.at(5.0)
    desk.end(3)
    desk.at(100.0)
    assert desk.arrive("new") == ["stop cold evict"]


def test_one_that_alone_frees_enough_is_preferred_over_several_colder_ones() -> None:
    desk = Desk(model("a", 2), model("b", 2), model("big", 6), model("new", 4))
    for name in ("a", "b", "big"):
        desk.idle(name, 1.0)
    desk.at(100.0)
    assert desk.arrive("new") == ["stop big evict"]


def test_a_starting_model_is_nobodys_victim() -> None:
    desk = Desk(model("a"), model("b"))
    desk.arrive("a")
    assert desk.arrive("b") == []
    assert desk.at(200.0) == []
    assert desk.core.claim == "b"


def test_a_pinned_model_stays_even_if_it_is_the_coldest() -> None:
    desk = Desk(model("pin", 3, pinned=True), model("warm", 3), model("new", 5))
    desk.ready("pin")
    desk.at(50.0)
    desk.idle("warm", 2.0)
    desk.at(100.0)
    assert desk.arrive("new") == ["stop warm evict"]


def test_a_pinned_model_is_nobodys_victim_and_a_pin_calls_off_its_drain() -> None:
    desk = Desk(model("a"), model("b"))
    desk.serve("a", 2.0)
    desk.arrive("b")
    desk.at(11.0)
    assert desk.state("a") is State.DRAINING
    assert desk.ask(Ask.PIN, "a") == ["reject 2 all_pinned"]
    assert desk.state("a") is State.READY
    desk.end(1)
    desk.ask(Ask.UNPIN, "a")
    desk.at(50.0)
    assert desk.arrive("b") == ["stop a evict"]


# ---------------------------------------------------------------- backfill


def test_a_younger_model_fills_the_gap_that_the_claim_leaves() -> None:
    desk = Desk(model("a", 6), model("b", 6), model("c", 4))
    desk.serve("a", 2.0)
    desk.arrive("b")
    assert desk.arrive("c") == ["start c full"]


def test_a_younger_model_may_not_take_what_the_claim_will_need() -> None:
    desk = Desk(model("a", 6), model("b", 7), model("c", 4))
    desk.serve("a", 2.0)
    desk.arrive("b")
    assert desk.arrive("c") == [], "it would fit now"
    assert desk.cancel(2) == ["start c full"]


def test_what_leaves_anyway_counts_for_the_claim_beside_a_backfill() -> None:
    desk = Desk(model("a", 6), model("b", 6), model("c", 4))
    desk.serve("a", 2.0)
    desk.ask(Ask.UNLOAD, "a")
    assert desk.arrive("b") == []
    assert desk.arrive("c") == ["start c full"]


# ---------------------------------------------------------------- variants


def test_a_model_shrinks_beside_what_was_used_within_ten_minutes() -> None:
    desk = Desk(model("a"), model("b", 8, HALF))
    desk.idle("a", 2.0)
    desk.at(602.0)
    assert desk.arrive("b") == ["start b half"]


def test_a_model_takes_its_full_size_from_what_was_not() -> None:
    desk = Desk(model("a"), model("b", 8, HALF))
    desk.idle("a", 2.0)
    desk.at(602.1)
    assert desk.arrive("b") == ["stop a evict"]
    assert desk.exit("a") == ["start b full"]


def test_busy_pinned_and_starting_neighbours_count_as_used() -> None:
    desk = Desk(model("a"), model("b", 8, HALF))
    desk.serve("a", 2.0)
    desk.at(5000.0)
    assert desk.arrive("b") == ["start b half"]
    desk = Desk(model("a", pinned=True), model("b", 8, HALF))
    desk.at(5000.0)
    assert desk.arrive("b") == ["start b half"], "a is starting"
    desk.ready("a")
    desk.exit("b", ExitClass.PORT)
    desk.at(9000.0)
    assert desk.arrive("b") == []


def test_nothing_shrinks_beside_one_that_is_stopping() -> None:
    desk = Desk(model("a"), model("b", 8, HALF))
    desk.idle("a", 2.0)
    desk.ask(Ask.UNLOAD, "a")
    assert desk.arrive("b") == []
    assert desk.exit("a") == ["start b full"]


# ---------------------------------------------------------------- settling


def test_gpu_memory_must_be_seen_back_before_the_next_start() -> None:
    desk = Desk(model("a", {"gpu0": 6}), model("b", {"gpu0": 6}), budget={"gpu0": 10})
    desk.idle("a", 2.0)
    desk.arrive("b")
    desk.at(2.5)
    desk.free(gpu0=4)
    assert desk.exit("a") == []
    assert desk.due == 7.5
    assert desk.free(gpu0=8) == [], "two thirds"
    assert desk.free(gpu0=9) == ["start b full"]


def test_gpu_memory_that_does_not_come_back_is_waited_for_five_seconds() -> None:
    desk = Desk(model("a", {"gpu0": 6}), model("b", {"gpu0": 6}), budget={"gpu0": 10})
    desk.idle("a", 2.0)
    desk.arrive("b")
    desk.at(2.5)
    desk.free(gpu0=4)
    desk.exit("a")
    assert desk.at(7.4) == []
    assert desk.at(7.5) == ["start b full"]
