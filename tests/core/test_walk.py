"""The other walk: hypothesis chooses what happens, and shortens what breaks an invariant.

The seeded walk of ``test_simulation`` has weights and finds what is deep; this one has none and
finds what is odd.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from daemon.core.messages import (
    Ask,
    BudgetChanged,
    CatalogChanged,
    ExitClass,
    OperatorAsked,
    RequestCancelled,
    Ticket,
)
from tests.core.world import World

models = st.integers(0, 4)
seconds = st.sampled_from([0.0, 0.1, 1.0, 7.0, 40.0])


class Walk(RuleBasedStateMachine):
    """Anything may happen at any time. Every step of the world checks the invariants."""

    world: World

    @initialize(seed=st.integers(0, 10_000))
    def begin(self, seed: int) -> None:
        self.world = World(seed)
        self.world.tell(CatalogChanged(self.world.catalog()))

    def model(self, number: int) -> str:
        names = list(self.world.specs)
        return names[number % len(names)]

    @rule(
        model=models,
        client=st.sampled_from("xy"),
        priority=st.sampled_from([0.0, 2.0, -1.0]),
        kind=st.sampled_from(["plain", "plain", "small", "load"]),
        stand_in=st.none() | models,
    )
    def arrive(
        self, model: int, client: str, priority: float, kind: str, stand_in: int | None
    ) -> None:
        world = self.world
        world.sequence += 1
        world.join(
            Ticket(
                world.sequence,
                self.model(model),
                client,
                "key",
                world.now,
                world.now + 300.0,
                priority=priority,
                load=kind == "load",
                small=kind == "small",
                stand_in=None if stand_in is None else self.model(stand_in),
            )
        )

    @precondition(lambda self: bool(self.world.waiting))
    @rule(pick=st.integers(0, 100))
    def leave(self, pick: int) -> None:
        world = self.world
        waiting = sorted(world.waiting)
        ticket_id = waiting[pick % len(waiting)]
        world.outcomes[ticket_id] = "cancelled"
        world.unqueue(ticket_id)
        world.tell(RequestCancelled(ticket_id))

    @precondition(lambda self: any(not told for told in self.world.alive.values()))
    @rule(kind=st.sampled_from([ExitClass.CRASH, ExitClass.OUT_OF_MEMORY, ExitClass.PERMANENT]))
    def die(self, kind: ExitClass) -> None:
        world = self.world
        world.die(*min(key for key, told in world.alive.items() if not told), kind)

    @rule(model=models, ask=st.sampled_from([Ask.UNLOAD, Ask.PIN, Ask.UNPIN, Ask.RESET]))
    def ask(self, model: int, ask: Ask) -> None:
        name = self.model(model)
        if ask is Ask.UNLOAD:
            self.world.excused.add(name)
        if ask is Ask.RESET:
            self.world.reset(name)
            return
        self.world.tell(OperatorAsked(ask, name))

    @rule()
    def pause(self) -> None:
        self.world.pause_or_go_on()

    @rule(budget=st.integers(5, 10))
    def budget(self, budget: int) -> None:
        self.world.lowered = True
        self.world.tell(BudgetChanged(dict.fromkeys(self.world.pools, budget)))

    @rule()
    def look(self) -> None:
        self.world.observe({})

    @rule(span=seconds)
    def wait(self, span: float) -> None:
        self.world.pass_time(span)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=settings().max_examples // 2, stateful_step_count=40)
