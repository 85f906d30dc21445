"""The good neighbour: pressure, growth, pauses."""

from __future__ import annotations

from daemon.core.lifecycle import State
from daemon.core.messages import Ask, ExitClass
from daemon.core.policy import Policy
from tests.core.desk import Desk, model

# ---------------------------------------------------------------- pressure


def test_idle_backends_go_coldest_first_until_the_high_mark_is_in_sight() -> None:
    desk = Desk(model("a", 2), model("b", 2), model("c", 2))
    for number, name in enumerate("abc"):
        desk.at(10.0 * number)
        desk.idle(name)
    assert desk.marks(free=1, low=2, high=4) == ["stop a pressure", "stop b pressure"]
    assert desk.published("pressure") == [{"model": "", "free": {"ram": 1}, "low": {"ram": 2}}]
    assert desk.marks(free=1) == [], "what was stopped is on its way back"
    desk.exit("a")
    desk.commands = []
    assert desk.core.pressed == {"ram"}, "between the marks it goes on"
    desk.exit("b")
    assert desk.marks(free=1) == ["stop c pressure"], "it was not enough"
    desk.exit("c")
    desk.marks(free=5)
    assert desk.published("pressure_over") == [{"model": "", "free": {"ram": 5}}]
    assert not desk.core.pressed


def test_the_low_mark_itself_is_no_pressure_nor_is_anything_without_marks() -> None:
    desk = Desk(model("a", 2))
    desk.idle("a")
    assert desk.marks(free=2) == []
    desk = Desk(model("a", 2))
    desk.idle("a")
    assert desk.free(ram=0) == []


def test_busy_and_pinned_ones_stay_and_the_busy_go_once_they_are_idle() -> None:
    desk = Desk(model("busy", 2), model("pin", 2, pinned=True))
    desk.ready("pin")
    lease = desk.serve("busy")
    assert desk.marks(free=0) == []
    assert desk.end(lease) == ["stop busy pressure"]
    assert desk.state("pin") is State.READY


def test_only_pools_that_are_short_matter() -> None:
    desk = Desk(model("a", {"gpu0": 4}), model("b", {"ram": 4}), budget={"gpu0": 8, "ram": 8})
    desk.idle("a")
    desk.idle("b")
    assert desk.marks(free=0) == ["stop b pressure"]


def test_nothing_starts_that_does_not_fit_in_what_is_really_free() -> None:
    desk = Desk(model("a"))
    desk.marks(free=5)
    assert desk.arrive("a") == []
    assert desk.core.watches_memory
    assert desk.marks(free=9) == ["start a full"]
    assert desk.marks(free=9) == []


def test_who_waited_in_vain_for_the_machine_is_told_so() -> None:
    desk = Desk(model("a"))
    desk.marks(free=5)
    desk.arrive("a", patience=20.0)
    assert desk.at(20.0) == ["reject 1 queue_timeout"]
    assert "Other programs hold the machine's memory." in desk.problem.message


def test_what_is_starting_is_not_free_although_it_looks_so() -> None:
    desk = Desk(model("a", 5), model("b", 5))
    desk.marks(free=8)
    assert desk.arrive("a") == ["start a full"]
    assert desk.arrive("b") == []
    desk.marks(free=8)
    assert desk.ready("a") == ["grant 1 a/0"]
    assert desk.marks(free=3) == []
    assert desk.marks(free=5) == ["start b full"]


def test_what_was_loaded_by_hand_comes_back_after_a_while_of_free_memory() -> None:
    desk = Desk(model("a", 3), model("b", 3))
    desk.arrive("a", load=True)
    desk.ready("a")
    desk.at(1.0)
    desk.idle("b")
    assert desk.marks(free=0, high=9) == ["stop a pressure", "stop b pressure"]
    desk.exit("a")
    desk.exit("b")
    desk.at(10.0)
    desk.marks(free=9, high=9)
    assert desk.due == 70.0
    assert desk.at(69.9) == []
    assert desk.at(70.0) == ["start a full"]
    assert [said["model"] for said in desk.published("returns")] == ["a"]
    desk.ready("a")
    assert desk.page("a").by_hand
    assert desk.due is None


