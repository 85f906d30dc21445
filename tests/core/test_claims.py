"""Memory policies, drains that last too long, small calls, and who has the oldest claim."""

from __future__ import annotations

from daemon.core.lifecycle import State
from daemon.core.messages import Ask, ExitClass, Variant
from daemon.core.policy import Policy
from daemon.core.problems import Code
from tests.core.desk import Desk, model

# ---------------------------------------------------------------- priority


def test_the_priority_of_a_key_moves_its_models_claim() -> None:
    desk = Desk(model("a"), model("b"), model("c"))
    desk.serve("a", 2.0)
    desk.arrive("b")
    desk.at(10.0)
    desk.arrive("c", priority=1.0)
    assert desk.core.claim == "c"
    desk.cancel(3)
    assert desk.core.claim == "b"


def test_no_priority_starves_another() -> None:
    """However high, it is worth less than a minute of age."""
    desk = Desk(model("a"), model("b"), model("c"))
    desk.serve("a", 2.0)
    desk.arrive("b")
    desk.at(61.9)
    desk.arrive("c", priority=100.0)
    assert desk.core.claim == "b"


def test_a_priority_is_worth_age_and_each_step_less() -> None:
    worth = [Policy().bonus(p) for p in (-100.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 100.0)]
    assert worth == [-59.7, -45.0, -30.0, 0.0, 30.0, 45.0, 52.5, 59.7]


# ---------------------------------------------------------------- wait_then_fail

FAILS = Policy(memory_policy="wait_then_fail", memory_wait=20.0)


def test_a_claim_gives_up_on_busy_victims_with_an_honest_error() -> None:
    desk = Desk(model("a"), model("b"), policy=FAILS)
    desk.serve("a", 2.0)
    desk.arrive("b")
    desk.at(5.0)
    desk.arrive("b")
    assert desk.at(21.9) == []
    assert desk.at(22.0) == ["reject 2 queue_timeout"]
    assert desk.problem.message == "b has no room: a kept the memory busy for 20 s."
    assert desk.problem.retry_after == 1.0, "a drains already"
    assert desk.problem.facts["busy"] == ["a"]
    assert desk.core.claim == "b", "a younger one goes on waiting"
    assert desk.at(25.0) == ["reject 3 queue_timeout"]
    assert desk.state("a") is State.READY, "its drain is called off"
    assert desk.due is None


def test_those_behind_are_judged_by_their_own_wait() -> None:
    desk = Desk(model("a"), model("b"), model("c"), policy=FAILS)
    desk.serve("a", 2.0)
    desk.arrive("b", load=True)
    desk.at(10.0)
    desk.arrive("c")
    assert desk.at(22.0) == ["reject 2 queue_timeout"]
    assert desk.core.claim == "c"
    assert desk.at(30.0) == ["reject 3 queue_timeout"]


def test_nobody_gives_up_on_what_is_leaving_already() -> None:
    desk = Desk(model("a"), model("b"), policy=FAILS)
    desk.idle("a", 2.0)
    desk.arrive("b")
    assert desk.at(100.0) == ["stop a evict"]


# ---------------------------------------------------------------- preempt

CUTS = Policy(memory_policy="preempt", memory_wait=20.0)


def test_a_busy_victim_is_cut_short_once_the_claim_has_waited_long_enough() -> None:
    desk = Desk(model("a", slots=2), model("b"), policy=CUTS)
    desk.serve("a", 2.0)
    desk.arrive("b")
    assert desk.at(21.9) == []
    assert desk.at(22.0) == ["cancel 1 preempted"]
    assert desk.problem.message == "a had to make room for b."
    assert desk.published("cut") == [
        {"model": "a", "generation": 1, "requests": 1, "reason": desk.problem.message}
    ]
    assert desk.at(30.0) == [], "once"
    assert desk.arrive("b") == []
    assert desk.cancel(3) == []
    assert desk.end(1) == ["stop a evict"]
    assert desk.exit("a") == ["start b full"]


def test_even_then_it_has_had_its_quantum() -> None:
    desk = Desk(model("a", load=20.0), model("b", load=20.0), policy=CUTS)
    desk.arrive("a")
    desk.arrive("b")
    desk.at(50.0)
    desk.ready("a")
    assert desk.at(109.9) == []
    assert desk.at(110.0) == ["cancel 1 preempted"]


def test_nobody_is_cut_short_unless_that_is_the_policy() -> None:
    desk = Desk(model("a"), model("b"))
    desk.serve("a", 2.0)
    desk.arrive("b", patience=1000.0)
    assert desk.at(900.0) == []
    assert desk.state("a") is State.DRAINING


# ---------------------------------------------------------------- max_drain


