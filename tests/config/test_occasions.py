"""When lines are due: clocks that change, windows that stay open over it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.cron import CronLine
from daemon.config.load import load_text
from daemon.config.mistakes import ConfigError
from daemon.config.occasions import (
    in_words,
    last_before,
    next_after,
    open_windows,
    window_end,
)
from daemon.config.sections import Schedule

BERLIN = ZoneInfo("Europe/Berlin")
NAMES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe",
         "America/Havana", "Pacific/Apia")  # fmt: skip
ZONES = [ZoneInfo(name) for name in NAMES]


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).astimezone(UTC)


def due(line: str, after: str) -> str:
    found = next_after(CronLine.of(line), at(after), BERLIN)
    assert found is not None
    return found.astimezone(BERLIN).strftime("%Y-%m-%d %H:%M")


@pytest.mark.parametrize(
    ("line", "after", "expected"),
    [
        ("30 8 * * mon-fri", "2026-11-20 08:29", "2026-11-20 08:30"),
        ("30 8 * * mon-fri", "2026-11-20 08:30", "2026-11-23 08:30"),  # over the weekend
        ("0 0 29 2 *", "2026-01-01 00:00", "2028-02-29 00:00"),
        ("0 0 31 * *", "2026-11-01 00:00", "2026-12-31 00:00"),
        ("0 12 13 * fri", "2026-11-01 00:00", "2026-11-06 12:00"),  # either is enough
        ("0 12 */2 * fri", "2026-11-01 13:00", "2026-11-13 12:00"),  # "*/2" is a star: both
        ("30 2 * * *", "2026-03-28 12:00", "2026-03-29 03:30"),  # left out by the clocks
        ("30 2 * * *", "2026-03-29 12:00", "2026-03-30 02:30"),
        ("*/30 * * * *", "2026-03-29 01:31", "2026-03-29 03:00"),
    ],
)
def test_the_next_time(line: str, after: str, expected: str) -> None:
    assert due(line, after) == expected


def test_an_hour_that_comes_twice_counts_once() -> None:
    line = CronLine.of("30 2 * * *")
    first = next_after(line, at("2026-10-25 00:00"), BERLIN)
    assert first == at("2026-10-25 02:30", fold=0)
    assert next_after(line, first, BERLIN) == at("2026-10-26 02:30")
    every = CronLine.of("30 * * * *")  # but what is due each hour is due in each
    twice = next_after(every, at("2026-10-25 02:30", fold=0), BERLIN)
    assert twice == at("2026-10-25 02:30", fold=1)


def test_a_day_that_never_comes() -> None:
    assert next_after(CronLine.of("0 0 31 2 *"), at("2026-01-01"), BERLIN) is None
    assert last_before(CronLine.of("0 0 30 2 *"), at("2026-01-01"), BERLIN) is None


numbers = st.sampled_from(["*", "0", "30", "*/20", "5-10"])
hours = st.sampled_from(["*", "2", "0", "23", "8-18", "*/6"])
days = st.sampled_from(["*", "1", "15", "*/3", "31"])
weekdays = st.sampled_from(["*", "mon-fri", "0", "sat,sun"])
expressions = st.tuples(numbers, hours, days, st.sampled_from(["*", "mar", "10-12"]), weekdays).map(
    " ".join
)
instants = st.integers(0, 15 * 366 * 86400).map(
    lambda seconds: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)


@given(expressions, instants, st.sampled_from(ZONES))
def test_next_and_last_are_neighbours(text: str, now: datetime, zone: ZoneInfo) -> None:
    line = CronLine.of(text)
    following = next_after(line, now, zone)
    assert following is not None
    assert following > now
    assert last_before(line, following, zone) == following
    before = last_before(line, now, zone)
    assert before is not None
    assert before <= now
    assert next_after(line, before, zone) == following
    local = following.astimezone(zone)
    wall = local.replace(tzinfo=None)
    assert wall.minute in line.minutes or _shifted(local)
    assert wall.hour in line.hours or _shifted(local)


def _shifted(local: datetime) -> bool:
    """Do the clocks change within the hours around it?"""
    day = timedelta(hours=26)
    offsets = {(local.astimezone(UTC) + delta).astimezone(local.tzinfo).utcoffset()
               for delta in (-day, timedelta(0), day)}  # fmt: skip
    return len(offsets) > 1


def keep(cron: str, seconds: float, model: str = "a") -> Schedule:
    return Schedule.model_validate({"cron": cron, "do": "keep", "model": model, "for": seconds})


def test_a_window_lasts_real_seconds() -> None:
    night = keep("0 22 * * *", 8 * 3600)
    end = window_end(night, at("2026-10-25 01:00"), BERLIN)  # the night of 25 hours
    assert end == at("2026-10-25 05:00")
    assert window_end(night, end, BERLIN) is None, "its end is outside"
    start = at("2026-10-24 22:00")
    assert window_end(night, start, BERLIN) == end, "its start is inside"
    assert window_end(night, start - timedelta(microseconds=1), BERLIN) is None


def test_windows_of_one_model_are_one() -> None:
    now = at("2026-11-20 09:30")
    entries = [
        keep("0 8 * * *", 7200),
        keep("0 9 * * *", 7200),
        keep("0 9 * * *", 600, "b"),
        Schedule(cron="0 9 * * *", do="load", model="c"),
    ]
    assert open_windows(entries, now, BERLIN) == {"a": at("2026-11-20 11:00")}


@given(expressions, st.integers(60, 3 * 86400), instants, st.sampled_from(ZONES))
def test_a_window_is_open_from_its_start_to_its_end(
    text: str, seconds: int, now: datetime, zone: ZoneInfo
) -> None:
    entry = keep(text, seconds)
    start = last_before(CronLine.of(text), now, zone)
    assert start is not None
    end = window_end(entry, now, zone)
    assert (end is not None) == (now < start + timedelta(seconds=seconds))
    if end is not None:
        assert now < end <= now + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("30 8 * * mon-fri", "at 08:30 from Monday to Friday"),
        ("0 0 * * *", "at 00:00 every day"),
        ("0 8,20 * * *", "at 08:00 and 20:00 every day"),
        ("*/15 * * * *", "every 15 minutes"),
        ("* * * * *", "every minute"),
        ("5 * * * *", "every hour at :05"),
        ("0 9 1 * *", "at 09:00 on day 1 of the month"),
        ("0 9 1 jan-feb sat,sun",
         "at 09:00 on day 1 of the month and on Saturday and Sunday in January and February"),
        ("0,30 6-12 * * *", "at :00 and :30 of the hours 06, 07, 08, 09, 10, 11 and 12 every day"),
        ("* 3 * * *", "every minute of the hours 03 every day"),
    ],
)  # fmt: skip
def test_in_words(line: str, words: str) -> None:
    assert in_words(line) == words


@given(expressions)
def test_every_line_has_words(text: str) -> None:
    assert in_words(text)


@pytest.mark.parametrize(
    "more",
    ['do = "keep"', 'do = "load"\nfor = "8h"', 'do = "keep"\nfor = 0', 'do = "keep"\nfor="x"'],
)
def test_a_window_has_an_end_and_nothing_else_has(more: str) -> None:
    text = f'models.a = {{path = "/a"}}\n[[schedule]]\ncron = "0 8 * * *"\nmodel = "a"\n{more}\n'
    with pytest.raises(ConfigError) as caught:
        load_text(text, name="config.toml")
    assert caught.value.mistakes[0].where.startswith("schedule[0]")
    good = text.replace(more, 'do = "keep"\nfor = "8h"')
    assert load_text(good, name="x").settings.schedule[0].for_ == 28800