def test_it_waits_for_room_of_its_own_and_makes_nobody_leave() -> None:
    desk = Desk(model("a", 4), model("b", 8))
    desk.arrive("a", load=True)
    desk.ready("a")
    desk.marks(free=0)
    desk.exit("a")
    desk.marks(free=5)
    assert desk.at(60.0) == [], "five less the low mark is not enough"
    assert desk.due == 120.0
    desk.marks(free=6)
    assert desk.at(120.0) == ["start a full"]


def test_pressure_again_begins_the_wait_anew_and_an_unload_ends_it() -> None:
    desk = Desk(model("a", 3))
    desk.arrive("a", load=True)
    desk.ready("a")
    desk.marks(free=0)
    desk.exit("a")
    desk.marks(free=9)
    desk.at(50.0)
    desk.marks(free=0)
    assert desk.due is None
    desk.marks(free=9)
    assert desk.due == 110.0
    desk.ask(Ask.UNLOAD, "a")
    assert desk.at(200.0) == []


# ---------------------------------------------------------------- growth


def test_idle_neighbours_of_a_grown_backend_leave_until_the_budget_holds() -> None:
    desk = Desk(model("a", 3), model("b", 3), model("c", 3))
    desk.idle("a", 1.0)
    desk.idle("b", 1.0)
    desk.serve("c", 1.0)
    assert desk.seen("c", ram=5) == ["stop a over_budget"]
    assert desk.seen("c", ram=5) == []
    desk.exit("a")
    assert desk.state("b") is State.READY


def test_a_lowered_budget_is_kept_as_soon_as_somebody_is_idle() -> None:
    desk = Desk(model("a", 4), model("b", 4))
    desk.serve("a", 1.0)
    lease = desk.serve("b", 1.0)
    assert desk.budget(ram=5) == []
    assert desk.end(lease) == ["stop b over_budget"]


def test_a_leak_is_ended_at_a_request_boundary_and_started_anew_if_wanted() -> None:
    desk = Desk(model("a", 4, pinned=True))
    desk.ready("a")
    desk.arrive("a")
    assert desk.seen("a", ram=6) == [], "its first size, whatever was estimated"
    assert desk.seen("a", ram=9) == [], "half as much again is borne"
    assert desk.state("a") is State.READY
    desk.seen("a", ram=10)
    assert desk.state("a") is State.DRAINING
    assert desk.published("outgrown")[0]["first"] == {"ram": 6}
    assert desk.end(1) == ["stop a outgrown"]
    assert desk.exit("a") == ["start a full"]
    assert desk.core.ledger.committed == {"ram": 4}


def test_while_a_leak_still_serves_its_idle_neighbour_makes_room() -> None:
    desk = Desk(model("a", 4), model("b", 4))
    desk.idle("b", 1.0)
    desk.serve("a", 1.0)
    assert desk.seen("a", ram=4) == []
    assert desk.seen("a", ram=9) == ["stop b over_budget"], "its requests may last for minutes"
    assert desk.state("a") is State.DRAINING


def test_one_that_alone_exceeds_the_budget_is_past_the_mark() -> None:
    desk = Desk(model("a", 8))
    desk.idle("a")
    assert desk.seen("a", ram=8) == []
    assert desk.seen("a", ram=11) == ["stop a outgrown"]
    assert desk.exit("a") == [], "nobody wants it"


def test_an_estimate_that_was_wrong_does_not_restart_for_ever() -> None:
    desk = Desk(model("a", 2))
    desk.idle("a")
    for _ in range(5):
        assert desk.seen("a", ram=9) == []


# ---------------------------------------------------------------- pause


def test_a_pause_empties_the_memory_and_holds_requests() -> None:
    desk = Desk(model("a", 3), model("b", 3), model("pin", 3, pinned=True))
    desk.ready("pin")
    desk.idle("a")
    lease = desk.serve("b")
    assert desk.pause() == ["stop a pause", "stop pin pause"]
    assert desk.published("paused") == [{"model": "", "seconds": None, "hold": True}]
    assert desk.state("b") is State.DRAINING
    assert desk.arrive("a") == []
    assert desk.end(lease) == ["stop b pause"]
    for name in ("a", "b", "pin"):
        assert desk.exit(name) == []
    assert sorted(desk.resume()) == ["start a full", "start pin full"]
    assert desk.ready("a") == ["grant 3 a/0"]
    assert desk.resume() == []


