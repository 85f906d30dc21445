"""Versions on trial: what is counted, and what is taken back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.engines.install.shelf import FOUND, Item, Shelf, Use, switch
from daemon.probation import Probation, Start, judge
from daemon.telemetry.bus import Bus
from daemon.views import EventView

ENGINE = "llama-server"
START = Start(ENGINE, "2", ("/e/b2/llama-server",))
TRIAL = Use("b2", ("b1",), 3)


@pytest.mark.parametrize(
    ("use", "mine", "loaded", "before", "expected"),
    [(TRIAL, True, True, None, "worked"), (TRIAL, True, False, "1", "take_back"),
     (TRIAL, True, False, None, "nothing"),  # it never worked: the model may be at fault
     (TRIAL, True, False, "2", "nothing"),  # it has worked with this very version
     (TRIAL, False, False, "1", "nothing"), (Use("b2", ("b1",), 0), True, False, "1", "nothing"),
     (Use("b2", (), 3), True, False, "1", "nothing")],
)  # fmt: skip
def test_the_rule(use: Use, mine: bool, loaded: bool, before: str | None, expected: str) -> None:
    assert judge(use, mine, loaded, before, START) == expected


def test_two_builds_of_one_version_are_told_apart() -> None:
    """The one for the card may fail where the processor's worked, and both say the same of it."""
    starts = [
        Start.of(made(ENGINE, "9001 (abc)", (f"/e/{place}/llama-server", "-x")))
        for place in ("b9001", "b9001-cuda", "b9001")
    ]
    assert starts[0] == starts[2]
    assert starts[0] is not None
    assert starts[1] is not None
    assert judge(TRIAL, True, False, starts[0].version, starts[1]) == "take_back"


def made(engine: str, version: str, program: tuple[str, ...]) -> Any:
    """A model as it is prepared."""
    installed = SimpleNamespace(version=version, program=program)
    return SimpleNamespace(engine_name=engine, installed=installed)


@dataclass
class World:
    """A shelf with two versions, and a model that is started with the one in use."""

    folder: Path
    bus: Bus = field(default_factory=Bus)
    reloaded: list[frozenset[str]] = field(default_factory=list)
    told: list[EventView] = field(default_factory=list)
    generation: int = 0

    def __post_init__(self) -> None:
        self.shelf = Shelf(self.folder / "engines")
        for version in ("b1", "b2"):
            place = self.shelf.place(ENGINE, version)
            self.shelf.finish(Item(ENGINE, version, place, place / "llama-server"))
            (place / "llama-server").touch()
        self.shelf.change(ENGINE, lambda use: switch(use, "b1", 0))
        self.trial = self.make()
        self.bus.subscribe(self.told.append)

    def make(self) -> Probation:
        trial = Probation(
            self.shelf, self.bus, self.prepared, self.again, self.folder / "worked.json"
        )
        trial.load()
        trial.open()
        return trial

    async def again(self, names: frozenset[str]) -> None:
        self.reloaded.append(names)

    def prepared(self, name: str) -> Any:
        version = self.shelf.use(ENGINE).version
        item = self.shelf.item(ENGINE, version)
        assert item is not None
        return made(ENGINE, version, (str(item.path),))

    async def run(self, end: str, **facts: Any) -> None:
        """One start of the model, and how it ends."""
        self.generation += 1
        mark = {"generation": self.generation}
        self.bus.publish("start", "m", "", mark)
        if end == "ready":
            self.bus.publish("ready", "m", "", mark)
            self.bus.publish("exited", "m", "", {**mark, "exit_class": "crash", "asked": False})
        else:
            usual = {"exit_class": "crash", "asked": False, "detail": "it broke"}
            self.bus.publish("exited", "m", "", {**mark, **usual, **facts})
        await self.trial.close()
        self.trial = self.make()

    def use(self, version: str, trial: int = 2) -> None:
        self.shelf.change(ENGINE, lambda use: switch(use, version, trial))


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_version_that_breaks_what_worked_is_taken_back(world: World) -> None:
    await world.run("ready")
    world.use("b2")
    await world.run("failed", exit_class="permanent")
    use = world.shelf.use(ENGINE)
    assert (use.version, use.before, use.trial) == ("b1", (FOUND,), 0)
    assert use.taken_back is not None
    assert (use.taken_back.version, use.taken_back.model) == ("b2", "m")
    assert world.reloaded == [frozenset({"m"})]
    (event,) = [one for one in world.told if one.kind == "engine_taken_back"]
    assert "b2 is taken back" in event.text
    assert event.facts["to"] == "b1"


async def test_loads_that_go_well_end_the_trial(world: World) -> None:
    await world.run("ready")
    world.use("b2")
    for left in (1, 0, 0):
        await world.run("ready")
        assert world.shelf.use(ENGINE).trial == left
    await world.run("failed")
    assert world.shelf.use(ENGINE).version == "b2"
    kept = json.loads((world.folder / "worked.json").read_text())["models"][ENGINE]["m"]
    assert kept.startswith("b2 #")


@pytest.mark.parametrize(
    "facts", [{"exit_class": "out_of_memory"}, {"exit_class": "port"}, {"asked": True}]
)
async def test_ends_that_say_nothing_of_a_build(world: World, facts: dict[str, Any]) -> None:
    await world.run("ready")
    world.use("b2")
    await world.run("failed", **facts)
    assert world.shelf.use(ENGINE) == Use("b2", ("b1", FOUND), 2)


async def test_a_model_that_never_worked_takes_nothing_back(world: World) -> None:
    world.use("b2")
    await world.run("failed")
    assert world.shelf.use(ENGINE).version == "b2"
    assert world.reloaded == []


async def test_a_broken_memory_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "worked.json").write_text("{")
    (tmp_path / "worked.json").chmod(0o600)
    world = World(tmp_path)
    await world.run("ready")
    assert list(tmp_path.glob("worked.json.corrupt-*"))  # noqa: ASYNC240
    assert str(world.trial.worked.get(ENGINE, "m")).startswith("b1 #")
