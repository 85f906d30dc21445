"""``ctl schedule ls``, with and without a daemon."""

from __future__ import annotations

import time
from pathlib import Path

from control_api.commands.local.schedule import moment
from daemon.views import ScheduleView
from tests.commands.conftest import Ctl
from tests.control_api.fake import FakeControl, FakeDaemon

NOW = time.mktime((2026, 11, 20, 12, 0, 0, 0, 0, -1))
CONFIG = """
[models.a]
path = "/a.gguf"
[[schedule]]
cron = "30 8 * * mon-fri"
do = "load"
model = "a"
[[schedule]]
cron = "0 9 * * *"
do = "keep"
model = "a"
for = "8h"
"""


def test_without_a_daemon_it_is_what_the_file_says(ctl: Ctl, home: Path) -> None:
    (home / "config.toml").write_text(CONFIG)
    result = ctl("schedule", "ls")
    assert result.code == 0
    assert "at 08:30 from Monday to Friday" in result.out
    assert "keep for 8h 0m" in result.out
    assert "No daemon runs" in result.err
    before = time.time()
    data = ctl("schedule", "ls", "--json").json
    assert data["running"] is False
    assert [line["do"] for line in data["schedule"]] == ["load", "keep"]
    assert all(line["next_at"] > before for line in data["schedule"])


def test_no_lines(ctl: Ctl, home: Path) -> None:
    (home / "config.toml").touch()
    assert "There is no schedule" in ctl("schedule", "ls").out


def test_a_wrong_file_is_told(ctl: Ctl, home: Path) -> None:
    (home / "config.toml").write_text("[[schedule]]\ncron = 'x'\n")
    result = ctl("schedule", "ls")
    assert result.code == 1
    assert "schedule[0].cron" in result.err


def test_what_the_daemon_says(ctl: Ctl, daemon: FakeDaemon, fake: FakeControl) -> None:
    now = time.time()
    usual = {"cron": "0 8 * * *", "words": "at 08:00 every day", "model": "gemma"}
    fake.lines = [
        ScheduleView(**usual, do="load", seconds=None, next_at=now + 60, last="failed",
                     last_at=now, last_text="It can never fit."),
        ScheduleView(**usual, do="keep", seconds=3600.0, next_at=None, open_until=now + 600),
        ScheduleView(**usual, do="unload", seconds=None, next_at=now, last="ok", last_at=now - 9),
    ]  # fmt: skip
    result = ctl("schedule", "ls")
    assert "! gemma (load): It can never fit." in result.out
    assert "! gemma is kept until" in result.out
    assert "never" in result.out
    assert "done " in result.out
    assert result.err == ""
    assert len(ctl("schedule", "ls", "--json").json["schedule"]) == 3


def test_times_of_day() -> None:
    assert moment(None, NOW) == "never"
    assert moment(NOW + 3600, NOW) == "13:00"
    assert moment(NOW + 20 * 3600, NOW) == "Sat 08:00"
    assert moment(NOW + 30 * 86_400, NOW) == "20 Dec 2026 12:00"
