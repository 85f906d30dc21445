"""The landlord's book: what is known of every model, ticket and byte, and the moves between states.

Written by :class:`~daemon.core.scheduler.Scheduler` alone, which is built up from here: facts about
requests (``arrivals``), backends (``runs``) and wishes (``operators``) are written down first; what
follows from them is decided in ``claims``, ``neighbour`` and ``scheduler``.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

from daemon.core import ladder
from daemon.core.budget import Ledger
from daemon.core.explain import Span, Swap
from daemon.core.index import Timers, Waiting
from daemon.core.lifecycle import State
from daemon.core.messages import (
    Bytes,
    CancelRequest,
    Command,
    Publish,
    Reject,
    Remember,
    StartBackend,
    StopBackend,
    Ticket,
    Variant,
)
from daemon.core.page import Page
from daemon.core.policy import Policy
from daemon.core.problems import Problem

REMEMBERED = 1000  # starts and swaps: more than fit into five minutes


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing runs ``until`` then (None: until somebody says so). ``hold``: requests wait."""

    since: float
    until: float | None
    hold: bool


class Book:
    """Pages, queues, indexes and the ledger."""

    def __init__(self, budget: Bytes, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.ledger = Ledger(budget, self.policy)
        self.pages: dict[str, Page] = {}
        self.residents: dict[str, Page] = {}  # those with a process
        self.claim: str | None = None
        self.claim_victims: frozenset[str] = frozenset()
        self.paused: Pause | None = None
        self.pressed: frozenset[str] = frozenset()  # pools that another program is short of
        self.spans: deque[Span] = deque(maxlen=REMEMBERED)
        self.swaps: deque[Swap] = deque(maxlen=REMEMBERED)
        self._out: list[Command] = []
        self._where: dict[int, str] = {}  # ticket -> model, waiting or leased
        self._due: dict[int, float] = {}  # waiting ticket -> end of its wait
        self._deadlines: list[tuple[float, int, float]] = []  # heap; an entry not in _due is stale
        self._generations: dict[str, int] = {}  # of removed models: numbers are never used twice
        self._queued = 0  # tickets that wait, for whatever model
        self._bytes = 0
        self._claim_deadline: float | None = None
        self._waiting = Waiting()  # models that may claim
        self._small = Waiting()  # models that only small calls wait for
        self._unchecked: set[str] = set()  # waiting, and perhaps too large for ever
        self._beside_pins: Bytes = {}  # what was left beside the pins when that was looked at
        self._timers = Timers()
        self._over = False  # the budget was lowered or a backend grew: room must be made
        self._memory_news = False  # somebody has looked at the machine
        self._exiled: set[str] = set()  # loaded by hand, taken by pressure: they come back
        self._back_at: float | None = None  # then, if memory stays free
        self._late: list[str] = []  # drains that have lasted too long, at this moment
        self._touched: set[str] = set()
        self._looks: dict[str, tuple[object, ...]] = {}  # of backends, as claims last saw them
        self._stale = True  # something has changed that claims go by
        self._stale_at = 0.0  # and time alone changes it then

    # ------------------------------------------------------------ indexes

    def _reindex(self, page: Page) -> None:
        """Put a model where it belongs after anything about it has changed."""
        name = page.name
        index, other = self._waiting, self._small
        changed = name == self.claim
        if page.state is State.STOPPED and page.waits() and self.pages.get(name) is page:
            if page.only_small(self.policy):
                index, other = other, index
            if index.put(name, page.rank(self.policy), page.least()):
                self._unchecked.add(name)
                changed = True
        else:
            changed |= index.remove(name)
        changed |= other.remove(name)
        if page.state.resident or name in self._looks:
            changed |= self._looks_different(page)
        self._stale |= changed
        self._timers.set(name, page.wakes_at(self.policy))

    def _looks_different(self, page: Page) -> bool:
        """Whether anything that claims go by has changed about a backend."""
        before = self._looks.get(page.name)
        if not page.state.resident:
            del self._looks[page.name]
            return True
        busy = bool(page.leases or len(page.queue))
        unserved = bool(page.started_for) and page.unserved()
        look = (page.state, busy, page.idle_since(), page.pinned, page.gap, unserved)
        self._looks[page.name] = look
        return look != before

    def _move(self, page: Page, state: State) -> None:
        page.move(state)
        if state.resident:
            self.residents[page.name] = page
        else:
            self.residents.pop(page.name, None)
        self._touched.add(page.name)

    def _note_start(self, model: str, now: float) -> None:
        horizon = now - self.policy.thrash_window
        while self.spans and (self.spans[0].ended or now) < horizon:
            self.spans.popleft()
        while self.swaps and self.swaps[0].at < horizon:
            self.swaps.popleft()
        self.spans.append(Span(model, now))

    # ------------------------------------------------------------ moves

    def _start(self, page: Page, variant: Variant, now: float) -> None:
        self._move(page, State.STARTING)
        page.generation += 1
        page.variant = variant
        page.started_at, page.was_ready, page.good = now, False, 0
        page.trying = page.before is not None
        page.started_for = {t.id for t in page.queue} | set(page.loads)
        page.returns, page.first_size, page.measured, page.told_size = "", None, {}, {}
        if page.unfit:
            page.unfit, page.problem = False, None
        self.ledger.charge(page.name, variant.need, new=True)
        self._note_start(page.name, now)
        self._say(StartBackend(page.name, page.generation, variant))
        self._publish("start", page, variant=variant.id, bytes=dict(variant.need))

    def _drain(self, page: Page, reason: str, now: float) -> None:
        if page.state is State.READY:
            self._move(page, State.DRAINING)
            page.draining_at = now
        page.drain_reason = reason
        self._touched.add(page.name)

    def _undrain(self, page: Page) -> None:
        """It goes on serving."""
        self._move(page, State.READY)
        page.drain_reason, page.cut = "", False

    def _stop(self, page: Page, reason: str, now: float) -> None:
        self._stopping(page, now)
        self._say(StopBackend(page.name, page.generation, reason))
        self._publish("stop", page, reason=reason)

    def _stopping(self, page: Page, now: float) -> None:
        if page.state is State.STARTING:
            self._start_over(page, now)
        self._move(page, State.STOPPING)
        page.stopping_at = now

    def _start_over(self, page: Page, now: float) -> None:
        """A start has ended, well or badly: the clocks of its tickets run again."""
        page.starting_total += now - page.started_at
        for span in reversed(self.spans):
            if span.model == page.name:
                span.ended = now
                break
        for ticket_id, left in page.overdue.items():
            if ticket_id in page.queue or ticket_id in page.loads:
                self._arm(ticket_id, now + left, page.starting_total)
        page.overdue.clear()

    def _forgive(self, page: Page, *, clean: bool) -> None:
        """Out of BACKOFF or FAILED: the next waiting ticket may start it."""
        self._move(page, State.STOPPED)
        page.retry_at = page.half_open = page.problem = None
        if clean:
            page.history.clear()

    def _remember(self, page: Page) -> None:
        """Where it stands on its ladder has changed."""
        self._say(Remember(page.name, ladder.standing(page)))

    def _refuse_all(self, page: Page, problem: Problem) -> None:
        for ticket in [*page.queue, *page.loads.values()]:
            self._reject(page, ticket.id, problem)

    def _reject(self, page: Page, ticket_id: int, problem: Problem) -> None:
        self._forget(page, ticket_id)
        self._say(Reject(ticket_id, problem))

    def _drop(self, page: Page) -> None:
        self._generations[page.name] = page.generation
        del self.pages[page.name]
        self._reindex(page)
        self._timers.set(page.name, None)

    def _say(self, command: Command) -> None:
        self._out.append(command)

    def _publish(self, kind: str, page: Page, **facts: object) -> None:
        self._say(Publish(kind, page.name, {"generation": page.generation, **facts}))

    def _cut(self, page: Page, problem: Problem) -> None:
        """End its running requests, once."""
        page.cut = True
        for ticket_id in page.leases:
            self._say(CancelRequest(ticket_id, problem))
        self._publish("cut", page, requests=len(page.leases), reason=problem.message)
        self._touched.add(page.name)

    def _forget(self, page: Page, ticket_id: int) -> None:
        """A waiting ticket is out of the books, whatever the reason."""
        ticket = page.queue.remove(ticket_id) or page.loads.pop(ticket_id, None)
        if ticket is not None:
            del self._where[ticket_id]
            self._waits_no_more(ticket)
            self._touched.add(page.name)

    def _arm(self, ticket_id: int, at: float, seen: float) -> None:
        """The wait ends ``at`` then; ``seen``: seconds of starting that are accounted for."""
        self._due[ticket_id] = at
        heapq.heappush(self._deadlines, (at, ticket_id, seen))
        if len(self._deadlines) > 64 + 4 * len(self._due):
            self._deadlines = [one for one in self._deadlines if self._due.get(one[1]) == one[0]]
            heapq.heapify(self._deadlines)

    def _waits_no_more(self, ticket: Ticket) -> None:
        self._queued -= 1
        self._bytes -= ticket.body_bytes
        if (page := self.pages.get(ticket.model)) is not None:
            page.tries.pop(ticket.id, None)
        self._due.pop(ticket.id, None)
        if ticket.stand_in is not None and (host := self.pages.get(ticket.stand_in)) is not None:
            host.guests.remove(ticket.id)
