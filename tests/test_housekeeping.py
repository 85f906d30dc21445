"""What is done by the clock: memory while it matters, old logs; an idle daemon sleeps."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from daemon.backends.backend import Backend
from daemon.backends.learned import Learned, Promise
from daemon.config.settings import Settings
from daemon.core.messages import (
    BackendAdopted,
    BackendExited,
    Bytes,
    CatalogChanged,
    ExitClass,
    MemoryObserved,
    ModelSpec,
    Variant,
)
from daemon.core.policy import Policy
from daemon.core.scheduler import Scheduler
from daemon.housekeeping import Housekeeper, Rounds, near_budget
from daemon.ports import Hold, Target
from daemon.supervisor import Supervisor
from daemon.telemetry.bus import Bus

SECONDS = 10.0
DAY = 86400.0


class House:
    """A housekeeper over a supervisor whose one backend is this very process."""

    def __init__(self, folder: Path, pools: Bytes) -> None:
        self.free: dict[str, int] = {"gpu0": 4}
        self.looks = 0
        self.variant = Variant("full", pools)
        core = Scheduler({"gpu0": 10, "ram": 10}, Policy(settle=60.0))
        self.supervisor = Supervisor(core, Bus(), 1.0, free=self._free)
        self.learned = Learned(None)
        self.promise: Promise | None = None
        self.news: list[str] = []
        self.supervisor.tell(CatalogChanged({"a": ModelSpec("a", (self.variant,), keep_alive=-1)}))
        self.keeper = Housekeeper(
            self.supervisor,
            lambda _: self.promise,
            self.learned,
            self.news.append,
            folder,
            Rounds(sample=0.02, machine=0.02, settle=0.01, tidy=3600.0, disk=0.01, log_max_age=DAY),
        )
        self.keeper.start()

    def _free(self) -> Bytes:
        self.looks += 1
        return dict(self.free)

    def run(self, pid: int | None) -> Backend:
        nothing = cast("Any", None)
        hello = SimpleNamespace(pid=pid)
        return Backend(
            generation=1,
            variant=self.variant,
            engine=nothing,
            installed=nothing,
            plan=cast("Any", SimpleNamespace(model="a")),
            launch=nothing,
            holding=Hold(Target("127.0.0.1", 1), "a", {}, False),
            places=nothing,
            timing=nothing,
            mode="foreground",
            tell=self.supervisor.tell,
            keeper=cast("Any", SimpleNamespace(hello=hello)) if pid is not None else None,
        )

    def begin(self, pid: int | None) -> Backend:
        run = self.run(pid)
        self.supervisor.adopt("a", run)
        self.supervisor.tell(BackendAdopted("a", 1, self.variant))
        return run

    def exited(self) -> None:
        self.supervisor.tell(BackendExited("a", 1, ExitClass.CLEAN))

    @property
    def jobs(self) -> set[str]:
        keeper = self.keeper
        rounds = {
            "sample": keeper._sampling, "machine": keeper._looking, "tidy": keeper._tidying
        }  # fmt: skip
        return {name for name, each in rounds.items() if each.goes}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path, {"gpu0": 6, "ram": 1})
    yield house
    house.keeper.stop()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 (the calendar has no event for us)
            await asyncio.sleep(0.002)


async def quiet(house: House, seconds: float = 0.1) -> bool:
    """Whether nobody looks at memory for so long: several times each interval. What was under way
    (in a thread, which runs when the machine lets it) comes to its end before that."""
    for _ in range(10):
        looks = house.looks
        await asyncio.sleep(seconds)
        if house.looks == looks:
            return True
    return False


# ---------------------------------------------------------------- samples


async def test_an_idle_daemon_sleeps(house: House) -> None:
    await until(lambda: house.keeper._settling is not None and house.keeper._settling.done())
    assert house.jobs == {"tidy"}
    assert await quiet(house)
    assert house.looks == 0
    assert house.supervisor._timer is None


async def test_memory_is_looked_at_while_a_backend_runs_and_only_then(house: House) -> None:
    run = house.begin(os.getpid())
    assert house.jobs == {"tidy", "sample", "machine"}
    await until(lambda: run.measured and house.looks > 1)
    assert house.supervisor.scheduler.ledger.free == {"gpu0": 4}
    house.free["gpu0"] = 10
    house.exited()
    assert house.jobs == {"tidy"}
    await until(lambda: not house.supervisor.scheduler.ledger.settling())
    assert await quiet(house)


async def test_a_footprint_above_its_price_is_charged(house: House) -> None:
    """In the memory where it was seen; what nobody has measured stays as it was priced."""
    run = house.begin(os.getpid())
    ledger = house.supervisor.scheduler.ledger
    await until(lambda: ledger.charged("a")["ram"] > 1)
    assert dict(ledger.charged("a")) == {"gpu0": 6, "ram": run.measured}
    assert "grown" in [event.kind for event in house.supervisor.bus.history(0)]


async def test_main_memory_is_no_measure_of_a_card(tmp_path: Path) -> None:
    """A model that lies on a card alone: its process's main memory is not charged there."""
    house = House(tmp_path, {"gpu0": 6})
    try:
        run = house.begin(os.getpid())
        await until(lambda: house.looks > 2)
        assert dict(house.supervisor.scheduler.ledger.charged("a")) == {"gpu0": 6}
        assert run.measured is None
    finally:
        house.keeper.stop()