def test_a_pause_may_refuse_instead_and_ends_by_itself() -> None:
    desk = Desk(model("a"), model("b"))
    desk.serve("a", 2.0)
    desk.arrive("b")
    assert desk.pause(90.0, hold=False) == ["reject 2 paused"]
    assert desk.problem.retry_after == 30.0
    assert desk.arrive("b") == ["reject 3 paused"]
    assert desk.problem.message == "Serving is paused for another 90 s."
    assert desk.due == 92.0
    desk.at(92.0)
    assert len(desk.published("resumed")) == 1
    assert desk.state("a") is State.READY, "it had not finished draining"
    assert desk.arrive("a") == []
    assert desk.end(1) == [f"grant {desk.ticket} a/0"]


def test_a_pause_without_an_end_has_a_retry_after_too() -> None:
    desk = Desk(model("a"))
    desk.pause(hold=False)
    assert desk.arrive("a") == ["reject 1 paused"]
    assert (desk.problem.retry_after, desk.due) == (30.0, None)


def test_held_requests_keep_their_deadlines() -> None:
    desk = Desk(model("a"))
    desk.pause()
    desk.arrive("a", patience=20.0)
    assert desk.at(20.0) == ["reject 1 queue_timeout"]
    assert "paused" in desk.problem.message


def test_what_starts_is_stopped_and_its_waiters_are_held() -> None:
    desk = Desk(model("a"))
    desk.arrive("a")
    assert desk.pause() == ["stop a pause"]
    assert desk.exit("a") == []
    assert desk.resume() == ["start a full"]


def test_loaded_by_hand_comes_back_and_others_do_not() -> None:
    desk = Desk(model("hand", 3), model("plain", 3))
    desk.arrive("hand", load=True)
    desk.ready("hand")
    desk.idle("plain")
    desk.pause()
    desk.exit("hand")
    desk.exit("plain")
    assert desk.resume() == ["start hand full"]
    desk.ready("hand")
    assert desk.page("hand").by_hand


def test_a_forced_pause_ends_what_runs() -> None:
    desk = Desk(model("a"))
    desk.serve("a")
    assert desk.pause(force=True) == ["cancel 1 paused"]
    assert desk.end(1) == ["stop a pause"]


def test_a_drain_for_a_claim_goes_on_for_the_pause() -> None:
    desk = Desk(model("a"), model("b"))
    desk.serve("a", 2.0)
    desk.arrive("b")
    desk.at(11.0)
    assert desk.state("a") is State.DRAINING
    desk.pause()
    assert desk.core.claim is None
    desk.cancel(2)
    assert desk.state("a") is State.DRAINING
    assert desk.end(1) == ["stop a pause"]


def test_an_adopted_backend_does_not_run_during_a_pause() -> None:
    desk = Desk(model("a"))
    desk.pause()
    assert desk.adopt("a") == ["stop a pause"]
    desk.exit("a")
    assert desk.resume() == ["start a full"]


# ---------------------------------------------------------------- pins without room


def test_a_pin_that_does_not_fit_is_told_with_the_numbers_and_comes_when_it_does() -> None:
    desk = Desk(model("big", 12, pinned=True))
    assert desk.published("unfit") == [
        {
            "model": "big",
            "generation": 0,
            "detail": "big needs 12 B at the least (full), the budget is 10 B: 2 B too much.",
            "needed": {"ram": 12},
            "budget": {"ram": 10},
            "variant": "full",
        }
    ]
    assert desk.page("big").problem is not None
    assert desk.budget(ram=12) == ["start big full"]
    assert desk.page("big").problem is None


def test_a_dead_pin_is_not_started_during_a_pause() -> None:
    desk = Desk(model("a", pinned=True))
    desk.ready("a")
    desk.exit("a", ExitClass.CRASH)
    desk.pause()
    assert desk.at(10.0) == []
    assert desk.resume() == ["start a full"]


def test_the_wait_for_free_memory_is_a_setting() -> None:
    desk = Desk(model("a", 3), policy=Policy(pressure_clear=5.0))
    desk.arrive("a", load=True)
    desk.ready("a")
    desk.marks(free=0)
    desk.exit("a")
    desk.marks(free=9)
    assert desk.at(5.0) == ["start a full"]
