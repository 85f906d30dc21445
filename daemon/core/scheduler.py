"""The landlord: one fact at a time in, a short list of orders out.

Record first, then decide: each handler only writes down what happened; ``_decide`` then orders
what follows, for the models that were touched and for the oldest claim, from ordered indexes.
"""

from __future__ import annotations

import heapq

from daemon.core import admission
from daemon.core.budget import fits
from daemon.core.explain import Explanation, explain
from daemon.core.lane import Lane
from daemon.core.lifecycle import State
from daemon.core.messages import (
    BackendAdopted,
    BackendExited,
    BackendReady,
    BackendUnhealthy,
    BudgetChanged,
    CatalogChanged,
    Command,
    Event,
    Grant,
    MemoryObserved,
    OperatorAsked,
    RequestArrived,
    RequestCancelled,
    RequestEnded,
    StartFailed,
    Ticket,
    TimeAdvanced,
)
from daemon.core.page import IDLE, Page
from daemon.core.problems import Problem

_SMALL_NEWS = frozenset({RequestArrived, RequestCancelled, RequestEnded, TimeAdvanced})
"""What changes nothing that claims go by, but for the page that it is about."""


class Scheduler(Lane):
    """Who is loaded, who waits, who goes. One writer; the caller gives the time (seconds)."""

    # ------------------------------------------------------------ the one entrance

    def handle(self, event: Event, now: float) -> list[Command]:
        """Tell one fact; get the orders that follow from it."""
        self._out = []
        if now < self.calm_until:
            if type(event) is RequestArrived and self._straight_in(event.ticket, now):
                return self._out
            if type(event) is RequestEnded and self._straight_out(
                event.ticket_id, event.outcome, now
            ):
                return self._out
        if type(event) not in _SMALL_NEWS:
            self._stale = True
        match event:
            case RequestArrived(ticket):
                self._arrived(ticket, now)
            case RequestCancelled(ticket_id):
                self._left(ticket_id, now)
            case RequestEnded(ticket_id, outcome):
                self._ended(ticket_id, outcome, now)
            case BackendReady(model, generation):
                self._ready(model, generation, now)
            case BackendAdopted(model, generation, variant):
                self._adopted(model, generation, variant, now)
            case BackendUnhealthy(model, generation, reason, exit_class):
                self._unwell(model, generation, exit_class, reason, now)
            case StartFailed(model, generation, exit_class, detail):
                self._unwell(model, generation, exit_class, detail, now)
            case BackendExited():
                self._exited(event, now)
            case MemoryObserved():
                self._observed(event, now)
            case OperatorAsked():
                self._operator(event, now)
            case CatalogChanged():
                self._catalog(event, now)
            case BudgetChanged(budget):
                self._budget(budget, now)
            case TimeAdvanced():
                pass
        self._decide(now)
        self._calm_down()
        return self._out

    def explain(self, now: float) -> Explanation:
        """Who holds the memory, who waits, for what and why: a value for people."""
        return explain(self, now)

    # ------------------------------------------------------------ deciding

    def _decide(self, now: float) -> None:
        self._stale |= self.ledger.expire(now)
        self._expire_tickets(now)
        self._keep_peace(now)
        self._wake(now)
        self._serve(now)
        self._make_room(now)
        self._settle_claim(now)
        self._serve(now)
        while self._claim_is_void():  # called off a drain, whose slots served those who claimed
            self._settle_claim(now)
            self._serve(now)
        self._end_drains(now)
        while self._deadlines and self._due.get(self._deadlines[0][1]) != self._deadlines[0][0]:
            heapq.heappop(self._deadlines)  # of a ticket that waits no more

    def _claim_is_void(self) -> bool:
        """It is no longer the oldest, or nobody waits any more for whom it was made."""
        first = self._waiting.first()
        if first is None:
            return self.claim is not None and self.claim not in self._small
        return self.claim != first and self.paused is None

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
                self._reject(page, ticket_id, self._waited_out(page))

    def _waited_out(self, page: Page) -> Problem:
        spare, room = self.ledger.spare(), self.ledger.room()
        needs = [variant.need for variant in page.allowed()]
        short = any(fits(n, spare) for n in needs) and not any(fits(n, room) for n in needs)
        return admission.waited_out(
            page.name,
            self.claim,
            paused=self.paused is not None,
            short=short and page.state is State.STOPPED,
        )

    def _wake(self, now: float) -> None:
        """What time alone does: end of a backoff, of a keep-alive, of patience with a drain, and a
        try at full size. The end of a drain waits for the decision: what goes on serving after all
        is not cut short."""
        for name in self._touched & self.pages.keys():
            self._timers.set(name, self.pages[name].wakes_at(self.policy))
        for name in self._timers.due(now):
            page = self.pages[name]
            self._touched.add(name)
            if page.state is State.BACKOFF and page.retry_at is not None and page.retry_at <= now:
                self._move(page, State.STOPPED)
                page.retry_at = None
            if (at := page.expires_at()) is not None and at <= now:
                self._stop(page, IDLE, now)
            elif (at := page.climbs_at(self.policy)) is not None and at <= now:
                self._climb(page, now)
            elif page.state is State.DRAINING:
                self._late.append(name)

    def _serve(self, now: float) -> None:
        """Hand out the slots of the models that were touched: first to their own requests, then
        to those that they stand in for. Then note where each of them belongs."""
        while self._touched:
            pages = [self.pages[name] for name in sorted(self._touched) if name in self.pages]
            self._touched.clear()
            for page in pages:
                self._dispatch(page, now)
            for page in pages:
                self._serve_guests(page, now)
            for page in pages:
                self._reindex(page)

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
        while len(page.queue) and len(page.leases) < page.slots:
            ticket = page.queue.pop(now)
            page.started_for.clear()
            self._grant(page, ticket, now)

    def _serve_guests(self, page: Page, now: float) -> None:
        if page.state is not State.READY:
            return
        while len(page.guests) and len(page.leases) < page.slots:
            ticket = page.guests.pop(now)
            wanted = self.pages[ticket.model]
            wanted.queue.remove(ticket.id)
            self._touched.add(wanted.name)
            self._grant(page, ticket, now)

    def _grant(self, page: Page, ticket: Ticket, now: float) -> None:
        slot = page.take_slot(ticket.id)
        page.last_used = max(page.last_used, now)
        self._where[ticket.id] = page.name
        self._waits_no_more(ticket)
        self._say(Grant(ticket.id, page.name, page.generation, slot))
