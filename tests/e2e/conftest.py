"""Whole daemons for tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e import npm
from tests.e2e.house import House
from tests.e2e.programs import Desk, loopback_alone, make_desk, proof
from tests.fakes import start

MakeHouse = Callable[..., House]
MakeDesk = Callable[..., Desk]
BESIDE = frozenset(
    f"test_{name}"
    for name in (
        *("clients", "engine_versions", "faults_daemon", "killed", "ladder", "lan", "life"),
        *("main_job", "pulls", "vision", "worst_days"),
    )
)
"""Modules that make up half of the time of all tests: mostly it is spent waiting for processes, so
``scripts/test.sh`` runs them beside the other half."""

DIALECTS = {"native": ["chat", "messages", "responses"], "chat": ["chat"]}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.stem in BESIDE:
            item.add_marker(pytest.mark.beside)


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


# The real clients, in tests/e2e/test_real_*.py


@pytest.fixture(scope="session")
def bins() -> Path:
    return npm.installed()


@pytest.fixture
def alone() -> Iterator[None]:
    with loopback_alone():
        yield


def worker(name: str, folder: Path, speaks: str, *more: str) -> str:
    """The tables of a stand-in that has the client write a file, and keeps what it was asked."""
    flags = ["--port", "{port}", "-c", "{ctx}", "-np", "4", *more]
    flags += ["--record", str(folder / f"record-{name}"), "--writes", str(proof(folder, name))]
    return (
        f"[engines.command.{name}]\nargv = {json.dumps([*start.argv('engine'), *flags])}\n"
        f"footprint = '100 MiB'\ndialects = {DIALECTS[speaks]}\n"
        f"[models.{name}]\nengine = 'command.{name}'\nctx = 65536\nslots = 4\n"
        # With it off, opencode and pi go through "native" as they are; Claude Code and Codex are
        # always shaped, for their messages of the system's in the middle.
        f"rescue_tools = {json.dumps(speaks == 'chat')}\n"
    )


@pytest.fixture
def stand_in(make_house: MakeHouse, short_dir: Path, bins: Path, alone: None) -> MakeDesk:
    """``stand_in("native")``: a desk at a stand-in, the model ``mine``; ``tables``: more TOML."""

    def make(speaks: str = "native", *more: str, tables: str = "") -> Desk:
        mine = worker("mine", short_dir, speaks, *more) + "aliases = ['claude-*']\n"
        return make_desk(make_house(mine + tables).start(), bins, short_dir)

    return make
