"""Cron expressions of five fields: checked, and turned into fields without a trap.

Schedulers differ in what weekday 0 is (crontab(5): Sunday; APScheduler: Monday), so weekdays are
always handed on by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov",
                  "dec")  # fmt: skip
_FIELDS: Final[tuple[tuple[str, int, int, dict[str, int]], ...]] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    ("day_of_week", 0, 7, {name: number for number, name in enumerate(_DAYS)}),
)
_ITEM: Final = re.compile(r"(?:\*|([a-z]{3}|\d{1,2})(?:-([a-z]{3}|\d{1,2}))?)(?:/(\d{1,2}))?")


def cron_fields(expression: str) -> dict[str, str]:
    """The fields of a crontab line, by the names that APScheduler's CronTrigger uses.

    Weekdays come out as names. Raises ValueError with a sentence that says which field is wrong
    and what it may hold.
    """
    parts = expression.lower().split()
    if len(parts) != len(_FIELDS):
        raise ValueError("five fields are needed: minute hour day month weekday")
    fields = {}
    for text, (name, low, high, words) in zip(parts, _FIELDS, strict=True):
        numbers = _expand(text, name, low, high, words)
        fields[name] = text
        if name == "day_of_week" and text != "*":
            fields[name] = ",".join(_DAYS[day] for day in sorted({n % 7 for n in numbers}))
    return fields


@dataclass(frozen=True, slots=True)
class CronLine:
    """What a crontab line matches. Weekday 0 is Sunday. ``by_day``, ``by_weekday``: the field says
    more than ``*``; where both do, either is enough, as crontab(5) has it."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    by_day: bool
    by_weekday: bool

    @classmethod
    def of(cls, expression: str) -> CronLine:
        """Raises ValueError as :func:`cron_fields`."""
        cron_fields(expression)
        parts = expression.lower().split()
        sets = [_expand(text, *field) for text, field in zip(parts, _FIELDS, strict=True)]
        return cls(
            minutes=tuple(sorted(sets[0])),
            hours=tuple(sorted(sets[1])),
            days=frozenset(sets[2]),
            months=frozenset(sets[3]),
            weekdays=frozenset(number % 7 for number in sets[4]),
            by_day=not parts[2].startswith("*"),
            by_weekday=not parts[4].startswith("*"),
        )


def _expand(text: str, name: str, low: int, high: int, words: dict[str, int]) -> set[int]:
    wrong = f"{name.replace('_', ' ')} must be *, numbers from {low} to {high}, a range or a step"
    numbers: set[int] = set()
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ValueError(wrong)
        first, last, step = match.groups()
        begin = low if first is None else _number(first, words, wrong)
        if last is not None:
            end = _number(last, words, wrong)
        else:
            end = high if first is None or step is not None else begin
        if words and high == 7 and end == 0 < begin:
            end = 7  # "fri-sun": Sunday closes a week as well as it opens one
        if not low <= begin <= end <= high or step == "0" or step == "00":
            raise ValueError(wrong)
        numbers.update(range(begin, end + 1, int(step or 1)))
    return numbers


def _number(text: str, words: dict[str, int], wrong: str) -> int:
    if text.isdigit():
        return int(text)
    if text not in words:
        raise ValueError(wrong)
    return words[text]
