from __future__ import annotations

import itertools

import pytest

from daemon.core.lifecycle import TRANSITIONS, IllegalTransition, State, check, mermaid

PAIRS = list(itertools.product(State, State))


@pytest.mark.parametrize(("before", "after"), PAIRS, ids=[f"{a.label}-{b.label}" for a, b in PAIRS])
def test_only_moves_of_the_table_are_legal(before: State, after: State) -> None:
    if after in TRANSITIONS[before]:
        check("m", before, after)
    else:
        with pytest.raises(IllegalTransition, match=f"m: {before.label} -> {after.label}"):
            check("m", before, after)


def test_memory_is_charged_while_a_process_may_live() -> None:
    resident = {s for s in State if s.resident}
    assert resident == {State.STARTING, State.READY, State.DRAINING, State.STOPPING}


def test_a_process_is_left_only_through_its_exit() -> None:
    """No way from STOPPING back to serving, and none from READY to a new start."""
    assert TRANSITIONS[State.STOPPING] == {State.STOPPED, State.BACKOFF, State.FAILED}
    assert all(State.STARTING not in TRANSITIONS[s] for s in State if s is not State.STOPPED)


def test_a_drain_may_be_called_off_and_a_failure_forgiven() -> None:
    assert State.READY in TRANSITIONS[State.DRAINING]
    assert TRANSITIONS[State.BACKOFF] == TRANSITIONS[State.FAILED] == {State.STOPPED}


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.STOPPED}
    for _ in State:
        reached |= {after for before in reached for after in TRANSITIONS[before]}
    assert reached == set(State)
    assert all(TRANSITIONS[state] for state in State)


def test_the_diagram_has_each_move_once_and_nothing_else() -> None:
    head, start, *moves = mermaid().splitlines()
    assert (head, start.strip()) == ("stateDiagram-v2", "[*] --> stopped")
    drawn = sorted(move.strip() for move in moves)
    assert drawn == sorted(f"{a.label} --> {b.label}" for a in State for b in TRANSITIONS[a])