def test_a_drain_that_lasts_too_long_is_ended() -> None:
    desk = Desk(model("a"), policy=Policy(max_drain=30.0))
    desk.serve("a", 2.0)
    desk.at(10.0)
    desk.ask(Ask.UNLOAD, "a")
    assert desk.due == 40.0
    assert desk.at(39.9) == []
    assert desk.at(40.0) == ["cancel 1 preempted"]
    assert "more than 30 s" in desk.problem.message
    assert desk.due is None
    assert desk.end(1) == ["stop a unload"]


def test_a_drain_that_is_called_off_in_that_very_moment_is_not_cut() -> None:
    desk = Desk(model("a"), model("b"), model("c", 4), policy=Policy(max_drain=30.0))
    desk.idle("c")
    desk.serve("a", 2.0)
    desk.arrive("b")
    desk.at(11.0)
    assert desk.state("a") is State.DRAINING
    desk.now = 41.0
    assert desk.cancel(3) == []
    assert desk.state("a") is State.READY
    assert desk.at(500.0) == []


def test_a_drain_for_a_claim_is_ended_too() -> None:
    desk = Desk(model("a"), model("b"), policy=Policy(max_drain=30.0))
    desk.serve("a", 2.0)
    desk.arrive("b")
    assert desk.at(40.9) == []
    assert desk.at(41.0) == ["cancel 1 preempted"]


def test_an_endless_request_is_left_alone_while_nobody_wants_its_place() -> None:
    desk = Desk(model("a"), policy=Policy(max_drain=30.0))
    desk.serve("a", 2.0)
    assert desk.at(5000.0) == []


# ---------------------------------------------------------------- small calls


def test_a_small_call_makes_nobody_leave_that_was_used_lately() -> None:
    desk = Desk(model("a"), model("b"))
    desk.idle("a", 2.0)
    assert desk.arrive("b", small=True, patience=1000.0) == []
    assert desk.core.claim is None
    assert desk.at(602.0) == []
    assert desk.at(602.01) == ["stop a evict"], "nobody has used it for ten minutes"
    assert desk.exit("a") == ["start b full"]
    assert desk.ready("b") == ["grant 2 b/0"]


def test_a_small_call_never_takes_a_busy_one() -> None:
    desk = Desk(model("a"), model("b"))
    desk.serve("a", 2.0)
    desk.arrive("b", small=True, patience=9000.0)
    assert desk.at(5000.0) == []
    assert desk.state("a") is State.READY


def test_unless_told() -> None:
    desk = Desk(model("a"), model("b"), policy=Policy(small_evicts=True))
    desk.idle("a", 2.0)
    desk.arrive("b", small=True)
    assert desk.at(2.5) == ["stop a evict"]


def test_with_one_that_is_not_small_it_is_a_claim_like_any_other() -> None:
    desk = Desk(model("a"), model("b"))
    desk.idle("a", 2.0)
    desk.arrive("b", small=True)
    desk.arrive("b")
    assert desk.core.claim == "b"
    desk.cancel(3)
    assert desk.core.claim is None


def test_a_small_call_starts_what_fits_beside_the_others() -> None:
    desk = Desk(model("a"), model("b", 4))
    desk.serve("a", 2.0)
    assert desk.arrive("b", small=True) == ["start b full"]


def test_small_calls_claim_after_all_others() -> None:
    desk = Desk(model("a"), model("b"), model("c"))
    desk.idle("a", 2.0)
    desk.at(700.0)
    desk.now = 699.0
    desk.arrive("a")
    desk.arrive("b", small=True, patience=5000.0)
    desk.arrive("c")
    assert desk.core.claim == "c"


def test_a_small_call_takes_several_cold_ones_rather_than_one_that_was_used_lately() -> None:
    desk = Desk(model("x", 2), model("y", 2), model("warm", 5), model("b", 5))
    desk.idle("x")
    desk.idle("y")
    desk.at(700.0)
    desk.idle("warm")
    assert desk.arrive("b", small=True) == ["stop x evict", "stop y evict"]
    desk = Desk(model("x", 2), model("y", 2), model("warm", 5), model("b", 5))
    desk.idle("x")
    desk.idle("y")
    desk.at(700.0)
    desk.idle("warm")
    assert sorted(desk.arrive("b") + desk.at(702.0)) == ["stop warm evict"]


def test_a_small_call_takes_the_small_variant_beside_those_in_use() -> None:
    desk = Desk(model("a"), model("b", 8, Variant("half", {"ram": 4})))
    desk.serve("a", 2.0)
    assert desk.arrive("b", small=True) == ["start b half"]


# ---------------------------------------------------------------- stand-ins


