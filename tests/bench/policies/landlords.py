"""Four landlords: strict first come first served, models of two policies in use elsewhere (made
from a description of what they do, not from their code), and the real core of this project."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from daemon.core.messages import (
    BackendExited,
    BackendReady,
    CatalogChanged,
    Command,
    Event,
    ExitClass,
    Grant,
    ModelSpec,
    RequestArrived,
    RequestEnded,
    StartBackend,
    StopBackend,
    Ticket,
    TimeAdvanced,
    Variant,
)
from daemon.core.policy import Policy
from daemon.core.scheduler import Scheduler
from tests.bench.policies.town import BUDGET, STOP, House, Orders, Request


@dataclass(slots=True)
class Flat:
    """A house as the simple landlords see it."""

    house: House
    state: str = "out"  # out, starting, ready, stopping
    running: int = 0
    last_used: float = 0.0
    inside: deque[Request] = field(default_factory=deque)  # let in, and waiting for a slot


class Simple:
    """What the three simple landlords share."""

    def __init__(self, houses: list[House]) -> None:
        self.flats = {h.name: Flat(h) for h in houses}
        self.orders = Orders()

    def arrived(self, request: Request, now: float) -> Orders:
        self.enter(request, now)
        return self._work(now)

    def ended(self, request: Request, now: float) -> Orders:
        flat = self.flats[request.model]
        flat.running -= 1
        flat.last_used = now
        return self._work(now)

    def ready(self, model: str, now: float) -> Orders:
        self.flats[model].state = "ready"
        self.flats[model].last_used = now
        return self._work(now)

    def gone(self, model: str, now: float) -> Orders:
        self.flats[model].state = "out"
        return self._work(now)

    def woken(self, now: float) -> Orders:
        return Orders()

    def deadline(self) -> float | None:
        return None

    def enter(self, request: Request, now: float) -> None:
        raise NotImplementedError

    def decide(self, now: float) -> None:
        raise NotImplementedError

    def _work(self, now: float) -> Orders:
        self.orders = Orders()
        for flat in self.flats.values():
            self.let_in(flat, now)
        self.decide(now)
        for flat in self.flats.values():
            self.let_in(flat, now)
        return self.orders

    def let_in(self, flat: Flat, now: float) -> None:
        while flat.state == "ready" and flat.inside and flat.running < flat.house.slots:
            self.orders.grant.append(flat.inside.popleft().id)
            flat.running += 1
            flat.last_used = now

    def room(self) -> int:
        return BUDGET - sum(f.house.size for f in self.flats.values() if f.state != "out")

    def make_room(self, flat: Flat, order: list[Flat]) -> bool:
        """Start it if it fits; else stop idle ones, in this order. True once it starts."""
        if self.room() >= flat.house.size:
            flat.state = "starting"
            self.orders.start.append(flat.house.name)
            return True
        coming = sum(f.house.size for f in self.flats.values() if f.state == "stopping")
        for other in order:
            if self.room() + coming >= flat.house.size:
                break
            if other.running or other.inside:
                break  # it waits until this one has nothing to do
            other.state = "stopping"
            coming += other.house.size
            self.orders.stop.append(other.house.name)
        return False

    def ready_ones(self) -> list[Flat]:
        return [f for f in self.flats.values() if f.state == "ready"]


class StrictFifo(Simple):
    """One line for all: nobody is served before the one in front."""

    def __init__(self, houses: list[House]) -> None:
        super().__init__(houses)
        self.line: deque[Request] = deque()

    def enter(self, request: Request, now: float) -> None:
        self.line.append(request)

    def decide(self, now: float) -> None:
        while self.line:
            flat = self.flats[self.line[0].model]
            if flat.state == "ready" and flat.running < flat.house.slots:
                flat.inside.append(self.line.popleft())
                self.let_in(flat, now)
                continue
            if flat.state == "out":
                self.make_room(flat, sorted(self.ready_ones(), key=lambda f: f.last_used))
            return


class OllamaLike(Simple):
    """Whoever wants a loaded model is let in at once; one line for all the others, whose head
    waits until the chosen victim has nothing to do. No recency: by name, idle first."""

    def __init__(self, houses: list[House]) -> None:
        super().__init__(houses)
        self.line: deque[Request] = deque()

    def enter(self, request: Request, now: float) -> None:
        flat = self.flats[request.model]
        if flat.state == "ready":
            flat.inside.append(request)
        else:
            self.line.append(request)

    def decide(self, now: float) -> None:
        while self.line:
            flat = self.flats[self.line[0].model]
            if flat.state == "ready":
                if flat.running + len(flat.inside) >= flat.house.slots:
                    return
                flat.inside.append(self.line.popleft())
                self.let_in(flat, now)
                continue
            if flat.state == "out":
                busy = {f.house.name: bool(f.running or f.inside) for f in self.ready_ones()}
                order = sorted(self.ready_ones(), key=lambda f: (busy[f.house.name], f.house.name))
                self.make_room(flat, order)
            return


class LlamaSwapLike(Simple):
    """Requests are gathered by model; a loaded model serves whoever comes; the next model waits
    until those in its way have nothing to do."""

    def __init__(self, houses: list[House]) -> None:
        super().__init__(houses)
        self.lines: OrderedDict[str, deque[Request]] = OrderedDict()

    def enter(self, request: Request, now: float) -> None:
        flat = self.flats[request.model]
        if flat.state in ("ready", "starting"):
            flat.inside.append(request)
        else:
            self.lines.setdefault(request.model, deque()).append(request)

    def decide(self, now: float) -> None:
        for model in list(self.lines):
            flat = self.flats[model]
            if flat.state == "out":
                order = sorted(self.ready_ones(), key=lambda f: (-f.house.size, f.last_used))
                if not self.make_room(flat, order):
                    return
            if flat.state in ("ready", "starting"):
                flat.inside.extend(self.lines.pop(model))


class Ours:
    """The real core."""

    def __init__(self, houses: list[House], policy: Policy | None = None) -> None:
        self.core = Scheduler({"ram": BUDGET}, policy)
        specs = {
            h.name: ModelSpec(
                h.name,
                (Variant("full", {"ram": h.size}),),
                slots=h.slots,
                keep_alive=-1.0,
                load_estimate=h.load,
                stop_estimate=STOP,
            )
            for h in houses
        }
        self.generations: dict[str, int] = {}
        self._tell(CatalogChanged(specs), 0.0)

    def _tell(self, event: Event, now: float) -> Orders:
        orders = Orders()
        for command in self.core.handle(event, now):
            self._note(command, orders)
        return orders

    def _note(self, command: Command, orders: Orders) -> None:
        match command:
            case StartBackend(model, generation):
                self.generations[model] = generation
                orders.start.append(model)
            case StopBackend(model):
                orders.stop.append(model)
            case Grant(ticket_id):
                orders.grant.append(ticket_id)
            case _:
                pass

    def arrived(self, request: Request, now: float) -> Orders:
        ticket = Ticket(request.id, request.model, request.client, "key", now, now + 1e9)
        return self._tell(RequestArrived(ticket), now)

    def ended(self, request: Request, now: float) -> Orders:
        return self._tell(RequestEnded(request.id), now)

    def ready(self, model: str, now: float) -> Orders:
        return self._tell(BackendReady(model, self.generations[model]), now)

    def gone(self, model: str, now: float) -> Orders:
        return self._tell(BackendExited(model, self.generations[model], ExitClass.CLEAN), now)

    def woken(self, now: float) -> Orders:
        return self._tell(TimeAdvanced(), now)

    def deadline(self) -> float | None:
        return self.core.next_deadline()
