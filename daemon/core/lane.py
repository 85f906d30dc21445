"""The short way of the usual request: its model is ready with a free slot, and nobody waits.

What the long way would decide then is known beforehand: it gets the slot, or gives it back, and
nothing else follows. The tests hold both ways against each other, fact by fact.
"""

from __future__ import annotations

from daemon.core.lifecycle import State
from daemon.core.messages import Grant, Outcome, Ticket
from daemon.core.neighbour import Neighbour
from daemon.core.page import Page

NEVER = float("inf")


class Lane(Neighbour):
    """Requests on the short way. ``calm_until``: before then (seconds) nothing happens by itself,
    and nobody waits, claims or is short of memory; minus infinity while somebody does."""

    calm_until = -NEVER

    def next_deadline(self) -> float | None:
        """When something will happen by the passing of time alone; None: nothing."""
        times = [
            self._deadlines[0][0] if self._deadlines else None,
            self._timers.next(),
            self.ledger.settles_at(),
            self._claim_deadline,
            self.paused.until if self.paused is not None else self._back_at,
        ]
        return min((t for t in times if t is not None), default=None)

    def _calm_down(self) -> None:
        """At the end of a decision."""
        waits = self._waiting or self._small or self.claim is not None or self.claim_victims
        short = self._over or self.pressed or self._exiled or self._memory_news
        if waits or short or self.paused is not None or self._touched:
            self.calm_until = -NEVER
        else:
            deadline = self.next_deadline()
            self.calm_until = NEVER if deadline is None else deadline

    def _straight_in(self, ticket: Ticket, now: float) -> bool:
        """Grant it a slot at once; False if that is for a decision."""
        page, policy = self.pages.get(ticket.model), self.policy
        if (
            page is None
            or not self._plain(page)
            or len(page.leases) >= page.slots
            or ticket.load
            or ticket.stand_in is not None
            or ticket.deadline <= now
            or self._queued >= policy.queue_total
            or self._bytes + ticket.body_bytes > policy.queue_bytes
        ):
            return False
        page.returned(now, policy)
        if page.started_for:
            page.started_for.clear()
        slot = page.take_slot(ticket.id)
        if now > page.last_used:
            page.last_used = now
        self._where[ticket.id] = page.name
        self._say(Grant(ticket.id, page.name, page.generation, slot))
        self._timers.set(page.name, None)
        self._looks.pop(page.name, None)  # so that claims see it anew
        return True

    def _straight_out(self, ticket_id: int, outcome: Outcome, now: float) -> bool:
        """Take its slot back at once; False if that is for a decision."""
        page = self._page_of(ticket_id)
        if page is None or ticket_id not in page.leases or not self._plain(page):
            return False
        if now + page.spec.keep_alive == now:  # it is to leave at once
            return False
        self._released(page, ticket_id, outcome, now)
        at = page.expires_at()
        self._timers.set(page.name, at)
        if at is not None and at < self.calm_until:
            self.calm_until = at
        self._looks.pop(page.name, None)
        return True

    def _plain(self, page: Page) -> bool:
        """It serves, and nobody but running requests has anything to do with it."""
        return (
            page.state is State.READY
            and page.climb_at is None
            and not (page.removed or page.loads or len(page.queue) or len(page.guests))
        )
