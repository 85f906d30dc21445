"""A seeded world around the scheduler: clients, loads, crashes and time, without a process.

Every step checks the invariants of the design; a failing seed is the bug report.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field, replace

from daemon.core.lifecycle import State
from daemon.core.messages import (
    Ask,
    BackendAdopted,
    BackendExited,
    BackendReady,
    BackendUnhealthy,
    BudgetChanged,
    CancelRequest,
    CatalogChanged,
    Command,
    Event,
    ExitClass,
    Grant,
    KillBackend,
    MemoryObserved,
    ModelSpec,
    OperatorAsked,
    Outcome,
    Publish,
    Reject,
    RequestArrived,
    RequestCancelled,
    RequestEnded,
    StartBackend,
    StartFailed,
    StopBackend,
    Ticket,
    TimeAdvanced,
    Variant,
)
from daemon.core.scheduler import Scheduler

POOL = "gpu0"


def variants(size: int, *, ladder: bool) -> tuple[Variant, ...]:
    """``size`` bytes in one pool; with a ladder also a half, and a third after memory ran out."""
    full = Variant("full", {POOL: size})
    if not ladder:
        return (full,)
    half, third = max(1, size // 2), max(1, size // 3)
    return (full, Variant("half", {POOL: half}), Variant("rung1", {POOL: third}, rung=1))


@dataclass
class World:
    """One seed's life. ``outcomes`` maps each ticket to granted/refused/cancelled, once."""

    seed: int
    steps: int = 300
    log: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.now = 0.0
        sizes = [self.rng.randint(1, 9) for _ in range(self.rng.randint(2, 5))]
        self.specs = {
            f"m{i}": ModelSpec(
                f"m{i}",
                variants(size, ladder=self.rng.random() < 0.3),
                slots=self.rng.randint(1, 3),
                keep_alive=self.rng.choice([-1.0, 0.0, 5.0, 60.0]),
                priority=self.rng.choice([0.0, 0.0, 1.0]),
            )
            for i, size in enumerate(sizes)
        }
        self.core = Scheduler({POOL: 10})
        self.agenda: list[tuple[float, int, Event]] = []
        self.sequence = 0
        self.alive: dict[tuple[str, int], bool] = {}  # (model, generation) -> told to stop
        self.used: set[tuple[str, int]] = set()  # generations, which are never used twice
        self.running: dict[int, tuple[str, int]] = {}
        self.tickets: dict[int, Ticket] = {}
        self.waiting: dict[int, Ticket] = {}
        self.outcomes: dict[int, str] = {}
        self.forced = False
        self.lowered = False  # the budget was lowered or a footprint grew: I1 may be broken
        self.starts: dict[str, set[int]] = {}  # model -> tickets unserved since its last start
        self.excused: set[str] = set()  # it died, was unloaded or changed: I5 does not hold it
        self.order: dict[tuple[str, str], list[int]] = {}
        self.worst_wait = 0.0

    def run(self) -> None:
        self.tell(CatalogChanged(dict(self.specs)))
        if self.rng.random() < 0.3:
            first = self.specs["m0"]
            self.alive[("m0", 5)] = False
            self.used.add(("m0", 5))
            self.tell(BackendAdopted("m0", 5, first.variants[0]))
        for _ in range(self.steps):
            self.plan_something()
            self.advance()
        self.finish()

    # ------------------------------------------------------------ what happens

    def at(self, delay: float, event: Event) -> None:
        self.sequence += 1
        heapq.heappush(self.agenda, (self.now + delay, self.sequence, event))

    def plan_something(self) -> None:
        roll = self.rng.random()
        model = self.rng.choice(list(self.specs))
        if roll < 0.62:
            self.arrive(model)
        elif roll < 0.70 and self.waiting:
            ticket_id = self.rng.choice(list(self.waiting))
            self.outcomes[ticket_id] = "cancelled"
            self.unqueue(ticket_id)
            self.tell(RequestCancelled(ticket_id))
        elif roll < 0.76:
            ready = [k for k, told in self.alive.items() if not told]
            if ready:
                kind = self.rng.choice([ExitClass.CRASH, ExitClass.OUT_OF_MEMORY])
                self.die(*self.rng.choice(ready), kind)
        elif roll < 0.79:
            ready = [k for k, told in self.alive.items() if not told]
            if ready:
                self.forced = True
                self.tell(BackendUnhealthy(*self.rng.choice(ready), "no answer"))
                self.forced = False
        elif roll < 0.83:
            self.forced = self.rng.random() < 0.5
            self.excused.add(model)
            self.tell(OperatorAsked(Ask.UNLOAD, model, force=self.forced))
            self.forced = False
        elif roll < 0.86:
            self.tell(OperatorAsked(self.rng.choice([Ask.PIN, Ask.UNPIN, Ask.UNPIN]), model))
        elif roll < 0.89:
            self.excused.add(model)
            self.tell(CatalogChanged(dict(self.specs), frozenset({model})))
        elif roll < 0.91:
            self.tell(OperatorAsked(Ask.RESET, model))
        elif roll < 0.925:
            self.excused.add(model)
            self.tell(CatalogChanged({n: s for n, s in self.specs.items() if n != model}))
            self.at(0.2, CatalogChanged(dict(self.specs)))
        elif roll < 0.94:
            self.lowered = True
            self.tell(BudgetChanged({POOL: self.rng.randint(8, 10)}))
        elif roll < 0.95 and self.alive:
            self.lowered = True
            key = self.rng.choice(list(self.alive))
            grown = {POOL: self.core.ledger.charged(key[0]).get(POOL, 0) + 1}
            self.tell(MemoryObserved({POOL: 5}, {key: grown}))
        else:
            self.tell(MemoryObserved({POOL: self.rng.randint(0, 10)}))

    def arrive(self, model: str, *, load: bool = False) -> None:
        self.sequence += 1
        ticket = Ticket(
            self.sequence,
            model,
            f"c{self.rng.randint(0, 2)}",
            "local",
            self.now,
            self.now + 300.0,
            body_bytes=self.rng.randint(0, 100),
            load=load or self.rng.random() < 0.05,
        )
        self.join(ticket)

    def join(self, ticket: Ticket) -> None:
        """Wait, behind all of the same client that are not younger."""
        self.waiting[ticket.id] = self.tickets[ticket.id] = ticket
        if not ticket.load:
            line = self.order.setdefault((ticket.model, ticket.client), [])
            ahead = [t for t in line if self.tickets[t].arrived <= ticket.arrived]
            line.insert(len(ahead), ticket.id)
        self.tell(RequestArrived(ticket))

    def die(self, model: str, generation: int, kind: ExitClass) -> None:
        asked = self.alive.pop((model, generation))
        if not asked:
            self.excused.add(model)
        for ticket_id in [t for t, key in self.running.items() if key == (model, generation)]:
            del self.running[ticket_id]
            again = self.tickets[ticket_id].attempt == 1 and self.rng.random() < 0.5
            self.at(0.01, RequestEnded(ticket_id, Outcome.LOST if again else Outcome.OK))
        self.tell(BackendExited(model, generation, kind, "seeded"))

    def advance(self) -> None:
        """To the next thing on the agenda or the scheduler's own deadline."""
        deadline = self.core.next_deadline()
        next_event = self.agenda[0][0] if self.agenda else None
        pause = self.rng.choice([0.0, 0.1, 1.0])
        horizon = self.now + pause
        while True:
            deadline = self.core.next_deadline()
            next_event = self.agenda[0][0] if self.agenda else None
            times = [t for t in (deadline, next_event) if t is not None and t <= horizon]
            if not times:
                break
            self.now = max(self.now, min(times))
            if next_event is not None and next_event <= self.now:
                self.happen(heapq.heappop(self.agenda)[2])
            else:
                self.tell(TimeAdvanced())
                after = self.core.next_deadline()
                assert after is None or after > self.now, "a deadline that time does not cure"
        self.now = max(self.now, horizon)

    def happen(self, event: Event) -> None:
        match event:
            case RequestEnded(ticket_id, Outcome.LOST):
                self.tell(event)
                del self.outcomes[ticket_id]
                self.join(replace(self.tickets[ticket_id], attempt=2))
                return
            case RequestEnded(ticket_id):
                self.running.pop(ticket_id, None)
            case BackendReady(model, generation) if (
                self.alive.get((model, generation)) is not False
            ):
                return  # it was told to stop, or died, meanwhile
            case StartFailed(model, generation):
                if self.alive.get((model, generation)) is not False:
                    return
                self.excused.add(model)
            case BackendExited(model, generation):
                if (model, generation) not in self.alive:
                    return
                self.die(model, generation, event.exit_class)
                return
            case _:
                pass
        self.tell(event)

    def finish(self) -> None:
        """Let everything run out: no ticket may be left behind."""
        for model in self.specs:
            self.tell(OperatorAsked(Ask.UNPIN, model))
        for _ in range(20_000):
            if not self.waiting and not self.running:
                break
            deadline = self.core.next_deadline()
            times = [
                t for t in (deadline, self.agenda[0][0] if self.agenda else None) if t is not None
            ]
            assert times, f"deadlock: {list(self.waiting)} wait and nothing is due"
            self.now = max(self.now, min(times))
            if self.agenda and self.agenda[0][0] <= self.now:
                self.happen(heapq.heappop(self.agenda)[2])
            else:
                self.tell(TimeAdvanced())
        assert not self.waiting, f"never answered: {self.waiting}"
        for page in self.core.pages.values():
            assert not len(page.queue)
            assert not page.loads
            assert not page.leases
        books = (self.core._where, self.core._due, self.core._bytes)
        assert books == ({}, {}, 0), f"something is left in the books: {books}"

    # ------------------------------------------------------------ carrying out orders

    def tell(self, event: Event) -> None:
        commands = self.core.handle(event, self.now)
        self.log.append((self.now, repr(event)))
        for command in commands:
            self.log.append((self.now, "  " + repr(command)))
            self.obey(command)
        self.check()

    def unqueue(self, ticket_id: int) -> Ticket:
        ticket = self.waiting.pop(ticket_id)
        if not ticket.load:
            self.order[(ticket.model, ticket.client)].remove(ticket_id)
        self.starts.get(ticket.model, set()).discard(ticket_id)
        return ticket

    def obey(self, command: Command) -> None:
        match command:
            case StartBackend(model, generation):
                assert all(m != model for m, _ in self.alive), f"{model} started twice"
                assert (model, generation) not in self.used, "an old generation again"
                self.used.add((model, generation))
                committed = self.core.ledger.committed.get(POOL, 0)
                assert committed <= self.core.ledger.budget[POOL], "I1: started beyond the budget"
                unserved = self.starts.get(model)
                assert not unserved or model in self.excused, (
                    f"I5: {model} served none of {unserved}"
                )
                self.excused.discard(model)
                self.alive[(model, generation)] = False
                self.starts[model] = {t.id for t in self.waiting.values() if t.model == model}
                roll = self.rng.random()
                delay = self.rng.choice([0.2, 2.0, 12.0])
                if roll < 0.85:
                    self.at(delay, BackendReady(model, generation))
                elif roll < 0.88:
                    self.at(delay, BackendExited(model, generation, ExitClass.PORT, "taken"))
                elif roll < 0.885:
                    self.at(delay, BackendExited(model, generation, ExitClass.PERMANENT, "bad"))
                elif roll < 0.93:
                    self.at(delay, StartFailed(model, generation, ExitClass.HANG, "stalled"))
                else:
                    self.at(delay, BackendExited(model, generation, ExitClass.CRASH, "boot"))
            case StopBackend(model, generation, reason):
                cut = [t for t, key in self.running.items() if key == (model, generation)]
                assert self.forced or not cut, f"I2: {model} stopped ({reason}) with leases {cut}"
                page = self.core.pages[model]
                assert reason not in ("evict", "idle") or not page.pinned, f"I7: {model} is pinned"
                self.end(model, generation)
            case KillBackend(model, generation):
                self.excused.add(model)
                self.end(model, generation)
            case Grant(ticket_id, model, generation, slot):
                ticket = self.unqueue_granted(ticket_id)
                assert self.core.pages[model].state in (State.READY, State.DRAINING)
                assert self.alive.get((model, generation)) is False
                self.worst_wait = max(self.worst_wait, self.now - ticket.arrived)
                if ticket.load:
                    assert slot == -1
                else:
                    self.running[ticket_id] = (model, generation)
                    self.at(self.rng.choice([0.1, 1.0, 6.0]), RequestEnded(ticket_id))
            case Reject(ticket_id, problem):
                assert problem.message
                self.once(ticket_id, "refused")
                self.unqueue(ticket_id)
            case CancelRequest(ticket_id):
                assert self.forced or ticket_id in self.running
                self.at(0.0, RequestEnded(ticket_id))
            case Publish():
                pass

    def unqueue_granted(self, ticket_id: int) -> Ticket:
        ticket = self.waiting[ticket_id]
        self.once(ticket_id, "granted")
        if not ticket.load:
            line = self.order[(ticket.model, ticket.client)]
            assert line[0] == ticket_id, f"I10: {ticket_id} before {line[0]} of the same client"
        self.starts[ticket.model] = set()
        return self.unqueue(ticket_id)

    def once(self, ticket_id: int, outcome: str) -> None:
        assert ticket_id not in self.outcomes, f"I3: {ticket_id} {outcome} after {self.outcomes}"
        self.outcomes[ticket_id] = outcome

    def end(self, model: str, generation: int) -> None:
        self.alive[(model, generation)] = True
        self.at(self.rng.choice([0.0, 0.5, 3.0]), BackendExited(model, generation, ExitClass.CLEAN))

    # ------------------------------------------------------------ invariants after each step

    def check(self) -> None:
        core = self.core
        committed, budget = core.ledger.committed, core.ledger.budget
        over = committed.get(POOL, 0) > budget[POOL]
        assert self.lowered or not over, f"I1: {committed} of {budget}"
        self.lowered = over
        charged = sum(
            page.variant.need[POOL]
            for page in core.pages.values()
            if page.state.resident and page.variant
        )
        assert committed.get(POOL, 0) >= charged, "the ledger forgot a live process"
        for page in core.pages.values():
            if page.state is State.READY:
                free = page.spec.slots - len(page.leases)
                assert not (free and len(page.queue)), f"I9: {page.name} waits beside a free slot"
            assert len(page.leases) <= page.spec.slots
            assert len(set(page.leases.values())) == len(page.leases), "a slot granted twice"
            resident = any(model == page.name for model, _ in self.alive)
            assert page.state.resident == resident, f"{page.name}: {page.state} but {self.alive}"
        if core.claim is not None:
            claimant = core.pages[core.claim]
            assert claimant.waits(), "I10: a claim for nobody"
            others = [
                p
                for p in core.pages.values()
                if p.state is State.STOPPED and p.waits() and p is not claimant
            ]
            key = claimant.age_key(core.policy)
            assert all(key <= p.age_key(core.policy) for p in others), "I4: not the oldest claims"
        draining = [
            p
            for p in core.pages.values()
            if p.state is State.DRAINING and p.drain_reason == "evict"
        ]
        assert core.claim is not None or not draining, "I10: drains for nobody"
        if self.waiting and not self.agenda:
            assert core.next_deadline() is not None, "I6: waiting, and nothing is due"
