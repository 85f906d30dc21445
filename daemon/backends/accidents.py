"""Requests that end backends: remembered by a digest of their body, in memory only. Pure.

Both SDKs send a failed request again, twice; with our own second attempt one bad prompt would take
three of the five lives that a backend has before its circuit opens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace

from daemon.core.messages import (
    Ask,
    BackendExited,
    BackendUnhealthy,
    Event,
    ExitClass,
    OperatorAsked,
)
from daemon.core.problems import Code, Problem

REMEMBERED = 256  # bodies; the oldest go
CRASHES = 2  # of one body within the window: it is refused


@dataclass(slots=True)
class Poison:
    """Which bodies were in flight at crashes. ``window``: seconds after which one is forgotten."""

    window: float
    _crashes: OrderedDict[str, tuple[str, list[float]]] = field(default_factory=OrderedDict)

    def crashed(self, model: str, digests: Collection[str], now: float) -> bool:
        """A backend of ``model`` died with these in flight. True if one had ended one before."""
        repeated = False
        for mark in digests:
            before = self._recent(mark, now)
            repeated = repeated or bool(before)
            self._crashes[mark] = (model, [*before, now][-CRASHES:])
            self._crashes.move_to_end(mark)
        while len(self._crashes) > REMEMBERED:
            self._crashes.popitem(last=False)
        return repeated

    def suspect(self, mark: str, now: float) -> bool:
        """Was it in flight at a crash?"""
        return bool(self._recent(mark, now))

    def refused(self, mark: str, now: float) -> bool:
        """Was it in flight at so many that it is served no more?"""
        return len(self._recent(mark, now)) >= CRASHES

    def forget(self, model: str | None) -> None:
        """An operator says so: all of this model, or (None) all."""
        for mark, (whose, _) in list(self._crashes.items()):
            if model is None or whose == model:
                del self._crashes[mark]

    def __bool__(self) -> bool:
        """Whether anything is remembered: else no body need be looked at."""
        return bool(self._crashes)

    def _recent(self, mark: str, now: float) -> list[float]:
        found = self._crashes.get(mark)
        return [at for at in found[1] if 0 <= now - at < self.window] if found else []


LATE = 10.0  # seconds from a lost connection to the exit that it belongs to: no wait, a bound
LOST = 64  # of one backend
BLAMED = frozenset({ExitClass.CRASH, ExitClass.HANG})
"""Ends that a request may be the cause of. Out of memory has its own remedy: a smaller start."""


@dataclass(slots=True)
class Accidents:
    """Who was in flight when a backend died. Told of lost leases and of ends; answers whether a
    body is to be served again. Times are the caller's clock, in seconds."""

    poison: Poison = field(default_factory=lambda: Poison(600.0))
    _lost: dict[tuple[str, int], list[tuple[float, str]]] = field(default_factory=dict)
    _unwell: dict[tuple[str, int], ExitClass] = field(default_factory=dict)

    def told(self, event: Event) -> None:
        """A fact that is on its way to the core."""
        match event:
            case BackendUnhealthy(model, generation, _, exit_class):
                self._unwell[model, generation] = exit_class
            case OperatorAsked(Ask.RESET, model):
                self.poison.forget(model)
            case _:
                pass

    def lost(self, model: str, generation: int, mark: str, now: float) -> None:
        """A request lost its backend, which may be found to have died in a moment."""
        kept = self._lost.setdefault((model, generation), [])
        kept.append((now, mark))
        del kept[:-LOST]

    def exited(
        self, event: BackendExited, marks: Iterable[Callable[[], str]], now: float
    ) -> BackendExited:
        """A backend is gone, and these were still in flight on it. The event as it counts."""
        key = (event.model, event.generation)
        exit_class = self._unwell.pop(key, event.exit_class)
        lost = [mark for at, mark in self._lost.pop(key, []) if now - at < LATE]
        if exit_class not in BLAMED:
            return event
        found = {mark for mark in (*lost, *(mark() for mark in marks)) if mark}
        return replace(event, repeated=self.poison.crashed(event.model, found, now))

    def suspect(self, mark: Callable[[], str], now: float) -> bool:
        """Was this body in flight at a crash?"""
        return bool(self.poison) and self.poison.suspect(mark(), now)

    def refused(self, mark: Callable[[], str], now: float) -> bool:
        """Is it served no more?"""
        return bool(self.poison) and self.poison.refused(mark(), now)


def poisoned(model: str) -> Problem:
    """What is said to whoever sends such a body."""
    return Problem(
        Code.POISON,
        f"This very request was being served each time when {model} crashed, "
        f"{CRASHES} times within a short while: it is not tried again.",
        f"Change the request, or see what the engine said: ctl logs {model}. "
        f"To allow it again: ctl reset {model}",
    )
