from __future__ import annotations

import pytest

from daemon.core import admission
from daemon.core.admission import Load
from daemon.core.budget import Ledger
from daemon.core.lifecycle import State
from daemon.core.messages import ExitClass, ModelSpec, Ticket, Variant
from daemon.core.page import Page
from daemon.core.policy import Policy
from daemon.core.problems import Code, Problem
from daemon.core.units import GIB

POLICY = Policy(queue_total=4, queue_model=3, queue_client=2, queue_bytes=100)
EMPTY = Load(total=0, model=0, client=0, bytes=0)


def page(*sizes: int, name: str = "m", state: State = State.STOPPED) -> Page:
    variants = tuple(Variant(f"ctx-{n}", {"unified": n * GIB}) for n in sizes or (8,))
    return Page(ModelSpec(name, variants), state=state)


def ticket(*, body: int = 0, load: bool = False) -> Ticket:
    return Ticket(1, "m", "c", "key", 0.0, 300.0, body_bytes=body, load=load)


def refused(
    of: Page | None, load: Load = EMPTY, *, body: int = 0, by_hand: bool = False, now: float = 0.0
) -> Problem | None:
    return admission.refuse(of, ticket(body=body, load=by_hand), load, now, POLICY)


def test_a_known_model_with_room_in_its_queue_is_no_problem() -> None:
    assert refused(page()) is None


def test_an_unknown_and_a_removed_model_are_the_same_to_a_client() -> None:
    gone = page()
    gone.removed = True
    for problem in (refused(None), refused(gone)):
        assert problem == admission.unknown("m")
        assert problem.code is Code.MODEL_NOT_FOUND
        assert problem.retry_after is None


def test_weights_that_are_not_here_come_with_the_line_that_gets_them() -> None:
    problem = refused(Page(ModelSpec("m", ())), by_hand=True)
    assert problem is not None
    assert problem.code is Code.NOT_PULLED
    assert problem.hint == "Get them with: ctl pull m"


@pytest.mark.parametrize(
    ("load", "body", "what"),
    [
        (Load(total=4, model=0, client=0, bytes=0), 0, "all models"),
        (Load(total=3, model=3, client=0, bytes=0), 0, "m"),
        (Load(total=2, model=2, client=2, bytes=0), 0, "this client on m"),
        (Load(total=1, model=1, client=1, bytes=90), 11, "waiting request bodies"),
    ],
)
def test_a_full_queue_says_whose(load: Load, body: int, what: str) -> None:
    problem = refused(page(), load, body=body)
    assert problem is not None
    assert problem.code is Code.QUEUE_FULL
    assert problem.message == f"The queue of {what} is full."
    assert problem.retry_after == 5.0


def test_one_below_each_bound_is_let_in() -> None:
    assert refused(page(), Load(total=3, model=2, client=1, bytes=90), body=10) is None


def test_an_operators_load_is_not_kept_out_by_a_crowd() -> None:
    assert refused(page(), Load(total=9, model=9, client=9, bytes=999), by_hand=True) is None


def test_a_failed_model_is_refused_with_what_killed_it() -> None:
    failed = page(state=State.FAILED)
    failed.problem = admission.died("m", ExitClass.OUT_OF_MEMORY, "no room for KV")
    problem = refused(failed)
    assert problem is not None
    assert problem.code is Code.MODEL_UNAVAILABLE
    assert problem.message == "The backend of m died: out of memory (no room for KV)."
    assert problem.hint == "Mend it, then: ctl load m. The whole story: ctl why m"
    assert problem.facts == {"exit_class": "out_of_memory", "detail": "no room for KV"}


def test_a_half_open_breaker_tells_the_time_and_then_lets_one_try() -> None:
    failed = page(state=State.FAILED)
    failed.half_open = 300.0
    problem = refused(failed, now=59.6)
    assert problem is not None
    assert problem.message == "The backend of m died: crash."
    assert problem.hint == "Tried again in 240 s when asked for, or now with: ctl load m"
    assert problem.facts["half_open_in"] == pytest.approx(240.4)
    assert refused(failed, now=299.9) is not None
    assert refused(failed, now=300.0) is None
    assert refused(failed, by_hand=True) is None


def test_waiting_in_vain_names_who_goes_first() -> None:
    assert "big is being given room first." in admission.waited_out("m", "big").message
    for claim in (None, "m"):
        problem = admission.waited_out("m", claim)
        assert problem.message == "m did not become free in time."
        assert (problem.code, problem.retry_after) == (Code.QUEUE_TIMEOUT, 5.0)


def test_too_large_tells_needed_budget_and_how_much_too_much() -> None:
    problem = admission.never_fits(page(20, 12), Ledger({"unified": 10 * GIB}, POLICY), [])
    assert problem.code is Code.MODEL_TOO_LARGE
    assert problem.message == (
        "m needs 12.0 GiB at the least (ctx-12), the budget is 10.0 GiB: 2.0 GiB too much."
    )
    assert problem.facts == {
        "needed": {"unified": 12 * GIB},
        "budget": {"unified": 10 * GIB},
        "variant": "ctx-12",
    }
    assert problem.retry_after is None


def test_too_large_in_several_pools_tells_each() -> None:
    spec = ModelSpec("m", (Variant("full", {"gpu0": 3 * GIB, "ram": 9 * GIB}),))
    problem = admission.never_fits(
        Page(spec), Ledger({"gpu0": 2 * GIB, "ram": 16 * GIB}, POLICY), []
    )
    assert problem.message == (
        "m needs 3.0 GiB gpu0 + 9.0 GiB ram at the least (full), "
        "the budget is 2.0 GiB gpu0 + 16.0 GiB ram: 1.0 GiB too much."
    )


def test_all_pinned_names_the_pins_and_what_they_hold() -> None:
    ledger = Ledger({"unified": 10 * GIB}, POLICY)
    pins = [page(name="zeta"), page(name="alpha")]
    ledger.charge("zeta", {"unified": 3 * GIB})
    ledger.charge("alpha", {"unified": 4 * GIB})
    problem = admission.never_fits(page(8), ledger, pins)
    assert problem.code is Code.ALL_PINNED
    assert problem.message == (
        "m needs 8.0 GiB at the least (ctx-8), but pinned models hold 7.0 GiB of 10.0 GiB."
    )
    assert problem.facts["without_pins"] == "ctx-8"
    assert problem.hint == "Unpin one of: alpha, zeta"
    assert problem.facts["pinned"] == ["alpha", "zeta"]


def test_pins_are_not_blamed_for_what_would_not_fit_without_them() -> None:
    ledger = Ledger({"unified": 10 * GIB}, POLICY)
    ledger.charge("pin", {"unified": 3 * GIB})
    problem = admission.never_fits(page(12), ledger, [page(name="pin")])
    assert problem.code is Code.MODEL_TOO_LARGE


def test_weights_that_went_while_somebody_waited() -> None:
    ledger = Ledger({"unified": 10 * GIB}, POLICY)
    problem = admission.never_fits(Page(ModelSpec("m", ())), ledger, [])
    assert problem == admission.not_pulled("m")


def test_a_model_of_nothing_but_ladder_steps_is_measured_by_its_last() -> None:
    spec = ModelSpec("m", (Variant("rung1", {"unified": 20 * GIB}, rung=1),))
    problem = admission.never_fits(Page(spec), Ledger({"unified": 10 * GIB}, POLICY), [])
    assert "(rung1)" in problem.message
