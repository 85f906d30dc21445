"""The workloads of the comparison. Service and think times vary by half, evenly."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass

from tests.bench.policies.town import House, Request, Town

Client = Generator[float | tuple[Request, ...]]


def vary(rng: random.Random, seconds: float) -> float:
    return seconds * rng.uniform(0.5, 1.5)


def agent(town: Town, name: str, model: str, service: float, think: float) -> Client:
    """Asks, thinks, asks again, for ever."""
    rng = town.random(name)
    while True:
        yield (town.request(model, name, vary(rng, service)),)
        yield vary(rng, think)


def _w1(town: Town) -> None:
    for model in "AB":
        town.spawn(agent(town, f"agent {model}", model, 6.0, 1.0))


def _w2(town: Town) -> None:
    for number in range(4):
        town.spawn(agent(town, f"hot {number}", "A", 8.0, 0.2))
    town.spawn(agent(town, "cold", "B", 5.0, 60.0), 60.0)


def _w3(town: Town) -> None:
    rng = town.random("crowd")

    def one(model: str, service: float) -> Client:
        yield (town.request(model, "crowd", service),)

    for number in range(1000):
        town.spawn(one(rng.choice("ABC"), vary(rng, 2.0)), 0.001 * number)


def _w4(town: Town) -> None:
    def coder(name: str) -> Client:
        rng = town.random(name)
        while True:
            calls = [town.request("A", name, vary(rng, 10.0))]
            if rng.random() < 0.5:
                town.submit(town.request("S", name, vary(rng, 1.5)))
            yield tuple(calls)
            yield rng.uniform(0.3, 3.0)

    def embedder() -> Client:
        rng = town.random("embedder")
        while True:
            yield (town.request("E", "embedder", vary(rng, 0.2)),)
            yield 5.0

    town.spawn(coder("one"))
    town.spawn(coder("two"))
    town.spawn(embedder())


def _w6(town: Town) -> None:
    def talk(name: str, model: str) -> Client:
        rng = town.random(name)
        while True:
            for _ in range(rng.randint(10, 20)):
                yield (town.request(model, name, vary(rng, 5.0)),)
                yield rng.uniform(0.5, 3.0)
            yield rng.uniform(60.0, 240.0)

    for number, model in enumerate("ABC"):
        town.spawn(talk(f"talk {model}", model), 40.0 * number)


@dataclass(frozen=True, slots=True)
class Workload:
    """``served`` and ``longest``: what the design's study promises of this policy (0: of no
    interest there). ``model``: whose wait is looked at; empty: everybody's."""

    name: str
    houses: tuple[House, ...]
    end: float
    fill: Callable[[Town], None]
    served: int = 0
    longest: float = 0.0
    makespan: float = 0.0
    loads: int = 0
    model: str = ""


def _houses(load: float, slots: int, names: str, size: int = 6) -> tuple[House, ...]:
    return tuple(House(name, size, load, slots) for name in names)


WORKLOADS = (
    Workload("W1 two agents", _houses(12.0, 1, "AB"), 7200.0, _w1, served=839, loads=113),
    Workload(
        "W2 A saturated, B asks", _houses(12.0, 2, "AB"), 7200.0, _w2, longest=73.0, model="B"
    ),
    Workload("W3 1000 at once", _houses(15.0, 4, "ABC"), 20000.0, _w3, makespan=654.0, loads=9),
    Workload(
        "W4 agents, background",
        (House("A", 7, 15.0, 2), House("S", 4, 4.0, 2), House("E", 1, 1.0, 4)),
        7200.0,
        _w4,
        served=2643,
        longest=71.0,
    ),
    Workload("W6 conversations", _houses(15.0, 1, "ABC"), 14400.0, _w6, served=1539, loads=235),
)
