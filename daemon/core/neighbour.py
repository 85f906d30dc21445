"""The good neighbour: other programs need memory, too, and a budget is a promise.

Idle backends leave, coldest first, when the machine's free memory is under its low mark, or when
the budget is exceeded because it was lowered or a backend grew. Pins stay.
"""

from __future__ import annotations

from daemon.core import admission
from daemon.core.budget import fits, minus, plus, total
from daemon.core.claims import Claims
from daemon.core.lifecycle import State
from daemon.core.messages import Bytes, Publish
from daemon.core.page import OVER, PRESSURE, Page


class Neighbour(Claims):
    """Pressure, growth, the end of a pause, drains that last too long."""

    @property
    def watches_memory(self) -> bool:
        """Whether what happens next hangs on free memory: look at it every few seconds."""
        waits = bool(self._waiting or self._small) and bool(self.ledger.low)
        return bool(self.pressed or self._exiled or waits)

    def _keep_peace(self, now: float) -> None:
        """Before requests are dispatched: a pause that goes on, or is over."""
        if self.paused is not None and self.paused.until is not None and self.paused.until <= now:
            self._resume(now)
        if self.paused is not None:
            self._stand_still(now)

    def _end_drains(self, now: float) -> None:
        """``max_drain`` has passed for them, and they still drain."""
        for name in self._late:
            page = self.pages.get(name)
            at = page.cut_at(self.policy) if page is not None else None
            if page is not None and at is not None and at <= now:
                limit = self.policy.max_drain or 0.0
                self._cut(page, admission.drained_too_long(name, limit))
                self._reindex(page)
        self._late.clear()

    def _make_room(self, now: float) -> None:
        """After requests were dispatched, before anything is started."""
        if self._over:
            left = plus(self.ledger.spare(), self._on_its_way())
            self._shed({pool: -n for pool, n in left.items()}, OVER, now)
            self._over = any(n < 0 for n in self.ledger.spare().values())
        if self.pressed or self._exiled or self._memory_news:
            self._memory_news = False
            self._look_at_pressure(now)

    def _on_its_way(self) -> Bytes:
        """Bytes of all that will be free without anything being done."""
        leaving = (p.name for p in self.residents.values() if _soon_gone(p))
        return plus(total(map(self.ledger.charged, leaving)), self.ledger.settling())

    def _shed(self, missing: Bytes, reason: str, now: float) -> None:
        """Stop idle backends until what is missing is on its way back, the coldest first."""
        idle = [page for page in self.residents.values() if page.idle() and not page.pinned]
        for page in sorted(idle, key=lambda p: (p.idle_since(), p.load_seconds, p.name)):
            if reason == OVER and self._alone(page):
                continue  # nobody would be helped, and the next request would bring it back
            charge = self.ledger.charged(page.name)
            if not any(n > 0 and charge.get(pool, 0) > 0 for pool, n in missing.items()):
                continue
            if reason == PRESSURE and page.by_hand:
                page.returns = PRESSURE
                self._exiled.add(page.name)
            self._stop(page, reason, now)
            missing = minus(missing, charge)

    def _alone(self, page: Page) -> bool:
        return all(other is page or _soon_gone(other) for other in self.residents.values())

    # ------------------------------------------------------------ pressure

    def _look_at_pressure(self, now: float) -> None:
        free, low, high = self.ledger.free, self.ledger.low, self.ledger.high
        known = [pool for pool in sorted(low) if pool in free]
        under = {pool for pool in known if free[pool] < low[pool]}
        still = {p for p in self.pressed if p in free and free[p] < high.get(p, low.get(p, 0))}
        pressed = frozenset(under | still)
        if pressed != self.pressed:
            self._tell_pressure(pressed)
        self.pressed = pressed
        if pressed:
            self._back_at = None
            back = self._on_its_way()
            lacks = {p: high.get(p, low[p]) - free[p] - back.get(p, 0) for p in sorted(pressed)}
            self._shed(lacks, PRESSURE, now)
        else:
            self._bring_back(now)

    def _tell_pressure(self, pressed: frozenset[str]) -> None:
        free, low = self.ledger.free, self.ledger.low
        if pressed - self.pressed:
            short = {pool: (free[pool], low.get(pool, 0)) for pool in sorted(pressed)}
            facts = {
                "free": {pool: n for pool, (n, _) in short.items()},
                "low": {pool: n for pool, (_, n) in short.items()},
            }
            self._say(Publish("pressure", "", facts))
        elif not pressed:
            self._say(Publish("pressure_over", "", {"free": dict(free)}))

    def _bring_back(self, now: float) -> None:
        """Memory is free: after a while those return that somebody had loaded by hand."""
        for name in sorted(self._exiled):
            if name not in self.pages or self.pages[name].returns != PRESSURE:
                self._exiled.discard(name)
        if not self._exiled:
            self._back_at = None
            return
        if self._back_at is None:
            self._back_at = now + self.policy.pressure_clear
        if self._back_at > now or self.paused is not None:
            return
        self._back_at = now + self.policy.pressure_clear  # for those that have no room yet
        spare = self.ledger.room(keep=self.ledger.low)
        gone = [self.pages[name] for name in self._exiled]
        for page in sorted(gone, key=lambda p: (-p.last_used, p.name)):
            need = next((v.need for v in page.allowed() if fits(v.need, spare)), None)
            if need is not None and page.state is State.STOPPED:
                page.wanted_since, page.returns = now, ""
                spare = minus(spare, need)
                self._reindex(page)
                self._publish("returns", page)


def _soon_gone(page: Page) -> bool:
    """Whether its memory comes back without anybody's doing. One that drains and still has requests
    may hold it for minutes."""
    return page.state is State.STOPPING or (page.leaves() and not page.leases)