def test_a_stand_in_serves_while_the_wanted_one_starts() -> None:
    desk = Desk(model("big"), model("tiny", 2, slots=2))
    desk.idle("tiny")
    assert desk.arrive("big", stand_in="tiny") == ["grant 2 tiny/0"]
    assert desk.state("big") is State.STOPPED, "nobody waits for it"
    assert desk.arrive("big") == ["start big full"]
    assert desk.arrive("big", stand_in="tiny") == ["grant 4 tiny/1"]
    assert desk.arrive("big", stand_in="tiny") == []
    assert desk.end(2) == ["grant 5 tiny/0"]
    assert desk.ready("big") == ["grant 3 big/0"]


def test_a_stand_in_serves_while_the_wanted_one_works() -> None:
    desk = Desk(model("big"), model("tiny", 2))
    desk.idle("tiny")
    desk.serve("big")
    assert desk.arrive("big", stand_in="tiny") == ["grant 3 tiny/0"]
    assert desk.arrive("big", stand_in="tiny") == []
    assert desk.end(3) == ["grant 4 tiny/0"]
    assert desk.end(4) == []


def test_a_free_slot_of_the_wanted_one_comes_first() -> None:
    desk = Desk(model("zed"), model("tiny", 2))
    desk.idle("tiny")
    desk.idle("zed")
    assert desk.arrive("zed", stand_in="tiny") == ["grant 3 zed/0"]
    assert len(desk.page("tiny").guests) == 0


def test_a_stand_in_serves_its_own_first_and_guests_in_order() -> None:
    desk = Desk(model("big"), model("tiny", 2))
    lease = desk.serve("tiny")
    desk.arrive("big", stand_in="tiny")
    desk.arrive("big", stand_in="tiny")
    desk.arrive("tiny")
    assert desk.end(lease) == ["grant 4 tiny/0"]
    assert desk.end(4) == ["grant 2 tiny/0"]
    assert desk.ready("big") == ["grant 3 big/0"]
    assert desk.end(2) == [], "each is served once"


def test_a_claim_that_a_stand_in_makes_void_gives_way_to_the_next() -> None:
    """It calls off the stand-in's drain, is served there, and the drain goes on for the other."""
    desk = Desk(
        model("tiny", 4, slots=2), model("x", 3), model("b", 9), model("urgent", priority=1.0)
    )
    desk.serve("tiny", 2.0)
    desk.serve("x", 2.0)
    desk.ask(Ask.UNLOAD, "x")
    desk.arrive("b")
    desk.at(20.0)
    assert desk.state("tiny") is State.DRAINING
    assert desk.arrive("urgent", stand_in="tiny") == ["grant 4 tiny/1"]
    assert desk.core.claim == "b"
    assert desk.state("tiny") is State.DRAINING


def test_a_stand_in_that_leaves_takes_no_guests() -> None:
    desk = Desk(model("big", 4), model("tiny", 2, slots=2))
    desk.serve("tiny")
    desk.ask(Ask.UNLOAD, "tiny")
    assert desk.arrive("big", stand_in="tiny") == ["start big full"]
    assert desk.end(1) == ["stop tiny unload"]
    assert desk.exit("tiny") == [], "nobody starts it for guests"


def test_a_stand_in_serves_for_one_that_is_given_up() -> None:
    desk = Desk(model("big", 8), model("tiny", 2), policy=Policy(breaker_crashes=1))
    desk.idle("tiny")
    desk.serve("big")
    desk.exit("big", ExitClass.CRASH)
    assert desk.state("big") is State.FAILED
    assert desk.arrive("big", stand_in="tiny") == ["grant 3 tiny/0"]
    assert desk.arrive("big", stand_in="tiny") == ["reject 4 model_unavailable"]
    assert desk.problem.code is Code.MODEL_UNAVAILABLE
    assert desk.state("big") is State.FAILED


def test_a_stand_in_that_comes_back_to_the_catalog_serves_those_who_wait() -> None:
    desk = Desk(model("big"), model("a"), model("tiny", 2))
    desk.serve("a", 2.0)
    desk.arrive("big", stand_in="tiny")
    desk.catalog(model("big"), model("a"))
    desk.catalog(model("big"), model("a"), model("tiny", 2))
    desk.arrive("tiny", load=True)
    assert desk.ready("tiny") == ["loaded 3 tiny", "grant 2 tiny/0"]


def test_who_left_is_no_guest_any_more() -> None:
    desk = Desk(model("big"), model("tiny", 2))
    lease = desk.serve("tiny")
    desk.arrive("big", stand_in="tiny")
    desk.cancel(2)
    assert desk.end(lease) == []
