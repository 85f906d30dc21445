"""Writing down what is known of backends: ready, adopted, failed, gone, grown."""

from __future__ import annotations

from daemon.core import admission, ladder
from daemon.core.arrivals import Arrivals
from daemon.core.budget import fits, largest, plus
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
from daemon.core.page import CLIMB, OUTGROWN, Page, with_margin
from daemon.core.problems import Code, Problem
from daemon.core.restarts import GiveUp, Life, after_exit

TOLD = 1.05  # times the size that was told last: then growth is news again


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
        page.was_ready = page.tried = True
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
        page.was_ready, page.good = True, 0
        if page.rung and variant.id not in {v.id for v in page.allowed()}:
            ladder.climb(page)  # it had been trying its full size
        page.trying = page.before is not None
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
        page = self._current(event.model, event.generation)
        if page is None:
            return
        exit_class, detail = event.exit_class, event.detail
        self.ledger.release(page.name, now)
        asked = page.state is State.STOPPING and page.failed_as is None
        if page.state is State.STOPPING:
            page.stop_seconds = now - page.stopping_at
        if page.state is State.STARTING:
            self._start_over(page, now)
        if page.failed_as is not None:
            exit_class, detail = page.failed_as
        served = now - page.ready_at if page.was_ready else None
        life = Life(served, page.good, event.repeated)
        for ticket_id in page.leases:
            del self._where[ticket_id]
        page.free_all_slots()
        page.started_for.clear()
        page.failed_as, page.drain_reason, page.cut = None, "", False
        self._publish("exited", page, exit_class=exit_class.value, detail=detail, asked=asked)
        page.last_used = max(page.last_used, page.ready_at)
        if asked or exit_class is not ExitClass.OUT_OF_MEMORY:
            self._full_size_is_well(page, life)
        if asked:
            self._move(page, State.STOPPED)
            page.by_hand = page.by_hand and bool(page.returns or page.wanted_since is not None)
        else:
            self._died(page, exit_class, detail, life, now)
        self._touched.add(page.name)
        if page.removed:
            self._drop(page)

    def _died(self, page: Page, exit_class: ExitClass, detail: str, life: Life, now: float) -> None:
        smaller = self._smaller(page, exit_class, life, now)
        choice = after_exit(
            page.history,
            exit_class,
            model=page.name,
            generation=page.generation,
            now=now,
            life=life,
            policy=self.policy,
            smaller=smaller,
        )
        page.problem = admission.died(page.name, exit_class, detail)
        if (page.pinned or page.by_hand) and page.wanted_since is None:
            page.wanted_since = now
        if isinstance(choice, GiveUp):
            if exit_class is ExitClass.OUT_OF_MEMORY:
                page.problem = admission.exhausted(page, page.problem, self.ledger)
            self._move(page, State.FAILED)
            page.half_open, page.wanted_since = choice.half_open, None
            self._refuse_all(page, admission.unavailable(page, now))
            self._publish("failed", page, detail=detail, exit_class=exit_class.value)
        else:
            self._move(page, State.BACKOFF)
            page.retry_at = choice.at
            seconds = round(choice.at - now, 3)
            self._publish("backoff", page, seconds=seconds, detail=detail)
            if smaller:
                self._publish("degraded", page, text=page.degraded(), failures=page.failures)
            if smaller or exit_class is ExitClass.OUT_OF_MEMORY:
                self._one_try_less(page, seconds)

    def _one_try_less(self, page: Page, seconds: float) -> None:
        """A request waits for so many starts that run out of memory; an operator for any number."""
        for ticket in list(page.queue):
            tries = page.tries[ticket.id] = page.tries.get(ticket.id, 0) + 1
            if tries >= self.policy.memory_attempts:
                self._reject(page, ticket.id, admission.degrading(page, tries, seconds))

    # ------------------------------------------------------------ the ladder

    def _smaller(self, page: Page, exit_class: ExitClass, life: Life, now: float) -> bool:
        """Step down after running out of memory; False if it did not, or there is no step left.

        A step that the engine refuses for good, and that was never ready, is stepped over."""
        unsound = exit_class is ExitClass.PERMANENT and page.rung > 0 and not page.tried
        if exit_class is not ExitClass.OUT_OF_MEMORY and not unsound:
            return False
        page.failures += not unsound
        stepped = ladder.fall_back(page, now, self.policy)
        if not stepped:
            others = any(p is not page and not p.pinned for p in self.residents.values())
            stepped = ladder.step_down(page, others=others and life.served is None)
            if life.served is not None and not page.margin:
                budget = self.ledger.budget
                page.margin = any(fits(with_margin(v).need, budget) for v in page.allowed())
        if page.rung:
            page.degraded_at, page.climb_at = now, now + self.policy.climb_back
            self._remember(page)
        return stepped

    def _full_size_is_well(self, page: Page, life: Life) -> None:
        """A try at full size has gone well for long enough: what was remembered is forgotten."""
        if page.trying and page.before is not None and life.healthy(self.policy):
            page.before, page.failures = None, 0
            self._remember(page)

    def _climb(self, page: Page, now: float) -> None:
        """Try the full size again. A backend that nobody uses is started anew for it, if there is
        room without anybody leaving."""
        if page.state is State.READY:
            room = plus(self.ledger.room(), self.ledger.charged(page.name))
            if not fits(page.spec.variants[0].need, room):
                page.climb_at = now + self.policy.climb_back * ladder.HOUR
                return
            page.wanted_since = now
        ladder.climb(page)
        self._publish("climbs", page, variant=page.allowed()[0].id)
        if page.state is State.READY:
            self._drain(page, CLIMB, now)

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
            told = page.told_size or page.price()
            if any(n > TOLD * told.get(pool, 0) for pool, n in grown.items()):
                page.told_size = grown
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
