"""Requests for models that are not on this machine: where that is allowed they start the download,
and wait for it as long as for a turn. What would take longer is told at once, with its figures.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from daemon.access.principals import CONTROL, Principal
from daemon.bringing import Bringing
from daemon.config.model import Model
from daemon.core.problems import Code, Problem, ProblemError
from daemon.core.units import format_bytes
from daemon.ports import Lease, Progress, Waiting, Wish
from daemon.supervisor import Supervisor

log = logging.getLogger("modelport.pulls")

REST: Final = 30.0
"""Seconds in which a download that failed is not begun anew by the next request: clients ask again
at once, and the hub would be asked as often."""
_LONGEST_RETRY: Final = 30.0  # seconds; as admission has it, for the same clients


@dataclass(slots=True)
class Parked:
    """One request that waits for a download."""

    wish: Wish
    done: Callable[[Lease | Problem], None]
    fetch: _Fetch
    arrived: float  # the supervisor's seconds
    timer: asyncio.TimerHandle | None = None
    inner: Waiting | None = None  # its wait for a turn, once the files are here

    def cancel(self) -> None:
        """See ``Waiting``."""
        if self.inner is not None:
            self.inner.cancel()
        self.end()

    def end(self) -> bool:
        """It waits no longer; False if it did not."""
        if self.timer is not None:
            self.timer.cancel()
        if self not in self.fetch.parked:
            return False
        self.fetch.parked.remove(self)
        return True


@dataclass(slots=True, eq=False)
class _Fetch:
    """The download of one model, as requests see it."""

    model: str
    parked: list[Parked] = field(default_factory=list)
    last: Progress | None = None
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Awaited:
    """See the module. ``absent`` is the supervisor's."""

    supervisor: Supervisor
    bringing: Bringing
    most: int = 256  # requests that wait for downloads, as many as for turns
    _fetches: dict[str, _Fetch] = field(default_factory=dict)
    _failed: dict[str, tuple[float, Problem]] = field(default_factory=dict)
    _arriving: set[str] = field(default_factory=set)

    def absent(
        self, wish: Wish, problem: Problem, done: Callable[[Lease | Problem], None]
    ) -> Waiting | None:
        """A request for a model whose weights are not here; ``problem`` says so."""
        stock = self.bringing.configured.stock
        model = stock.catalog.resolve(wish.model, wish.route.value, wish.principal.default_model)
        name = model.name if model is not None else ""
        refused = self._refused(model, wish.principal, problem, name)
        if model is None or refused is not None:
            done(refused or problem)
            return None
        fetch = self._fetches.get(name) or self._begin(name)
        loop, patience = asyncio.get_running_loop(), self.supervisor.queue_timeout
        parked = Parked(wish, done, fetch, self.supervisor.clock())
        fetch.parked.append(parked)
        if self._too_long(parked):
            self._tell(parked)
            return None
        parked.timer = loop.call_later(patience, self._tell, parked)
        return parked

    def _refused(
        self, model: Model | None, who: Principal, problem: Problem, name: str
    ) -> Problem | None:
        """Why no download is begun for this request; None: it may."""
        if model is None or not allowed(model, who) or name in self._arriving:
            return problem
        until, failed = self._failed.get(name, (0.0, problem))
        if self.supervisor.clock() < until:
            return failed
        if sum(len(fetch.parked) for fetch in self._fetches.values()) >= self.most:
            text = "Too many requests wait for downloads."
            return Problem(Code.QUEUE_FULL, text, "Try again later.", 5.0)
        return None

    def _begin(self, name: str) -> _Fetch:
        fetch = self._fetches[name] = _Fetch(name)
        fetch.task = asyncio.create_task(self._follow(fetch), name=f"awaits {name}")
        log.info("%s is pulled, as a request asks for it", name)
        return fetch

    async def _follow(self, fetch: _Fetch) -> None:
        end: Problem | None = None
        try:
            async for step in self.bringing.pull(fetch.model):
                fetch.last = step
                for parked in [one for one in fetch.parked if self._too_long(one)]:
                    self._tell(parked)
        except ProblemError as error:
            end = error.problem
        except Exception:
            log.exception("waiting for the pull of %s failed", fetch.model)
            end = Problem(Code.INTERNAL, "The daemon failed; see its log.")
        del self._fetches[fetch.model]
        if end is not None and end.code is not Code.SHUTTING_DOWN:
            self._failed[fetch.model] = (self.supervisor.clock() + REST, end)
        self._release(fetch, end)

    def _release(self, fetch: _Fetch, end: Problem | None) -> None:
        """The download is over: those who waited ask for their turn, or hear why there is none."""
        self._arriving.add(fetch.model)  # what is still not here is not fetched once more
        try:
            for parked in list(fetch.parked):
                parked.end()
                if end is not None:
                    parked.done(end)
                    continue
                wish = replace(parked.wish, arrived=parked.wish.arrived or parked.arrived)
                parked.inner = self.supervisor.acquire(wish, parked.done)
        finally:
            self._arriving.discard(fetch.model)

    def _too_long(self, parked: Parked) -> bool:
        """Is it known that the download takes longer than this request waits?"""
        last = parked.fetch.last
        left = last.facts.get("left") if last is not None else None
        waited = self.supervisor.clock() - parked.arrived
        return isinstance(left, float) and left > self.supervisor.queue_timeout - waited

    def _tell(self, parked: Parked) -> None:
        if parked.end():
            parked.done(under_way(parked.fetch.model, parked.fetch.last))

    def words(self, name: str) -> str:
        """How far the download is that requests for this model wait for; "" if there is none."""
        model = self.bringing.configured.stock.catalog.resolve(name)
        fetch = self._fetches.get(model.name) if model is not None else None
        return f"{fetch.model} is being downloaded{_figures(fetch.last)}" if fetch else ""

    def leave(self) -> None:
        """The daemon stops: nobody waits for a download any more."""
        for fetch in list(self._fetches.values()):
            for parked in list(fetch.parked):
                parked.end()
                parked.done(self.supervisor.stopping)


