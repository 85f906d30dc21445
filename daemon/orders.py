"""The scheduler's shell: facts in, orders carried out. One writer, one loop.

Everything here runs in the event loop's thread. ``tell`` is the only way to the core; a fact told
while orders are being carried out waits its turn, so decisions never nest. What requests see of it
is in ``supervisor``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from daemon.access.principals import LOCAL, Principal
from daemon.backends.accidents import Accidents
from daemon.backends.starts import Starts
from daemon.config.model import Model
from daemon.core.budget import NOTHING
from daemon.core.lifecycle import State
from daemon.core.messages import (
    BackendExited,
    BackendReady,
    Bytes,
    CancelRequest,
    Command,
    Event,
    ExitClass,
    Grant,
    KillBackend,
    MemoryObserved,
    Publish,
    Reject,
    Remember,
    RequestArrived,
    Standing,
    StartBackend,
    StopBackend,
    TimeAdvanced,
    Variant,
)
from daemon.core.problems import Problem, ProblemError
from daemon.core.scheduler import Scheduler
from daemon.dialects.manner import Manner
from daemon.leases import Held, Queued
from daemon.ports import Edits, Hold, ModelCard, Resolved, Target
from daemon.telemetry.bus import Bus
from daemon.telemetry.phrases import phrase

log = logging.getLogger("modelport.supervisor")

FRESH = 1.0  # seconds for which a look at the machine's memory is good enough for a start


class Runs(Protocol):
    """What the supervisor needs of one running backend."""

    generation: int

    def stop(self) -> None: ...
    def kill(self) -> None: ...
    @property
    def holding(self) -> Hold: ...


class Named(Protocol):
    """What is asked of a model by its name."""

    @property
    def model(self) -> Model: ...
    @property
    def manner(self) -> Manner | None: ...


class Stock(Protocol):
    """What can be served, as prepared from the configuration (``daemon.backends.stock``)."""

    def resolve(
        self, name: str, route: str, small: bool, movable: bool, who: Principal
    ) -> Resolved | Problem:
        """The model that is meant by ``who``, or why this route of it cannot be served."""
        ...

    def edits(self, model: str) -> Edits | None:
        """What its configuration does to bodies of requests."""
        ...

    def find(self, name: str, route: str = "", who: Principal = LOCAL) -> Named | Problem:
        """The model that a name means to ``who``."""
        ...

    def manner(self, model: str) -> Manner | None:
        """How a model is spoken to."""
        ...

    def cards(self, states: Mapping[str, str], who: Principal) -> list[ModelCard]: ...
    def card(
        self, name: str, states: Mapping[str, str], route: str, who: Principal
    ) -> ModelCard | Problem: ...
    def begin(
        self, model: str, generation: int, variant: Variant, tell: Callable[[Event], None]
    ) -> Runs:
        """Start a backend; raises ProblemError where it cannot even be tried."""
        ...


@dataclass(slots=True)
class Orders(ABC):
    """Carries out what the scheduler decides."""

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
    remember: Callable[[str, Standing | None], None] = lambda *_: None
    refused: Callable[[str], None] = lambda _: None  # a model that has been given up
    free: Callable[[], Bytes] = dict  # bytes by pool that the machine has left, told at once
    accidents: Accidents = field(default_factory=Accidents)
    starts: Starts = field(default_factory=Starts)
    counters: dict[str, int] = field(default_factory=lambda: {"starts": 0, "requests": 0})
    _waiting: dict[int, Queued] = field(default_factory=dict)
    _leases: dict[int, Held] = field(default_factory=dict)
    _held_back: dict[str, list[Queued]] = field(default_factory=dict)
    _doubted: dict[tuple[str, int], list[Event]] = field(default_factory=dict)
    _trusted: dict[tuple[str, int], float] = field(default_factory=dict)
    _inbox: deque[Event] = field(default_factory=deque)
    _busy: bool = False
    _looked: float = -math.inf
    _watching: bool = False
    _timer: asyncio.TimerHandle | None = None
    _armed: float = math.inf  # when that rings, by ``clock``
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

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
        calm = self.scheduler.calm_until
        if calm < self._armed or calm == math.inf != self._armed:
            self._arm()
        if self._watching or calm == -math.inf:  # in calm times there is nothing to watch for
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
        """Wake the core in time. Once too often does no harm, and spares most requests a timer."""
        deadline = self.scheduler.next_deadline()
        at = math.inf if deadline is None else deadline
        if self._armed <= at < math.inf:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._armed = at
        if at < math.inf:
            delay = max(0.0, at - self.clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._wake)

    def _wake(self) -> None:
        self._timer, self._armed = None, math.inf
        self.tell(TimeAdvanced())

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
                    self._look_again(queued.ticket.model)
            case CancelRequest(ticket_id, problem):
                lease = self._leases.get(ticket_id)
                if lease is not None and lease.on_cancel is not None:
                    lease.taken_back = True
                    lease.on_cancel(problem)
            case Publish(kind, model, facts):
                if kind == "evict":
                    self.starts.makes_room(model, str(facts["claim"]), self.clock())
                self.bus.publish(kind, model, phrase(kind, model, facts), facts)
            case Remember(model, standing):
                self.remember(model, standing)

    def _look_again(self, model: str) -> None:
        """Its files may have been mended since it was given up."""
        page = self.scheduler.pages.get(model)
        if page is not None and page.state is State.FAILED:
            self.refused(model)

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
        for kept in (self._doubted, self._trusted):
            kept.pop((event.model, event.generation), None)
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

    def in_flight(self, model: str, generation: int) -> list[Held]:
        """The leases on one backend."""
        return [
            lease
            for lease in self._leases.values()
            if lease.model == model and lease.generation == generation
        ]

    # ------------------------------------------------------------ the side of requests

    @abstractmethod
    def _granted(self, grant: Grant) -> None:
        """Give the lease to whoever waits for it."""

    @abstractmethod
    def _release(self, queued: Queued) -> None:
        """A second attempt need not wait for the keeper's word any more."""
