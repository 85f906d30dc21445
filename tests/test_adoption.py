"""What an earlier daemon left: taken over as a service, ended in the foreground."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest

from daemon import adoption
from daemon.adoption import Waits, settle_leftovers
from daemon.backends.keeper import start_token
from daemon.backends.keeping import (
    Exited,
    Gone,
    Keeper,
    KeeperError,
    KeeperEvent,
    LogTrouble,
    Reaped,
    Record,
)
from daemon.backends.readiness import Found
from daemon.core.messages import CatalogChanged, Event, ModelSpec, Variant
from daemon.core.scheduler import Scheduler
from daemon.ports import Hold, Target
from daemon.supervisor import Supervisor
from daemon.telemetry.bus import Bus

WAITS = Waits(adopt=0.5, reap=0.7)
VARIANT = Variant("full", {"ram": 4})
Mode = Literal["foreground", "service"]


class FakeKeeper:
    """A keeper that ends what it has when it is told to, or does not."""

    def __init__(self, house: House, name: str, on_event: Callable[[KeeperEvent], None]) -> None:
        self.house, self.name, self.on_event = house, name, on_event
        self.hello = SimpleNamespace(
            error=None,
            exit=None,
            gone=False,
            stopping=False,
            backend=name.split("-")[0],
            generation=int(name.split("-")[1]),
            facts={},
        )

    def kill(self) -> None:
        self.house.told.append(f"kill {self.name}")
        if self.name not in self.house.undying:
            self.on_event(Exited(-9, 0.0, ()))
            self.on_event(Gone())

    async def wait_gone(self, timeout: float) -> bool:
        assert timeout == WAITS.reap
        return self.name not in self.house.undying

    async def close(self) -> bool:
        self.house.told.append(f"close {self.name}")
        return True


class FakeBackend:
    """A backend as it is resumed: answers or not, and hears its keeper."""

    def __init__(self, house: House, keeper: FakeKeeper, generation: int) -> None:
        self.house, self.keeper, self.generation = house, keeper, generation
        self.model = keeper.hello.backend
        self.variant = VARIANT
        self.died = self.unattended = False
        self.heard: list[KeeperEvent] = []
        self.holding = Hold(Target("127.0.0.1", 40000 + generation), "m", {}, False)

    async def look_over(self, wait: float) -> Found:
        assert wait == WAITS.adopt
        await asyncio.sleep(0)  # an answer takes a while: others go on
        if self.keeper.name in self.house.dying:
            self.on_event(Exited(-11, 0.0, ()))
            self.died = True
        if self.keeper.name in self.house.busy:
            return Found.WORKS
        return Found.FAILS if self.keeper.name in self.house.silent else Found.SERVES

    def on_event(self, event: KeeperEvent) -> None:
        self.heard.append(event)

    def stop(self) -> None: ...
    def kill(self) -> None: ...


class House:
    """Records of leftovers, and a supervisor that knows the models a, b and c."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.told: list[str] = []
        self.silent: set[str] = set()
        self.busy: set[str] = set()
        self.doubted: list[tuple[str, int, str]] = []
        self.dying: set[str] = set()
        self.undying: set[str] = set()
        self.without_keeper: set[str] = set()
        self.strangers: set[str] = set()  # not what would be started today
        self.broken: set[str] = set()
        self.ended: dict[str, dict[str, object]] = {}
        self.news: dict[str, list[KeeperEvent]] = {}  # what a keeper has to tell first
        self.missed: list[tuple[str, int, Exited]] = []
        self.records: list[Record] = []
        self.resumed: dict[str, FakeBackend] = {}
        self.supervisor = Supervisor(Scheduler({"ram": 10}), Bus(), 1.0)
        specs = {name: ModelSpec(name, (VARIANT,), keep_alive=-1) for name in "abc"}
        self.supervisor.tell(CatalogChanged(specs))
        monkeypatch.setattr(adoption, "records", lambda directory: self.records)
        monkeypatch.setattr(adoption, "reap", self._reap)
        monkeypatch.setattr(Keeper, "adopt", self._adopt)

    def leave(self, name: str) -> str:
        """A leftover ``MODEL-GENERATION``."""
        model, _, generation = name.partition("-")
        path = self.folder / f"{name}.json"
        self.records.append(
            Record(
                path=path,
                protocol=1,
                backend=model,
                generation=int(generation),
                pid=1,
                start="",
                argv=(),
                keeper_pid=1,
                keeper_start="",
                socket=self.folder / f"{name}.sock",
                log=self.folder / "log",
                mode="service",
                facts={},
            )
        )
        return name

    async def _adopt(
        self, socket: Path, *, on_event: Callable[[KeeperEvent], None], patience: float
    ) -> FakeKeeper:
        assert patience == WAITS.adopt
        name = socket.stem
        if name in self.without_keeper:
            raise KeeperError(f"no keeper answers at {socket}")
        if name in self.broken:
            raise ValueError("what nobody thought of")
        keeper = FakeKeeper(self, name, on_event)
        vars(keeper.hello).update(self.ended.get(name, {}))
        for event in self.news.get(name, []):
            on_event(event)
        return keeper

    def _reap(self, record: Record) -> Reaped:
        self.told.append(f"reap {record.path.stem}")
        return Reaped.KILLED

    def resume(self, keeper: FakeKeeper, tell: Callable[[Event], None]) -> FakeBackend | None:
        if keeper.name in self.strangers:
            return None
        generation = int(keeper.name.partition("-")[2])
        self.resumed[keeper.name] = FakeBackend(self, keeper, generation)
        return self.resumed[keeper.name]

    async def settle(self, mode: Mode = "service") -> None:
        stock = cast("Any", SimpleNamespace(resume=self.resume))
        work = settle_leftovers(
            self.folder,
            mode,
            stock,
            self.supervisor,
            WAITS,
            lambda model, generation, facts, end: self.missed.append((model, generation, end)),
            self._doubt,
        )
        await asyncio.wait_for(work, 5.0)

    def _doubt(self, model: str, generation: int, why: str) -> None:
        assert self.states()[model] == "ready", "it is known by then"
        self.doubted.append((model, generation, why))

    def states(self) -> dict[str, str]:
        return {name: s for name, s in self.supervisor.states().items() if s != "stopped"}


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    return House(tmp_path, monkeypatch)


