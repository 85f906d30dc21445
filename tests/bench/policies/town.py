"""A small town of models, clients and one landlord, in simulated time.

Landlords with different policies are put before the same clients (same seed, same durations drawn)
so that only what they decide differs. Time is in seconds, memory in units of one pool.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class House:
    """A model: what it needs, how long it loads, how many requests it serves at once."""

    name: str
    size: int
    load: float
    slots: int = 1


@dataclass(slots=True)
class Request:
    """One call, from its arrival to its end."""

    id: int
    model: str
    client: str
    arrived: float
    service: float
    granted: float | None = None
    done: Callable[[], None] = lambda: None


@dataclass(slots=True)
class Orders:
    """What a landlord wants done now."""

    start: list[str] = field(default_factory=list)
    stop: list[str] = field(default_factory=list)
    grant: list[int] = field(default_factory=list)


class Landlord(Protocol):
    """A policy. Every method tells a fact and answers with what is to be done."""

    def arrived(self, request: Request, now: float) -> Orders: ...
    def ended(self, request: Request, now: float) -> Orders: ...
    def ready(self, model: str, now: float) -> Orders: ...
    def gone(self, model: str, now: float) -> Orders: ...
    def woken(self, now: float) -> Orders: ...
    def deadline(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to. ``longest`` wait of each model, of those never served included."""

    served: int
    loads: int
    longest: dict[str, float]
    makespan: float

    @property
    def longest_wait(self) -> float:
        return max(self.longest.values(), default=0.0)


STOP = 0.5
BUDGET = 10


class Town:
    """Runs clients against one landlord. Raises AssertionError if it breaks the memory's bound."""

    def __init__(self, houses: list[House], landlord: Landlord, seed: int, end: float) -> None:
        self.houses = {house.name: house for house in houses}
        self.landlord, self.end = landlord, end
        self.seed = seed
        self.now = 0.0
        self.loads = 0
        self.requests: dict[int, Request] = {}
        self.held: dict[str, int] = {}  # model -> its size, from start to exit
        self.running: dict[str, int] = {}
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def random(self, who: str) -> random.Random:
        """A stream of its own for each client: what others do changes nothing in it."""
        return random.Random(f"{self.seed}/{who}")

    def at(self, delay: float, what: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._agenda, (self.now + delay, self._number, what))

    def spawn(self, client: Generator[float | tuple[Request, ...]], delay: float = 0.0) -> None:
        """A client yields seconds to let pass, or requests to wait for."""

        def step() -> None:
            try:
                wish = next(client)
            except StopIteration:
                return
            if isinstance(wish, float):
                self.at(wish, step)
                return
            left = [len(wish)]

            def one_done() -> None:
                left[0] -= 1
                if not left[0]:
                    step()

            for request in wish:
                request.done = one_done
                self.submit(request)

        self.at(delay, step)

    def request(self, model: str, client: str, service: float) -> Request:
        self._number += 1
        return Request(self._number, model, client, 0.0, service)

    def submit(self, request: Request) -> None:
        request.arrived = self.now
        self.requests[request.id] = request
        self._obey(self.landlord.arrived(request, self.now))

    def run(self) -> Result:
        while True:
            due = self.landlord.deadline()
            times = [
                t for t in (due, self._agenda[0][0] if self._agenda else None) if t is not None
            ]
            if not times or min(times) > self.end:
                break
            self.now = max(self.now, min(times))
            if self._agenda and self._agenda[0][0] <= self.now:
                heapq.heappop(self._agenda)[2]()
            else:
                self._obey(self.landlord.woken(self.now))
        return self._result()

    def _result(self) -> Result:
        longest: dict[str, float] = dict.fromkeys(self.houses, 0.0)
        ended = [r for r in self.requests.values() if r.granted is not None]
        for r in self.requests.values():
            wait = (self.end if r.granted is None else r.granted) - r.arrived
            longest[r.model] = max(longest[r.model], wait)
        last = max((r.granted + r.service for r in ended if r.granted is not None), default=0.0)
        return Result(len(ended), self.loads, longest, last)

    def _obey(self, orders: Orders) -> None:
        for model in orders.stop:
            assert not self.running.get(model), f"{model} was stopped while it served"
            self.at(STOP, lambda model=model: self._gone(model))  # type: ignore[misc]
        for model in orders.start:
            house = self.houses[model]
            assert model not in self.held, f"{model} started twice"
            self.held[model] = house.size
            assert sum(self.held.values()) <= BUDGET, f"over the budget: {self.held}"
            self.loads += 1
            self.at(house.load, lambda model=model: self._tell_ready(model))  # type: ignore[misc]
        for number in orders.grant:
            request = self.requests[number]
            assert request.granted is None, "granted twice"
            request.granted = self.now
            count = self.running[request.model] = self.running.get(request.model, 0) + 1
            assert count <= self.houses[request.model].slots
            self.at(request.service, lambda request=request: self._end(request))  # type: ignore[misc]

    def _tell_ready(self, model: str) -> None:
        self._obey(self.landlord.ready(model, self.now))

    def _gone(self, model: str) -> None:
        del self.held[model]
        self._obey(self.landlord.gone(model, self.now))

    def _end(self, request: Request) -> None:
        self.running[request.model] -= 1
        self._obey(self.landlord.ended(request, self.now))
        request.done()
