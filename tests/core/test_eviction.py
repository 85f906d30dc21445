from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from daemon.core.budget import fits, plus, total
from daemon.core.eviction import Resident, choose_victims


def resident(
    name: str,
    size: int,
    *,
    used: float = 0.0,
    leases: int = 0,
    reload: float = 2.0,
    draining: bool = False,
) -> Resident:
    return Resident(name, {"ram": size}, leases, used, reload, draining)


def victims(need: int, room: int, *residents: Resident) -> list[str] | None:
    chosen = choose_victims({"ram": need}, {"ram": room}, residents)
    return None if chosen is None else [r.model for r in chosen]


def test_nobody_leaves_when_there_is_room() -> None:
    assert victims(4, 4, resident("a", 5)) == []


def test_nobody_leaves_when_all_together_would_not_do() -> None:
    assert victims(9, 0, resident("a", 4), resident("b", 4)) is None


def test_idle_before_busy_even_if_it_was_used_later() -> None:
    assert victims(4, 0, resident("busy", 4, leases=1), resident("idle", 4, used=9)) == ["idle"]


def test_the_least_recently_used_goes_first() -> None:
    assert victims(4, 0, resident("warm", 4, used=5), resident("cold", 4, used=1)) == ["cold"]


def test_equally_cold_ones_go_by_the_price_of_their_return() -> None:
    assert victims(4, 0, resident("dear", 4, reload=9), resident("cheap", 4, reload=1)) == ["cheap"]


def test_a_single_one_is_preferred_over_several_colder_ones() -> None:
    several = [resident("a", 2, used=1), resident("b", 2, used=2)]
    assert victims(4, 0, *several, resident("big", 5, used=3)) == ["big"]


def test_the_coldest_of_those_that_alone_suffice() -> None:
    found = victims(
        4, 0, resident("a", 3), resident("warm", 5, used=9), resident("cool", 5, used=5)
    )
    assert found == ["cool"]


def test_a_busy_one_is_not_preferred_over_several_idle_ones() -> None:
    idle = [resident("a", 2, used=1), resident("b", 2, used=2)]
    assert victims(4, 0, *idle, resident("busy", 8, leases=1)) == ["a", "b"]


def test_a_single_busy_one_is_preferred_over_several_with_a_busy_one_among_them() -> None:
    found = victims(
        8, 0, resident("idle", 2), resident("b", 7, leases=1), resident("c", 8, leases=1, used=9)
    )
    assert found == ["c"]


def test_the_superfluous_stay() -> None:
    found = victims(8, 0, resident("small", 2, used=1), resident("b", 4, used=2), resident("c", 4))
    assert found == ["c", "b"]
    found = victims(
        6, 0, resident("a", 1, used=0), resident("b", 3, used=1), resident("c", 4, used=2)
    )
    assert found == ["b", "c"]


def test_who_is_leaving_already_is_counted_on_first() -> None:
    going = resident("going", 4, leases=1, used=9, draining=True)
    assert victims(4, 0, going, resident("idle", 4)) == ["going"]
    later = resident("later", 6, used=5)
    assert victims(6, 0, going, resident("idle", 2), later) == ["going", "idle"]


residents = st.lists(
    st.builds(
        resident,
        st.uuids().map(str),
        st.integers(1, 9),
        used=st.integers(0, 3).map(float),
        leases=st.integers(0, 1),
        draining=st.booleans(),
    ),
    max_size=6,
)


@given(st.integers(0, 20), st.integers(-5, 5), residents)
def test_the_chosen_suffice_and_none_of_them_is_superfluous(
    need: int, room: int, there: Sequence[Resident]
) -> None:
    def enough(leaving: Sequence[Resident]) -> bool:
        return fits({"ram": need}, plus({"ram": room}, total(r.charge for r in leaving)))

    chosen = choose_victims({"ram": need}, {"ram": room}, there)
    if chosen is None:
        assert not enough(there)
        return
    assert enough(chosen)
    assert all(not enough([r for r in chosen if r is not one]) for one in chosen)
    idle = [r for r in there if not r.leases or r.draining]
    if any(r.leases and not r.draining for r in chosen):
        assert not enough(idle), "a busy one leaves although idle ones would do"
