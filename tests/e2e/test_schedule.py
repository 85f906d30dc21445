"""The calendar in a whole daemon: what came due while it was not there, windows over restarts."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeHouse
from tests.e2e.house import House, Watch

pytestmark = pytest.mark.timeout(400)


def lines(*tables: str) -> str:
    return "".join(f"[[schedule]]\n{table}\n" for table in tables)


def minute(ago: float) -> str:
    """The line of each day that was due so many seconds ago, at the minute."""
    then = time.localtime(time.time() - ago)
    return f'cron = "{then.tm_min} {then.tm_hour} * * *"'


def remember(house: House, *keys: str) -> None:
    """As a daemon has left it that saw these lines yesterday."""
    seen = {"since": time.time() - 90_000, "at": None, "last": "", "text": ""}
    path = house.folder / "state" / "schedule.json"
    path.write_text(json.dumps({"version": 1, "lines": dict.fromkeys(keys, seen)}))
    path.chmod(0o600)


def model(tiny_gguf: Path, keep_alive: str = "1h") -> str:
    return (
        f'[models.tiny]\npath = "{tiny_gguf}"\nengine = "xllamacpp"\nctx = 512\n'
        f'keep_alive = "{keep_alive}"\n'
    )


def test_a_load_that_was_missed_is_made_up_for(make_house: MakeHouse, tiny_gguf: Path) -> None:
    pytest.importorskip("xllamacpp")
    due = minute(120)
    house = make_house(model(tiny_gguf) + lines(f'{due}\ndo = "load"\nmodel = "tiny"'))
    remember(house, due.removeprefix('cron = "').rstrip('"') + " load tiny")
    with house:
        Watch(house).wait("schedule_ran", "tiny", seconds=40)
        assert house.backends()["tiny"]["state"] == "ready"
        shown = house.ctl("schedule", "ls")
        assert shown.returncode == 0, shown.stderr
        assert "done" in shown.stdout
        (line,) = json.loads(house.ctl("schedule", "ls", "--json").stdout)["schedule"]
        assert (line["last"], line["last_text"]) == ("ok", "tiny was loaded")
        assert line["next_at"] > time.time() + 80_000


def test_a_window_holds_over_a_restart_and_a_reload(make_house: MakeHouse, tiny_gguf: Path) -> None:
    pytest.importorskip("xllamacpp")
    window = lines(f'{minute(600)}\ndo = "keep"\nmodel = "tiny"\nfor = "1h"')
    house = make_house(model(tiny_gguf) + window)

    def left() -> float | None:
        seconds: float | None = house.backends()["tiny"]["keep_alive_left"]
        return seconds

    for _ in range(2):
        with house:
            Watch(house).wait("schedule_window", "tiny")
            assert house.ctl("load", "tiny").returncode == 0
            assert left() is None, "kept, however idle it is"
        house.started_in = 0.0
    with house:
        assert house.ctl("load", "tiny").returncode == 0
        house.write(model(tiny_gguf))
        assert house.ctl("reload").returncode == 0
        Watch(house).wait("schedule_window", "")
        seconds = left()
        assert seconds is not None
        assert 3000 < seconds <= 3600


def test_a_line_that_fails_is_told(make_house: MakeHouse) -> None:
    due = minute(120)
    config = '[models.far]\nhf = "owner/Nothing-GGUF:Q4"\n' + lines(
        f'{due}\ndo = "load"\nmodel = "far"'
    )
    house = make_house(config)
    remember(house, due.removeprefix('cron = "').rstrip('"') + " load far")
    with house:
        Watch(house).wait("schedule_failed", "far")
        assert any("could not load far" in line for line in house.status()["troubles"])
        assert "ctl pull far" in house.ctl("schedule", "ls").stdout
        house.write('[models.far]\nhf = "owner/Nothing-GGUF:Q4"\n')
        assert house.ctl("reload").returncode == 0
        assert house.status()["troubles"] == []
    assert "no schedule" in house.ctl("schedule", "ls").stdout.lower()
