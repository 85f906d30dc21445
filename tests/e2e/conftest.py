"""Whole daemons for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.house import House

MakeHouse = Callable[..., House]


@pytest.fixture
def make_house(short_dir: Path) -> Iterator[MakeHouse]:
    """``make_house(config, service=False)``: a daemon that is stopped when the test ends."""
    houses: list[House] = []

    def make(config: str, *, service: bool = False) -> House:
        folder = short_dir / str(len(houses))
        folder.mkdir(mode=0o700)
        house = House(folder, config, service)
        houses.append(house)
        return house

    yield make
    for house in houses:
        house.__exit__()


def timing(table: dict[str, object]) -> str:
    lines = [f"{key} = {value}" for key, value in table.items()]
    return "\n".join(["[timing]", *lines, ""])
