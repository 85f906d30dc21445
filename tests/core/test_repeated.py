"""One request that ends several backends counts once; one that lives may be out of memory."""

from __future__ import annotations

from daemon.core.lifecycle import State
from daemon.core.messages import BackendExited, BackendUnhealthy, ExitClass, Variant
from daemon.core.policy import Policy
from tests.core.desk import Desk, model

CALM = Policy(backoff=1.0, backoff_jitter=0.0, breaker_crashes=3)


def crash(desk: Desk, *, repeated: bool) -> None:
    """Its backend becomes ready, serves a while and dies; then the next may start."""
    page = desk.core.pages["a"]
    desk.ready("a")
    desk.now += 1.0
    desk.tell(BackendExited("a", page.generation, ExitClass.CRASH, "segv", repeated=repeated))


def test_repeated_crashes_count_once() -> None:
    desk = Desk(model("a"), policy=CALM)
    page = desk.core.pages["a"]
    desk.arrive("a")
    states = []
    for turn in range(10):
        crash(desk, repeated=turn > 0)
        states.append(page.state)
        assert len(page.history.crashes) == 1
        desk.at(desk.now + 5.0)
        desk.arrive("a")
        desk.at(desk.now + 0.1)
        states.append(page.state)  # and the pause before it does not grow
    assert states == [State.BACKOFF, State.STARTING] * 10


def test_others_count_as_ever() -> None:
    desk = Desk(model("a"), policy=CALM)
    page = desk.core.pages["a"]
    desk.arrive("a")
    for turn, repeated in enumerate((False, True, False)):
        crash(desk, repeated=repeated)
        assert len(page.history.crashes) == (1, 1, 2)[turn]
        desk.at(desk.now + 5.0)
        desk.arrive("a")
        desk.at(desk.now + 0.1)
    crash(desk, repeated=False)
    assert page.state is State.FAILED


def test_a_repetition_of_what_was_forgotten_is_a_first_one() -> None:
    desk = Desk(model("a"), policy=CALM)
    desk.arrive("a")
    crash(desk, repeated=True)
    page = desk.core.pages["a"]
    assert (len(page.history.crashes), page.history.consecutive) == (1, 1)


def test_one_that_lives_and_ran_out_of_memory_is_started_smaller() -> None:
    small = Variant("small", {"ram": 3}, rung=1)
    desk = Desk(model("a", 6, small), policy=CALM)
    page = desk.core.pages["a"]
    desk.arrive("a")
    desk.ready("a")
    unwell = BackendUnhealthy("a", page.generation, "no memory", ExitClass.OUT_OF_MEMORY)
    assert any(order.startswith("kill a") for order in desk.tell(unwell))
    desk.tell(BackendExited("a", page.generation, ExitClass.CLEAN))
    desk.arrive("a")
    assert "start a small" in desk.at(desk.now + 5.0)
