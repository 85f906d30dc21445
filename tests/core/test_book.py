"""What is written down when: requests, operators, the catalog, adoption, late messages."""

from __future__ import annotations

from daemon.core.lifecycle import State
from daemon.core.messages import (
    Ask,
    BackendExited,
    BackendReady,
    CatalogChanged,
    ExitClass,
    StartFailed,
)
from daemon.core.policy import Policy
from tests.core.desk import Desk, model

CRASH = ExitClass.CRASH

# ---------------------------------------------------------------- the bounds of the queue


def test_each_bound_of_the_queue_is_kept() -> None:
    policy = Policy(queue_total=4, queue_model=3, queue_client=2)
    desk = Desk(model("a"), model("b", 2), policy=policy)
    desk.arrive("a", "x")
    assert desk.arrive("a", "x") == []
    assert desk.arrive("a", "x") == ["reject 3 queue_full"]
    assert desk.problem.message == "The queue of this client on a is full."
    assert desk.arrive("a", "y") == []
    assert desk.arrive("a", "z") == ["reject 5 queue_full"]
    assert desk.problem.message == "The queue of a is full."
    assert desk.arrive("b", "x") == ["start b full"]
    assert desk.arrive("b", "x") == ["reject 7 queue_full"]
    assert desk.problem.message == "The queue of all models is full."
    assert desk.arrive("a", load=True) == []


def test_who_is_being_served_does_not_fill_the_queue() -> None:
    desk = Desk(model("a", slots=9), policy=Policy(queue_total=2))
    desk.serve("a")
    for _ in range(8):
        assert desk.arrive("a") == [f"grant {desk.ticket} a/{desk.ticket - 1}"]
    assert [desk.arrive("a"), desk.arrive("a")] == [[], []]
    assert desk.arrive("a") == ["reject 12 queue_full"]


def test_bodies_are_counted_only_while_they_wait() -> None:
    desk = Desk(model("a"), policy=Policy(queue_bytes=100))
    desk.arrive("a", body=60)
    assert desk.arrive("a", body=41) == ["reject 2 queue_full"]
    assert desk.arrive("a", body=40) == []
    desk.cancel(3)
    assert desk.arrive("a", body=40) == []
    desk.ready("a")  # 60 bytes have gone to the backend
    assert desk.arrive("a", body=60) == []
    assert desk.arrive("a", body=1) == ["reject 6 queue_full"]


def test_refused_bodies_are_not_counted_either() -> None:
    desk = Desk(model("a"), policy=Policy(queue_bytes=100))
    desk.arrive("a", body=60)
    assert desk.ask(Ask.UNLOAD, "a") == ["reject 1 unloaded", "stop a unload"]
    assert desk.arrive("a", body=100) == []


# ---------------------------------------------------------------- requests that end


def test_a_second_attempt_keeps_its_place() -> None:
    desk = Desk(model("a"))
    desk.serve("a")
    desk.at(5.0)
    desk.arrive("a")
    assert desk.exit("a", CRASH) == []
    assert desk.again(1) == []
    desk.at(10.0)
    assert desk.ready("a") == ["grant 1 a/0"]
    assert desk.end(1) == ["grant 2 a/0"]


def test_a_second_attempt_waits_as_long_as_it_then_may() -> None:
    desk = Desk(model("a"), model("b"))
    desk.serve("a")
    desk.exit("a", CRASH)
    desk.serve("b")
    desk.tickets[1] = desk.tickets[1].__class__(1, "a", "c", "key", 0.0, 400.0)
    desk.again(1)
    assert desk.at(399.0) == []
    assert desk.at(400.0) == ["reject 1 queue_timeout"]


def test_a_client_that_leaves_as_it_is_granted_counts_as_ended() -> None:
    desk = Desk(model("a", keep_alive=60.0))
    lease = desk.serve("a")
    desk.at(30.0)
    assert desk.cancel(lease) == []
    assert desk.page("a").leases == {}
    assert desk.due == 90.0


def test_ending_twice_or_after_the_crash_is_harmless() -> None:
    desk = Desk(model("a"))
    lease = desk.serve("a")
    desk.end(lease)
    assert desk.end(lease) == []
    assert desk.arrive("a") == ["grant 2 a/0"]
    desk.exit("a", CRASH)
    assert desk.end(2) == []
    assert desk.cancel(2) == []
    assert desk.page("a").leases == {}


