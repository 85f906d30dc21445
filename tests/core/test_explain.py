"""What people are shown: who waits, for what and why."""

from __future__ import annotations

import pytest

from daemon.core.explain import Span, thrash_ratio
from daemon.core.messages import Ask, ExitClass
from tests.core.desk import Desk, model

GPU = {"gpu0": 6}


def why(desk: Desk, name: str) -> tuple[str, float | None]:
    found = {wait.model: wait.why for wait in desk.core.explain(desk.now).waiting}
    assert found[name].text
    return found[name].kind, found[name].until


def test_a_quiet_book_has_nothing_to_explain() -> None:
    picture = Desk(model("a")).core.explain(0.0)
    assert (picture.claim, picture.waiting, picture.advice) == (None, (), None)
    assert (picture.thrash_ratio, picture.paused, picture.paused_until) == (0.0, False, None)
    (pool,) = picture.pools
    assert (pool.name, pool.budget, pool.committed, pool.free) == ("ram", 10, 0, None)


def test_the_ledger_tells_what_is_promised_and_what_is_taken() -> None:
    desk = Desk(model("a"))
    desk.idle("a")
    desk.seen("a", ram=5)
    desk.marks(free=7)
    (pool,) = desk.core.explain(desk.now).pools
    assert (pool.committed, pool.measured, pool.free, pool.low) == (6, 5, 7, 2)
    assert not pool.pressed


def test_a_claim_names_its_victims_and_until_when_they_are_kept() -> None:
    desk = Desk(model("a", load=2.0), model("b", load=2.0), model("c", load=2.0))
    desk.serve("a", 2.0)
    desk.at(20.0)
    desk.arrive("b")
    desk.at(21.0)
    desk.arrive("c")
    desk.arrive("a")
    picture = desk.core.explain(23.0)
    assert picture.claim is not None
    assert (picture.claim.model, picture.claim.since, picture.claim.need) == ("b", 20.0, {"ram": 6})
    (victim,) = picture.claim.victims
    assert (victim.model, victim.state, victim.leases) == ("a", "ready", 1)
    assert (victim.free_at, victim.bytes) == (29.0, {"ram": 6})
    assert [(w.model, w.requests, w.oldest_age) for w in picture.waiting] == [
        ("b", 1, 3.0),
        ("a", 1, 2.0),
        ("c", 1, 2.0),
    ]
    assert why(desk, "b") == ("quantum", 29.0)
    assert why(desk, "a") == ("busy", None)
    assert why(desk, "c") == ("behind", None)
    desk.at(29.0)
    assert why(desk, "b") == ("victims", None)
    assert why(desk, "a") == ("draining", None)


def test_the_ways_to_wait() -> None:
    desk = Desk(model("a", GPU), model("b", GPU), budget={"gpu0": 10})
    desk.arrive("a")
    assert why(desk, "a") == ("starting", None)
    desk.at(2.0)
    desk.ready("a")
    desk.end(1)
    desk.arrive("b")
    assert why(desk, "b") == ("linger", 2.5)
    desk.at(2.5)
    assert why(desk, "b") == ("stopping", None)
    desk.arrive("a")
    assert why(desk, "a") == ("stopping", None)
    desk.free(gpu0=4)
    desk.exit("a")
    assert why(desk, "b") == ("settling", 7.5)
    desk.at(7.5)
    desk.exit("b", ExitClass.CRASH)
    assert why(desk, "b")[0] == "backoff"
    desk.pause(60.0)
    assert why(desk, "b") == ("paused", 67.5)


def test_waiting_for_the_machine_or_with_a_small_call() -> None:
    desk = Desk(model("a"))
    desk.marks(free=3)
    desk.arrive("a")
    assert why(desk, "a") == ("memory", None)
    desk = Desk(model("a"), model("b"))
    desk.serve("a")
    desk.arrive("b", small=True)
    assert why(desk, "b") == ("small", None)


def test_a_pin_that_waits_has_nobody_behind_it() -> None:
    desk = Desk(model("a"), model("pin", pinned=False))
    desk.serve("a", 2.0)
    desk.arrive("pin", load=True)
    (wait,) = desk.core.explain(desk.now).waiting
    assert (wait.model, wait.requests, wait.loads) == ("pin", 0, 1)


# ---------------------------------------------------------------- thrashing


def test_the_share_of_starting_counts_each_second_once() -> None:
    spans = [Span("a", 0.0, 20.0), Span("b", 10.0, 30.0), Span("c", 90.0), Span("d", 12.0, 15.0)]
    assert thrash_ratio(spans, 100.0, 100.0) == pytest.approx(0.4)
    assert thrash_ratio(spans, 110.0, 100.0) == pytest.approx(0.4)
    assert thrash_ratio(spans, 200.0, 100.0) == pytest.approx(1.0)
    assert thrash_ratio([], 100.0, 100.0) == 0.0
    assert thrash_ratio(spans, 100.0, 0.0) == 0.0


def test_two_that_push_each_other_out_are_named_with_what_they_need() -> None:
    desk = Desk(model("a", load=20.0), model("b", load=20.0))
    for name in "abab":
        desk.arrive(name)
        desk.at(desk.now + 10.0)
        if desk.core.residents and name not in desk.core.residents:
            desk.exit("a" if name == "b" else "b")
        desk.at(desk.now + 50.0)
        desk.ready(name)
        desk.end(desk.ticket)
    picture = desk.core.explain(desk.now)
    assert picture.thrash_ratio > 0.4
    assert picture.advice is not None
    assert (picture.advice.pair, picture.advice.swaps) == (("a", "b"), 3)
    assert picture.advice.text.startswith("a and b do not fit together: 12 B of 10 B ram.")
    assert desk.core.explain(desk.now + 1000.0).advice is None


def test_a_start_that_was_stopped_has_ended() -> None:
    desk = Desk(model("a"))
    desk.arrive("a")
    desk.at(30.0)
    desk.ask(Ask.UNLOAD, "a")
    desk.exit("a")
    assert desk.core.explain(330.0).thrash_ratio == pytest.approx(0.0)
    assert desk.core.explain(300.0).thrash_ratio == pytest.approx(0.1)
