"""Writing down what people want: unload, pin, pause, another catalog, another budget."""

from __future__ import annotations

from daemon.core import admission, ladder
from daemon.core.book import Pause
from daemon.core.lifecycle import State
from daemon.core.messages import (
    Ask,
    Bytes,
    CancelRequest,
    CatalogChanged,
    ModelSpec,
    OperatorAsked,
    Publish,
)
from daemon.core.page import CHANGED, PAUSE, UNLOAD, Page
from daemon.core.problems import Code, Problem
from daemon.core.queues import FairQueue
from daemon.core.runs import Runs


class Operators(Runs):
    """Wishes of operators, and what can be served."""

    def _operator(self, event: OperatorAsked, now: float) -> None:
        if event.ask is Ask.PAUSE:
            self._pause(event, now)
        elif event.ask is Ask.RESUME:
            self._resume(now)
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
                    if ladder.standing(page) is not None:
                        ladder.stand(page, None, now, self.policy)
                        self._remember(page)
                    if page.state in (State.FAILED, State.BACKOFF):
                        self._forgive(page, clean=True)
                        if page.pinned and page.wanted_since is None:  # as if it had just died
                            page.wanted_since = now
                case Ask.PAUSE | Ask.RESUME:
                    pass
            self._touched.add(page.name)

    def _unload(self, page: Page, now: float, *, force: bool) -> None:
        page.by_hand, page.wanted_since, page.returns = False, None, ""
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
            self._drain(page, UNLOAD, now)
        elif page.state is State.BACKOFF and not page.waits():
            self._forgive(page, clean=False)

    def _catalog(self, event: CatalogChanged, now: float) -> None:
        if event.budget is not None:
            self._budget(event.budget, now)
        for name in [name for name in self.pages if name not in event.models]:
            self._remove(self.pages[name], now)
        back: set[str] = set()
        for name, spec in event.models.items():
            page = self.pages.get(name)
            if page is None or page.removed:
                back.add(name)
            anew = name in event.touched
            news = event.budget is not None or anew
            wanted = news or page is None or spec.pinned > page.spec.pinned
            if page is None:
                page = self.pages[name] = Page(
                    spec,
                    generation=self._generations.pop(name, 0),
                    queue=FairQueue(self.policy.bonus),
                    guests=FairQueue(self.policy.bonus),
                )
                ladder.stand(page, spec.standing, now, self.policy)
            else:
                self._respec(page, spec, now, anew=anew)
            stands_still = page.state is State.STOPPED and page.wanted_since is None
            self._unchecked.add(name)
            if wanted and page.pinned and stands_still:
                page.wanted_since = now
            self._touched.add(name)
        if back and self._queued:
            self._invite_again(back, now)

    def _invite_again(self, hosts: set[str], now: float) -> None:
        """Models that may stand in for others have come (back)."""
        waiting = [t for p in self.pages.values() for t in p.queue if t.stand_in in hosts]
        for ticket in sorted(waiting, key=lambda t: (t.arrived, t.id)):
            self._invite(ticket, now)

    def _respec(self, page: Page, spec: ModelSpec, now: float, *, anew: bool) -> None:
        if page.spec.pinned != spec.pinned:
            page.pinned = spec.pinned
        other = [v.id for v in page.spec.variants] != [v.id for v in spec.variants]
        other = other or page.spec.ladder != spec.ladder
        page.spec, page.removed = spec, False
        if anew or other:
            ladder.stand(page, spec.standing, now, self.policy)
        if not anew:
            return
        page.history.clear()
        if page.state in (State.FAILED, State.BACKOFF):
            self._forgive(page, clean=True)
        elif page.state is State.STARTING:
            page.wanted_since = page.oldest() if page.waits() else None
            self._stop(page, CHANGED, now)
        elif page.state in (State.READY, State.DRAINING):
            page.wanted_since = now if page.by_hand or page.pinned else None
            self._drain(page, CHANGED, now)

    def _remove(self, page: Page, now: float) -> None:
        page.removed, page.by_hand, page.wanted_since, page.returns = True, False, None, ""
        page.guests = FairQueue(self.policy.bonus)
        self._refuse_all(page, admission.unknown(page.name))
        if page.state is State.STARTING:
            self._stop(page, CHANGED, now)
        elif page.state in (State.READY, State.DRAINING):
            self._drain(page, CHANGED, now)
        if not page.state.resident:
            self._drop(page)

    def _budget(self, budget: Bytes, now: float) -> None:
        """Another budget: pins that it had no room for are wanted again."""
        self.ledger.budget = dict(budget)
        self._over = True
        for page in self.pages.values():
            if page.unfit and page.pinned and page.state is State.STOPPED:
                page.wanted_since = now
                self._touched.add(page.name)

    # ------------------------------------------------------------ pause

    def _pause(self, event: OperatorAsked, now: float) -> None:
        """Everything leaves, pins too; requests wait, or are refused at once."""
        until = None if event.seconds is None else now + event.seconds
        self.paused = Pause(now, until, event.hold)
        self._say(Publish("paused", "", {"seconds": event.seconds, "hold": event.hold}))
        for page in self.pages.values():
            if not event.hold:
                self._refuse_all(page, admission.paused(until, now))
            if event.force and page.leases and not page.cut:
                self._cut(page, admission.paused(until, now))
        self._stand_still(now)

    def _stand_still(self, now: float) -> None:
        """While it is paused nothing goes on running."""
        for page in list(self.residents.values()):
            leaving = page.leaves() and page.state is not State.STARTING
            if leaving:
                continue
            if page.by_hand or page.pinned:
                page.returns = PAUSE
            if page.state is State.STARTING:
                self._stop(page, PAUSE, now)
            else:
                self._drain(page, PAUSE, now)

    def _resume(self, now: float) -> None:
        if self.paused is None:
            return
        self.paused, self._stale = None, True
        self._say(Publish("resumed", "", {}))
        for page in self.pages.values():
            if page.returns == PAUSE:
                page.returns = ""
                gone = page.state in (State.STOPPED, State.STOPPING)
                if gone and (page.pinned or page.by_hand):
                    page.wanted_since = now
            if page.state is State.DRAINING and page.drain_reason == PAUSE:
                self._undrain(page)
            self._touched.add(page.name)
