"""The shell around the scheduler: facts in, orders carried out. One writer, one loop.

Everything here runs in the event loop's thread. ``tell`` is the only way to the core; a fact told
while orders are being carried out waits its turn, so decisions never nest.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Protocol

from daemon.backends.accidents import Accidents, poisoned
from daemon.backends.starts import Starts
from daemon.core.budget import NOTHING
from daemon.core.messages import (
    BackendExited,
    BackendReady,
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
    Outcome,
    Publish,
    Reject,
    RequestArrived,
    RequestCancelled,
    RequestEnded,
    StartBackend,
    StopBackend,
    Ticket,
    TimeAdvanced,
    Variant,
)
from daemon.core.problems import Code, Problem, ProblemError
from daemon.core.scheduler import Scheduler
from daemon.leases import Early, Held, Queued
from daemon.ports import Edits, Hold, Lease, ModelCard, Resolved, Target, Waiting, Wish
from daemon.telemetry.bus import Bus
from daemon.telemetry.phrases import phrase

log = logging.getLogger("modelport.supervisor")

STOPPING = Problem(Code.SHUTTING_DOWN, "The daemon is stopping.", "Try again.", 5.0)
STARTING = Problem(Code.MODEL_UNAVAILABLE, "The daemon is starting.", "Try again.", 1.0)
# Longest wait, seconds, for the keeper's word on a backend that was lost. No setting: the keeper
# sits on the same machine and speaks a moment later; this only bounds its silence.
FRESH = 1.0  # seconds for which a look at the machine's memory is good enough for a start
RETRY_HOLD = 0.5


class Runs(Protocol):
    """What the supervisor needs of one running backend."""

    generation: int

    def stop(self) -> None: ...
    def kill(self) -> None: ...
    @property
    def holding(self) -> Hold: ...


class Stock(Protocol):
    """What can be served, as prepared from the configuration (``daemon.backends.stock``)."""

    def resolve(self, name: str, route: str) -> Resolved | Problem:
        """The model that is meant, or why this route of it cannot be served."""
        ...

    def edits(self, model: str) -> Edits | None:
        """What its configuration does to bodies of requests."""
        ...

    def cards(self, states: Mapping[str, str]) -> list[ModelCard]: ...
    def card(self, name: str, states: Mapping[str, str]) -> ModelCard | Problem: ...
    def begin(
        self, model: str, generation: int, variant: Variant, tell: Callable[[Event], None]
    ) -> Runs:
        """Start a backend; raises ProblemError where it cannot even be tried."""
        ...


@dataclass(slots=True)
class Supervisor:
    """Carries out what the scheduler decides; the relay's ``LeasePort``."""

    scheduler: Scheduler
    bus: Bus
    queue_timeout: float
    shutdown_retry: float = 5.0  # seconds that clients are told to wait while it stops
    stock: Stock | None = None  # until the configuration has been read
    clock: Callable[[], float] = time.monotonic
    draining: bool = False
    backends: dict[str, Runs] = field(default_factory=dict)
    close_connections: Callable[[Target], None] = lambda _: None
    wake_sampler: Callable[[], None] = lambda: None
    witness: Callable[[BackendExited], None] = lambda _: None  # before the books forget it
    broken: dict[str, int] = field(default_factory=dict)  # requests that a backend has failed
    free: Callable[[], Bytes] = dict  # bytes by pool that the machine has left, told at once
    accidents: Accidents = field(default_factory=Accidents)
    starts: Starts = field(default_factory=Starts)
    on_lease: Callable[[], None] = lambda: None  # a request is given to a backend
    on_end: Callable[[Held], None] = lambda _: None  # and is over
    counters: dict[str, int] = field(default_factory=lambda: {"starts": 0, "requests": 0})
    _ids: count[int] = field(default_factory=lambda: count(1))
    _waiting: dict[int, Queued] = field(default_factory=dict)
    _leases: dict[int, Held] = field(default_factory=dict)
    _early: list[Early] = field(default_factory=list)
    _opened: bool = False
    _held_back: dict[str, list[Queued]] = field(default_factory=dict)
    _inbox: deque[Event] = field(default_factory=deque)
    _busy: bool = False
    _looked: float = -math.inf
    _watching: bool = False
    _timer: asyncio.TimerHandle | None = None
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def stopping(self) -> Problem:
        """What is said to everyone while it stops."""
        return replace(STOPPING, retry_after=self.shutdown_retry)

    # ------------------------------------------------------------ the core

    def tell(self, event: Event) -> None:
        """Tell the scheduler one fact and carry out what it orders."""
        self._inbox.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._inbox:
                fact = self._before(self._inbox.popleft())
                for command in self.scheduler.handle(fact, self.clock()):
                    self._obey(command)
        finally:
            self._busy = False
        self._arm()
        self._watch()
        if not self.backends:
            self._idle.set()

    def _before(self, event: Event) -> Event:
        """What the shell itself makes of a fact; the fact as the core is told it."""
        match event:
            case BackendExited():
                self.witness(event)
                marks = [one.mark for one in self.in_flight(event.model, event.generation)]
                event = self.accidents.exited(event, marks, self.clock())
                self.starts.gone(event.model)
                self._gone(event)
            case BackendReady(model):
                self.starts.ready(model, self.clock())
            case RequestArrived(ticket):
                if ticket.model not in self.backends:
                    self._look_first()
            case _:
                self.accidents.told(event)
        return event

    def look(
        self, free: Bytes | None = None, *, low: Bytes = NOTHING, high: Bytes = NOTHING
    ) -> None:
        """Tell the core what the machine has left (asked now, unless ``free`` is given), with the
        marks if they are new."""
        self._looked = self.clock()
        self.tell(MemoryObserved(self.free() if free is None else free, low=low, high=high))

    def _look_first(self) -> None:
        """Something may be started: by what the machine has left now, not some while ago."""
        now = self.clock()
        if now - self._looked >= FRESH:
            self._looked = now
            for command in self.scheduler.handle(MemoryObserved(self.free()), now):
                self._obey(command)

    def _watch(self) -> None:
        """Whoever looks at memory is told when what happens next begins or ceases to hang on it."""
        if self.scheduler.watches_memory != self._watching:
            self._watching = not self._watching
            self.wake_sampler()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.scheduler.next_deadline()
        if deadline is not None:
            delay = max(0.0, deadline - self.clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self.tell, TimeAdvanced())

    def _obey(self, command: Command) -> None:
        match command:
            case StartBackend():
                self._start(command)
            case StopBackend(model, generation):
                if (run := self._current(model, generation)) is not None:
                    self.close_connections(run.holding.target)
                    run.stop()
            case KillBackend(model, generation):
                if (run := self._current(model, generation)) is not None:
                    self.close_connections(run.holding.target)
                    run.kill()
            case Grant():
                self._granted(command)
            case Reject(ticket_id, problem):
                if (queued := self._waiting.pop(ticket_id, None)) is not None:
                    queued.done(problem)
            case CancelRequest(ticket_id, problem):
                lease = self._leases.get(ticket_id)
                if lease is not None and lease.on_cancel is not None:
                    lease.on_cancel(problem)
            case Publish(kind, model, facts):
                if kind == "evict":
                    self.starts.makes_room(model, str(facts["claim"]), self.clock())
                self.bus.publish(kind, model, phrase(kind, model, facts), facts)

    def _current(self, model: str, generation: int) -> Runs | None:
        run = self.backends.get(model)
        return run if run is not None and run.generation == generation else None

    # ------------------------------------------------------------ backends

    def _start(self, order: StartBackend) -> None:
        self.counters["starts"] += 1
        self.starts.ordered(order.model, self.clock())
        self._idle.clear()
        assert self.stock is not None, "a start before anything is configured"
        try:
            run = self.stock.begin(order.model, order.generation, order.variant, self.tell)
        except ProblemError as error:
            self._cannot_start(order, ExitClass.PERMANENT, error.problem.text)
        except OSError as error:
            self._cannot_start(order, ExitClass.CRASH, str(error))
        else:
            self.backends[order.model] = run
            self.wake_sampler()

    def _cannot_start(self, order: StartBackend, exit_class: ExitClass, detail: str) -> None:
        self._inbox.append(BackendExited(order.model, order.generation, exit_class, detail))

    def _gone(self, event: BackendExited) -> None:
        run = self._current(event.model, event.generation)
        if run is not None:
            self.close_connections(run.holding.target)
            del self.backends[event.model]
            self.broken.pop(event.model, None)
            self.wake_sampler()
        for queued in list(self._held_back.get(event.model, [])):
            asyncio.get_running_loop().call_soon(self._release, queued)

    def adopt(self, model: str, run: Runs) -> None:
        """Put a backend that outlived the previous daemon in its place."""
        self._idle.clear()
        self.backends[model] = run
        self.wake_sampler()

    async def all_gone(self, deadline: float) -> bool:
        """Wait until no backend is left; False if ``deadline`` seconds were not enough."""
        if not self.backends:
            return True
        try:
            await asyncio.wait_for(self._idle.wait(), deadline)
        except TimeoutError:
            return False
        return True

    # ------------------------------------------------------------ requests

    def open(self) -> None:
        """The models are known: serve, those first who came before."""
        self._opened = True
        while self._early:
            one = self._early.pop(0)
            one.inner = self.acquire(one.wish, one.done)

    def leave(self) -> None:
        """The daemon stops: whoever comes is refused from now on, and so are an operator's waits
        and those who came before the models were known. Who waits for a model may still get it."""
        self.draining = True
        while self._early:
            self._early.pop(0).done(self.stopping)
        for queued in [q for q in self._waiting.values() if q.ticket.load]:
            self.cancelled(queued)
            queued.done(self.stopping)

    def acquire(self, wish: Wish, done: Callable[[Lease | Problem], None]) -> Waiting | None:
        """See ``LeasePort``."""
        if self.draining:
            done(self.stopping)
            return None
        if self.stock is None or not self._opened:
            self._early.append(Early(wish, done, self))
            return self._early[-1]
        found = self.stock.resolve(wish.model, wish.route.value)
        if isinstance(found, Problem):
            done(found)
            return None
        now, name = self.clock(), found.model
        if self.accidents.refused(wish.mark, now):
            done(poisoned(name))
            return None
        self.counters["requests"] += 1
        ticket = Ticket(
            next(self._ids),
            name,
            wish.client,
            wish.principal.name,
            now if wish.arrived is None else wish.arrived,
            now + self.queue_timeout,  # a second attempt keeps its place, and waits anew
            wish.body_bytes,
            wish.attempt,
            float(wish.principal.priority),
            small=found.small,
            stand_in=found.stand_in,
        )
        queued = Queued(ticket, done, self, wish.mark)
        if wish.attempt > 1 and name in self.backends:
            self._hold_back(queued)
        else:
            self._enqueue(queued)
        return queued

    def load(
        self, model: str, done: Callable[[Lease | Problem], None], patience: float
    ) -> Queued | None:
        """An operator's wish: ``done`` gets a lease that needs no end once the model is ready."""
        if self.draining:
            done(self.stopping)
            return None
        now = self.clock()
        ticket = Ticket(next(self._ids), model, "operator", "owner", now, now + patience, load=True)
        queued = Queued(ticket, done, self)
        self._enqueue(queued)
        return queued

    def _enqueue(self, queued: Queued) -> None:
        self._waiting[queued.ticket.id] = queued
        self.tell(RequestArrived(queued.ticket))

    def _hold_back(self, queued: Queued) -> None:
        """A second attempt waits for the keeper's word on the first one's backend: the connection
        breaks a moment before the exit is known, and the same dead process would be granted."""
        loop = asyncio.get_running_loop()
        model = queued.ticket.model
        self._held_back.setdefault(model, []).append(queued)
        queued.timer = loop.call_later(RETRY_HOLD, self._release, queued)

    def _release(self, queued: Queued) -> None:
        if not self._let_go(queued):
            return
        if self.accidents.refused(queued.mark, self.clock()):
            queued.done(poisoned(queued.ticket.model))
        else:
            self._enqueue(queued)

    def _let_go(self, queued: Queued) -> bool:
        """No longer held back; False if it was not."""
        held = self._held_back.get(queued.ticket.model, [])
        if queued not in held:
            return False
        held.remove(queued)
        if not held:
            del self._held_back[queued.ticket.model]
        if queued.timer is not None:
            queued.timer.cancel()
        return True

    def forget_early(self, early: Early) -> None:
        if early in self._early:
            self._early.remove(early)

    def cancelled(self, queued: Queued) -> None:
        if not self._let_go(queued) and self._waiting.pop(queued.ticket.id, None) is not None:
            self.tell(RequestCancelled(queued.ticket.id))

    def _granted(self, grant: Grant) -> None:
        queued = self._waiting.pop(grant.ticket_id, None)
        run = self._current(grant.model, grant.generation)
        if run is None:
            raise AssertionError(f"granted {grant.model} without a backend")
        if queued is None:  # left in the same moment
            self._inbox.append(RequestEnded(grant.ticket_id, Outcome.CLIENT_GONE))
            return
        lease = Held(
            queued.ticket,
            run.holding,
            grant.generation,
            grant.slot,
            grant.model,
            self.clock(),
            queued.mark,
            self,
        )
        if grant.slot >= 0:
            self._leases[grant.ticket_id] = lease
            self.on_lease()
        queued.done(lease)

    def ended(self, lease: Held, outcome: Outcome) -> None:
        if self._leases.pop(lease.ticket.id, None) is not None:
            self.counters[outcome.value] = self.counters.get(outcome.value, 0) + 1
            run = self._current(lease.model, lease.generation)
            if run is not None and outcome in (Outcome.LOST, Outcome.UPSTREAM_ERROR):
                self.broken[lease.model] = self.broken.get(lease.model, 0) + 1
            if outcome in (Outcome.LOST, Outcome.UPSTREAM_ERROR):
                self.accidents.lost(lease.model, lease.generation, lease.mark(), self.clock())
            self.on_end(lease)
            self.tell(RequestEnded(lease.ticket.id, outcome))

    def in_flight(self, model: str, generation: int) -> list[Held]:
        """The leases on one backend."""
        return [
            lease
            for lease in self._leases.values()
            if lease.model == model and lease.generation == generation
        ]

    # ------------------------------------------------------------ what it shows

    def states(self) -> dict[str, str]:
        return {name: page.state.label for name, page in self.scheduler.pages.items()}

    def cards(self) -> list[ModelCard]:
        return self.stock.cards(self.states()) if self.stock else []

    def card(self, name: str) -> ModelCard | Problem:
        if self.stock is None:
            return STARTING
        return self.stock.card(name, self.states())

    def catalog(
        self,
        specs: Mapping[str, ModelSpec],
        touched: frozenset[str],
        budget: Mapping[str, int] | None = None,
    ) -> None:
        """What can be served has changed; with ``budget`` it is a whole new configuration."""
        self.tell(CatalogChanged(dict(specs), touched, budget))
