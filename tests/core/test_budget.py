from __future__ import annotations

import pytest

from daemon.core.budget import Ledger, fits, largest, minus, plus, total
from daemon.core.lifecycle import State
from daemon.core.messages import ExitClass, Variant
from daemon.core.policy import Policy
from tests.core.desk import Desk, model


def ledger(**budget: int) -> Ledger:
    return Ledger(budget, Policy())


def test_arithmetic_goes_pool_by_pool() -> None:
    a, b = {"gpu0": 5, "ram": 1}, {"gpu0": 2, "gpu1": 3}
    assert plus(a, b) == {"gpu0": 7, "ram": 1, "gpu1": 3}
    assert minus(a, b) == {"gpu0": 3, "ram": 1, "gpu1": -3}
    assert largest(a, b) == {"gpu0": 5, "ram": 1, "gpu1": 3}
    assert total([a, b, b]) == {"gpu0": 9, "ram": 1, "gpu1": 6}
    assert total([]) == {}


def test_something_fits_only_if_every_pool_has_room() -> None:
    assert fits({"gpu0": 5, "ram": 1}, {"gpu0": 5, "ram": 1})
    assert not fits({"gpu0": 5, "ram": 2}, {"gpu0": 9, "ram": 1})
    assert not fits({"gpu7": 1}, {"gpu0": 9})
    assert fits({"gpu7": 0}, {"gpu0": 9})
    assert fits({"gpu0": 0}, {"gpu0": -4})


def test_a_charge_replaces_the_one_before() -> None:
    book = ledger(ram=10)
    book.charge("a", {"ram": 4})
    book.charge("a", {"ram": 6})
    book.charge("b", {"ram": 1})
    assert book.charged("a") == {"ram": 6}
    assert book.charged("nobody") == {}
    assert book.committed == {"ram": 7}
    assert book.room() == {"ram": 3}


def test_main_memory_is_back_with_the_exit() -> None:
    book = ledger(ram=10)
    book.charge("a", {"ram": 6})
    book.release("a", 0.0)
    assert book.room() == {"ram": 10}
    assert book.settles_at() is None


def test_gpu_memory_counts_until_three_quarters_are_seen_back() -> None:
    book = ledger(gpu0=10)
    book.charge("a", {"gpu0": 8})
    book.observe({"gpu0": 2})
    book.release("a", 0.0)
    assert book.settling() == {"gpu0": 8}
    book.observe({"gpu0": 7})  # five of eight
    assert book.room() == {"gpu0": 2}
    book.observe({"gpu0": 8})  # six of eight
    assert book.room() == {"gpu0": 10}


def test_each_pool_must_come_back() -> None:
    book = ledger(gpu0=10, gpu1=10)
    book.charge("a", {"gpu0": 4, "gpu1": 4})
    book.observe({"gpu0": 0, "gpu1": 0})
    book.release("a", 0.0)
    book.observe({"gpu0": 4, "gpu1": 2})
    assert book.settling() == {"gpu0": 4, "gpu1": 4}
    book.observe({"gpu0": 4, "gpu1": 3})
    assert book.settling() == {}


def test_only_the_slow_pools_of_a_mixed_charge_settle() -> None:
    book = ledger(gpu0=10, ram=10)
    book.charge("a", {"gpu0": 4, "ram": 5})
    book.release("a", 1.0)
    assert book.settling() == {"gpu0": 4}
    assert book.room() == {"gpu0": 6, "ram": 10}


def test_a_pool_that_is_never_looked_at_settles_by_time_alone() -> None:
    book = ledger(gpu0=10)
    book.charge("a", {"gpu0": 4})
    book.release("a", 1.0)
    book.observe({"gpu0": 10})  # there is nothing to compare it with
    assert book.settling() == {"gpu0": 4}
    assert book.settles_at() == 6.0
    book.expire(5.999)
    assert book.settling() == {"gpu0": 4}
    book.expire(6.0)
    assert book.settling() == {}


def test_what_settles_first_is_told_first() -> None:
    book = ledger(gpu0=10)
    for name, at in (("late", 3.0), ("early", 1.0)):
        book.charge(name, {"gpu0": 4})
        book.release(name, at)
    assert book.settles_at() == 6.0
    book.expire(6.0)
    assert book.settles_at() == 8.0


def test_releasing_what_was_never_charged_is_nothing() -> None:
    book = ledger(gpu0=10)
    book.release("a", 0.0)
    assert book.settling() == {}


def test_room_below_zero_says_how_much_is_missing() -> None:
    book = ledger(ram=10)
    book.charge("a", {"ram": 8})
    book.budget = {"ram": 5}
    assert book.room() == {"ram": -3}


# ---------------------------------------------------------------- memory


def test_a_footprint_that_grew_raises_the_charge_and_is_told() -> None:
    desk = Desk(model("a"), model("b", 4))
    desk.idle("a", 2.0)
    assert desk.seen("a", ram=7) == []
    assert desk.published("grown") == [{"model": "a", "generation": 1, "charged": {"ram": 7}}]
    assert desk.seen("a", ram=7) == []
    assert desk.published("grown") == [], "told once"
    assert desk.arrive("b") == [], "four bytes are not free any more"
    desk.at(2.5)
    assert desk.exit("a") == ["start b full"]
    assert desk.core.ledger.committed == {"ram": 4}


@pytest.mark.parametrize("pools", [{"ram": 5}, {"ram": 6}, {"gpu0": 9}])
def test_a_smaller_or_foreign_footprint_changes_nothing(pools: dict[str, int]) -> None:
    desk = Desk(model("a"))
    desk.idle("a")
    desk.seen("a", **pools)
    assert desk.published("grown") == []
    assert desk.core.ledger.committed == {"ram": 6}


def test_a_lowered_budget_stops_nobody_but_starts_nobody() -> None:
    desk = Desk(model("a"), model("b", 3), model("c", 1))
    desk.serve("a")
    assert desk.budget(ram=5) == []
    assert desk.state("a") is State.READY
    assert desk.arrive("c") == []
    assert desk.budget(ram=7) == ["start c full"]


def test_a_larger_footprint_of_the_next_variant_is_what_counts_next() -> None:
    desk = Desk(model("a", 6, Variant("half", {"ram": 3})))
    desk.idle("a")
    desk.seen("a", ram=9)
    desk.exit("a", ExitClass.OUT_OF_MEMORY)
    desk.at(5.0)
    assert desk.arrive("a") == ["start a half"]
    assert desk.core.ledger.committed == {"ram": 3}


def test_slow_growth_is_charged_each_time_and_told_now_and_then() -> None:
    desk = Desk(model("a", 1000), budget=2000)
    desk.idle("a", 2.0)
    told = []
    for size in range(1001, 1301):
        desk.seen("a", ram=size)
        assert desk.core.ledger.committed == {"ram": size}
        told += [fact["charged"]["ram"] for fact in desk.published("grown")]
    assert told == [1051, 1104, 1160, 1219, 1280]