@pytest.mark.parametrize("pid", [None, 2**22 - 1])
async def test_a_backend_without_a_process_is_passed_over(house: House, pid: int | None) -> None:
    """Its keeper comes up, or it died a moment ago."""
    run = house.begin(pid)
    await until(lambda: house.looks > 2)
    assert run.measured is None


async def test_a_footprint_leaves_what_the_machine_has_left_as_it_was_seen(house: House) -> None:
    house.keeper.rounds = replace(house.keeper.rounds, machine=3600.0)
    run = house.begin(os.getpid())
    house.supervisor.tell(MemoryObserved({"gpu0": 3}))
    await until(lambda: run.measured)
    assert house.supervisor.scheduler.ledger.free == {"gpu0": 3}
    assert house.looks == 0


async def test_a_sample_of_a_process_that_ended_meanwhile_is_dropped(house: House) -> None:
    house.begin(os.getpid())
    sampling = asyncio.create_task(house.keeper.sample())
    await asyncio.sleep(0)
    house.exited()
    await sampling
    assert dict(house.supervisor.scheduler.ledger.charged("a")) == {}


async def test_a_backend_that_fills_its_memory_is_marked(house: House) -> None:
    """What then ends without a word is taken for memory's."""
    run = house.begin(os.getpid())  # 10 bytes are the budget of ram
    await until(lambda: run.near_budget)
    house.supervisor.scheduler.ledger.budget["ram"] = 1 << 50
    await until(lambda: not run.near_budget)


@pytest.mark.parametrize(
    ("seen", "full"),
    [
        ([], set()),
        ([{"ram": 94}], set()),
        ([{"ram": 95}], {"ram"}),
        ([{"ram": 50}, {"ram": 45, "gpu0": 1}], {"ram"}),
        ([{"gpu7": 5}], set()),
    ],
)
def test_near_the_budget(seen: list[Bytes], full: set[str]) -> None:
    assert near_budget(seen, {"ram": 100, "gpu0": 10}) == full


# ---------------------------------------------------------------- settling


async def test_memory_that_comes_back_late_is_looked_for_until_it_is_there(house: House) -> None:
    ledger = house.supervisor.scheduler.ledger
    house.begin(None)
    await until(lambda: ledger.free)
    house.exited()
    assert ledger.settling() == {"gpu0": 6}
    looks = house.looks
    await until(lambda: house.looks > looks + 3)
    assert ledger.settling() == {"gpu0": 6}, "not back yet"
    house.free["gpu0"] = 10
    await until(lambda: not ledger.settling())
    assert await quiet(house)


async def test_looking_at_memory_may_block(house: House) -> None:
    """On some machines a program is asked: never in the event loop."""
    loop_thread = threading.get_ident()
    threads: set[int] = set()

    def free() -> Bytes:
        threads.add(threading.get_ident())
        return dict(house.free)

    house.supervisor.free = free
    house.begin(None)
    await until(lambda: threads)
    threads.clear()
    house.exited()
    await until(lambda: threads)
    assert loop_thread not in threads
    house.free["gpu0"] = 10


# ---------------------------------------------------------------- a reload


def configured(**timing: float) -> Settings:
    return Settings.from_layers({"timing": timing, "logs": {"max_age": "2d"}})


