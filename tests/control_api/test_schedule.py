"""The calendar over the wire."""

from __future__ import annotations

import aiohttp

from control_api.operation import PREFIX
from daemon.views import ScheduleView
from tests.control_api.fake import FakeControl


async def test_the_lines_of_the_calendar(http: aiohttp.ClientSession, fake: FakeControl) -> None:
    line = ScheduleView(
        cron="0 8 * * *",
        words="at 08:00 every day",
        do="load",
        model="gemma",
        seconds=None,
        next_at=1.5,
        last="failed",
        last_text="api_key=abcdefgh",
    )
    fake.lines = [line]
    async with http.get(f"{PREFIX}/schedule") as response:
        (shown,) = (await response.json())["schedule"]
    assert shown["next_at"] == 1.5
    assert "abcdefgh" not in shown["last_text"]
    assert shown["open_until"] is None
