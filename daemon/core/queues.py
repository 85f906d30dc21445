"""Tickets waiting for one model: first come first served per client, clients in turn."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator

from daemon.core.messages import Ticket


class FairQueue:
    """A model's queue. Every operation is O(log n) or better; ``oldest`` is exact."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, OrderedDict[int, Ticket]] = OrderedDict()
        self._tickets: dict[int, Ticket] = {}
        self._by_age: list[tuple[float, int]] = []  # heap; those that left go once they are on top

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, ticket_id: object) -> bool:
        return ticket_id in self._tickets

    def __iter__(self) -> Iterator[Ticket]:
        return iter(list(self._tickets.values()))

    def of_client(self, client: str) -> int:
        """How many of this client's tickets wait here."""
        return len(self._clients.get(client, ()))

    def push(self, ticket: Ticket) -> None:
        """Join the end of the client's line; a second attempt keeps the place of its age."""
        line = self._clients.setdefault(ticket.client, OrderedDict())
        line[ticket.id] = ticket
        if ticket.attempt > 1:
            for other in [t for t in line.values() if t.arrived > ticket.arrived]:
                line.move_to_end(other.id)
        self._tickets[ticket.id] = ticket
        heapq.heappush(self._by_age, (ticket.arrived, ticket.id))

    def pop(self) -> Ticket:
        """The next one to serve: the head of the client whose turn it is."""
        client, line = next(iter(self._clients.items()))
        _, ticket = line.popitem(last=False)
        if line:
            self._clients.move_to_end(client)
        else:
            del self._clients[client]
        del self._tickets[ticket.id]
        self._tidy()
        return ticket

    def remove(self, ticket_id: int) -> Ticket | None:
        """Take one out wherever it stands; None if it is not here."""
        ticket = self._tickets.pop(ticket_id, None)
        if ticket is not None:
            line = self._clients[ticket.client]
            del line[ticket_id]
            if not line:
                del self._clients[ticket.client]
            self._tidy()
        return ticket

    def _tidy(self) -> None:
        # At each departure: a model that nobody asks the age of would keep all for ever.
        while self._by_age and self._by_age[0][1] not in self._tickets:
            heapq.heappop(self._by_age)

    def oldest(self) -> float | None:
        """Arrival of the oldest ticket that still waits."""
        return self._by_age[0][0] if self._by_age else None
