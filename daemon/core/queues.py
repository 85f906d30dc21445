"""Tickets waiting for one model: first come first served per client, clients in turn."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterator

from daemon.core.messages import Ticket
from daemon.core.policy import Policy

USUAL = Policy().bonus


class FairQueue:
    """A model's queue. Every operation is O(log n) or better; ``oldest`` and ``first`` are exact.

    Clients take turns. Whose turn it is goes by since when a client has waited for it (it joined,
    or was served last), minus the bonus of its head's priority: who has more goes ahead of those
    whose turn is younger, and an old turn beats any priority. Within a client nobody overtakes.
    """

    def __init__(self, bonus: Callable[[float], float] = USUAL) -> None:
        self._bonus = bonus
        self._lines: dict[str, OrderedDict[int, Ticket]] = {}
        self._turns: dict[str, tuple[float, int]] = {}  # client -> since when, number
        self._keys: dict[str, tuple[float, int]] = {}  # the same, less the head's bonus
        self._round: list[tuple[float, int, str]] = []  # heap of those; others are stale
        self._tickets: dict[int, Ticket] = {}
        self._by_age: list[tuple[float, int]] = []  # heap; those that left go once they are on top
        self._by_rank: list[tuple[float, int]] = []  # the same, priority taken into account
        self._counter = 0
        self.small = 0  # how many of them are small calls

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, ticket_id: object) -> bool:
        return ticket_id in self._tickets

    def __iter__(self) -> Iterator[Ticket]:
        return iter(list(self._tickets.values()))

    def of_client(self, client: str) -> int:
        """How many of this client's tickets wait here."""
        return len(self._lines.get(client, ()))

    def push(self, ticket: Ticket, now: float) -> None:
        """Join the end of the client's line; a second attempt keeps the place of its age."""
        line = self._lines.get(ticket.client)
        if line is None:
            line = self._lines[ticket.client] = OrderedDict()
            self._turn(ticket.client, now)
        line[ticket.id] = ticket
        if ticket.attempt > 1:
            for other in [t for t in line.values() if t.arrived > ticket.arrived]:
                line.move_to_end(other.id)
        self._tickets[ticket.id] = ticket
        self.small += ticket.small
        self._key(ticket.client)
        heapq.heappush(self._by_age, (ticket.arrived, ticket.id))
        heapq.heappush(self._by_rank, (ticket.arrived - self._bonus(ticket.priority), ticket.id))

    def pop(self, now: float) -> Ticket:
        """The next one to serve: the head of the client whose turn it is."""
        while (top := self._round[0])[:2] != self._keys.get(top[2]):
            heapq.heappop(self._round)
        client = heapq.heappop(self._round)[2]
        del self._keys[client]
        ticket = next(iter(self._lines[client].values()))
        self._turn(client, now)
        self._out(ticket)
        return ticket

    def remove(self, ticket_id: int) -> Ticket | None:
        """Take one out wherever it stands; None if it is not here."""
        ticket = self._tickets.get(ticket_id)
        if ticket is not None:
            self._out(ticket)
        return ticket

    def _turn(self, client: str, now: float) -> None:
        self._counter += 1
        self._turns[client] = (now, self._counter)

    def _key(self, client: str) -> None:
        """Note whose turn it is when: the head of the line, or its turn, may have changed."""
        head = next(iter(self._lines[client].values()))
        since, number = self._turns[client]
        key = (since - self._bonus(head.priority), number)
        if self._keys.get(client) != key:
            self._keys[client] = key
            heapq.heappush(self._round, (*key, client))

    def _out(self, ticket: Ticket) -> None:
        client = ticket.client
        line = self._lines[client]
        del line[ticket.id]
        del self._tickets[ticket.id]
        self.small -= ticket.small
        if line:
            self._key(client)
        else:
            del self._lines[client], self._turns[client]
            self._keys.pop(client, None)
        self._tidy()

    def _tidy(self) -> None:
        # At each departure: a model that nobody asks the age of would keep all for ever.
        for heap in (self._by_age, self._by_rank):
            while heap and heap[0][1] not in self._tickets:
                heapq.heappop(heap)
        while self._round and self._keys.get(self._round[0][2]) != self._round[0][:2]:
            heapq.heappop(self._round)

    def oldest(self) -> float | None:
        """Arrival of the oldest ticket that still waits."""
        return self._by_age[0][0] if self._by_age else None

    def first(self) -> float | None:
        """The earliest arrival when the bonus of each ticket's priority is taken off."""
        return self._by_rank[0][0] if self._by_rank else None
