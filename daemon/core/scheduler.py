"""The landlord: one fact at a time in, a short list of orders out.

Record first, then decide: each handler only writes down what happened; ``_decide`` then orders
what follows. The algorithm is *oldest claim first, with a quantum and a short anticipation*: at
most one model at a time may make others leave for it, the one whose oldest ticket is oldest.
"""

from __future__ import annotations

import heapq

from daemon.core import admission, eviction
from daemon.core.book import Book
from daemon.core.budget import fits, minus, plus, total
from daemon.core.lifecycle import State
from daemon.core.messages import (
    BackendAdopted,
    BackendExited,
    BackendReady,
    BackendUnhealthy,
    BudgetChanged,
    Bytes,
    CatalogChanged,
    Command,
    Event,
    ExitClass,
    Grant,
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
from daemon.core.page import CLAIM, IDLE, Page


class Scheduler(Book):
    """Who is loaded, who waits, who goes. One writer; the caller gives the time (seconds)."""

    # ------------------------------------------------------------ the one entrance

    def handle(self, event: Event, now: float) -> list[Command]:
        """Tell one fact; get the orders that follow from it."""
        self._out = []
        match event:
            case RequestArrived(ticket):
                self._arrived(ticket, now)
            case RequestCancelled(ticket_id):
                self._left(ticket_id, now)
            case RequestEnded(ticket_id):
                self._ended(ticket_id, now)
            case BackendReady(model, generation):
                self._ready(model, generation, now)
            case BackendAdopted(model, generation, variant):
                self._adopted(model, generation, variant, now)
            case BackendUnhealthy(model, generation, reason):
                self._unwell(model, generation, ExitClass.HANG, reason, now)
            case StartFailed(model, generation, exit_class, detail):
                self._unwell(model, generation, exit_class, detail, now)
            case BackendExited(model, generation, exit_class, detail):
                self._exited(model, generation, exit_class, detail, now)
            case MemoryObserved(free, footprints):
                self._observed(free, footprints)
            case OperatorAsked():
                self._operator(event, now)
            case CatalogChanged():
                self._catalog(event, now)
            case BudgetChanged(budget):
                self.ledger.budget = dict(budget)
            case TimeAdvanced():
                pass
        self._decide(now)
        return self._out

    def next_deadline(self) -> float | None:
        """When something will happen by the passing of time alone; None: nothing."""
        times = [self._deadlines[0][0]] if self._deadlines else []
        times += [t for t in (self.ledger.settles_at(), self._claim_deadline) if t is not None]
        for page in self.pages.values():
            if page.state is State.BACKOFF and page.retry_at is not None:
                times.append(page.retry_at)
            elif (expires := page.expires_at()) is not None:
                times.append(expires)
        return min(times, default=None)

    # ------------------------------------------------------------ deciding

    def _decide(self, now: float) -> None:
        self.ledger.expire(now)
        self._expire_tickets(now)
        self._wake(now)
        for name in sorted(self._touched):
            if (page := self.pages.get(name)) is not None:
                self._dispatch(page, now)
        self._touched.clear()
        self._settle_claim(now)
        while self._deadlines and self._due.get(self._deadlines[0][1]) != self._deadlines[0][0]:
            heapq.heappop(self._deadlines)  # of a ticket that waits no more

    def _expire_tickets(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            at, ticket_id, seen = heapq.heappop(self._deadlines)
            if self._due.get(ticket_id) != at:
                continue
            page = self.pages[self._where[ticket_id]]
            stood_still = page.starting_seconds(now) - seen
            if page.state is State.STARTING:  # the start's own progress rules count meanwhile
                del self._due[ticket_id]
                page.overdue[ticket_id] = at - now + stood_still
            elif stood_still > 0:
                self._arm(ticket_id, at + stood_still, page.starting_total)
            else:
                self._reject(page, ticket_id, admission.waited_out(page.name, self.claim))

    def _wake(self, now: float) -> None:
        """What time alone does: end of a backoff, end of a keep-alive."""
        for page in self.pages.values():
            if page.state is State.BACKOFF and page.retry_at is not None and page.retry_at <= now:
                page.move(State.STOPPED)
                page.retry_at = None
            elif (at := page.expires_at()) is not None and at <= now:
                self._stop(page, IDLE, now)

    def _dispatch(self, page: Page, now: float) -> None:
        if page.state is State.DRAINING and not page.leases:
            self._stop(page, page.drain_reason, now)
        if page.state is not State.READY:
            return
        for ticket in list(page.loads.values()):
            page.by_hand = True
            page.last_used = max(page.last_used, now)
            page.started_for.clear()
            self._forget(page, ticket.id)
            self._say(Grant(ticket.id, page.name, page.generation, -1))
        while len(page.queue) and len(page.leases) < page.spec.slots:
            self._grant(page, page.queue.pop(), now)

    def _grant(self, page: Page, ticket: Ticket, now: float) -> None:
        if not page.leases:
            page.gap = 0.5 * page.gap + 0.5 * (now - page.idle_since())
        slot = min(set(range(page.spec.slots)) - set(page.leases.values()))
        page.leases[ticket.id] = slot
        page.last_used = max(page.last_used, now)
        page.started_for.clear()
        self._bytes -= ticket.body_bytes
        self._due.pop(ticket.id, None)
        self._say(Grant(ticket.id, page.name, page.generation, slot))

    def _settle_claim(self, now: float) -> None:
        """Start what fits; let the oldest of the others claim; let younger ones fill gaps."""
        self.claim, self._claim_deadline = None, None
        reserved: Bytes | None = None
        victims: frozenset[str] = frozenset()
        waiting = [p for p in self.pages.values() if p.state is State.STOPPED and p.waits()]
        for page in sorted(waiting, key=lambda p: p.age_key(self.policy)):
            variant = self._choose(page, now)
            if variant is None:
                self._refuse_all(page, admission.never_fits(page, self.ledger, self._pins(page)))
                page.wanted_since = None
            elif fits(variant.need, self.ledger.room()):
                if reserved is None or self._backfills(variant, reserved, victims):
                    self._start(page, variant, now)
            elif reserved is None:
                reserved, self.claim = variant.need, page.name
                victims = self._take_victims(page, variant, now)
        self._call_off_drains(victims, now)

    def _choose(self, page: Page, now: float) -> Variant | None:
        """The best variant that fits beside the pins and what was used lately; else beside the
        pins alone."""
        allowed = page.allowed()
        for keep in (self._recent(page, now), self._pins(page)):
            room = minus(self.ledger.budget, total(self.ledger.charged(p.name) for p in keep))
            for variant in allowed:
                if fits(variant.need, room):
                    return variant
        return None

    def _pins(self, asking: Page) -> list[Page]:
        residents = [p for p in self._residents() if p is not asking]
        return [p for p in residents if p.pinned and not self._leaves(p)]

    def _recent(self, asking: Page, now: float) -> list[Page]:
        horizon = now - self.policy.recent
        return [
            p
            for p in self._residents()
            if p is not asking
            and p.state is not State.STOPPING
            and (p.pinned or p.leases or p.last_used >= horizon or p.state is State.STARTING)
        ]

    def _residents(self) -> list[Page]:
        return [p for p in self.pages.values() if p.state.resident]

    def _backfills(self, variant: Variant, reserved: Bytes, victims: frozenset[str]) -> bool:
        """A younger model may start only if the claim stays satisfiable without evicting it."""
        leaving = [
            self.ledger.charged(p.name)
            for p in self._residents()
            if p.name in victims or self._leaves(p)
        ]
        later = plus(self.ledger.room(), total([*leaving, self.ledger.settling()]))
        return fits(plus(variant.need, reserved), later)

    def _take_victims(self, page: Page, variant: Variant, now: float) -> frozenset[str]:
        """Name who must leave for the claim, and make them go once all of them may be taken."""
        stopping = [self.ledger.charged(p.name) for p in self._residents() if self._leaves(p)]
        room = plus(self.ledger.room(), total([*stopping, self.ledger.settling()]))
        chosen = eviction.choose_victims(
            variant.need,
            room,
            [
                eviction.Resident(
                    p.name,
                    self.ledger.charged(p.name),
                    len(p.leases) + len(p.queue),
                    p.idle_since(),
                    p.load_seconds,
                    p.state is State.DRAINING,
                )
                for p in self._residents()
                if not p.pinned and not self._leaves(p) and p.state in (State.READY, State.DRAINING)
            ],
        )
        if not chosen:
            return frozenset()
        names = frozenset(r.model for r in chosen)
        times = [self.pages[name].takeable_at(page, self.policy) for name in names]
        known = [t for t in times if t is not None]
        if len(known) == len(times) and max(known) <= now:
            for name in sorted(names):
                self._evict(self.pages[name], page, now)
        elif known:
            later = [t for t in known if t > now]
            self._claim_deadline = max(later) if later else None
        return names

    @staticmethod
    def _leaves(page: Page) -> bool:
        """On its way out whatever becomes of the claim."""
        drains = page.state is State.DRAINING and page.drain_reason != CLAIM
        return page.state is State.STOPPING or drains

    def _evict(self, victim: Page, target: Page, now: float) -> None:
        if victim.state is State.READY:
            self._publish("evict", victim, claim=target.name)
            self._drain(victim, CLAIM)
        if not victim.leases and victim.state is State.DRAINING:
            self._stop(victim, CLAIM, now)

    def _call_off_drains(self, victims: frozenset[str], now: float) -> None:
        """Whoever drains for a claim that is gone goes on serving."""
        for page in self._residents():
            if (
                page.state is State.DRAINING
                and page.drain_reason == CLAIM
                and page.name not in victims
            ):
                page.move(State.READY)
                page.drain_reason = ""
                self._dispatch(page, now)
