"""A desk in front of the scheduler: facts in as short calls, orders out as short words.

``desk.arrive("a")`` answers ``["start a full"]``; ``desk.at(12.0)`` lets time pass, waking the
scheduler exactly when it asked to be woken, and answers all that it ordered meanwhile.
"""

from __future__ import annotations

from dataclasses import replace

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
    StartBackend,
    StartFailed,
    StopBackend,
    Ticket,
    TimeAdvanced,
    Variant,
)
from daemon.core.page import Page
from daemon.core.policy import Policy
from daemon.core.problems import Problem
from daemon.core.scheduler import Scheduler

NEVER = -1.0  # keep-alive


def model(
    name: str,
    size: int | Bytes = 6,
    *smaller: Variant,
    slots: int = 1,
    keep_alive: float = NEVER,
    pinned: bool = False,
    priority: float = 0.0,
    load: float = 2.0,
    stop: float = 0.5,
) -> ModelSpec:
    """A model whose variant ``full`` takes ``size`` bytes of ``ram``, which needs no settling."""
    need = {"ram": size} if isinstance(size, int) else size
    variants = (Variant("full", need), *smaller)
    return ModelSpec(name, variants, slots, keep_alive, pinned, priority, load, stop)


def short(command: Command) -> str:
    """One order in a few words."""
    match command:
        case StartBackend(name, _, variant):
            return f"start {name} {variant.id}"
        case StopBackend(name, _, reason):
            return f"stop {name} {reason}"
        case KillBackend(name, _, reason):
            return f"kill {name} {reason}"
        case Grant(ticket_id, name, _, slot):
            return f"grant {ticket_id} {name}/{slot}" if slot >= 0 else f"loaded {ticket_id} {name}"
        case Reject(ticket_id, problem):
            return f"reject {ticket_id} {problem.code.value}"
        case CancelRequest(ticket_id, problem):
            return f"cancel {ticket_id} {problem.code.value}"
        case Publish(kind, name):
            return f"publish {kind} {name}"
        case Remember(name, standing):
            return f"remember {name} {standing.rung if standing else 0}"


