"""The calendar at work: APScheduler's jobs with shorter times, and a clock that the test sets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger

from daemon.config.cron import CronLine
from daemon.config.sections import Schedule
from daemon.config.settings import Settings
from daemon.core.problems import Code, Problem, ProblemError
from daemon.ports import Progress
from daemon.telemetry.bus import Bus
from daemon.timetable import Occasions, Outcome, Timetable, key_of, local_zone, missed
from daemon.views import EventView, ModelView

SECONDS = 10.0
# In the future, so that no job of it is due by the real clock.
NOON = datetime(2036, 11, 20, 12, 0, 30, tzinfo=UTC)


class Daemon:
    """What the calendar may ask, and what it has asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.held: frozenset[str] = frozenset()
        self.pulled = True
        self.loaded = True
        self.gate = asyncio.Event()
        self.gate.set()

    def model(self, name: str) -> ModelView:
        if name == "gone":
            raise ProblemError(Problem(Code.MODEL_NOT_FOUND, "There is no such model."))
        return cast("ModelView", SimpleNamespace(name=name, pulled=self.pulled))

    async def load(self, name: str) -> AsyncIterator[Progress]:
        self.asked.append(("load", name))
        yield Progress("start", "")
        await self.gate.wait()
        if name == "big":
            raise ProblemError(Problem(Code.MODEL_UNAVAILABLE, "It can never fit.", "Buy more."))
        yield Progress("ready", "")

    async def unload(self, name: str | None, *, force: bool = False) -> list[str]:
        assert name is not None
        assert not force
        self.asked.append(("unload", name))
        return [name] if self.loaded else []

    async def hold(self, names: frozenset[str]) -> bool:
        news, self.held = names != self.held, names
        return news


class Desk:
    def __init__(self, path: Path | None = None) -> None:
        self.daemon, self.bus, self.path = Daemon(), Bus(), path
        self.calendar = AsyncIOScheduler(timezone="UTC")
        self.time = NOON
        self.trigger: Callable[..., Any] = Occasions
        self.table = self.make()

    def make(self) -> Timetable:
        return Timetable(
            self.calendar,
            self.daemon,
            self.daemon.hold,
            self.bus,
            self.path,
            zone=lambda: ZoneInfo("UTC"),
            now=lambda: self.time,
            trigger=lambda line, zone: self.trigger(line, zone),
        )

    def start(self, *lines: dict[str, Any]) -> None:
        if not self.calendar.running:
            self.calendar.start()
        self.table.load()
        self.table.start(settings(*lines))

    def follow(self, *lines: dict[str, Any]) -> None:
        self.table.follow(settings(*lines))

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.bus.history(0)]

    async def told(self, kind: str, count: int = 1) -> EventView:
        async with asyncio.timeout(SECONDS):
            news = asyncio.Event()
            end = self.bus.subscribe(lambda event: news.set())
            while self.kinds.count(kind) < count:
                news.clear()
                await news.wait()
            end()
        return [event for event in self.bus.history(0) if event.kind == kind][count - 1]

    @property
    def jobs(self) -> list[str]:
        return sorted(job.id for job in self.calendar.get_jobs())


def settings(*lines: dict[str, Any]) -> Settings:
    return Settings.from_layers({"schedule": list(lines)})


def line(do: str, model: str = "a", cron: str = "0 8 * * *", **more: Any) -> dict[str, Any]:
    return {"cron": cron, "do": do, "model": model, **more}


def entry(*args: Any, **more: Any) -> Schedule:
    return Schedule.model_validate(line(*args, **more))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path / "schedule.json")
    yield desk
    await desk.table.stop()
    if desk.calendar.running:
        desk.calendar.shutdown(wait=False)


def once(_line: CronLine, _zone: Any) -> DateTrigger:
    return DateTrigger(datetime.now(UTC) + timedelta(seconds=0.05))


def often(_line: CronLine, _zone: Any) -> IntervalTrigger:
    return IntervalTrigger(seconds=1, start_date=datetime.now(UTC) + timedelta(seconds=0.05))


# ---------------------------------------------------------------- due


