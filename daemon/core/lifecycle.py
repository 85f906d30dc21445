"""The states of a model and the legal moves between them.

The table is a guard: decisions are made in ``scheduler``, and a move that is not in the table is a
bug of ours and raises. The diagram in ARCHITECTURE.md is generated from it.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """``resident``: a process exists or is about to, so its memory is charged."""

    STOPPED = ("stopped", False)
    STARTING = ("starting", True)
    READY = ("ready", True)
    DRAINING = ("draining", True)  # takes no new lease; running ones finish
    STOPPING = ("stopping", True)
    BACKOFF = ("backoff", False)  # died; tried again when its time has come
    FAILED = ("failed", False)  # given up until something changes

    def __init__(self, label: str, resident: bool) -> None:
        self.label = label
        self.resident = resident


TRANSITIONS: dict[State, frozenset[State]] = {
    State.STOPPED: frozenset({State.STARTING, State.READY}),  # READY: adopted
    State.STARTING: frozenset(
        {State.READY, State.STOPPING, State.STOPPED, State.BACKOFF, State.FAILED}
    ),
    State.READY: frozenset(
        {State.DRAINING, State.STOPPING, State.STOPPED, State.BACKOFF, State.FAILED}
    ),
    State.DRAINING: frozenset(
        {State.READY, State.STOPPING, State.STOPPED, State.BACKOFF, State.FAILED}
    ),
    State.STOPPING: frozenset({State.STOPPED, State.BACKOFF, State.FAILED}),
    State.BACKOFF: frozenset({State.STOPPED}),
    State.FAILED: frozenset({State.STOPPED}),
}


class IllegalTransition(AssertionError):
    """The scheduler tried a move that the table does not have: a bug, never a user's mistake."""


def check(model: str, before: State, after: State) -> None:
    """Raise :class:`IllegalTransition` unless ``before`` → ``after`` is legal."""
    if after not in TRANSITIONS[before]:
        raise IllegalTransition(f"{model}: {before.label} -> {after.label}")


def mermaid() -> str:
    """The table as a Mermaid state diagram, for ARCHITECTURE.md."""
    lines = ["stateDiagram-v2", "    [*] --> stopped"]
    lines += [
        f"    {before.label} --> {after.label}"
        for before in State
        for after in State
        if after in TRANSITIONS[before]
    ]
    return "\n".join(lines)
