"""A seeded world around the scheduler: clients, loads, crashes and time, without a process.

Every step checks the invariants of the design; a failing seed is the bug report.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from daemon.core.lifecycle import State
from daemon.core.messages import (
    Ask,
    BackendAdopted,
    BackendExited,
    BackendReady,
    BackendUnhealthy,
    BudgetChanged,
    Bytes,
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
    Remember,
    RequestArrived,
    RequestCancelled,
    RequestEnded,
    Standing,
    StartBackend,
    StartFailed,
    StopBackend,
    Ticket,
    TimeAdvanced,
    Variant,
)
from daemon.core.policy import Policy
from daemon.core.problems import Code
from daemon.core.scheduler import Scheduler
from tests.core.laws import Laws

POOL, OTHER = "gpu0", "gpu1"


def variants(size: int, kind: str) -> tuple[Variant, ...]:
    """``size`` bytes. ``ladder``: also a half, and after memory ran out twice (the first time it is
    started alone) leaner ones; ``spread``: over two pools; ``placed``: in the one pool or in the
    other."""
    full = Variant("full", {POOL: size})
    half, third = max(1, size // 2), max(1, size // 3)
    match kind:
        case "ladder":
            return (
                replace(full, until=1),
                Variant("lean", {POOL: max(1, size - 1)}, rung=2, until=2),
                Variant("half", {POOL: half}, until=1),
                Variant("lean half", {POOL: third}, rung=2, until=3, slots=1),
                Variant("last", {POOL: 1}, rung=4),
            )
        case "spread":
            return (Variant("spread", {POOL: half, OTHER: third}),)
        case "placed":
            return (full, Variant("there", {OTHER: size}), Variant("both", {POOL: 1, OTHER: half}))
        case _:
            return (full,)


@dataclass
class World(Laws):
    """One seed's life. ``outcomes`` maps each ticket to granted/refused/cancelled, once."""

    seed: int
    steps: int = 250
    calm: bool = False  # only requests: then no wait is longer than the design's bound
    landlord: type[Scheduler] = Scheduler
    log: list[tuple[float, Event | Command]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.now = 0.0
        sizes = [self.rng.randint(1, 9) for _ in range(self.rng.randint(2, 5))]
        self.pools = (POOL, OTHER) if not self.calm and self.rng.random() < 0.4 else (POOL,)
        self.specs = {f"m{i}": self.model(f"m{i}", size) for i, size in enumerate(sizes)}
        self.marked = not self.calm and self.rng.random() < 0.4
        self.policy = Policy() if self.calm else self.some_policy()
        self.core = self.landlord(dict.fromkeys(self.pools, 10), self.policy)
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
        self.bounds: dict[int, float] = {}  # ticket -> longest wait that the design allows
        self.worst_share = 0.0  # of a bound, that a wait came to
        self.free: dict[str, int] = {}
        self.unseen: dict[tuple[str, int], dict[str, int]] = {}  # started, not in ``free`` yet
        self.cut: set[tuple[int, tuple[str, int], Code]] = set()
        self.kinds: set[str] = set()  # of what was published
        self.remembered: dict[str, tuple[Standing, float]] = {}  # and since when
        self.floors: dict[str, int] = {}  # the place of the first variant that is not too large
        self.short: dict[str, float] = {}  # when it ran out of memory last
        self.witnessed: dict[int, int] = {}  # ticket -> starts that ran out of memory meanwhile

    def model(self, name: str, size: int) -> ModelSpec:
        kinds = ["plain", "ladder"]
        if len(self.pools) > 1:
            kinds += ["spread", "placed", "placed"]
        kind = "plain" if self.calm else self.rng.choice(kinds)
        return ModelSpec(
            name,
            variants(size, kind),
            alone=1 if kind == "ladder" else 0,
            slots=self.rng.randint(1, 3),
            keep_alive=self.rng.choice([-1.0, 0.0, 5.0, 60.0]),
            priority=0.0 if self.calm else self.rng.choice([0.0, 0.0, 1.0]),
        )

    def some_policy(self) -> Policy:
        choose = self.rng.choice
        return Policy(
            memory_policy=choose(["wait", "wait", "wait_then_fail", "preempt"]),
            memory_wait=choose([3.0, 20.0, 60.0]),
            max_drain=choose([None, None, 2.0, 30.0]),
            small_evicts=choose([False, False, False, True]),
            recent=choose([600.0, 15.0]),
            pressure_clear=choose([2.0, 60.0]),
            climb_back=choose([86400.0, 20.0, 5.0]),
            healthy_after=choose([600.0, 4.0]),
        )

    def run(self) -> None:
        self.tell(CatalogChanged(self.catalog()))
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

    def catalog(self) -> dict[str, ModelSpec]:
        """All models, with what is remembered of them."""
        known = {
            name: replace(standing, age=standing.age + self.now - since)
            for name, (standing, since) in self.remembered.items()
        }
        return {n: replace(s, standing=known.get(n)) for n, s in self.specs.items()}

    def full_size(self, model: str) -> None:
        """It may be as large as it likes again."""
        self.floors.pop(model, None)
        self.short.pop(model, None)

    def at(self, delay: float, event: Event) -> None:
        self.sequence += 1
        heapq.heappush(self.agenda, (self.now + delay, self.sequence, event))

    def plan_something(self) -> None:
        roll = self.rng.random()
        model = self.rng.choice(list(self.specs))
        if self.marked and roll < 0.04:
            self.observe({})
        elif roll < 0.62 or (self.calm and roll > 0.70):
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
            self.remembered.pop(model, None)  # it is another one now
            self.full_size(model)
            self.tell(CatalogChanged(self.catalog(), frozenset({model})))
        elif roll < 0.91:
            self.reset(model)
        elif roll < 0.925:
            self.excused.add(model)
            self.tell(CatalogChanged({n: s for n, s in self.catalog().items() if n != model}))
            self.at(0.2, CatalogChanged(dict(self.specs)))
        elif roll < 0.935:
            self.lowered = True
            self.tell(BudgetChanged({pool: self.rng.randint(8, 10) for pool in self.pools}))
        elif roll < 0.945 and self.alive:
            self.lowered = True
            key = self.rng.choice(list(self.alive))
            charged = self.core.ledger.charged(key[0])
            growth = self.rng.choice([1, 4])
            self.observe({key: dict(charged)})
            self.lowered = True
            self.observe({key: {pool: n + growth for pool, n in charged.items()}})
        elif roll < 0.949 or (self.core.paused is not None and roll > 0.98):
            self.pause_or_go_on()
        elif roll < 0.96:
            self.check_picture()
        else:
            self.observe({})

    def reset(self, model: str) -> None:
        self.full_size(model)
        self.tell(OperatorAsked(Ask.RESET, model))
        there = model in self.core.pages
        assert not there or model not in self.remembered, f"{model} was reset, and is remembered"

    def pause_or_go_on(self) -> None:
        if self.core.paused is not None and self.rng.random() < 0.7:
            self.tell(OperatorAsked(Ask.RESUME))
            return
        self.excused.update(self.specs)
        self.forced = self.rng.random() < 0.2
        seconds = self.rng.choice([None, 2.0, 10.0])
        hold = self.rng.random() < 0.6
        self.tell(OperatorAsked(Ask.PAUSE, None, self.forced, seconds, hold))
        self.forced = False

    def observe(self, footprints: dict[tuple[str, int], dict[str, int]]) -> None:
        """The machine is looked at; in some worlds another program wants memory for a while."""
        free = {pool: self.rng.randint(0, 10) for pool in self.pools}
        if self.marked and min(free.values()) < 4:
            for delay in (0.5, 3.0):
                self.at(delay, MemoryObserved(dict.fromkeys(self.pools, 10)))
        self.look(free, footprints)

    def look(self, free: Bytes, footprints: Mapping[tuple[str, int], Bytes]) -> None:
        self.free = dict(free)
        starting = {n for n, p in self.core.pages.items() if p.state is State.STARTING}
        self.unseen = {key: need for key, need in self.unseen.items() if key[0] in starting}
        low = dict.fromkeys(self.pools, 2) if self.marked else {}
        high = dict.fromkeys(self.pools, 4) if self.marked else {}
        self.tell(MemoryObserved(free, footprints, low, high))

    def arrive(self, model: str) -> None:
        self.sequence += 1
        rng = self.rng
        plain = self.calm or rng.random() < 0.6
        ticket = Ticket(
            self.sequence,
            model,
            f"c{rng.randint(0, 2)}",
            "local",
            self.now,
            self.now + (1e6 if self.calm else 300.0),
            body_bytes=rng.randint(0, 100),
            priority=0.0 if plain else rng.choice([-1.0, 0.0, 1.0, 5.0]),
            load=not self.calm and rng.random() < (0.2 if self.marked else 0.05),
            small=not plain and rng.random() < 0.4,
            stand_in=None if plain else rng.choice([*self.specs, "nobody", None]),
        )
        if self.calm:
            self.bounds[ticket.id] = self.bound(model)
        self.join(ticket)

    def bound(self, model: str) -> float:
        """The design's: (N+1)(k/slots+2) turns, each a quantum, a service, a stop, what settles,
        and a load; all at their longest here."""
        older = sum(1 for t in self.waiting.values() if t.model == model)
        slots = self.specs[model].slots
        quantum = min(2 * (12.0 + 12.0 + 3.0), self.policy.quantum_max)
        turn = quantum + 6.0 + 3.0 + self.policy.settle + 12.0
        return (len(self.specs) + 1) * (older / slots + 2) * turn

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
        self.unseen.pop((model, generation), None)
        if not asked:
            self.excused.add(model)
        for ticket_id in [t for t, key in self.running.items() if key == (model, generation)]:
            del self.running[ticket_id]
            again = self.tickets[ticket_id].attempt == 1 and self.rng.random() < 0.5
            self.at(0.01, RequestEnded(ticket_id, Outcome.LOST if again else Outcome.OK))
        self.ends(BackendExited(model, generation, kind, "seeded"), asked=asked)

    def ends(self, event: BackendExited, *, asked: bool) -> None:
        """Tell of the exit, and note what must follow if its memory was too short."""
        page = self.core.pages.get(event.model)
        short = event.exit_class is ExitClass.OUT_OF_MEMORY and not asked
        if page is None or not short or page.variant is None:
            self.tell(event)
            return
        ran, rung, trying = page.variant.id, page.rung, page.before is not None
        for ticket in page.queue:
            self.witnessed[ticket.id] = self.witnessed.get(ticket.id, 0) + 1
        self.tell(event)
        if self.core.pages.get(event.model) is not page:
            return  # it was removed before, and nothing of this is kept
        self.short[event.model] = self.now
        if page.rung > rung and not trying:
            place = [v.id for v in page.spec.variants].index(ran)
            floor = place + (page.rung != page.spec.alone)
            self.floors[event.model] = max(floor, self.floors.get(event.model, 0))
        for ticket in page.queue:
            seen = self.witnessed.get(ticket.id, 0)
            assert seen < 3, f"{ticket.id} waits on after {seen} failures"

    def advance(self) -> None:
        """To the next thing on the agenda or the scheduler's own deadline."""
        self.pass_time(self.rng.choice([0.0, 0.1, 1.0]))

    def pass_time(self, seconds: float) -> None:
        horizon = self.now + seconds
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
            case MemoryObserved(free, footprints):
                self.look(free, footprints)
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
            case CatalogChanged():
                self.tell(CatalogChanged(self.catalog()))
                return
            case _:
                pass
        self.tell(event)

    def finish(self) -> None:
        """Let everything run out: no ticket may be left behind."""
        for model in self.specs:
            self.tell(OperatorAsked(Ask.UNPIN, model))
        self.tell(OperatorAsked(Ask.RESUME))
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
        self.log.append((self.now, event))
        for command in commands:
            self.log.append((self.now, command))
            self.obey(command)
        self.check()

    def unqueue(self, ticket_id: int) -> Ticket:
        ticket = self.waiting.pop(ticket_id)
        self.witnessed.pop(ticket_id, None)
        if not ticket.load:
            self.order[(ticket.model, ticket.client)].remove(ticket_id)
        self.starts.get(ticket.model, set()).discard(ticket_id)
        return ticket

    def obey(self, command: Command) -> None:
        match command:
            case StartBackend(model, generation, variant):
                assert self.core.paused is None, "something starts during a pause"
                self.check_machine(variant)
                self.check_rung(model, variant)
                self.unseen[(model, generation)] = dict(variant.need)
                assert all(m != model for m, _ in self.alive), f"{model} started twice"
                assert (model, generation) not in self.used, "an old generation again"
                self.used.add((model, generation))
                for pool in variant.need:
                    committed = self.core.ledger.committed[pool]
                    assert committed <= self.core.ledger.budget[pool], "I1: beyond the budget"
                unserved = self.starts.get(model)
                assert not unserved or model in self.excused, (
                    f"I5: {model} served none of {unserved}"
                )
                self.excused.discard(model)
                self.alive[(model, generation)] = False
                self.starts[model] = {t.id for t in self.waiting.values() if t.model == model}
                roll = self.rng.random()
                delay = self.rng.choice([0.2, 2.0, 12.0])
                if roll < 0.85 or self.calm:
                    self.at(delay, BackendReady(model, generation))
                elif roll < 0.88:
                    self.at(delay, BackendExited(model, generation, ExitClass.PORT, "taken"))
                elif roll < 0.885:
                    self.at(delay, BackendExited(model, generation, ExitClass.PERMANENT, "bad"))
                elif roll < 0.92:
                    self.at(delay, StartFailed(model, generation, ExitClass.HANG, "stalled"))
                elif roll < 0.97:
                    self.at(delay, BackendExited(model, generation, ExitClass.OUT_OF_MEMORY))
                else:
                    self.at(delay, BackendExited(model, generation, ExitClass.CRASH, "boot"))
            case StopBackend(model, generation, reason):
                cut = [t for t, key in self.running.items() if key == (model, generation)]
                assert self.forced or not cut, f"I2: {model} stopped ({reason}) with leases {cut}"
                page = self.core.pages[model]
                if reason in ("evict", "idle", "pressure", "over_budget"):
                    assert not page.pinned, f"I7: {model} is pinned, and stopped ({reason})"
                self.end(model, generation)
            case KillBackend(model, generation):
                self.excused.add(model)
                self.end(model, generation)
            case Grant(ticket_id, model, generation, slot):
                ticket = self.unqueue_granted(ticket_id, model)
                state = self.core.pages[model].state
                assert ticket.load or state in (State.READY, State.DRAINING)
                assert (model, generation) in self.alive
                assert ticket.load or not self.alive[(model, generation)]
                wait = self.now - ticket.arrived
                if ticket_id in self.bounds:
                    self.worst_share = max(self.worst_share, wait / self.bounds[ticket_id])
                    assert wait <= self.bounds[ticket_id], f"I4: {ticket_id} waited {wait:.0f} s"
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
            case CancelRequest(ticket_id, problem):
                assert ticket_id in self.running
                self.check_cut(ticket_id, problem.code)
                again = (ticket_id, self.running[ticket_id], problem.code) in self.cut
                assert not again or self.forced, f"{ticket_id} is cut again"
                self.cut.add((ticket_id, self.running[ticket_id], problem.code))
                self.at(self.rng.choice([0.0, 0.2]), RequestEnded(ticket_id))
            case Publish(kind, model, facts):
                self.kinds.add(kind)
                if kind == "evict":
                    self.check_eviction(model, str(facts["claim"]))
                elif kind == "climbs":
                    self.check_climb(model)
                    self.full_size(model)
            case Remember(model, standing):
                if model in self.core.pages:  # else the shell knows it no more
                    self.remember(model, standing)

    def remember(self, model: str, standing: Standing | None) -> None:
        if standing is None:
            del self.remembered[model]
            return
        self.remembered[model] = (standing, self.now)
        if model not in self.floors:  # it was put back where it stood
            self.floors[model] = self.core.pages[model].smallest

    def unqueue_granted(self, ticket_id: int, used: str) -> Ticket:
        ticket = self.waiting[ticket_id]
        self.once(ticket_id, "granted")
        line = self.order.get((ticket.model, ticket.client), [])
        if used != ticket.model:
            assert ticket.stand_in == used, f"{ticket_id} was sent to {used}"
            wanted = self.core.pages[ticket.model]
            free = wanted.state is State.READY and len(wanted.leases) < wanted.slots
            assert not free, f"{ticket_id} had a slot of its own model"
            line = [t for t in line if self.tickets[t].stand_in == used]
        if not ticket.load:
            assert line[0] == ticket_id, f"I10: {ticket_id} before {line[0]} of the same client"
        if used == ticket.model:
            self.starts[used] = set()
        return self.unqueue(ticket_id)

    def once(self, ticket_id: int, outcome: str) -> None:
        assert ticket_id not in self.outcomes, f"I3: {ticket_id} {outcome} after {self.outcomes}"
        self.outcomes[ticket_id] = outcome

    def end(self, model: str, generation: int) -> None:
        self.alive[(model, generation)] = True
        self.at(self.rng.choice([0.0, 0.5, 3.0]), BackendExited(model, generation, ExitClass.CLEAN))
