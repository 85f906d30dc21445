"""When idle sleep is held off, and by which children."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.machine.wakeful import Lock, Spell, delay_lock, idle_lock
from tests.control_api.fake import until
from tests.machine.logind_house import MISSING, private_logind

HOLD, RELEASE = 10.0, 30.0
needs_bus = pytest.mark.skipif(bool(MISSING), reason=f"without {', '.join(MISSING)}")


def test_short_work_holds_nothing_and_long_work_does() -> None:
    spell = Spell().told(True, 100.0, RELEASE)
    assert not spell.holds(109.0, HOLD, RELEASE)
    assert spell.next(100.0, HOLD, RELEASE) == 110.0
    assert spell.holds(110.0, HOLD, RELEASE)
    assert spell.next(110.0, HOLD, RELEASE) is None, "until there is news"
    done = spell.told(False, 200.0, RELEASE)
    assert done.holds(229.0, HOLD, RELEASE)
    assert done.next(200.0, HOLD, RELEASE) == 230.0
    assert not done.holds(230.0, HOLD, RELEASE)
    assert done.next(230.0, HOLD, RELEASE) is None


def test_pauses_of_an_agent_are_part_of_its_work() -> None:
    spell, now = Spell(), 0.0
    for _ in range(10):
        spell = spell.told(True, now, RELEASE).told(False, now + 1, RELEASE)
        now += 5.0
    assert spell.holds(now, HOLD, RELEASE)
    assert spell.began == 0.0


@given(
    st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=30),
    st.floats(0, 60),
    st.floats(0, 60),
)
def test_held_by_work_alone_and_let_go_in_the_end(
    news: list[tuple[float, bool]], hold: float, release: float
) -> None:
    spell, now, worked = Spell(), 1000.0, False
    for wait, busy in news:
        # Between two pieces of news it changes only at the instants that `next` names.
        at, before, end = spell.next(now, hold, release), now, now + wait
        while at is not None and at <= end:
            middle = (before + at) / 2
            if before < middle < at:
                assert spell.holds(before, hold, release) == spell.holds(middle, hold, release)
            before, at = at, spell.next(at, hold, release)
            assert at is None or at > before
        now = end
        assert spell.holds(before, hold, release) == spell.holds(now, hold, release)
        worked |= busy
        spell = spell.told(busy, now, release)
        assert spell.told(busy, now, release) == spell.at(now, release)
        assert worked or not spell.holds(now, hold, release)
    ended = spell.told(False, now, release)
    assert not ended.holds(now + release + 1, hold, release)
    assert ended.next(now + release + 1, hold, release) is None


def test_the_programs_of_each_system() -> None:
    assert idle_lock("darwin") == ("caffeinate", "-i", "cat")
    assert idle_lock("linux")[:3] == ("systemd-inhibit", "--what=idle", "--mode=block")
    assert delay_lock("linux")[:3] == ("systemd-inhibit", "--what=sleep", "--mode=delay")
    assert (idle_lock("freebsd14"), delay_lock("darwin")) == ((), ())


# ---------------------------------------------------------------- children


def program(folder: Path, name: str, text: str) -> dict[str, str]:
    """A program of that name, first in PATH."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "SECRET": "of ours"}


@pytest.fixture
def holding(tmp_path: Path) -> Callable[[], Lock]:
    """As ``caffeinate`` does: run the rest, and end with it."""

    def make() -> Lock:
        text = f'env > {tmp_path}/part; mv {tmp_path}/part {tmp_path}/env; shift; "$@"'
        return Lock(("caffeinate", "-i", "cat"), program(tmp_path, "caffeinate", text))

    return make


async def test_a_lock_is_one_child_from_take_to_release(
    holding: Callable[[], Lock], tmp_path: Path
) -> None:
    lock = holding()
    assert not lock.held
    await lock.release()
    assert await lock.take() == ""
    pid = lock.pid
    assert pid is not None
    assert await lock.take() == ""
    assert lock.pid == pid, "held already"
    await until((tmp_path / "env").exists)
    assert "SECRET" not in (tmp_path / "env").read_text()
    children = psutil.Process(pid).children()
    await lock.release()
    assert not lock.held
    assert not psutil.pid_exists(pid)
    await until(lambda: not any(child.is_running() for child in children))
    assert await lock.take() == "", "and again"
    await lock.release()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who refuses may need its time to say so."""
    monkeypatch.setattr("daemon.machine.wakeful.SETTLE", 10.0)


@pytest.mark.usefixtures("patient")
async def test_why_it_cannot_be_held(tmp_path: Path) -> None:
    nowhere = Lock(("caffeinate",), {"PATH": str(tmp_path)})
    assert await nowhere.take() == "caffeinate is not on this machine"
    environ = program(tmp_path, "systemd-inhibit", "echo Failed to inhibit: no bus >&2; exit 1")
    refused = Lock(idle_lock("linux"), environ)
    assert await refused.take() == "systemd-inhibit: Failed to inhibit: no bus"
    assert not refused.held
    silent = Lock(("mute",), program(tmp_path, "mute", "exit 3"))
    assert await silent.take() == "mute: it ended with 3"
    broken = Lock(("broken",), program(tmp_path, "broken", ""))
    (tmp_path / "broken").write_text("#!/nowhere/at/all\n")
    assert (await broken.take()).startswith("broken: ")
    assert await Lock((), {}).take() == "this system has no program for it"


async def test_one_that_is_deaf_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.machine.wakeful.END", 0.2)
    text = f'exec {sys.executable} -c "import signal,time; signal.signal(15, 1); time.sleep(60)"'
    lock = Lock(("deaf",), program(tmp_path, "deaf", text))
    assert await lock.take() == ""
    pid = lock.pid
    assert pid is not None
    await lock.release()
    assert not psutil.pid_exists(pid)


@needs_bus
async def test_the_real_program_holds_a_lock_of_logind(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with private_logind(short_dir) as logind:
        environ = {"PATH": os.environ["PATH"], "DBUS_SYSTEM_BUS_ADDRESS": logind.address}
        idle, delay = Lock(idle_lock("linux"), environ), Lock(delay_lock("linux"), environ)
        assert await idle.take() == ""
        await until(lambda: logind.held == [("idle", "block", "modelport")])
        assert await delay.take() == ""
        await until(lambda: ("sleep", "delay", "modelport") in logind.held)
        await idle.release()
        await until(lambda: logind.held == [("sleep", "delay", "modelport")])
        await delay.release()
        await until(lambda: not logind.held)
        logind.refuses = True
        monkeypatch.setattr("daemon.machine.wakeful.SETTLE", 10.0)
        assert "denied" in await idle.take()
        assert not idle.held
