"""Writing down what is known of backends: ready, adopted, failed, gone, grown."""

from __future__ import annotations

from daemon.core import admission
from daemon.core.arrivals import Arrivals
from daemon.core.budget import largest
from daemon.core.lifecycle import State
from daemon.core.messages import (
    BackendExited,
    Bytes,
    CancelRequest,
    ExitClass,
    KillBackend,
    MemoryObserved,
    Variant,
)
from daemon.core.page import OUTGROWN, Page
from daemon.core.problems import Code, Problem
from daemon.core.restarts import GiveUp, after_exit


class Runs(Arrivals):
    """Facts about backends."""

    def _current(self, model: str, generation: int) -> Page | None:
        """The page, unless the message is about an older process."""
        page = self.pages.get(model)
        return page if page and page.generation == generation and page.state.resident else None

    def _ready(self, model: str, generation: int, now: float) -> None:
        page = self._current(model, generation)
        if page is None or page.state is not State.STARTING:
            return
        self._move(page, State.READY)
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
        self._move(page, State.READY)
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

    def _exited(self, event: BackendExited, now: float) -> None:
        model, exit_class, detail = event.model, event.exit_class, event.detail
        page = self._current(model, event.generation)
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
        page.failed_as, page.drain_reason, page.cut = None, "", False
        self._publish("exited", page, exit_class=exit_class.value, detail=detail, asked=asked)
        page.last_used = max(page.last_used, page.ready_at)
        if asked:
            self._move(page, State.STOPPED)
            page.by_hand = page.by_hand and bool(page.returns or page.wanted_since is not None)
        else:
            if event.repeated:
                self._count_once(page)
            self._died(page, exit_class, detail, served, now)
        self._touched.add(model)
        if page.removed:
            self._drop(page)

    @staticmethod
    def _count_once(page: Page) -> None:
        """One request ended this backend and one before: of the two crashes one stays counted."""
        if page.history.crashes:
            page.history.crashes.pop()
            page.history.consecutive = max(0, page.history.consecutive - 1)

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
            self._move(page, State.FAILED)
            page.half_open, page.wanted_since = choice.half_open, None
            self._refuse_all(page, admission.unavailable(page, now))
            self._publish("failed", page, detail=detail, exit_class=exit_class.value)
        else:
            self._move(page, State.BACKOFF)
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

    def _observed(self, event: MemoryObserved, now: float) -> None:
        starting = {n for n, page in self.residents.items() if page.state is State.STARTING}
        self.ledger.observe(event.free, starting)
        self.ledger.low = dict(event.low) or self.ledger.low
        self.ledger.high = dict(event.high) or self.ledger.high
        self._memory_news = bool(self.ledger.low)
        for (model, generation), seen in event.footprints.items():
            page = self._current(model, generation)
            if page is not None:
                charged = self.ledger.charged(model)
                page.measured = {pool: n for pool, n in seen.items() if pool in charged}
                self._measured(page, charged, now)

    def _measured(self, page: Page, charged: Bytes, now: float) -> None:
        """What it takes: its charge follows, and a leak is ended at a request boundary."""
        grown = largest(charged, page.measured)
        if any(n > charged[pool] for pool, n in grown.items()):
            self.ledger.charge(page.name, grown)
            self._over = True
            self._publish("grown", page, charged=dict(grown))
        if page.state is not State.READY:
            return
        if page.first_size is None:
            page.first_size = largest(page.price(), page.measured)
        elif self._outgrown(page.first_size, page.measured):
            page.wanted_since = now if page.by_hand or page.pinned else None
            self._publish("outgrown", page, first=dict(page.first_size), now=dict(page.measured))
            self._drain(page, OUTGROWN, now)

    def _outgrown(self, first: Bytes, seen: Bytes) -> bool:
        """Past the hard mark: a good deal over its first size, or alone over the budget.

        Its first size, not its estimate: an estimate that was wrong is not mended by a restart.
        """
        budget, factor = self.ledger.budget, self.policy.hard_factor
        return any(
            n > factor * first.get(pool, 0) or n > budget.get(pool, n) >= first.get(pool, 0)
            for pool, n in seen.items()
        )