async def test_what_a_disk_refused_is_written_once_it_can_be(house: House, tmp_path: Path) -> None:
    """And nobody looks before there is a reason, nor after it is gone."""
    (tmp_path / "way").write_text("in the")
    path = tmp_path / "way" / "state"
    assert not house.keeper._writing.goes
    assert not await asyncio.to_thread(house.keeper.disk.write, path, b"news")
    await until(lambda: house.keeper._writing.goes)
    (tmp_path / "way").unlink()
    await until(path.exists)
    await until(lambda: not house.keeper._writing.goes)
    assert house.keeper.disk.troubles() == []


async def test_other_rounds_count_at_once(house: House) -> None:
    house.keeper.rounds = replace(house.keeper.rounds, sample=3600.0, machine=3600.0)
    run = house.begin(os.getpid())
    assert await quiet(house)
    house.keeper.follow(
        configured(memory_sample=3600, machine_sample=0.01, settle_poll=0.5, housekeeping=60)
    )
    await until(lambda: house.looks > 3)
    assert run.measured is None, "that has a round of its own"
    house.keeper.follow(configured(memory_sample=0.01, machine_sample=3600))
    await until(lambda: run.measured)
    assert await quiet(house)
    house.keeper.follow(
        configured(memory_sample=0.02, machine_sample=0.01, settle_poll=0.5, housekeeping=60)
    )
    expected = Rounds(
        sample=0.02, machine=0.01, settle=0.5, tidy=60.0, disk=15.0, log_max_age=2 * DAY
    )
    assert house.keeper.rounds == expected
    assert house.keeper._tidying.seconds == 60


async def test_a_round_that_stays_as_it_was_is_not_begun_anew(house: House) -> None:
    """Else whoever reloads often would never see old logs go."""
    begun = house.keeper._tidying._task
    house.keeper.follow(configured(housekeeping=3600))
    assert house.keeper._tidying._task is begun is not None
    assert house.jobs == {"tidy"}, "and nothing is sampled for it"


# ---------------------------------------------------------------- the end


async def test_after_the_end_nobody_looks_whoever_comes_or_goes(house: House) -> None:
    """Backends end after it, and their memory settles."""
    house.begin(os.getpid())
    await until(lambda: house.looks)
    house.keeper.stop()
    house.keeper.stop()
    house.exited()
    assert house.supervisor.scheduler.ledger.settling()
    assert await quiet(house)


# ---------------------------------------------------------------- old logs


async def test_old_rotated_logs_go_and_the_others_stay(house: House, tmp_path: Path) -> None:
    old = time.time() - 2 * DAY
    models = tmp_path / "models"
    models.mkdir()
    for folder in (tmp_path, models):
        for name in ("m.log", "m.log.1", "m.log.2", "notes.txt"):
            (folder / name).write_text("x")
        for name in ("m.log", "m.log.2", "notes.txt"):
            os.utime(folder / name, (old, old))
    await asyncio.to_thread(house.keeper.tidy)
    for folder in (tmp_path, models):
        left = sorted(path.name for path in folder.iterdir() if path.is_file())
        assert left == ["m.log", "m.log.1", "notes.txt"]


async def test_an_old_log_that_cannot_go_is_told(
    house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = time.time() - 2 * DAY
    (tmp_path / "m.log.1").mkdir()
    os.utime(tmp_path / "m.log.1", (old, old))
    (tmp_path / "m.log.2").write_text("x")
    os.utime(tmp_path / "m.log.2", (old, old))
    await asyncio.to_thread(house.keeper.tidy)
    assert "an old log stays" in caplog.text
    assert not (tmp_path / "m.log.2").exists(), "the others go all the same"


# ---------------------------------------------------------------- learning


async def test_what_a_backend_takes_is_kept_once(house: House) -> None:
    """In the pools that it is charged for, with what is promised for later; told on when it is
    new, and not written again at each look."""
    house.promise = Promise("key", {"ram": 1}, {"ram": 5})
    run = house.begin(os.getpid())
    run.ready_at = 1.0
    await until(lambda: house.news)
    assert house.news == ["a"]
    (entry,) = house.learned._load().values()
    assert (entry.model, entry.way, entry.told) == ("a", "full", False)
    assert entry.measured["ram"] > 1 << 20
    assert set(entry.measured) <= {"gpu0", "ram"}


async def test_nothing_is_learned_before_it_is_ready(house: House) -> None:
    house.promise = Promise("key", {"ram": 1}, {})
    run = house.begin(os.getpid())
    await until(lambda: run.measured)
    assert house.news == []