async def test_a_line_is_done_at_its_time(desk: Desk) -> None:
    desk.trigger = once
    desk.start(line("load"), line("unload", "b"))
    await desk.told("schedule_ran", 2)
    assert sorted(desk.daemon.asked) == [("load", "a"), ("unload", "b")]
    assert [view.last for view in desk.table.views()] == ["ok", "ok"]
    assert desk.table.views()[1].last_text == "b was unloaded"


async def test_what_fails_is_told(desk: Desk) -> None:
    desk.trigger = once
    desk.start(line("load", "big"))
    event = await desk.told("schedule_failed")
    assert "big could not be loaded: It can never fit." in event.text
    (view,) = desk.table.views()
    assert (view.last, view.last_text) == ("failed", "It can never fit. Buy more.")


async def test_nothing_is_downloaded_unasked(desk: Desk) -> None:
    desk.daemon.pulled = False
    desk.trigger = once
    desk.start(line("load"))
    await desk.told("schedule_failed")
    assert desk.daemon.asked == []
    assert "ctl pull a" in desk.table.views()[0].last_text


async def test_a_model_that_is_gone_is_told(desk: Desk) -> None:
    desk.trigger = once
    desk.start(line("unload", "gone"))
    event = await desk.told("schedule_failed")
    assert "There is no such model." in event.text


async def test_a_load_that_still_waits_is_not_begun_again(desk: Desk) -> None:
    desk.daemon.gate.clear()
    desk.trigger = often
    desk.start(line("load"))
    async with asyncio.timeout(SECONDS):
        while not desk.daemon.asked:  # noqa: ASYNC110 (the stand-in has no event)
            await asyncio.sleep(0.01)
    assert desk.table.views()[0].last == "running"
    desk.table._due(desk.table.entries[0])
    await asyncio.sleep(0)
    assert desk.daemon.asked == [("load", "a")]
    desk.daemon.gate.set()
    await desk.told("schedule_ran")


async def test_a_daemon_that_fails_says_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModelView:
        raise RuntimeError("a bug")

    monkeypatch.setattr(desk.daemon, "model", broken)
    desk.trigger = once
    desk.start(line("unload"))
    assert "see its log" in (await desk.told("schedule_failed")).text


# ---------------------------------------------------------------- windows


async def test_a_window_holds_from_the_start_and_ends(desk: Desk) -> None:
    desk.start(line("keep", "a", "0 12 * * *", **{"for": "2h"}))
    await desk.told("schedule_window")
    assert desk.daemon.held == {"a"}
    (view,) = desk.table.views()
    assert view.open_until == (NOON.replace(second=0) + timedelta(hours=2)).timestamp()
    desk.time += timedelta(hours=2)
    desk.table.slept()
    event = await desk.told("schedule_window", 2)
    assert event.text == "schedule: nothing is kept any more"
    assert desk.daemon.held == frozenset()
    assert desk.table.views()[0].open_until is None


async def test_a_window_that_ends_soon_ends_by_itself(desk: Desk) -> None:
    began = datetime.now(UTC)
    desk.time = NOON.replace(second=0) + timedelta(seconds=3599.5)

    def now() -> datetime:
        return desk.time + (datetime.now(UTC) - began)

    desk.table.now = now
    # The job is by the real clock: its end is put there as far ahead as it is in the test's time.
    real_add = desk.calendar.add_job

    def add(func: Any, trigger: Any = None, **more: Any) -> Any:
        if trigger == "date":
            more["run_date"] = began + (more["run_date"] - desk.time)
        return real_add(func, trigger, **more)

    desk.calendar.add_job = add
    desk.start(line("keep", "a", "0 12 * * *", **{"for": "1h"}))
    await desk.told("schedule_window", 2)
    assert desk.daemon.held == frozenset()


async def test_a_keep_that_begins_is_told(desk: Desk) -> None:
    desk.trigger = once
    desk.start(line("keep", "a", "0 12 * * *", **{"for": "2h"}))
    event = await desk.told("schedule_ran")
    assert event.text == "schedule: a is kept, however idle it is"


# ---------------------------------------------------------------- reloads