# ---------------------------------------------------------------- unload


def test_unloading_an_idle_model_stops_it() -> None:
    desk = Desk(model("a"))
    desk.idle("a")
    assert desk.ask(Ask.UNLOAD, "a") == ["stop a unload"]
    assert desk.ask(Ask.UNLOAD, "a") == []
    assert desk.exit("a") == []
    assert desk.ask(Ask.UNLOAD, "a") == []
    assert desk.state("a") is State.STOPPED


def test_unloading_a_busy_model_lets_it_finish_and_comes_back_for_those_who_wait() -> None:
    desk = Desk(model("a"))
    lease = desk.serve("a")
    desk.arrive("a")
    desk.arrive("a", load=True)
    assert desk.ask(Ask.UNLOAD, "a") == []
    assert desk.arrive("a", load=True) == []
    assert desk.ask(Ask.UNLOAD, "a") == ["reject 4 unloaded"]
    assert desk.end(lease) == ["stop a unload"]
    assert desk.exit("a") == ["start a full"]


def test_a_forced_unload_cuts_what_runs_and_refuses_what_waits() -> None:
    desk = Desk(model("a"))
    lease = desk.serve("a")
    desk.arrive("a")
    assert desk.ask(Ask.UNLOAD, "a", force=True) == [
        "reject 2 unloaded",
        f"cancel {lease} unloaded",
        "stop a unload",
    ]
    assert desk.problem.retry_after == 1.0
    assert desk.end(lease) == []
    assert desk.exit("a") == []


def test_a_forced_unload_ends_a_drain() -> None:
    desk = Desk(model("a"))
    desk.serve("a")
    desk.ask(Ask.UNLOAD, "a")
    assert desk.ask(Ask.UNLOAD, "a", force=True) == ["cancel 1 unloaded", "stop a unload"]


def test_unloading_a_starting_model_refuses_all_who_wait() -> None:
    desk = Desk(model("a"))
    desk.arrive("a")
    desk.arrive("a", load=True)
    assert sorted(desk.ask(Ask.UNLOAD, "a")) == [
        "reject 1 unloaded",
        "reject 2 unloaded",
        "stop a unload",
    ]
    assert desk.ready("a") == [], "too late"
    assert desk.exit("a") == []


def test_unloading_all() -> None:
    desk = Desk(model("a", 5), model("b", 5))
    desk.idle("a")
    desk.serve("b")
    assert desk.ask(Ask.UNLOAD) == ["stop a unload"]
    assert desk.state("b") is State.DRAINING


def test_an_unload_is_not_undone_when_the_claim_goes() -> None:
    desk = Desk(model("a"), model("b"))
    lease = desk.serve("a", 2.0)
    desk.arrive("b")
    desk.at(11.0)
    desk.ask(Ask.UNLOAD, "a")
    desk.cancel(2)
    assert desk.state("a") is State.DRAINING
    assert desk.end(lease) == ["stop a unload"]


def test_unloading_one_in_backoff_ends_its_wish_to_come_back() -> None:
    desk = Desk(model("a"))
    desk.arrive("a", load=True)
    desk.ready("a")
    desk.exit("a", CRASH)
    assert desk.ask(Ask.UNLOAD, "a") == []
    assert desk.state("a") is State.STOPPED
    desk.serve("a")
    desk.exit("a", CRASH)
    desk.arrive("a")
    desk.ask(Ask.UNLOAD, "a")
    assert desk.state("a") is State.BACKOFF, "somebody waits for it"


# ---------------------------------------------------------------- messages that come late


def test_messages_of_an_older_generation_are_dropped() -> None:
    desk = Desk(model("a"))
    desk.serve("a")
    desk.exit("a", ExitClass.PORT)
    assert desk.arrive("a") == ["start a full"]
    assert desk.page("a").generation == 2
    for late in (
        BackendExited("a", 1, CRASH),
        BackendReady("a", 1),
        StartFailed("a", 1, CRASH),
    ):
        assert desk.tell(late) == []
    assert desk.state("a") is State.STARTING
    assert desk.core.ledger.committed == {"ram": 6}
    assert desk.ready("a") == ["grant 2 a/0"]
    assert desk.ready("a") == [], "twice"


