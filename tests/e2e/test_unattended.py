"""What happens while no daemon is there, or while the clock is set to another time."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeHouse, timing
from tests.e2e.house import House, Watch, process_exists
from tests.e2e.test_hardship import OOM, QUICK, engine
from tests.e2e.test_worst_days import memory, model, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]


def leave(house: House) -> None:
    """The daemon dies without a word."""
    assert house.process is not None
    house.process.kill()
    house.process.wait(20)


def test_a_death_that_no_daemon_saw_is_an_incident_and_counts(make_house: MakeHouse) -> None:
    config = memory("1 GiB") + timing({**QUICK, "backoff": 30, "backoff_max": 30}) + engine("a")
    house = make_house(config + model("a", ctx=512), service=True).start()
    assert house.chat("a").status == 200
    backend = house.backends()["a"]
    leave(house)
    died = time.time()
    os.kill(backend["pid"], signal.SIGSEGV)
    until(lambda: not process_exists(backend["pid"]))
    house.start()
    (story,) = house.client.get("/incidents", model="a")["stories"]
    last = story["last"]
    assert (last["status"], last["exit_class"], last["unattended"]) == (-11, "crash", True)
    assert (last["generation"], last["engine"]) == (backend["generation"], "command.a")
    assert last["done"] == "backoff"
    assert abs(last["at"] - died) < 20
    assert "while modelport was not running" in house.ctl("why", "a").stdout
    (model_view,) = [m for m in house.client.get("/models")["models"] if m["name"] == "a"]
    assert model_view["state"] == "backoff"
    until(lambda: not process_exists(backend["keeper_pid"]))
    assert list((house.folder / "run" / "b").iterdir()) == []
    assert house.stop() == 0


def test_a_death_is_told_though_its_keeper_had_to_leave(make_house: MakeHouse) -> None:
    """The daemon came back too late: the keeper left a word in its record."""
    waits = timing({**QUICK, "keeper_grace": 0.3})
    config = memory("1 GiB") + waits + engine("a", "--stderr", f"x {OOM}")
    house = make_house(config + model("a", ctx=512), service=True).start()
    assert house.chat("a").status == 200
    backend = house.backends()["a"]
    os.kill(backend["keeper_pid"], signal.SIGSTOP)  # nothing is stopped before it is dead
    leave(house)
    os.kill(backend["pid"], signal.SIGABRT)
    until(lambda: Path(f"/proc/{backend['pid']}/stat").read_text().split()[2] == "Z")
    os.kill(backend["keeper_pid"], signal.SIGCONT)
    until(lambda: not process_exists(backend["keeper_pid"]))
    (record,) = (house.folder / "run" / "b").iterdir()
    assert record.suffix == ".json"
    time.sleep(1.1)  # the age of what is told, not a wait
    house.start()
    (story,) = house.client.get("/incidents", model="a")["stories"]
    assert (story["last"]["status"], story["last"]["unattended"]) == (-signal.SIGABRT, True)
    assert time.time() - story["last"]["at"] > 1.0
    assert "while modelport was not running" in house.ctl("why").stdout
    assert not record.exists()
    assert house.chat("a").status == 200
    assert house.ctl("unload", "a").returncode == 0
    assert house.stop() == 0
    house.start()
    (story,) = house.client.get("/incidents", model="a")["stories"]
    assert story["count"] == 1, "told once"


def test_what_a_keeper_stopped_is_no_incident(make_house: MakeHouse) -> None:
    waits = timing({**QUICK, "keeper_grace": 0.2})
    config = memory("1 GiB") + waits + engine("a")
    house = make_house(config + model("a", ctx=512), service=True).start()
    assert house.chat("a").status == 200
    keeper = house.backends()["a"]["keeper_pid"]
    leave(house)
    until(lambda: not process_exists(keeper))
    assert list((house.folder / "run" / "b").iterdir()) == []
    house.start()
    assert house.client.get("/incidents")["stories"] == []


def test_logs_go_on_while_no_daemon_is_there(make_house: MakeHouse) -> None:
    config = memory("1 GiB") + timing(QUICK) + engine("a", "--ignore-term")
    house = make_house(config + model("a", ctx=512), service=True).start()
    assert house.chat("a").status == 200
    backend = house.backends()["a"]
    leave(house)
    os.kill(backend["pid"], signal.SIGTERM)
    log = house.folder / "logs/models/a.log"
    until(lambda: "SIGTERM ignored" in log.read_text())
    house.start()
    assert house.backends()["a"]["pid"] == backend["pid"]
    assert "SIGTERM ignored" in house.ctl("logs", "a").stdout
    assert house.ctl("unload", "a").returncode == 0


# ---------------------------------------------------------------- the wall clock


@pytest.mark.skipif(
    not Path("/usr/bin/faketime").exists(), reason="no faketime here: apt install faketime"
)
@pytest.mark.parametrize("jump", ["+3d", "-3d"])
def test_a_death_after_a_jump_of_the_clock_is_told_with_sane_times(
    make_house: MakeHouse, jump: str
) -> None:
    """Its age is counted by a clock that nobody sets, and old logs are still pruned."""
    waits = {**QUICK, "housekeeping": 0.2}
    config = memory("1 GiB") + timing(waits) + engine("a")
    house = make_house(config + model("a", ctx=512, keep_alive='"1 h"'))
    stamp = house.folder / "faketime"
    stamp.write_text("+0\n")
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    house.extra = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(stamp),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
    }
    with house:
        watch = Watch(house)
        assert house.chat("a").status == 200
        pid = house.backends()["a"]["pid"]
        stamp.write_text(f"{jump}\n")
        assert house.chat("a").status == 200
        assert house.backends()["a"]["pid"] == pid, "no keep-alive ran out"
        assert 3000 < house.backends()["a"]["keep_alive_left"] <= 3600
        os.kill(pid, signal.SIGSEGV)
        told = watch.wait("backoff", "a")
        days = 3 if jump.startswith("+") else -3
        assert abs(told.data["at"] - (time.time() + days * 86400)) < 60
        (story,) = house.client.get("/incidents", model="a")["stories"]
        assert 0 <= story["last"]["age"] < 60
        assert house.chat("a").status == 200, "and it comes back in its time"
        assert "crashed" in house.ctl("why", "a").stdout
        if days > 0:  # set back, the calendar waits: only the pruning of logs goes by it
            old = house.folder / "logs/models/x.log.1"
            old.write_text("old")
            os.utime(old, (1.0, 1.0))
            until(lambda: not old.exists())
        assert "Traceback" not in house.stderr()
