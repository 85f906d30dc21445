"""When a line of the calendar is due, and which windows are open. Pure: instants in, instants out.

Lines are of local time. An hour that a change of the clocks leaves out is made up for (02:30 is
03:30 that day); one that comes twice counts once, unless the line is of every hour.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final

from daemon.config.cron import CronLine, cron_fields
from daemon.config.sections import Schedule

_DAYS_AHEAD: Final = 8 * 366 + 2  # 29 February, over a year of a century that has none
_EVERY_HOUR: Final = tuple(range(24))
_ORDER: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY: Final = timedelta(days=1)


def next_after(line: CronLine, after: datetime, zone: tzinfo) -> datetime | None:
    """The first instant (UTC) above ``after`` at which the line is due; None: there is none."""
    return _nearest(line, after, zone, 1)


def last_before(line: CronLine, now: datetime, zone: tzinfo) -> datetime | None:
    """The last instant (UTC) up to ``now``, itself included, at which the line was due."""
    return _nearest(line, now, zone, -1)


def _nearest(line: CronLine, at: datetime, zone: tzinfo, way: int) -> datetime | None:
    at = at.astimezone(UTC)  # times of one zone are compared by what a clock shows
    day = at.astimezone(zone).date() - way * _DAY  # clocks that change at midnight
    for _ in range(_DAYS_AHEAD):
        if _matches(line, day):
            found = [one for one in _instants(line, day, zone) if (one > at) == (way > 0)]
            if found:
                return min(found) if way > 0 else max(found)
        day += way * _DAY
    return None


def _matches(line: CronLine, day: date) -> bool:
    if day.month not in line.months:
        return False
    by_day, by_weekday = day.day in line.days, day.isoweekday() % 7 in line.weekdays
    if line.by_day and line.by_weekday:
        return by_day or by_weekday
    return by_day and by_weekday


def _instants(line: CronLine, day: date, zone: tzinfo) -> Iterator[datetime]:
    folds = (0, 1) if line.hours == _EVERY_HOUR else (0,)
    for hour in line.hours:
        for minute in line.minutes:
            for fold in folds:
                local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone, fold=fold)
                yield local.astimezone(UTC)


def open_windows(entries: Iterable[Schedule], now: datetime, zone: tzinfo) -> dict[str, datetime]:
    """Until when (UTC) each model is kept now, by the name that the calendar calls it."""
    until: dict[str, datetime] = {}
    for entry in entries:
        end = window_end(entry, now, zone)
        if end is not None:
            until[entry.model] = max(end, until.get(entry.model, end))
    return until


def window_end(entry: Schedule, now: datetime, zone: tzinfo) -> datetime | None:
    """When (UTC) the window of a ``keep`` that is open now ends; None: it is not open.

    ``for`` counts real seconds, whatever the clocks do meanwhile.
    """
    if entry.do != "keep" or entry.for_ is None:
        return None
    start = last_before(CronLine.of(entry.cron), now, zone)
    if start is None:
        return None
    end = start + timedelta(seconds=entry.for_)
    return end if end > now else None


# ---------------------------------------------------------------- in words


def in_words(expression: str) -> str:
    """A cron line as people say it: "at 08:30 from monday to friday"."""
    line, fields = CronLine.of(expression), cron_fields(expression)
    parts = [_time(line, fields)]
    day = f"on day {_listed(sorted(line.days))} of the month" if line.by_day else ""
    weekday = _weekdays(fields["day_of_week"].split(",")) if line.by_weekday else ""
    parts.append(" and ".join(filter(None, (day, weekday))))
    if fields["day"].startswith("*/"):
        parts.append(f"on days {_listed(sorted(line.days))} of the month")
    if len(line.months) < 12:
        parts.append("in " + _listed([_MONTHS[month - 1] for month in sorted(line.months)]))
    if not any(parts[1:]) and line.hours != _EVERY_HOUR:
        parts.append("every day")
    return " ".join(filter(None, parts))


_MONTHS: Final = ("January", "February", "March", "April", "May", "June", "July", "August",
                  "September", "October", "November", "December")  # fmt: skip
_NAMES: Final = dict(
    zip(_ORDER, ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
        strict=True)
)  # fmt: skip


def _time(line: CronLine, fields: dict[str, str]) -> str:
    if line.hours == _EVERY_HOUR:
        if len(line.minutes) == 60:
            return "every minute"
        if fields["minute"].startswith("*/") and 60 % len(line.minutes) == 0:
            return f"every {60 // len(line.minutes)} minutes"
        return "every hour at " + _listed([f":{minute:02}" for minute in line.minutes])
    if len(line.minutes) * len(line.hours) <= 6:
        times = [f"{hour:02}:{minute:02}" for hour in line.hours for minute in line.minutes]
        return f"at {_listed(times)}"
    hours = _listed([f"{hour:02}" for hour in line.hours])
    if len(line.minutes) == 60:
        return f"every minute of the hours {hours}"
    return f"at {_listed([f':{minute:02}' for minute in line.minutes])} of the hours {hours}"


def _weekdays(names: Sequence[str]) -> str:
    places = [_ORDER.index(name) for name in sorted(names, key=_ORDER.index)]
    if len(places) == 7:
        return ""
    if len(places) > 2 and places[-1] - places[0] == len(places) - 1:
        return f"from {_NAMES[_ORDER[places[0]]]} to {_NAMES[_ORDER[places[-1]]]}"
    return f"on {_listed([_NAMES[_ORDER[place]] for place in places])}"


def _listed(words: Sequence[object]) -> str:
    shown = [str(word) for word in words]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