@pytest.mark.parametrize("mode", ["service", "foreground"])
async def test_where_nothing_was_left_nothing_is_done(house: House, mode: Mode) -> None:
    await house.settle(mode)
    assert house.told == []


async def test_a_service_takes_over_what_still_answers(house: House) -> None:
    house.leave("a-7")
    await house.settle()
    assert house.told == []
    assert house.states() == {"a": "ready"}
    assert house.supervisor.backends == {"a": house.resumed["a-7"]}
    assert house.supervisor.scheduler.ledger.committed == {"ram": 4}
    assert house.supervisor.scheduler.pages["a"].generation == 7
    keeper = house.resumed["a-7"].keeper
    keeper.on_event(Exited(-9, 0.0, ()))
    assert house.resumed["a-7"].heard == [Exited(-9, 0.0, ())], "and hears of its end"


async def test_one_at_work_is_taken_over_and_looked_after(house: House) -> None:
    house.busy.add(house.leave("a-7"))
    house.leave("b-1")
    await house.settle()
    assert house.told == []
    assert house.states() == {"a": "ready", "b": "ready"}
    ((model, generation, why),) = house.doubted
    assert (model, generation) == ("a", 7)
    assert "did not answer" in why


@pytest.mark.parametrize(
    ("which", "ended"),
    [
        ("strangers", {}),
        ("silent", {}),
        ("dying", {}),
        ("", {"exit": -11}),
        ("", {"error": "no such program"}),
        ("", {"gone": True}),
        ("", {"stopping": True}),  # an order of the daemon before: its KILL is still to come
    ],
)
async def test_what_is_not_taken_over_is_ended(
    house: House, which: str, ended: dict[str, object]
) -> None:
    name = house.leave("a-3")
    if which:
        getattr(house, which).add(name)
    house.ended[name] = ended
    await house.settle()
    assert house.told == ["kill a-3", "close a-3"]
    assert house.states() == {}
    assert house.supervisor.backends == {}
    assert house.supervisor.scheduler.ledger.committed == {}