def test_an_exit_told_twice_frees_once() -> None:
    desk = Desk(model("a"))
    desk.idle("a")
    desk.exit("a", CRASH)
    assert desk.exit("a", CRASH) == []
    assert len(desk.page("a").history.crashes) == 1


def test_a_generation_is_never_used_twice_even_by_a_model_that_was_away() -> None:
    desk = Desk(model("a"))
    desk.idle("a")
    desk.ask(Ask.UNLOAD, "a")
    desk.exit("a")
    desk.catalog()
    desk.catalog(model("a"))
    desk.arrive("a")
    assert desk.page("a").generation == 2


# ---------------------------------------------------------------- the catalog


def test_a_removed_model_drains_refuses_and_disappears() -> None:
    desk = Desk(model("a"), model("b", 2))
    lease = desk.serve("a")
    desk.arrive("a")
    assert desk.catalog(model("b", 2)) == ["reject 2 model_not_found"]
    assert desk.arrive("a") == ["reject 3 model_not_found"]
    assert desk.end(lease) == ["stop a changed"]
    assert "a" in desk.core.pages, "its process still holds memory"
    desk.exit("a")
    assert list(desk.core.pages) == ["b"]


def test_a_removed_model_goes_at_once_from_any_state_without_a_process() -> None:
    desk = Desk(model("idle", 2), model("starting", 2), model("dead", 2), model("stopped"))
    desk.idle("idle")
    desk.serve("dead")
    desk.exit("dead", CRASH)
    desk.arrive("starting")
    assert desk.catalog() == [
        "reject 3 model_not_found",
        "stop starting changed",
        "stop idle changed",
    ]
    assert sorted(desk.core.pages) == ["idle", "starting"]
    desk.exit("idle")
    desk.exit("starting", CRASH)
    assert desk.core.pages == {}
    assert desk.core.ledger.committed == {}


def test_a_model_that_dies_while_it_is_being_removed_is_gone_too() -> None:
    desk = Desk(model("a"))
    desk.serve("a")
    desk.catalog()
    desk.exit("a", CRASH)
    assert desk.core.pages == {}
    assert desk.due is None


def test_a_model_that_returns_while_it_leaves_is_started_anew_on_demand() -> None:
    desk = Desk(model("a"))
    desk.serve("a")
    desk.catalog()
    desk.catalog(model("a", 5))
    assert desk.arrive("a") == []
    assert desk.end(1) == ["stop a changed"]
    assert desk.exit("a") == ["start a full"]
    assert desk.core.ledger.committed == {"ram": 5}


def test_a_touched_model_drains_and_starts_anew_on_demand() -> None:
    desk = Desk(model("a"))
    lease = desk.serve("a")
    assert desk.catalog(model("a", 5), touched="a") == []
    desk.arrive("a")
    assert desk.end(lease) == ["stop a changed"]
    assert desk.exit("a") == ["start a full"]
    assert desk.core.ledger.committed == {"ram": 5}
    desk.ready("a")
    desk.end(2)
    desk.catalog(model("a", 4), touched="a")
    assert desk.exit("a") == [], "nobody waits"


def test_a_touched_model_that_was_loaded_by_hand_starts_by_itself() -> None:
    desk = Desk(model("a"))
    desk.arrive("a", load=True)
    desk.ready("a")
    assert desk.catalog(model("a", 5), touched="a") == ["stop a changed"]
    assert desk.exit("a") == ["start a full"]
    desk.ready("a")
    assert desk.page("a").by_hand


def test_a_touched_model_in_its_start_stops_and_starts_anew_for_those_who_wait() -> None:
    desk = Desk(model("a"), model("b", 1))
    desk.arrive("a")
    desk.arrive("b")
    desk.cancel(2)
    changed = (model("a", 5), model("b", 2))
    assert desk.catalog(*changed, touched="a b") == ["stop a changed", "stop b changed"]
    assert desk.exit("a") == ["start a full"]
    assert desk.exit("b") == []


def test_an_untouched_model_is_left_alone() -> None:
    desk = Desk(model("a"), model("b", 2))
    lease = desk.serve("a")
    assert desk.catalog(model("a", keep_alive=5.0), model("c", 2)) == []
    assert desk.page("a").leases == {lease: 0}
    desk.end(lease)
    assert desk.due == 5.0, "what needs no restart holds at once"
    assert sorted(desk.core.pages) == ["a", "c"]


