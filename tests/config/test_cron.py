from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.cron import cron_fields


def test_fields_are_those_of_the_scheduler() -> None:
    assert cron_fields("30 8 * * mon-fri") == {
        "minute": "30",
        "hour": "8",
        "day": "*",
        "month": "*",
        "day_of_week": "mon,tue,wed,thu,fri",
    }


@pytest.mark.parametrize(
    ("written", "days"),
    [
        ("0", "sun"),
        ("7", "sun"),
        ("1-5", "mon,tue,wed,thu,fri"),
        ("fri-sun", "sun,fri,sat"),
        ("*/2", "sun,tue,thu,sat"),
        ("SAT,sun", "sun,sat"),
        ("*", "*"),
    ],
)
def test_weekdays_are_named(written: str, days: str) -> None:
    """Zero is Sunday in a crontab and Monday in APScheduler: only names mean the same."""
    assert cron_fields(f"0 0 * * {written}")["day_of_week"] == days


@pytest.mark.parametrize("written", ["*/15 0-6,22-23 1,15 jan-mar *", "0 0 1 1 1", "5/10 * * * *"])
def test_what_is_a_cron_line(written: str) -> None:
    assert set(cron_fields(written)) == {"minute", "hour", "day", "month", "day_of_week"}


@pytest.mark.parametrize(
    ("written", "part"),
    [
        ("", "five fields"),
        ("* * * *", "five fields"),
        ("60 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day"),
        ("* * * 13 *", "month"),
        ("* * * * someday", "day of week"),
        ("5-1 * * * *", "minute"),
        ("*/0 * * * *", "minute"),
        ("1,,2 * * * *", "minute"),
    ],
)
def test_what_is_none_says_which_field(written: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        cron_fields(written)


@given(st.text(alphabet="0123456789*/-, monsujaf", max_size=30))
def test_any_text_is_read_or_refused(written: str) -> None:
    try:
        fields = cron_fields(written)
    except ValueError:
        return
    assert len(fields) == 5


def test_apscheduler_takes_the_fields() -> None:
    from apscheduler.triggers.cron import CronTrigger

    trigger = CronTrigger(**cron_fields("30 8 * * 0,6"), timezone="UTC")
    assert "day_of_week='sun,sat'" in str(trigger)
