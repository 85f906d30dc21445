"""The short way of a request decides what the long way would: both are told the same facts."""

from __future__ import annotations

import os
from typing import Any

import pytest

from daemon.core.messages import Command, Event, Outcome, Ticket
from daemon.core.scheduler import Scheduler
from tests.core.desk import Desk, model
from tests.core.simulate import is_calm
from tests.core.world import World

SEEDS = max(5, int(os.environ.get("MODELPORT_SEEDS", "2000")) // 20)


class LongWay(Scheduler):
    """Everything is decided."""

    def _straight_in(self, ticket: Ticket, now: float) -> bool:
        return False

    def _straight_out(self, ticket_id: int, outcome: Outcome, now: float) -> bool:
        return False


def books(core: Scheduler) -> list[tuple[Any, ...]]:
    """All that a short way could forget to write down."""
    return [
        (
            page.name,
            page.state,
            dict(page.leases),
            page.last_used,
            page.released,
            page.good,
            page.gap,
            set(page.started_for),
            len(page.queue),
        )
        for page in core.pages.values()
    ]


class Twins(Scheduler):
    """Goes the short way where it can, beside one that never does."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.other = LongWay(*arguments)
        self.short = 0

    def _straight_in(self, ticket: Ticket, now: float) -> bool:
        went = super()._straight_in(ticket, now)
        self.short += went
        return went

    def _straight_out(self, ticket_id: int, outcome: Outcome, now: float) -> bool:
        went = super()._straight_out(ticket_id, outcome, now)
        self.short += went
        return went

    def handle(self, event: Event, now: float) -> list[Command]:
        mine, theirs = super().handle(event, now), self.other.handle(event, now)
        assert mine == theirs
        assert self.next_deadline() == self.other.next_deadline()
        assert books(self) == books(self.other)
        assert (self._where, self._due, self._queued, self._bytes) == (
            self.other._where,
            self.other._due,
            self.other._queued,
            self.other._bytes,
        )
        assert (self.claim, self.claim_victims) == (self.other.claim, self.other.claim_victims)
        return mine


@pytest.mark.timeout(600)
def test_both_ways_decide_alike_in_every_seed() -> None:
    short = 0
    for seed in range(SEEDS):
        world = World(seed, calm=is_calm(seed), landlord=Twins)
        world.run()
        assert isinstance(world.core, Twins)
        short += world.core.short
    assert short > 5 * SEEDS, "hardly anything went the short way"


class Quiet(Desk):
    """``a`` runs with two slots and has served; whoever goes the long way is noticed."""

    def __init__(self, **given: Any) -> None:
        super().__init__(
            model("a", 4, slots=2, keep_alive=60.0), model("b", 4), model("c", 8), **given
        )
        self.core.handle = self._handle  # type: ignore[method-assign]
        self.arrive("a")
        self.ready("a")
        self.end(1)

    def _handle(self, event: Event, now: float) -> list[Command]:
        decided: list[float] = []
        decide = type(self.core)._decide

        def noticed(at: float) -> None:
            decided.append(at)
            decide(self.core, at)

        self.core._decide = noticed  # type: ignore[method-assign]
        commands = type(self.core).handle(self.core, event, now)
        self.long = bool(decided)
        return commands


def test_a_request_gets_the_lowest_free_slot_without_a_decision() -> None:
    desk = Quiet()
    assert desk.arrive("a") == ["grant 2 a/0"]
    assert not desk.long
    assert desk.arrive("a") == ["grant 3 a/1"]
    assert desk.end(2) == []
    assert not desk.long
    assert desk.arrive("a") == ["grant 4 a/0"]
    assert not desk.long
    assert desk.arrive("a") == [], "both slots are taken"
    assert desk.long
    assert desk.end(3) == ["grant 5 a/1"]
    assert desk.long


def test_keep_alive_counts_from_its_end() -> None:
    desk = Quiet()
    desk.at(50.0)
    desk.arrive("a")
    assert desk.core.next_deadline() is None, "one that serves does not expire"
    desk.at(55.0)
    desk.end(2)
    assert not desk.long
    assert desk.at(114.9) == []
    assert desk.at(115.0) == ["stop a idle"]


@pytest.mark.parametrize(
    ("what", "asked"),
    [
        ("its deadline is over", {"patience": 0.0}),
        ("too large for the queue", {"body": 1 << 40}),
        ("an operator's", {"load": True}),
        ("with a stand-in", {"small": True, "stand_in": "b"}),
    ],
)
def test_what_is_unusual_is_decided(what: str, asked: dict[str, Any]) -> None:
    desk = Quiet()
    desk.arrive("a", **asked)
    assert desk.long, what


def test_no_short_way_past_one_who_waits() -> None:
    """``c`` claims the room of ``a``: whoever comes for ``a`` now is a matter of fairness."""
    desk = Quiet()
    desk.arrive("a")
    desk.arrive("c")
    assert desk.core.claim == "c"
    desk.arrive("a")
    assert desk.long


def test_a_claim_sees_what_happened_on_the_short_way() -> None:
    desk = Quiet()
    desk.arrive("a", load=True)  # decided: how it looks now is known
    assert desk.arrive("a") == ["grant 3 a/0"]
    assert not desk.long
    assert desk.arrive("c") == [], "it is in use"
    # at the same moment, so that it looks as it did before the short way
    assert desk.end(3) == ["stop a evict"]


def test_time_is_not_overslept() -> None:
    """Whoever comes late finds what should have happened meanwhile decided."""
    desk = Quiet()
    desk.arrive("a")
    desk.arrive("b")
    desk.ready("b")
    desk.end(3)
    desk.at(10.0)
    desk.end(2)
    assert not desk.long
    desk.now = 75.0
    assert desk.arrive("b") == ["stop a idle", "grant 4 b/0"]