def test_a_pin_by_hand_survives_a_catalog_that_says_nothing_new_of_it() -> None:
    desk = Desk(model("a"))
    desk.ask(Ask.PIN, "a")
    assert desk.catalog(model("a", keep_alive=5.0)) == []
    assert desk.page("a").pinned
    assert desk.catalog(model("a", pinned=True)) == ["start a full"]
    desk.catalog(model("a"))
    assert not desk.page("a").pinned


def test_a_pinned_model_unloaded_by_hand_waits_for_its_own_news() -> None:
    """Another model's change does not start it; a whole new configuration does."""
    desk = Desk(model("a", pinned=True), model("b"))
    desk.ready("a")
    desk.ask(Ask.UNLOAD, "a")
    desk.exit("a")
    specs = desk.specs
    assert desk.tell(CatalogChanged(specs, frozenset({"b"}))) == []
    assert desk.tell(CatalogChanged(specs, frozenset(), {"ram": 10})) == ["start a full"]
    desk.ask(Ask.UNLOAD, "a")
    desk.exit("a")
    assert desk.tell(CatalogChanged(specs, frozenset({"a"}))) == ["start a full"]


def test_a_new_catalog_and_its_budget_count_in_one_moment() -> None:
    """A waiting ticket is neither started as the old catalog says nor refused by the new budget."""
    desk = Desk(model("big"), model("small", 6), budget=8)
    lease = desk.serve("small")
    waiting = desk.arrive("big")
    assert desk.tell(CatalogChanged({"big": model("big", 3)}, frozenset({"big"}), {"ram": 4})) == []
    assert desk.end(lease) == ["stop small changed"]
    assert desk.exit("small") == ["start big full"]
    assert waiting == []
    assert desk.core.ledger.budget == {"ram": 4}


def test_a_newly_pinned_model_is_started() -> None:
    desk = Desk(model("a"))
    assert desk.catalog(model("a", pinned=True)) == ["start a full"]


def test_weights_that_disappear_while_somebody_waits() -> None:
    desk = Desk(model("a"), model("b"))
    desk.serve("a", 2.0)
    desk.arrive("b")
    gone = model("b").__class__("b", ())
    assert desk.catalog(model("a"), gone) == ["reject 2 not_pulled"]
    assert desk.arrive("b") == ["reject 3 not_pulled"]


# ---------------------------------------------------------------- adoption


def test_an_adopted_backend_serves_at_once_and_is_charged() -> None:
    desk = Desk(model("a", keep_alive=60.0))
    desk.at(50.0)
    assert desk.adopt("a", generation=7) == []
    assert desk.published("adopted") == [{"model": "a", "generation": 7}]
    assert desk.due == 110.0
    assert desk.core.ledger.committed == {"ram": 6}
    assert desk.arrive("a") == ["grant 1 a/0"]
    desk.exit("a", ExitClass.PORT)
    assert desk.page("a").generation == 8, "counters continue above it, and it comes back"


def test_an_adopted_backend_serves_those_who_wait_and_ends_a_backoff() -> None:
    desk = Desk(model("a"))
    desk.serve("a")
    desk.exit("a", CRASH)
    desk.arrive("a")
    assert desk.adopt("a") == ["grant 2 a/0"]
    assert desk.page("a").history.crashes == []


def test_a_second_one_is_not_adopted() -> None:
    desk = Desk(model("a"))
    desk.serve("a")
    assert desk.adopt("a") == []
    assert desk.page("a").generation == 1


def test_nothing_starts_while_adopted_ones_exceed_the_budget() -> None:
    desk = Desk(model("a"), model("b"), model("c", 1))
    desk.adopt("a")
    desk.adopt("b")
    assert desk.core.ledger.room() == {"ram": -2}
    assert desk.arrive("c") == []
    assert desk.at(2.5) == ["stop a evict"]
    assert desk.exit("a") == ["start c full"]


def test_a_touched_model_without_a_process_starts_with_the_new_settings() -> None:
    desk = Desk(model("a"), model("b"))
    desk.idle("b")
    desk.ask(Ask.UNLOAD, "b")
    assert desk.catalog(model("a", 5), model("b", 4), touched="a b") == []
    assert desk.state("b") is State.STOPPING
    assert desk.arrive("a") == [], "six of ten bytes are still taken"
    assert desk.exit("b") == ["start a full"]
    assert desk.core.ledger.committed == {"ram": 5}