async def test_a_reload_changes_the_jobs(desk: Desk) -> None:
    desk.start(line("load"))
    assert desk.jobs == ["schedule:0 8 * * * load a"]
    desk.follow(line("load"), line("keep", "b", "0 12 * * *", **{"for": 7200}))
    await desk.told("schedule_window")
    assert desk.jobs == [
        "schedule:0 12 * * * keep b 7200",
        "schedule:0 8 * * * load a",
        "schedule:end of a window",
    ]
    desk.follow()
    await desk.told("schedule_window", 2)
    assert desk.jobs == []
    assert desk.daemon.held == frozenset()
    assert desk.table._alarm._timer is None
    assert desk.daemon.asked == []


async def test_without_lines_there_is_nothing(desk: Desk) -> None:
    desk.start()
    desk.follow()
    assert desk.jobs == []
    assert desk.table._alarm._watched is None
    assert desk.table.views() == []
    assert not desk.table._others


# ---------------------------------------------------------------- missed


def test_what_is_made_up_for() -> None:
    zone, eight = ZoneInfo("UTC"), NOON.replace(hour=8, minute=0, second=0)
    known = Outcome(since=eight.timestamp() - 1)

    def made_up(do: str, late: float, outcome: Outcome = known) -> bool:
        now = eight + timedelta(seconds=late)
        more = {"for": "1h"} if do == "keep" else {}
        return missed(entry(do, **more), outcome, now, zone, 3600.0) is not None

    assert made_up("load", 3600)
    assert not made_up("load", 3601)
    assert made_up("unload", 80_000)
    assert not made_up("keep", 60)
    assert not made_up("load", 60, Outcome(since=eight.timestamp() + 30)), "written since"
    assert not made_up("unload", 60, Outcome(0.0, at=eight.timestamp())), "done"


@pytest.mark.parametrize(("minutes", "asked"), [(20, [("load", "a")]), (90, [])])
async def test_a_daemon_that_starts_late_makes_up_for_it(
    desk: Desk, minutes: int, asked: list[tuple[str, str]]
) -> None:
    desk.time = NOON.replace(hour=7)
    desk.start(line("load"), line("unload", "b", "0 9 * * *"))
    await desk.table.stop()
    for job in desk.calendar.get_jobs():
        job.remove()
    desk.time = NOON.replace(hour=8, minute=0) + timedelta(minutes=minutes)
    desk.table = desk.make()
    desk.start(line("load"), line("unload", "b", "0 9 * * *"))
    wanted = [*asked, *([("unload", "b")] if minutes > 60 else [])]
    await desk.told("schedule_ran", len(wanted))
    assert desk.daemon.asked == wanted


async def test_a_new_line_is_not_made_up_for(desk: Desk) -> None:
    desk.time = NOON.replace(hour=8, minute=5)
    desk.start(line("load"), line("unload", "b"))
    await asyncio.sleep(0)
    assert desk.daemon.asked == []


async def test_a_load_too_late_is_told(desk: Desk) -> None:
    """As APScheduler says it after a sleep: the job's time is longer ago than its grace."""
    trigger = DateTrigger(datetime.now(UTC) - timedelta(hours=2))
    desk.trigger = lambda _line, _zone: trigger
    desk.start(line("load"))
    event = await desk.told("schedule_missed")
    assert "slept through it" in event.text
    assert desk.table.views()[0].last == "late"
    assert desk.daemon.asked == []


async def test_an_unload_is_never_too_late(desk: Desk) -> None:
    trigger = DateTrigger(datetime.now(UTC) - timedelta(hours=20))
    desk.trigger = lambda _line, _zone: trigger
    desk.start(line("unload"))
    await desk.told("schedule_ran")
    assert desk.daemon.asked == [("unload", "a")]


@pytest.mark.parametrize("text", ["", "[]", '{"version": 9}', '{"version": 1, "lines": {"a": 3}}'])
async def test_a_broken_file_is_put_aside(desk: Desk, text: str) -> None:
    assert desk.path is not None
    desk.path.write_text(text)
    desk.path.chmod(0o600)
    desk.start(line("load"))
    await desk.table.stop()
    kept = json.loads(desk.path.read_text("utf-8"))
    assert list(kept["lines"]) == [key_of(entry("load"))]
    assert list(desk.path.parent.glob("schedule.json.corrupt-*"))


def test_the_zone_of_this_machine() -> None:
    assert NOON.astimezone(local_zone()) == NOON
