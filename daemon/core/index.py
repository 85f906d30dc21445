"""Ordered indexes, so that a decision looks at few models however many there are."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping

from daemon.core.messages import Bytes

Rank = tuple[float, str]  # effective arrival (seconds), model
Least = tuple[tuple[str, int], ...]  # a pool and the least that some variants need of it

_LAST = "\U0010ffff"  # after the name of any model


def least(variants: tuple[Bytes, ...]) -> Least:
    """For a quick look at what could fit: one pool of each way to place a model, and its least."""
    found: dict[frozenset[str], tuple[str, int]] = {}
    for need in variants:
        pools = frozenset(pool for pool, count in need.items() if count > 0)
        pool = min(pools, default="")
        count = need.get(pool, 0)
        if pools not in found or count < found[pools][1]:
            found[pools] = (pool, count)
    return tuple(sorted(set(found.values())))


class Waiting:
    """Models that wait for memory: in the order of their claims, and by what they need."""

    def __init__(self) -> None:
        self._ranks: dict[str, Rank] = {}
        self._least: dict[str, Least] = {}
        self._order: list[Rank] = []
        self._needs: dict[str, list[tuple[int, str]]] = {}

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, model: object) -> bool:
        return model in self._ranks

    def __iter__(self) -> Iterator[str]:
        """All of them, first claim first."""
        return iter([name for _, name in self._order])

    def rank(self, model: str) -> Rank:
        return self._ranks[model]

    def first(self) -> str | None:
        """Whose claim is first."""
        return self._order[0][1] if self._order else None

    def put(self, model: str, rank: float, needs: Least) -> bool:
        """Note it, anew where something changed; whether anything has."""
        key = (rank, model)
        before = self._ranks.get(model)
        if before != key:
            if before is not None:
                del self._order[bisect_left(self._order, before)]
            insort(self._order, key)
            self._ranks[model] = key
        if self._least.get(model) == needs:
            return before != key
        self._forget_needs(model)
        self._least[model] = needs
        for pool, count in needs:
            insort(self._needs.setdefault(pool, []), (count, model))
        return True

    def remove(self, model: str) -> bool:
        """It waits no more; False if it did not."""
        key = self._ranks.pop(model, None)
        if key is None:
            return False
        del self._order[bisect_left(self._order, key)]
        self._forget_needs(model)
        return True

    def _forget_needs(self, model: str) -> None:
        for pool, count in self._least.pop(model, ()):
            line = self._needs[pool]
            del line[bisect_left(line, (count, model))]

    def within(self, room: Mapping[str, int]) -> list[str]:
        """Those that might fit into ``room``, first claim first. It may name too many (only one
        pool was looked at), never too few."""
        found: set[str] = set()
        for pool, line in self._needs.items():
            limit = 0 if pool == "" else room.get(pool, 0)
            found.update(name for _, name in line[: bisect_right(line, (limit, _LAST))])
        return [name for _, name in sorted(self._ranks[name] for name in found)]


class Timers:
    """One time per model, the earliest first."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []  # an entry that is not in _at is stale

    def set(self, model: str, at: float | None) -> None:
        """Wake for this model then; None: not at all."""
        if at is None:
            self._at.pop(model, None)
        elif self._at.get(model) != at:
            self._at[model] = at
            heapq.heappush(self._heap, (at, model))
            if len(self._heap) > 64 + 4 * len(self._at):
                self._heap = [(time, name) for name, time in self._at.items()]
                heapq.heapify(self._heap)
        self._tidy()

    def _tidy(self) -> None:
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)

    def next(self) -> float | None:
        """The earliest of all."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[str]:
        """Take out all whose time has come, earliest first."""
        names: list[str] = []
        while self._heap and self._heap[0][0] <= now:
            _, model = heapq.heappop(self._heap)
            del self._at[model]
            names.append(model)
            self._tidy()
        return names
