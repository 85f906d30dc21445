"""The calendar of ``[[schedule]]``: models are loaded, unloaded and kept at times of the day.

APScheduler holds the jobs and says when one is due; what is done then is what an operator would
ask for, in the same queue and budget. When a line is due, and which windows are open, is decided in
``config.occasions``. The alarm rings by the time of day, so that a machine that slept is no later
than it must be; without a schedule there is none of all this.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Final, Protocol

from apscheduler.events import EVENT_JOB_EXECUTED, EVENT_JOB_MISSED, JobExecutionEvent
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from daemon.config.cron import CronLine
from daemon.config.occasions import in_words, last_before, next_after, open_windows, window_end
from daemon.config.sections import Schedule
from daemon.config.settings import Settings
from daemon.core.problems import ProblemError
from daemon.files import Kept
from daemon.machine.alarm import Alarm
from daemon.ports import Progress
from daemon.telemetry.bus import Bus
from daemon.views import ModelView, ScheduleView
from daemon.writing import Writer

log = logging.getLogger("modelport.schedule")

PREFIX: Final = "schedule:"  # of the ids of its jobs
WINDOWS: Final = f"{PREFIX}end of a window"
SLACK: Final = 0.001  # seconds: the alarm rings behind the time, never before it
MAX_FILE: Final = 1 << 20
VERSION: Final = 1


class Port(Protocol):
    """What is asked of the daemon: a part of ``ControlPort``."""

    def model(self, name: str) -> ModelView: ...
    def load(self, name: str) -> AsyncIterator[Progress]: ...
    async def unload(self, name: str | None, *, force: bool = False) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a line. ``since``: when it was first seen. Unix seconds."""

    since: float
    at: float | None = None
    last: str = ""
    text: str = ""


def key_of(entry: Schedule) -> str:
    """What makes a line the same one after a change of the file."""
    window = "" if entry.for_ is None else f" {entry.for_:g}"
    return f"{' '.join(entry.cron.split())} {entry.do} {entry.model}{window}"


class Occasions(BaseTrigger):  # type: ignore[misc]
    """A cron line of ours as a trigger of APScheduler."""

    def __init__(self, line: CronLine, zone: tzinfo) -> None:
        self._line, self._zone = line, zone

    def get_next_fire_time(
        self, previous_fire_time: datetime | None, now: datetime
    ) -> datetime | None:
        """See APScheduler: the first time behind the previous one, else behind now."""
        return next_after(self._line, previous_fire_time or now, self._zone)


def local_zone() -> tzinfo:
    """The zone of this machine, as it is now; UTC where it cannot be told."""
    import tzlocal

    try:
        zone: tzinfo = tzlocal.reload_localzone()
    except (OSError, ValueError, LookupError) as error:
        log.warning("the local time zone cannot be told, the schedule goes by UTC: %s", error)
        return UTC
    return zone


def lines(
    entries: Sequence[Schedule], now: datetime, zone: tzinfo, known: dict[str, Outcome]
) -> list[ScheduleView]:
    """The calendar as it is shown. Pure."""
    shown = []
    for entry in entries:
        outcome = known.get(key_of(entry), Outcome(0.0))
        due = next_after(CronLine.of(entry.cron), now, zone)
        end = window_end(entry, now, zone)
        shown.append(
            ScheduleView(
                cron=entry.cron,
                words=in_words(entry.cron),
                do=entry.do,
                model=entry.model,
                seconds=entry.for_,
                next_at=due.timestamp() if due is not None else None,
                open_until=end.timestamp() if end is not None else None,
                last=outcome.last,
                last_at=outcome.at,
                last_text=outcome.text,
            )
        )
    return shown


def missed(
    entry: Schedule, outcome: Outcome, now: datetime, zone: tzinfo, grace: float
) -> datetime | None:
    """When a line was due while nobody was there to do it, if it is still to be done. Pure.

    An unload is made up for however late it is, a load up to ``grace`` seconds; a window that is
    open simply counts.
    """
    due = last_before(CronLine.of(entry.cron), now, zone)
    if due is None or due.timestamp() <= max(outcome.since, outcome.at or 0.0):
        return None
    late = (now - due).total_seconds()
    if entry.do == "unload" or (entry.do == "load" and late <= grace):
        return due
    return None