def allowed(model: Model, who: Principal) -> bool:
    """May a request of ``who`` begin the download of ``model``? Who comes with a key gets what the
    owner has put into the configuration, and not any preset at all."""
    return model.auto_pull and (model.listed or not who.keyed or who.may(CONTROL))


def under_way(model: str, last: Progress | None) -> Problem:
    """It is being downloaded, and that takes longer than a request waits."""
    facts = dict(last.facts) if last is not None else {}
    left = facts.get("left")
    after = min(_LONGEST_RETRY, max(1.0, left)) if isinstance(left, float) else _LONGEST_RETRY
    return Problem(
        Code.PULLING,
        f"{model} is being downloaded{_figures(last)}.",
        f"Ask again then, or watch it: ctl pull {model}",
        after,
        {key: value for key, value in facts.items() if key in ("done", "total", "rate", "left")},
    )


def _figures(last: Progress | None) -> str:
    """``: 42 % of 17.2 GiB, about 6 minutes left``."""
    facts: Mapping[str, object] = last.facts if last is not None else {}
    done, total, left = facts.get("done"), facts.get("total"), facts.get("left")
    if not isinstance(done, int) or not isinstance(total, int) or total <= 0:
        return f": {last.text}" if last is not None and last.fraction is None else ""
    said = f": {100 * done // total} % of {format_bytes(total)}"
    return f"{said}, about {about(left)} left" if isinstance(left, float) else said


def about(seconds: float) -> str:
    """A time as people say it: ``40 seconds``, ``6 minutes``, ``3 hours``."""
    for size, word in ((3600.0, "hour"), (60.0, "minute")):
        if seconds >= 1.5 * size:
            return f"{round(seconds / size)} {word}s"
    count = max(1, round(seconds))
    return "1 minute" if 50 <= seconds < 90 else f"{count} second{'s' if count != 1 else ''}"