class Desk:
    """A scheduler with a budget of 10 bytes of ``ram``, a clock and a numbering of tickets."""

    def __init__(
        self, *models: ModelSpec, budget: int | Bytes = 10, policy: Policy | None = None
    ) -> None:
        self.core = Scheduler({"ram": budget} if isinstance(budget, int) else budget, policy)
        self.now = 0.0
        self.ticket = 0
        self.tickets: dict[int, Ticket] = {}
        self.commands: list[Command] = []
        self.said: list[Publish] = []
        self.remembered: list[Remember] = []
        self.wakes = 0
        self.specs = {spec.name: spec for spec in models}
        self.tell(CatalogChanged(self.specs))

    # ------------------------------------------------------------ telling

    def tell(self, event: Event) -> list[str]:
        """The orders that follow, without what is only published or remembered."""
        self.commands = self.core.handle(event, self.now)
        self.said = [c for c in self.commands if isinstance(c, Publish)]
        self.remembered = [c for c in self.commands if isinstance(c, Remember)]
        return [short(c) for c in self.commands if not isinstance(c, Publish | Remember)]

    def at(self, time: float) -> list[str]:
        """Let time pass until then, with a wake-up at each deadline that the scheduler names."""
        orders: list[str] = []
        said: list[Publish] = []
        while (due := self.core.next_deadline()) is not None and due <= time:
            self.now = max(self.now, due)
            self.wakes += 1
            assert self.wakes < 1000, f"woken again and again at {self.now}"
            orders += self.tell(TimeAdvanced())
            said += self.said
        self.now, self.said = time, said
        return orders

    def arrive(
        self,
        name: str,
        client: str = "c",
        *,
        load: bool = False,
        patience: float = 300.0,
        body: int = 0,
        arrived: float | None = None,
        priority: float = 0.0,
        small: bool = False,
        stand_in: str | None = None,
    ) -> list[str]:
        self.ticket += 1
        since = self.now if arrived is None else arrived
        ticket = Ticket(
            self.ticket,
            name,
            client,
            "key",
            since,
            since + patience,
            body,
            priority=priority,
            load=load,
            small=small,
            stand_in=stand_in,
        )
        self.tickets[ticket.id] = ticket
        return self.tell(RequestArrived(ticket))

    def again(self, ticket_id: int) -> list[str]:
        """The second attempt of a request whose backend broke before any byte."""
        self.tell(RequestEnded(ticket_id, Outcome.LOST))
        return self.tell(RequestArrived(replace(self.tickets[ticket_id], attempt=2)))

    def cancel(self, ticket_id: int) -> list[str]:
        return self.tell(RequestCancelled(ticket_id))

    def end(self, ticket_id: int) -> list[str]:
        return self.tell(RequestEnded(ticket_id))

    def ready(self, name: str) -> list[str]:
        return self.tell(BackendReady(name, self.page(name).generation))

    def exit(self, name: str, kind: ExitClass = ExitClass.CLEAN, why: str = "") -> list[str]:
        return self.tell(BackendExited(name, self.page(name).generation, kind, why))

    def start_failed(self, name: str, kind: ExitClass = ExitClass.HANG) -> list[str]:
        return self.tell(StartFailed(name, self.page(name).generation, kind, "stalled"))

    def unhealthy(self, name: str) -> list[str]:
        return self.tell(BackendUnhealthy(name, self.page(name).generation, "no answer"))

    def adopt(self, name: str, generation: int = 7, variant: Variant | None = None) -> list[str]:
        variant = variant or self.specs[name].variants[0]
        return self.tell(BackendAdopted(name, generation, variant))

    def ask(self, ask: Ask, name: str | None = None, *, force: bool = False) -> list[str]:
        return self.tell(OperatorAsked(ask, name, force))

    def catalog(self, *models: ModelSpec, touched: str = "") -> list[str]:
        self.specs = {spec.name: spec for spec in models}
        return self.tell(CatalogChanged(self.specs, frozenset(touched.split())))

    def pause(
        self, seconds: float | None = None, *, hold: bool = True, force: bool = False
    ) -> list[str]:
        return self.tell(OperatorAsked(Ask.PAUSE, None, force, seconds, hold))

    def resume(self) -> list[str]:
        return self.tell(OperatorAsked(Ask.RESUME))

    def marks(self, free: int, low: int = 2, high: int = 4) -> list[str]:
        """What ``ram`` has free, and the marks of other programs' needs."""
        return self.tell(MemoryObserved({"ram": free}, {}, {"ram": low}, {"ram": high}))

    def free(self, **pools: int) -> list[str]:
        return self.tell(MemoryObserved(pools))

    def seen(self, name: str, **pools: int) -> list[str]:
        """What its running backend really takes."""
        return self.tell(MemoryObserved({}, {(name, self.page(name).generation): pools}))

    def budget(self, **pools: int) -> list[str]:
        return self.tell(BudgetChanged(pools))

    # ------------------------------------------------------------ whole walks

    def serve(self, name: str, seconds: float = 0.0) -> int:
        """Have it started by a request that holds its lease; the start takes ``seconds``."""
        assert self.arrive(name) == [f"start {name} full"]
        ticket = self.ticket
        self.at(self.now + seconds)
        assert self.ready(name) == [f"grant {ticket} {name}/0"]
        return ticket

    def idle(self, name: str, seconds: float = 0.0) -> None:
        """Have it started by a request that has ended."""
        self.end(self.serve(name, seconds))

    # ------------------------------------------------------------ looking

    def page(self, name: str) -> Page:
        return self.core.pages[name]

    def state(self, name: str) -> State:
        return self.page(name).state

    @property
    def due(self) -> float | None:
        return self.core.next_deadline()

    @property
    def problem(self) -> Problem:
        """Of the last refusal or cancellation that was ordered."""
        found = [c.problem for c in self.commands if isinstance(c, Reject | CancelRequest)]
        return found[-1]

    def published(self, kind: str) -> list[dict[str, object]]:
        """The facts of what the last event, or the last passing of time, had published."""
        said = [c for c in self.said if c.kind == kind]
        return [{"model": c.model, **c.facts} for c in said]
