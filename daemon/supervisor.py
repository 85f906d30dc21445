"""The landlord's counter: what the relay, operators and ``ctl`` ask of the scheduler's shell.

Requests wait here and get leases; below it (``orders``) facts reach the core and its orders are
carried out. Everything runs in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

from daemon.access.principals import LOCAL, Principal
from daemon.backends.accidents import poisoned
from daemon.core.lifecycle import State
from daemon.core.messages import (
    Ask,
    CatalogChanged,
    Event,
    Grant,
    ModelSpec,
    OperatorAsked,
    Outcome,
    RequestArrived,
    RequestCancelled,
    RequestEnded,
    Ticket,
)
from daemon.core.problems import Code, Problem
from daemon.dialects.manner import Manner
from daemon.engines.tokens import Recipe
from daemon.leases import Early, Held, Queued
from daemon.orders import Orders
from daemon.ports import NOT_LOADED, Lease, ModelCard, Resolved, Route, Tokens, Waiting, Wish

STOPPING = Problem(Code.SHUTTING_DOWN, "The daemon is stopping.", "Try again.", 5.0)
STARTING = Problem(Code.MODEL_UNAVAILABLE, "The daemon is starting.", "Try again.", 1.0)
# Longest wait, seconds, for the keeper's word on a backend that was lost. No setting: the keeper
# sits on the same machine and speaks a moment later; this only bounds its silence.
RETRY_HOLD = 0.5
TRUST = 10.0  # seconds in which one that lived on after a broken connection is not doubted again


Absent = Callable[[Wish, Problem, Callable[[Lease | Problem], None]], Waiting | None]


def _refuse(wish: Wish, problem: Problem, done: Callable[[Lease | Problem], None]) -> None:
    done(problem)


Counter = Callable[[Recipe, bytes, Callable[[Tokens | None], None]], Waiting | None]
Done = Callable[[Lease | Problem], None]
Seek = Callable[[Wish, Resolved | Problem, Callable[[], None]], bool]


@dataclass(slots=True)
class Supervisor(Orders):
    """The relay's ``LeasePort``."""

    on_lease: Callable[[], None] = lambda: None  # a request is given to a backend
    on_end: Callable[[Held], None] = lambda _: None  # and is over
    rescued: dict[str, int] = field(default_factory=dict)  # tool calls made of text, by model
    counter: Counter = lambda _recipe, _chat, done: done(None)  # of tokens, by a model's tokenizer
    absent: Absent = _refuse  # who asks for what is not on this machine
    fetching: Callable[[str], str] = lambda _: ""  # how far a download is, in words
    seek: Seek = lambda _wish, _found, _then: False  # whether a look at the disk may find a model
    listed: Callable[[], None] = lambda: None  # somebody was told which models there are
    _ids: count[int] = field(default_factory=lambda: count(1))
    _early: list[Early] = field(default_factory=list)
    _opened: bool = False

    @property
    def stopping(self) -> Problem:
        """What is said to everyone while it stops."""
        return replace(STOPPING, retry_after=self.shutdown_retry)

    # ------------------------------------------------------------ requests

    def open(self) -> None:
        """The models are known: serve, those first who came before."""
        self._opened = True
        for one in list(self._early):  # some go on waiting, for a look at the disk
            if one in self._early:  # it has not left meanwhile
                self._early.remove(one)
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
        return self._acquire(wish, done)

    def _sought(self, wish: Wish, found: Resolved | Problem, done: Done) -> Waiting | None:
        """It may mean a model that is on the disk: once that is known it comes in anew."""
        early = Early(wish, done, self)

        def then() -> None:
            if early in self._early:  # neither cancelled nor refused
                self._early.remove(early)
                early.inner = self._acquire(wish, done, sought=True)

        self._early.append(early)
        if self.seek(wish, found, then):
            return early
        self._early.remove(early)
        return None

    def _acquire(self, wish: Wish, done: Done, *, sought: bool = False) -> Waiting | None:
        if self.draining:
            done(self.stopping)
            return None
        if self.stock is None or not self._opened:
            self._early.append(Early(wish, done, self))
            return self._early[-1]
        found = self.stock.resolve(
            wish.model, wish.route.value, wish.small, wish.movable, wish.principal
        )
        if not sought and (isinstance(found, Problem) or found.guessed):
            waiting = self._sought(wish, found, done)
            if waiting is not None:
                return waiting
        if isinstance(found, Problem):
            if found.code is Code.NOT_PULLED and wish.route is not Route.COUNT_TOKENS:
                return self.absent(wish, found, done)
            done(found)
            return None
        now, name = self.clock(), found.model
        if self.accidents.refused(wish.mark, now):
            done(poisoned(name))
            return None
        self.counters["requests"] += 1
        if wish.route is Route.COUNT_TOKENS:
            self._beside(wish, name, done)
            return None
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
            stand_in=self._stand_in(found),
        )
        queued = Queued(ticket, done, self, wish.mark)
        run = self.backends.get(name)
        if run is not None and (wish.attempt > 1 or (name, run.generation) in self._doubted):
            self._hold_back(queued)
        else:
            self._enqueue(queued)
        return queued

    def _beside(self, wish: Wish, model: str, done: Callable[[Lease | Problem], None]) -> None:
        """For who counts tokens: a lease without a slot, of a model that is ready anyway. Engines
        count beside their work, and nobody holds a model by it: one that leaves just breaks off."""
        page, run = self.scheduler.pages.get(model), self.backends.get(model)
        lost = run is None or (model, run.generation) in self._doubted
        if run is None or lost or page is None or page.state is not State.READY:
            done(NOT_LOADED)
            return
        now = self.clock()
        ticket = Ticket(next(self._ids), model, wish.client, wish.principal.name, now, now)
        done(Held(ticket, run.holding, run.generation, -1, model, now, str, self))

    def count(
        self, name: str, chat: bytes, done: Callable[[Tokens | None], None]
    ) -> Waiting | None:
        """See ``LeasePort``."""
        found = self.stock.find(name) if self.stock is not None else None
        if found is None or isinstance(found, Problem) or found.recipe is None:
            done(None)
            return None
        return self.counter(found.recipe, chat, done)

    def _stand_in(self, found: Resolved) -> str | None:
        """Who serves a small call meanwhile: the likeliest that is ready, else the likeliest."""
        pages = self.scheduler.pages
        ready = (
            name
            for name in found.stand_ins
            if (page := pages.get(name)) is not None and page.state is State.READY
        )
        return next(ready, next(iter(found.stand_ins), None))

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
            if lease.rescued:
                self.rescued[lease.model] = self.rescued.get(lease.model, 0) + lease.rescued
            self.on_end(lease)
            fact = RequestEnded(lease.ticket.id, outcome)
            if run is None or lease.taken_back or not self._doubt(lease, outcome, fact):
                self.tell(fact)

    def _doubt(self, lease: Held, outcome: Outcome, fact: Event) -> bool:
        """A connection breaks a moment before the exit is known. Until the keeper's word the slot
        of a request that was lost stays taken, and who comes is held back: else the next ones in
        the queue would be given to the dead. True if the fact is told later."""
        key, now = (lease.model, lease.generation), self.clock()
        calm = now - self._trusted.get(key, -math.inf) < TRUST
        if calm or outcome not in (Outcome.LOST, Outcome.UPSTREAM_ERROR):
            return False
        if key not in self._doubted:
            self._doubted[key] = []
            asyncio.get_running_loop().call_later(RETRY_HOLD, self._trust, key)
        self._doubted[key].append(fact)
        return True

    def _trust(self, key: tuple[str, int]) -> None:
        """No word of its end: it was the connection, and it serves on."""
        facts = self._doubted.pop(key, None)
        if facts is None:
            return
        self._trusted[key] = self.clock()
        for fact in facts:
            self.tell(fact)
        for queued in list(self._held_back.get(key[0], [])):
            if queued.ticket.attempt == 1:
                self._release(queued)

    # ------------------------------------------------------------ what it shows

    def states(self) -> dict[str, str]:
        return {name: page.state.label for name, page in self.scheduler.pages.items()}

    def cards(self, who: Principal = LOCAL) -> list[ModelCard]:
        cards = self.stock.cards(self.states(), who) if self.stock else []
        self.listed()
        return [self._with_run(card) for card in cards]

    def card(self, name: str, route: str = "", who: Principal = LOCAL) -> ModelCard | Problem:
        if self.stock is None:
            return STARTING
        card = self.stock.card(name, self.states(), route, who)
        return card if isinstance(card, Problem) else self._with_run(card)

    def _with_run(self, card: ModelCard) -> ModelCard:
        """With what is known of its backend: bytes, context, requests at work, its end."""
        page, run = self.scheduler.pages.get(card.id), self.backends.get(card.id)
        if page is None or run is None or not page.state.resident:
            return card
        expires = page.expires_at()
        facts: dict[str, object] = {
            "footprint": sum(self.scheduler.ledger.charged(card.id).values()),
            "busy": len(page.leases),
        }
        if expires is not None:
            facts["expires_in"] = round(max(0.0, expires - self.clock()))
        return replace(card, facts={**card.facts, **facts})

    def manner(self, name: str, who: Principal = LOCAL) -> Manner | None:
        """See ``LeasePort``."""
        found = self.stock.find(name, "", who) if self.stock is not None else None
        return None if found is None or isinstance(found, Problem) else found.manner

    def unload(self, name: str, who: Principal = LOCAL) -> Problem | None:
        """See ``LeasePort``."""
        card = self.card(name, "", who)
        if isinstance(card, Problem):
            return card
        self.tell(OperatorAsked(Ask.UNLOAD, card.id))
        return None

    def waiting_text(self, name: str) -> str:
        """See ``LeasePort``: only where the model is configured to show it."""
        found = self.stock.find(name) if self.stock is not None else None
        if found is None or isinstance(found, Problem) or not found.model.loading_text:
            return ""
        if fetching := self.fetching(found.model.name):
            return fetching
        told = self.scheduler.explain(self.clock()).waiting
        why = next((wait.why.text for wait in told if wait.model == found.model.name), "")
        return f"{found.model.name}: {why or 'reading the prompt'}"

    def catalog(
        self,
        specs: Mapping[str, ModelSpec],
        touched: frozenset[str],
        budget: Mapping[str, int] | None = None,
    ) -> None:
        """What can be served has changed; with ``budget`` it is a whole new configuration."""
        self.tell(CatalogChanged(dict(specs), touched, budget))
