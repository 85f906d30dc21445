"""A real daemon beside a logind that puts nothing to sleep: locks, and room before a sleep."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.backends.backend_house import alive
from tests.e2e.conftest import MakeHouse
from tests.e2e.house import House, Watch
from tests.e2e.test_life import model
from tests.machine.logind_house import MISSING, Logind, private_logind

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(MISSING), reason=f"without {', '.join(MISSING)}"),
]
IDLE, DELAY = ("idle", "block", "modelport"), ("sleep", "delay", "modelport")
SOON = "[timing]\nsleep_hold = 0.2\nsleep_release = 0.2\nlinger_min = 0\nlinger_max = 0\n"


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def beside(house: House, logind: Logind) -> House:
    house.extra["DBUS_SYSTEM_BUS_ADDRESS"] = logind.address
    return house.start()


def holders(house: House) -> list[int]:
    """Its children that hold a lock."""
    assert house.process is not None
    found = []
    for child in psutil.Process(house.process.pid).children():
        with suppress(psutil.NoSuchProcess):  # gone since it was listed
            if child.name().startswith("systemd-inhib"):
                found.append(child.pid)
    return found


def test_no_idle_sleep_in_the_middle_of_an_answer(
    make_house: MakeHouse, loop_gguf: Path, short_dir: Path
) -> None:
    with private_logind(short_dir) as logind:
        house = beside(make_house(SOON + model("a", loop_gguf, ctx=16384)), logind)
        assert logind.held == []
        pieces = house.stream("a", max_tokens=16000)
        next(pieces)
        until(lambda: logind.held == [IDLE])
        until(
            lambda: house.status()["power"] == "idle sleep is held off"
        )  # who holds it knows later
        assert "idle sleep is held off" in house.ctl("status").stdout
        pieces.close()  # type: ignore[attr-defined]
        until(lambda: logind.held == [])
        until(lambda: holders(house) == [])
        # One that dies leaves no lock behind.
        pieces = house.stream("a", max_tokens=16000)
        next(pieces)
        until(lambda: logind.held == [IDLE])
        (pid,) = holders(house)
        assert house.process is not None
        house.process.send_signal(signal.SIGKILL)
        house.process.wait(10)
        until(lambda: logind.held == [] and not alive(pid))


def test_models_leave_before_a_sleep_and_come_back(
    make_house: MakeHouse, tiny_gguf: Path, short_dir: Path
) -> None:
    config = SOON + '[power]\nunload_before_sleep = "always"\n' + model("a", tiny_gguf, ctx=512)
    with private_logind(short_dir) as logind:
        house = beside(make_house(config), logind)
        house.ctl("load", "a")
        watch = Watch(house)
        until(lambda: logind.held == [DELAY])
        logind.sleeps(True)
        until(lambda: logind.held == [])
        assert house.backends() == {}, "before the lock was let go"
        watch.wait("sleep", "")
        logind.sleeps(False)
        watch.wait("ready", "a", count=2)
        until(lambda: logind.held == [DELAY])
        assert house.stop() == 0
        until(lambda: logind.held == [])
