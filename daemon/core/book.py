"""The landlord's book: each fact is written down here, and nothing is decided.

The one exception is a refusal that needs no decision (an unknown model, a full queue). What follows
from a fact is ordered by ``scheduler``, which calls every method here.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from daemon.core import admission
from daemon.core.budget import Ledger, largest
from daemon.core.lifecycle import State
from daemon.core.messages import (
    Ask,
    Bytes,
    CancelRequest,
    CatalogChanged,
    Command,
    ExitClass,
    KillBackend,
    ModelSpec,
    OperatorAsked,
    Publish,
    Reject,
    StartBackend,
    StopBackend,
    Ticket,
    Variant,
)
from daemon.core.page import CHANGED, UNLOAD, Page
from daemon.core.policy import Policy
from daemon.core.problems import Code, Problem
from daemon.core.restarts import GiveUp, after_exit


class Book:
    """Pages, queues and the ledger. Written by :class:`~daemon.core.scheduler.Scheduler` alone."""

    def __init__(self, budget: Bytes, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.ledger = Ledger(budget, self.policy)
        self.pages: dict[str, Page] = {}
        self.claim: str | None = None
        self._out: list[Command] = []
        self._where: dict[int, str] = {}  # ticket -> model, waiting or leased
        self._due: dict[int, float] = {}  # waiting ticket -> end of its wait
        self._deadlines: list[tuple[float, int, float]] = []  # heap; an entry not in _due is stale
        self._generations: dict[str, int] = {}  # of removed models: numbers are never used twice
        self._bytes = 0
        self._claim_deadline: float | None = None
        self._touched: set[str] = set()

    # ------------------------------------------------------------ recording: requests

    def _arrived(self, ticket: Ticket, now: float) -> None:
        page = self.pages.get(ticket.model)
        problem = admission.refuse(page, ticket, self._load_of(page, ticket), now, self.policy)
        if problem is not None or page is None:
            self._say(Reject(ticket.id, problem or admission.unknown(ticket.model)))
            return
        if page.state is State.FAILED:
            self._forgive(page, clean=ticket.load)
        self._where[ticket.id] = page.name
        self._bytes += ticket.body_bytes
        if ticket.load:
            page.loads[ticket.id] = ticket
        else:
            page.queue.push(ticket)
        self._arm(ticket.id, ticket.deadline, page.starting_seconds(now))
        self._touched.add(page.name)

    def _arm(self, ticket_id: int, at: float, seen: float) -> None:
        """The wait ends ``at`` then; ``seen``: seconds of starting that are accounted for."""
        self._due[ticket_id] = at
        heapq.heappush(self._deadlines, (at, ticket_id, seen))

    def _load_of(self, page: Page | None, ticket: Ticket) -> admission.Load:
        return admission.Load(
            total=sum(len(p.queue) + len(p.loads) for p in self.pages.values()),
            model=len(page.queue) if page else 0,
            client=page.queue.of_client(ticket.client) if page else 0,
            bytes=self._bytes,
        )

    def _left(self, ticket_id: int, now: float) -> None:
        page = self._page_of(ticket_id)
        if page is None:
            return
        if ticket_id in page.leases:  # granted in the same moment: it counts as ended
            self._ended(ticket_id, now)
            return
        self._forget(page, ticket_id)

    def _ended(self, ticket_id: int, now: float) -> None:
        page = self._page_of(ticket_id)
        if page is None or ticket_id not in page.leases:
            return
        del page.leases[ticket_id]
        del self._where[ticket_id]
        page.last_used = max(page.last_used, now)
        self._touched.add(page.name)

    def _page_of(self, ticket_id: int) -> Page | None:
        return self.pages.get(self._where.get(ticket_id, ""))

    def _forget(self, page: Page, ticket_id: int) -> None:
        """A waiting ticket is out of the books, whatever the reason."""
        ticket = page.queue.remove(ticket_id) or page.loads.pop(ticket_id, None)
        if ticket is not None:
            self._bytes -= ticket.body_bytes
            del self._where[ticket_id]
            self._due.pop(ticket_id, None)
            self._touched.add(page.name)

    # ------------------------------------------------------------ recording: backends

    def _current(self, model: str, generation: int) -> Page | None:
        """The page, unless the message is about an older process."""
        page = self.pages.get(model)
        return page if page and page.generation == generation and page.state.resident else None

    def _ready(self, model: str, generation: int, now: float) -> None:
        page = self._current(model, generation)
        if page is None or page.state is not State.STARTING:
            return
        page.move(State.READY)
        page.ready_at = page.last_used = now
        page.load_seconds = now - page.started_at
        self._start_over(page, now)
        page.wanted_since = None
        page.problem = None
        self._touched.add(model)
        self._publish("ready", page, seconds=round(page.load_seconds, 3))

    def _adopted(self, model: str, generation: int, variant: Variant, now: float) -> None:
        page = self.pages.get(model)
        if page is None or page.state.resident:
            return
        if page.state is not State.STOPPED:
            self._forgive(page, clean=True)
        page.generation = max(page.generation, generation)
        page.variant, page.by_hand, page.wanted_since = variant, True, None
        page.move(State.READY)
        page.ready_at = page.last_used = now
        self.ledger.charge(model, variant.need)
        self._touched.add(model)
        self._publish("adopted", page)

    def _unwell(
        self, model: str, generation: int, exit_class: ExitClass, detail: str, now: float
    ) -> None:
        """It lives but will not serve: its exit alone frees its memory."""
        page = self._current(model, generation)
        if page is None or page.state is State.STOPPING:
            return
        page.failed_as = (exit_class, detail)
        problem = Problem(Code.UPSTREAM_ERROR, f"The backend of {model} failed: {detail}.")
        for ticket_id in page.leases:
            self._say(CancelRequest(ticket_id, problem))
        self._stopping(page, now)
        self._say(KillBackend(model, generation, exit_class.value))

    def _exited(
        self, model: str, generation: int, exit_class: ExitClass, detail: str, now: float
    ) -> None:
        page = self._current(model, generation)
        if page is None:
            return
        self.ledger.release(model, now)
        asked = page.state is State.STOPPING and page.failed_as is None
        if page.state is State.STOPPING:
            page.stop_seconds = now - page.stopping_at
        if page.state is State.STARTING:
            self._start_over(page, now)
        if page.failed_as is not None:
            exit_class, detail = page.failed_as
        served = now - page.ready_at if page.ready_at >= page.started_at else 0.0
        for ticket_id in page.leases:
            del self._where[ticket_id]
        page.leases.clear()
        page.started_for.clear()
        page.failed_as, page.drain_reason = None, ""
        self._publish("exited", page, exit_class=exit_class.value, detail=detail, asked=asked)
        page.last_used = max(page.last_used, page.ready_at)
        if asked:
            page.move(State.STOPPED)
            page.by_hand = page.by_hand and page.wanted_since is not None
        else:
            self._died(page, exit_class, detail, served, now)
        self._touched.add(model)
        if page.removed:
            self._drop(page)

    def _died(
        self, page: Page, exit_class: ExitClass, detail: str, served: float, now: float
    ) -> None:
        choice = after_exit(
            page.history,
            exit_class,
            model=page.name,
            generation=page.generation,
            now=now,
            ready_for=served,
            policy=self.policy,
        )
        if not isinstance(choice, GiveUp) and choice.smaller and not self._smaller(page):
            choice = GiveUp(now + self.policy.half_open)
        page.problem = admission.died(page.name, exit_class, detail)
        if (page.pinned or page.by_hand) and page.wanted_since is None:
            page.wanted_since = now
        if isinstance(choice, GiveUp):
            page.move(State.FAILED)
            page.half_open, page.wanted_since = choice.half_open, None
            self._refuse_all(page, admission.unavailable(page, now))
            self._publish("failed", page, detail=detail, exit_class=exit_class.value)
        else:
            page.move(State.BACKOFF)
            page.retry_at = choice.at
            self._publish("backoff", page, seconds=round(choice.at - now, 3), detail=detail)

    def _smaller(self, page: Page) -> bool:
        """Step to the next variant after running out of memory; False if there is none."""
        used = page.variant.id if page.variant else ""
        index = next((i for i, v in enumerate(page.spec.variants) if v.id == used), 0)
        smallest, rung = max(page.smallest, index + 1), page.rung + 1
        if all(v.rung > rung for v in page.spec.variants[smallest:]):
            return False  # the last one stays allowed, for the half-open try
        page.smallest, page.rung = smallest, rung
        return True

    def _observed(self, free: Bytes, footprints: Mapping[tuple[str, int], Bytes]) -> None:
        self.ledger.observe(free)
        for (model, generation), seen in footprints.items():
            page = self._current(model, generation)
            if page is None:
                continue
            charged = self.ledger.charged(model)
            grown = largest(charged, {pool: n for pool, n in seen.items() if pool in charged})
            if any(n > charged[pool] for pool, n in grown.items()):
                self.ledger.charge(model, grown)
                self._publish("grown", page, charged=dict(grown))

    # ------------------------------------------------------------ recording: operators, catalog

    def _operator(self, event: OperatorAsked, now: float) -> None:
        pages = [self.pages[event.model]] if event.model in self.pages else []
        if event.model is None:
            pages = list(self.pages.values())
        for page in pages:
            match event.ask:
                case Ask.UNLOAD:
                    self._unload(page, now, force=event.force)
                case Ask.PIN | Ask.UNPIN:
                    page.pinned = event.ask is Ask.PIN
                case Ask.RESET:
                    page.history.clear()
                    page.smallest = page.rung = 0
                    if page.state in (State.FAILED, State.BACKOFF):
                        self._forgive(page, clean=True)
            self._touched.add(page.name)

    def _unload(self, page: Page, now: float, *, force: bool) -> None:
        page.by_hand, page.wanted_since = False, None
        gone = Problem(
            Code.UNLOADED, f"{page.name} was unloaded by hand.", "Ask again to load it.", 1.0
        )
        for ticket in list(page.loads.values()):
            self._reject(page, ticket.id, gone)
        if force or page.state is State.STARTING:
            self._refuse_all(page, gone)
        if force:
            for ticket_id in page.leases:
                self._say(CancelRequest(ticket_id, gone))
        if page.state is State.STARTING or (force and page.state in (State.READY, State.DRAINING)):
            self._stop(page, UNLOAD, now)
        elif page.state in (State.READY, State.DRAINING):
            self._drain(page, UNLOAD)
        elif page.state is State.BACKOFF and not page.waits():
            self._forgive(page, clean=False)

    def _catalog(self, event: CatalogChanged, now: float) -> None:
        if event.budget is not None:
            self.ledger.budget = dict(event.budget)
        for name in [name for name in self.pages if name not in event.models]:
            self._remove(self.pages[name], now)
        for name, spec in event.models.items():
            page = self.pages.get(name)
            anew = name in event.touched
            news = event.budget is not None or anew
            wanted = news or page is None or spec.pinned > page.spec.pinned
            if page is None:
                page = self.pages[name] = Page(spec, generation=self._generations.pop(name, 0))
            else:
                self._respec(page, spec, now, anew=anew)
            stands_still = page.state is State.STOPPED and page.wanted_since is None
            if wanted and page.pinned and stands_still:
                page.wanted_since = now
            self._touched.add(name)

    def _respec(self, page: Page, spec: ModelSpec, now: float, *, anew: bool) -> None:
        if page.spec.pinned != spec.pinned:
            page.pinned = spec.pinned
        page.spec, page.removed = spec, False
        page.smallest = max(0, min(page.smallest, len(spec.variants) - 1))
        if not anew:
            return
        page.history.clear()
        page.smallest = page.rung = 0
        if page.state in (State.FAILED, State.BACKOFF):
            self._forgive(page, clean=True)
        elif page.state is State.STARTING:
            page.wanted_since = page.oldest() if page.waits() else None
            self._stop(page, CHANGED, now)
        elif page.state in (State.READY, State.DRAINING):
            page.wanted_since = now if page.by_hand or page.pinned else None
            self._drain(page, CHANGED)

    def _remove(self, page: Page, now: float) -> None:
        page.removed, page.by_hand, page.wanted_since = True, False, None
        self._refuse_all(page, admission.unknown(page.name))
        if page.state is State.STARTING:
            self._stop(page, CHANGED, now)
        elif page.state in (State.READY, State.DRAINING):
            self._drain(page, CHANGED)
        if not page.state.resident:
            self._drop(page)

    def _drop(self, page: Page) -> None:
        self._generations[page.name] = page.generation
        del self.pages[page.name]

    # ------------------------------------------------------------ moves

    def _start(self, page: Page, variant: Variant, now: float) -> None:
        page.move(State.STARTING)
        page.generation += 1
        page.variant = variant
        page.started_at = now
        page.started_for = {t.id for t in page.queue} | set(page.loads)
        self.ledger.charge(page.name, variant.need)
        self._say(StartBackend(page.name, page.generation, variant))
        self._publish("start", page, variant=variant.id, bytes=dict(variant.need))

    def _drain(self, page: Page, reason: str) -> None:
        if page.state is State.READY:
            page.move(State.DRAINING)
        page.drain_reason = reason
        self._touched.add(page.name)

    def _stop(self, page: Page, reason: str, now: float) -> None:
        self._stopping(page, now)
        self._say(StopBackend(page.name, page.generation, reason))
        self._publish("stop", page, reason=reason)

    def _stopping(self, page: Page, now: float) -> None:
        if page.state is State.STARTING:
            self._start_over(page, now)
        page.move(State.STOPPING)
        page.stopping_at = now

    def _start_over(self, page: Page, now: float) -> None:
        """A start has ended, well or badly: the clocks of its tickets run again."""
        page.starting_total += now - page.started_at
        for ticket_id, left in page.overdue.items():
            if ticket_id in page.queue or ticket_id in page.loads:
                self._arm(ticket_id, now + left, page.starting_total)
        page.overdue.clear()

    def _forgive(self, page: Page, *, clean: bool) -> None:
        """Out of BACKOFF or FAILED: the next waiting ticket may start it."""
        page.move(State.STOPPED)
        page.retry_at = page.half_open = page.problem = None
        if clean:
            page.history.clear()
            page.smallest = page.rung = 0

    def _refuse_all(self, page: Page, problem: Problem) -> None:
        for ticket in [*page.queue, *page.loads.values()]:
            self._reject(page, ticket.id, problem)

    def _reject(self, page: Page, ticket_id: int, problem: Problem) -> None:
        self._forget(page, ticket_id)
        self._say(Reject(ticket_id, problem))

    def _say(self, command: Command) -> None:
        self._out.append(command)

    def _publish(self, kind: str, page: Page, **facts: object) -> None:
        self._say(Publish(kind, page.name, {"generation": page.generation, **facts}))
