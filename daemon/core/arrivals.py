"""Writing down what is known of requests: who came, who left, who was served.

The one decision taken here is a refusal that needs none (an unknown model, a full queue).
"""

from __future__ import annotations

from daemon.core import admission
from daemon.core.book import Book
from daemon.core.lifecycle import State
from daemon.core.messages import Outcome, Reject, Ticket
from daemon.core.page import Page


class Arrivals(Book):
    """Facts about requests."""

    def _arrived(self, ticket: Ticket, now: float) -> None:
        page = self.pages.get(ticket.model)
        problem = admission.refuse(page, ticket, self._load_of(page, ticket), now, self.policy)
        if problem is None and self.paused is not None and not self.paused.hold:
            problem = admission.paused(self.paused.until, now)
        stood_in = page is not None and page.state is State.FAILED and self._serves_now(ticket)
        if page is None or (problem is not None and not stood_in):
            self._say(Reject(ticket.id, problem or admission.unknown(ticket.model)))
            return
        if page.state is State.FAILED and not stood_in:
            self._forgive(page, clean=ticket.load)
        self._where[ticket.id] = page.name
        self._queued += 1
        self._bytes += ticket.body_bytes
        if ticket.load:
            page.loads[ticket.id] = ticket
        else:
            page.returned(now, self.policy)
            page.queue.push(ticket, now)
            self._invite(ticket, now)
        self._arm(ticket.id, ticket.deadline, page.starting_seconds(now))
        self._touched.add(page.name)

    def _invite(self, ticket: Ticket, now: float) -> None:
        """Its stand-in may serve it whenever it has a slot to spare."""
        host = self.pages.get(ticket.stand_in) if ticket.stand_in else None
        if host is not None and ticket.stand_in != ticket.model and not host.removed:
            host.guests.push(ticket, now)
            self._touched.add(host.name)

    def _serves_now(self, ticket: Ticket) -> bool:
        """Whether its stand-in can have it at once."""
        host = self.pages.get(ticket.stand_in) if ticket.stand_in else None
        if host is None or host.state is not State.READY or ticket.load or len(host.queue):
            return False
        return len(host.leases) < host.slots

    def _load_of(self, page: Page | None, ticket: Ticket) -> admission.Load:
        return admission.Load(
            total=self._queued,
            model=len(page.queue) if page else 0,
            client=page.queue.of_client(ticket.client) if page else 0,
            bytes=self._bytes,
        )

    def _left(self, ticket_id: int, now: float) -> None:
        page = self._page_of(ticket_id)
        if page is None:
            return
        if ticket_id in page.leases:  # granted in the same moment: it counts as ended
            self._ended(ticket_id, Outcome.CLIENT_GONE, now)
            return
        self._forget(page, ticket_id)

    def _ended(self, ticket_id: int, outcome: Outcome, now: float) -> None:
        page = self._page_of(ticket_id)
        if page is None or ticket_id not in page.leases:
            return
        self._released(page, ticket_id, outcome, now)
        self._touched.add(page.name)

    def _released(self, page: Page, ticket_id: int, outcome: Outcome, now: float) -> None:
        page.good += outcome is Outcome.OK
        page.free_slot(ticket_id)
        del self._where[ticket_id]
        page.last_used = page.released = max(page.last_used, now)

    def _page_of(self, ticket_id: int) -> Page | None:
        return self.pages.get(self._where.get(ticket_id, ""))