@dataclass(slots=True)
class Timetable:
    """See the module. :meth:`start` once the models are known, :meth:`follow` at each reload."""

    calendar: AsyncIOScheduler
    port: Port
    hold: Callable[[frozenset[str]], Coroutine[Any, Any, bool]]
    bus: Bus
    path: Path | None  # what is remembered; None: nothing is
    zone: Callable[[], tzinfo] = local_zone
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    trigger: Callable[[CronLine, tzinfo], BaseTrigger] = Occasions
    entries: tuple[Schedule, ...] = ()
    _zone: tzinfo = UTC
    _grace: float = 3600.0
    _known: dict[str, Outcome] = field(default_factory=dict)
    _running: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _others: set[asyncio.Task[None]] = field(default_factory=set)
    _alarm: Alarm = field(init=False)
    _writer: Writer[bytes] = field(init=False)
    _runs: bool = False

    def __post_init__(self) -> None:
        self._alarm = Alarm(self._rang)
        self._writer = Writer("the schedule", self._text, self._write)

    # ------------------------------------------------------------ life

    def load(self) -> None:
        """What came of the lines before. Blocks on the disk."""
        if self.path is not None:
            self._known = _read(Kept(self.path, MAX_FILE))

    def start(self, settings: Settings) -> None:
        """Windows that are open count at once; what was missed is made up for."""
        self._runs = True
        self.calendar.add_listener(self._told, EVENT_JOB_EXECUTED | EVENT_JOB_MISSED)
        self.follow(settings)

    def follow(self, settings: Settings) -> None:
        """As configured from now on; lines that stay as they were are not begun anew."""
        if not self._runs:
            return
        before = {key_of(entry) for entry in self.entries}
        self.entries, self._grace = settings.schedule, settings.timing.schedule_grace
        if not self.entries and not before:
            return
        self._zone = self.zone()
        for job in self.calendar.get_jobs():
            if job.id.startswith(PREFIX):
                job.remove()
        now = self.now()
        keys = {key_of(entry): entry for entry in self.entries}
        self._known = {key: self._known.get(key) or Outcome(now.timestamp()) for key in keys}
        for key, entry in keys.items():
            self.calendar.add_job(
                self._on_time,
                self.trigger(CronLine.of(entry.cron), self._zone),
                args=(entry,),
                id=PREFIX + key,
                misfire_grace_time=max(1, int(self._grace)) if entry.do == "load" else None,
                coalesce=True,
            )
            if key not in before and missed(entry, self._known[key], now, self._zone, self._grace):
                self._due(entry)
        self._writer.soon()
        self._windows()

    async def stop(self) -> None:
        """Nothing is done any more; what was asked for is the core's."""
        self._runs = False
        self._alarm.close()
        tasks = [*self._running.values(), *self._others]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._writer.done()

    def views(self) -> list[ScheduleView]:
        """The lines, for ``ctl schedule ls``."""
        return lines(self.entries, self.now(), self._zone, self._known)

    def slept(self) -> None:
        """The machine has woken, or its clock was set: what is due is done now."""
        if self._runs and self.entries:
            self._rang()

    # ------------------------------------------------------------ due

    def _rang(self) -> None:
        if self._runs and self.calendar.running:
            self.calendar.wakeup()  # in the loop's next round
            self._windows()  # and behind it

    def _arm(self) -> None:
        """The alarm for the next of our jobs."""
        times = [
            job.next_run_time
            for job in self.calendar.get_jobs()
            if job.id.startswith(PREFIX) and job.next_run_time is not None
        ]
        self._alarm.at(min(times).timestamp() + SLACK if times else None)

    def _told(self, event: JobExecutionEvent) -> None:
        if not self._runs or not event.job_id.startswith(PREFIX):
            return
        if event.code == EVENT_JOB_MISSED:
            entry = next((e for e in self.entries if PREFIX + key_of(e) == event.job_id), None)
            if entry is not None:
                text = f"{entry.model} was not loaded: the machine slept through it"
                self._keep(entry, "late", text)
                self.bus.publish("schedule_missed", entry.model, text)
        self._arm()

    async def _on_time(self, entry: Schedule) -> None:
        """A job: a coroutine, so that APScheduler runs it in the loop and in no thread."""
        self._due(entry)

    async def _at_an_end(self) -> None:
        self._windows()

    def _due(self, entry: Schedule) -> None:
        """In the loop. A line whose last time still waits is not begun a second time."""
        key = key_of(entry)
        if key in self._running or not self._runs:
            return
        task = asyncio.create_task(self._run(entry), name=f"schedule {key}")
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))

    async def _run(self, entry: Schedule) -> None:
        self._keep(entry, "running", "")
        try:
            text = await self._done(entry)
        except ProblemError as error:
            self._failed(entry, error.problem.text)
            return
        except Exception:
            log.exception("a line of the schedule failed")
            self._failed(entry, "the daemon failed; see its log")
            return
        self._keep(entry, "ok", text)
        facts = {"do": entry.do, "cron": entry.cron}
        self.bus.publish("schedule_ran", entry.model, f"schedule: {text}", facts)

    def _failed(self, entry: Schedule, why: str) -> None:
        self._keep(entry, "failed", why)
        facts = {"do": entry.do, "cron": entry.cron}
        text = f"schedule: {entry.model} could not be {_PAST[entry.do]}: {why}"
        self.bus.publish("schedule_failed", entry.model, text, facts)

    async def _done(self, entry: Schedule) -> str:
        """Do it; what was done, in words. Raises ProblemError."""
        if entry.do == "keep":
            await self._hold()
            return f"{entry.model} is kept, however idle it is"
        view = self.port.model(entry.model)
        if entry.do == "unload":
            gone = await self.port.unload(entry.model)
            return f"{view.name} was unloaded" if gone else f"{view.name} was not loaded"
        if not view.pulled:
            from daemon.core.problems import Code, Problem

            text = f"The weights of {view.name} are not on this machine."
            raise ProblemError(Problem(Code.NOT_PULLED, text, f"ctl pull {view.name}"))
        async with aclosing(self.port.load(entry.model)) as steps:  # type: ignore[type-var]
            async for _ in steps:
                pass
        return f"{view.name} was loaded"

    # ------------------------------------------------------------ windows

    def _windows(self) -> None:
        """Keep what is to be kept now, and look again when that changes."""
        task = asyncio.create_task(self._hold(), name="windows of the schedule")
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    async def _hold(self) -> None:
        until = open_windows(self.entries, self.now(), self._zone)
        if self.calendar.get_job(WINDOWS) is not None:
            self.calendar.remove_job(WINDOWS)
        if until:
            self.calendar.add_job(
                self._at_an_end,
                "date",
                run_date=min(until.values()) + timedelta(milliseconds=1),
                id=WINDOWS,
                misfire_grace_time=None,
            )
        self._arm()
        if await self.hold(frozenset(until)):
            for name, end in until.items():
                local = end.astimezone(self._zone)
                text = f"schedule: {name} is kept until {local:%H:%M} ({local:%a %d %b})"
                self.bus.publish("schedule_window", name, text, {"until": end.timestamp()})
            if not until:
                self.bus.publish("schedule_window", "", "schedule: nothing is kept any more")

    # ------------------------------------------------------------ the file

    def _keep(self, entry: Schedule, last: str, text: str) -> None:
        key = key_of(entry)
        known = self._known.get(key)
        if known is not None:
            self._known[key] = replace(known, at=self.now().timestamp(), last=last, text=text[:400])
            self._writer.soon()

    def _text(self) -> bytes:
        kept = {
            key: asdict(one if one.last != "running" else replace(one, last="", text=""))
            for key, one in self._known.items()
        }
        return json.dumps({"version": VERSION, "lines": kept}).encode()

    def _write(self, data: bytes) -> None:
        if self.path is not None:
            Kept(self.path, MAX_FILE).write(data)


_PAST: Final = {"load": "loaded", "unload": "unloaded", "keep": "kept"}


def _read(kept: Kept) -> dict[str, Outcome]:
    """What is known of lines; nothing where the file is not ours."""

    def made(stored: dict[str, Any]) -> dict[str, Outcome]:
        return {str(key): _outcome(one) for key, one in stored["lines"].items()}

    return kept.load(VERSION, made) or {}


def _outcome(one: Any) -> Outcome:
    at = one["at"]
    found = Outcome(float(one["since"]), None if at is None else float(at))
    return replace(found, last=str(one["last"])[:20], text=str(one["text"])[:400])
