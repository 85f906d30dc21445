from __future__ import annotations

import dataclasses
import typing

import pytest

from daemon.core import messages
from daemon.core.messages import (
    Ask,
    BackendAdopted,
    BackendExited,
    BackendReady,
    BackendUnhealthy,
    BudgetChanged,
    CatalogChanged,
    Event,
    ExitClass,
    MemoryObserved,
    OperatorAsked,
    RequestArrived,
    RequestCancelled,
    RequestEnded,
    StartFailed,
    Ticket,
    TimeAdvanced,
    Variant,
)
from tests.core.desk import Desk, model

GHOST = "ghost"
SAMPLES: list[Event] = [
    RequestCancelled(99),
    RequestEnded(99),
    BackendReady(GHOST, 1),
    BackendAdopted(GHOST, 1, Variant("full", {"ram": 1})),
    BackendUnhealthy(GHOST, 1),
    StartFailed(GHOST, 1, ExitClass.HANG),
    BackendExited(GHOST, 1, ExitClass.CRASH),
    MemoryObserved({"ram": 3}, {(GHOST, 1): {"ram": 9}}),
    OperatorAsked(Ask.UNLOAD, GHOST, force=True),
    CatalogChanged({"a": model("a")}),
    BudgetChanged({"ram": 10}),
    TimeAdvanced(),
]
NAMES = [type(event).__name__ for event in SAMPLES]


@pytest.mark.parametrize("event", SAMPLES, ids=NAMES)
def test_news_of_what_is_not_in_the_books_changes_nothing(event: Event) -> None:
    desk = Desk(model("a"))
    ticket = desk.serve("a")
    assert desk.tell(event) == []
    assert list(desk.core.pages) == ["a"]
    assert desk.page("a").leases == {ticket: 0}


def test_a_request_for_an_unknown_model_is_refused_by_name() -> None:
    desk = Desk(model("a"))
    assert desk.tell(RequestArrived(Ticket(1, GHOST, "c", "key", 0.0, 300.0))) == [
        "reject 1 model_not_found"
    ]
    assert "'ghost'" in desk.problem.message


def test_every_kind_of_event_is_covered_above() -> None:
    kinds = {kind.__name__ for kind in typing.get_args(Event)}
    assert kinds == {*NAMES, "RequestArrived"}


def test_events_and_commands_cannot_be_altered() -> None:
    kinds = [*typing.get_args(Event), *typing.get_args(messages.Command)]
    assert len(kinds) == len(set(kinds)) == 21
    for kind in kinds:
        assert kind.__dataclass_params__.frozen
        assert not hasattr(kind, "__dict__") or "__slots__" in vars(kind)
    ticket = Ticket(1, "a", "c", "key", 0.0, 300.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        ticket.arrived = 5.0  # type: ignore[misc]
