from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemon.core.index import Timers, Waiting, least


def test_least_is_one_pool_of_each_way_to_place_a_model() -> None:
    needs = ({"gpu0": 8}, {"gpu0": 5}, {"gpu1": 9}, {"gpu0": 3, "ram": 1}, {"gpu0": 0})
    assert least(needs) == (("", 0), ("gpu0", 3), ("gpu0", 5), ("gpu1", 9))
    assert least(()) == ()


def test_the_order_is_that_of_claims() -> None:
    index = Waiting()
    assert index.first() is None
    assert index.put("b", 5.0, ())
    assert index.put("a", 5.0, ())
    assert index.put("c", 1.0, ())
    assert list(index) == ["c", "a", "b"]
    assert not index.put("c", 1.0, ()), "nothing has changed"
    assert index.put("c", 9.0, ())
    assert (index.first(), index.rank("c")) == ("a", (9.0, "c"))
    assert index.remove("a")
    assert not index.remove("a")
    assert (len(index), "a" in index, list(index)) == (2, False, ["b", "c"])


def test_a_changed_need_is_found_at_its_new_place() -> None:
    index = Waiting()
    index.put("a", 1.0, (("ram", 5),))
    assert index.within({"ram": 4}) == []
    assert index.put("a", 1.0, (("ram", 4),))
    assert index.within({"ram": 4}) == ["a"]
    index.remove("a")
    assert index.within({"ram": 99}) == []


needs = st.dictionaries(st.sampled_from(["gpu0", "gpu1", "ram"]), st.integers(0, 9), max_size=3)
ways = st.lists(needs, max_size=3)


@given(st.lists(st.tuples(ways, st.integers(0, 5)), max_size=12), needs)
def test_whatever_fits_is_named(
    models: list[tuple[list[dict[str, int]], int]], room: dict[str, int]
) -> None:
    index = Waiting()
    for number, (variants, rank) in enumerate(models):
        index.put(f"m{number}", float(rank), least(tuple(variants)))
    found = index.within(room)
    assert found == sorted(found, key=index.rank)
    for number, (variants, _) in enumerate(models):
        fitting = [v for v in variants if all(n <= room.get(p, 0) for p, n in v.items() if n > 0)]
        assert not fitting or f"m{number}" in found


def test_timers_go_off_in_order_and_once() -> None:
    timers = Timers()
    for name, at in (("a", 5.0), ("b", 3.0), ("c", 4.0), ("a", 2.0)):
        timers.set(name, at)
    timers.set("b", None)
    assert timers.next() == 2.0
    assert timers.due(1.9) == []
    assert timers.due(4.0) == ["a", "c"]
    assert timers.next() is None
    timers.set("a", 5.0)
    assert timers.due(5.0) == ["a"], "an old entry for the same time is not a second one"


def test_timers_remember_none_of_what_was_changed() -> None:
    timers = Timers()
    timers.set("first", 0.5)
    for number in range(1000):
        timers.set("a", 1.0 + number)
    assert len(timers._heap) < 100
    assert timers.due(2000.0) == ["first", "a"]
