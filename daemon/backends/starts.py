"""What each model's latest start was, so that a slow answer can be explained. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from daemon.ports import Waits


@dataclass(slots=True)
class _Start:
    ordered: float
    evicting: float | None = None  # since when others made room for it
    evicted: tuple[str, ...] = ()
    ready: float | None = None


@dataclass(slots=True)
class Starts:
    """Told what happens to models, it says what a request waited for. Times are the caller's
    clock, in seconds."""

    _room: dict[str, tuple[float, list[str]]] = field(default_factory=dict)
    _latest: dict[str, _Start] = field(default_factory=dict)

    def makes_room(self, model: str, claim: str, now: float) -> None:
        """``model`` is made to leave for ``claim``."""
        names = self._room.setdefault(claim, (now, []))[1]
        if model not in names:
            names.append(model)

    def ordered(self, model: str, now: float) -> None:
        """A start of it was ordered."""
        since, names = self._room.pop(model, (None, []))
        self._latest[model] = _Start(now, since, tuple(names))

    def ready(self, model: str, now: float) -> None:
        """It is ready, and serves from now on."""
        if (start := self._latest.get(model)) is not None:
            start.ready = now

    def gone(self, model: str) -> None:
        """Its process ended. What was evicted for a claim that was dropped is forgotten too."""
        self._room.pop(model, None)

    def waits(self, model: str, arrived: float, granted: float) -> Waits | None:
        """Of a request for ``model``; None if it was ready before the request came."""
        start = self._latest.get(model)
        if start is None or start.ready is None or start.ready <= arrived:
            return None
        load = start.ready - max(start.ordered, arrived)
        evict = 0.0
        if start.evicting is not None and start.ordered > arrived:
            evict = start.ordered - max(start.evicting, arrived)
        queue = max(0.0, granted - arrived - load - evict)
        return Waits(queue, evict, load, start.evicted if evict else ())
