"""``schedule``: the lines of ``[[schedule]]``, when each is due, and what came of it last."""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import Final

from control_api.client import Client, UnreachableError, view
from control_api.commands.command import Command
from control_api.commands.local.settings import add_config_flag, load_settings
from control_api.commands.main import HOST_ENV
from control_api.commands.output import Out, duration
from daemon.views import ScheduleView

_WORDS: Final = {"": "-", "ok": "done", "late": "missed", "failed": "failed", "running": "runs"}
_COLOURS: Final = {"failed": "red", "late": "yellow", "running": "yellow", "ok": "green"}


def ls(args: Namespace, out: Out) -> int:
    """From the daemon; without one, what the file says."""
    running = True
    try:
        found = [view(ScheduleView, one) for one in Client().get("/schedule")["schedule"]]
    except UnreachableError:
        if os.environ.get(HOST_ENV):
            raise
        found, running = _planned(args), False
    if out.json:
        out.value({"schedule": [asdict(one) for one in found], "running": running})
        return 0
    if not found:
        out.line("There is no schedule. [[schedule]] with cron, do and model makes one.")
        return 0
    now = time.time()
    rows = [
        (one.model, _what(one), one.words, moment(one.next_at, now), _last(one, now, out))
        for one in found
    ]
    out.table(("MODEL", "DO", "WHEN", "NEXT", "LAST"), rows)
    for one in found:
        if one.open_until is not None and running:
            until = moment(one.open_until, now)
            out.line(f"{out.paint('!', 'yellow')} {one.model} is kept until {until}")
        if one.last == "failed":
            out.line(f"{out.paint('!', 'red')} {one.model} ({one.do}): {one.last_text}")
    if not running:
        out.note("No daemon runs: nothing of this is done, and what was done last is not known.")
    return 0


def _planned(args: Namespace) -> list[ScheduleView]:
    from datetime import UTC, datetime

    from daemon.timetable import lines, local_zone

    settings = load_settings(args.config).settings
    return lines(settings.schedule, datetime.now(UTC), local_zone(), {})


def _what(one: ScheduleView) -> str:
    return f"keep for {duration(one.seconds)}" if one.do == "keep" else one.do


def moment(at: float | None, now: float) -> str:
    """A time of day for people, in the zone of who reads it; with the day unless it is today."""
    if at is None:
        return "never"
    then, today = time.localtime(at), time.localtime(now)
    clock = time.strftime("%H:%M", then)
    if then[:3] == today[:3]:
        return clock
    known = "%a %H:%M" if abs(at - now) < 6 * 86_400 else "%d %b %Y %H:%M"
    return time.strftime(known, then)


def _last(one: ScheduleView, now: float, out: Out) -> str:
    if not one.last:
        return "-"
    word = out.paint(_WORDS.get(one.last, one.last), _COLOURS.get(one.last, "bold"))
    return f"{word} {moment(one.last_at, now)}" if one.last_at is not None else word


def _arguments(parser: ArgumentParser) -> None:
    add_config_flag(parser)


COMMANDS: Final = {
    "schedule": Command(
        summary="what is loaded, unloaded and kept at which times of the day",
        text="Lines are written in the configuration: [[schedule]] with cron, do and model.",
        examples=(("ctl schedule ls", "all lines, the next time and the last outcome of each"),),
        subcommands={
            "ls": Command(
                summary="all lines, when each is due next, and what came of it last",
                text="Times are local. Without a daemon: as the configuration has them.",
                examples=(("ctl schedule ls", ""), ("ctl schedule ls --json", "for programs")),
                run=ls,
                arguments=_arguments,
            )
        },
    ),
}