async def test_of_two_for_one_model_one_is_taken_over(house: House) -> None:
    """Each of them answers: an earlier daemon died while it replaced one by the other."""
    house.leave("a-3")
    house.leave("a-4")
    await house.settle()
    (kept,) = [name for name in house.resumed if f"kill {name}" not in house.told]
    assert house.supervisor.backends == {"a": house.resumed[kept]}
    assert len(house.told) == 2, "the other one is ended"
    assert house.supervisor.scheduler.pages["a"].generation == house.resumed[kept].generation
    assert house.supervisor.scheduler.ledger.committed == {"ram": 4}


async def test_a_lost_keeper_leaves_its_engine_to_the_record(house: House) -> None:
    house.without_keeper.add(house.leave("a-1"))
    await house.settle()
    assert house.told == ["reap a-1"]


async def test_the_foreground_ends_all(house: House) -> None:
    house.leave("a-1")
    house.without_keeper.add(house.leave("b-1"))
    await house.settle("foreground")
    assert sorted(house.told) == ["close a-1", "kill a-1", "reap b-1"]
    assert house.states() == {}


async def test_one_that_cannot_be_ended_is_told(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "modelport.adoption")
    house.undying.add(house.leave("a-1"))
    mine = start_token(os.getpid())
    assert mine is not None
    house.records[0] = replace(house.records[0], keeper_pid=os.getpid(), keeper_start=mine)
    await house.settle("foreground")
    assert "leftover a: did not end in time" in caplog.text


@pytest.mark.parametrize("mode", ["service", "foreground"])
async def test_a_keeper_killed_while_it_ends_its_engine_leaves_it_to_the_record(
    house: House, mode: Mode
) -> None:
    name = house.leave("a-1")
    house.undying.add(name)
    house.strangers.add(name)
    await house.settle(mode)
    assert house.told == ["kill a-1", "close a-1", "reap a-1"]


@pytest.mark.parametrize("mode", ["service", "foreground"])
async def test_a_bad_one_does_not_spoil_the_others(
    house: House, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    house.broken.add(house.leave("a-1"))
    house.leave("b-1")
    await house.settle(mode)
    assert "what nobody thought of" in caplog.text
    if mode == "service":
        assert house.states() == {"b": "ready"}
    else:
        assert house.told == ["kill b-1", "close b-1"]


CRASHED = Exited(-11, 0.0, ("GGML_ASSERT",), 1000.0)


async def test_an_end_while_nobody_was_there_is_told_as_any_other(house: House) -> None:
    """Taken over dead: the core hears of it, so that it counts."""
    name = house.leave("a-3")
    house.news[name] = [LogTrouble(7, 28), CRASHED, Gone()]
    await house.settle()
    run = house.resumed[name]
    assert run.unattended
    assert run.heard == [LogTrouble(7, 28), CRASHED, Gone()]
    assert house.supervisor.scheduler.pages["a"].generation == 3
    assert house.missed == []
    assert house.told == [], "the backend itself says bye"


@pytest.mark.parametrize("mode", ["service", "foreground"])
async def test_an_end_of_what_would_not_be_started_now_is_only_told(
    house: House, mode: Mode
) -> None:
    name = house.leave("a-3")
    house.strangers.add(name)
    house.news[name] = [CRASHED]
    await house.settle(mode)
    assert house.missed == [("a", 3, CRASHED)]
    assert house.told == ["kill a-3", "close a-3"]
    assert house.states() == {}


@pytest.mark.parametrize("mode", ["service", "foreground"])
async def test_a_word_that_a_keeper_left_is_told(house: House, mode: Mode) -> None:
    name = house.leave("a-3")
    house.records[0] = replace(house.records[0], exit=CRASHED)
    house.without_keeper.add(name)
    await house.settle(mode)
    assert house.missed == [("a", 3, CRASHED)]
    assert house.told == ["reap a-3"]


@pytest.mark.parametrize("mode", ["service", "foreground"])
async def test_what_its_keeper_stopped_is_not_told(house: House, mode: Mode) -> None:
    name = house.leave("a-3")
    house.news[name] = [replace(CRASHED, stopped=True), Gone()]
    house.ended[name] = {"exit": CRASHED, "gone": True}
    await house.settle(mode)
    assert house.missed == []
    assert house.told == ["kill a-3", "close a-3"]


async def test_a_lost_log_is_known_after_a_take_over(house: House) -> None:
    name = house.leave("a-3")
    house.news[name] = [LogTrouble(7, None)]
    await house.settle()
    assert house.states() == {"a": "ready"}
    assert house.resumed[name].heard == [LogTrouble(7, None)]
