"""What a request waited for: the parts add up to its whole wait."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemon.backends.starts import Starts
from daemon.ports import Waits


def test_a_request_that_found_its_model_ready_waited_for_nothing() -> None:
    starts = Starts()
    assert starts.waits("m", 0.0, 1.0) is None
    starts.ordered("m", 0.0)
    assert starts.waits("m", 0.5, 0.6) is None, "served by an adopted one"
    starts.ready("m", 3.0)
    assert starts.waits("m", 3.0, 4.0) is None


def test_room_is_made_then_it_is_loaded() -> None:
    starts = Starts()
    starts.makes_room("old", "m", 12.0)
    starts.makes_room("older", "m", 13.0)
    starts.makes_room("old", "m", 14.0)
    starts.ordered("m", 15.0)
    starts.ready("m", 20.0)
    assert starts.waits("m", 10.0, 21.0) == Waits(3.0, 3.0, 5.0, ("old", "older"))
    # who came in the middle waited for less, and nobody was evicted for it
    assert starts.waits("m", 16.0, 21.0) == Waits(1.0, 0.0, 4.0, ())


def test_a_claim_that_was_dropped_is_forgotten() -> None:
    starts = Starts()
    starts.makes_room("old", "m", 1.0)
    starts.gone("m")
    starts.ordered("m", 5.0)
    starts.ready("m", 6.0)
    assert starts.waits("m", 4.0, 6.0) == Waits(1.0, 0.0, 1.0, ())


@given(st.lists(st.floats(0, 100), min_size=5, max_size=5).map(sorted), st.integers(0, 3))
def test_the_parts_add_up(times: list[float], place: int) -> None:
    room, ordered, ready, granted, arrived = *times[:4], times[place]
    starts = Starts()
    starts.makes_room("old", "m", room)
    starts.ordered("m", ordered)
    starts.ready("m", ready)
    found = starts.waits("m", arrived, max(granted, arrived))
    if found is not None:
        assert min(found.queue, found.evict, found.load) >= 0
        whole = max(granted, arrived) - arrived
        assert abs(found.queue + found.evict + found.load - whole) < 1e-6
