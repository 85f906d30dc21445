"""Sleep and power, put together: locks while there is work, thrift on battery, room for sleep."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from daemon import powering as module
from daemon.core.messages import Ask, OperatorAsked, Ticket
from daemon.leases import Queued
from daemon.machine import supplies
from daemon.machine.supplies import Source
from daemon.ports import Lease
from daemon.powering import Powering
from tests.machine.logind_house import MISSING, private_logind
from tests.rooms import Rooms, engine, model

TWO = engine() + model("a", ctx=4096) + model("b", ctx=4096)
TIMES = 'sleep_hold = 0.05\nsleep_release = 0.1\npower_poll = "1h"\n'
needs_bus = pytest.mark.skipif(bool(MISSING), reason=f"without {', '.join(MISSING)}")


@dataclass
class Den:
    """Rooms with their power, and a ``systemd-inhibit`` of our own in PATH."""

    rooms: Rooms
    power: Powering
    folder: Path

    def told(self) -> list[str]:
        kinds = ("power", "sleep", "sleep_held", "sleep_let", "sleep_lock_refused")
        return [event.kind for event in self.rooms.bus.history(0) if event.kind in kinds]

    def texts(self, kind: str) -> list[str]:
        return [event.text for event in self.rooms.bus.history(0) if event.kind == kind]

    def work(self, number: int = 1) -> Callable[[], None]:
        """A request that is at work until the returned function is called."""
        ticket = Ticket(number, "a", "c", "p", self.rooms.supervisor.clock(), 1e12)
        got: list[Lease] = []
        queued = Queued(ticket, got.append, self.rooms.supervisor)  # type: ignore[arg-type]
        self.rooms.supervisor._enqueue(queued)
        return lambda: self.rooms.supervisor.cancelled(queued)


Open = Callable[..., Awaitable[Den]]


@pytest.fixture
async def den(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    opened: list[Den] = []

    async def make(
        config: str = TWO, times: str = TIMES, lock: str = 'shift 4; exec "$@"', bus: str = ""
    ) -> Den:
        rooms = Rooms(short_dir, config, monkeypatch)
        text = rooms.paths.config_file.read_text()
        rooms.paths.config_file.write_text(text.replace("[timing]\n", f"[timing]\n{times}"))
        await rooms.open()
        program = short_dir / "systemd-inhibit"
        program.write_text(f"#!/bin/sh\n{lock}\n")
        program.chmod(0o700)
        path = os.environ["PATH"] if bus else f"{short_dir}:{os.environ['PATH']}"
        environ = {"PATH": path, "DBUS_SYSTEM_BUS_ADDRESS": bus}
        power = Powering(
            rooms.supervisor, rooms.configured, rooms.bus, rooms.configured.settings, environ
        )
        rooms.control.power = power.words
        opened.append(Den(rooms, power, short_dir))
        return opened[-1]

    monkeypatch.setattr("daemon.machine.wakeful.SETTLE", 0.1)
    monkeypatch.setattr("sys.platform", "linux")
    yield make
    for each in opened:
        await each.power.stop()
        assert not each.power.idle.held
        assert not each.power.delay.held


# ---------------------------------------------------------------- idle sleep


async def test_no_idle_sleep_while_there_is_work(den: Open) -> None:
    house = await den()
    house.power.start()
    done = house.work()
    await house.rooms.until(lambda: house.power.idle.held)
    await house.rooms.until(lambda: house.told() == ["sleep_held"])
    assert house.rooms.control.status().power == "idle sleep is held off"
    done()
    await house.rooms.until(lambda: house.told() == ["sleep_held", "sleep_let"])
    assert house.rooms.control.status().power == ""
    house.work(2)  # and so the next time
    await house.rooms.until(lambda: house.told() == ["sleep_held", "sleep_let", "sleep_held"])


async def test_work_that_is_soon_done_takes_no_lock(den: Open) -> None:
    house = await den(times='sleep_hold = "1h"\nsleep_release = 0\n')
    house.power.start()
    house.work()()
    house.work(2)
    assert (house.told(), house.power._tasks) == ([], set())
    assert house.power._timer is not None, "an hour later"


async def test_requests_that_wait_for_the_end_of_a_pause_are_no_work(den: Open) -> None:
    house = await den()
    house.power.start()
    house.rooms.control.pause(None, hold=True, force=False)
    house.work()
    assert not house.rooms.supervisor.at_work
    house.rooms.control.resume()
    assert house.rooms.supervisor.at_work


async def test_what_is_switched_off_is_let_go(den: Open) -> None:
    house = await den()
    house.power.start()
    house.work()
    await house.rooms.until(lambda: house.told() == ["sleep_held"])
    text = house.rooms.paths.config_file.read_text()
    house.rooms.paths.config_file.write_text(text + "[power]\ninhibit_sleep = false\n")
    house.rooms.configured.applied = house.power.follow
    assert (await house.rooms.configured.reload()).settings == ["power.inhibit_sleep"]
    await house.rooms.until(lambda: house.told() == ["sleep_held", "sleep_let"])


async def test_a_refusal_is_told_once_and_not_asked_for_again_at_once(
    den: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine needs its time to start a shell that refuses; the wait ends with it.
    monkeypatch.setattr("daemon.machine.wakeful.SETTLE", 10.0)
    house = await den(lock="echo no logind here >&2; exit 1")
    house.power.start()
    house.work()
    await house.rooms.until(lambda: house.told() == ["sleep_lock_refused"])
    (text,) = house.texts("sleep_lock_refused")
    assert text == "idle sleep cannot be held off: systemd-inhibit: no logind here"
    house.power._plan()
    assert house.power._tasks == set()
    house.power._quiet_until = house.rooms.supervisor.clock()  # that time has passed
    house.power._plan()
    await house.rooms.until(lambda: house.power._quiet_until > house.rooms.supervisor.clock())
    assert house.told() == ["sleep_lock_refused"]


async def test_a_lock_that_is_being_taken_at_the_end_is_let_go(den: Open) -> None:
    house = await den(times="sleep_hold = 0\nsleep_release = 60\n")
    house.power.start()
    house.work()
    await asyncio.sleep(0)
    assert house.power._tasks, "it is under way"  # the fixture stops it, and looks for children


async def test_what_has_not_begun_when_its_time_is_over_is_let_go(
    den: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not left as work that was never awaited, which Python would tell of much later."""
    monkeypatch.setattr(module, "ENDING", 0.0)
    house = await den()

    async def never() -> None:
        raise AssertionError("it was cancelled before")

    work = never()
    house.power._do(work)
    for task in house.power._tasks:
        task.cancel()
    await house.power.stop()
    await asyncio.sleep(0)
    assert inspect.getcoroutinestate(work) == inspect.CORO_CLOSED


# ---------------------------------------------------------------- battery


BATTERY = TWO.replace("[models.a]", '[power.on_battery]\nkeep_alive = 60\nmodel = "b"\n[models.a]')


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    """Where power comes from: the last of the list. It counts the looks by growing no longer."""
    now = [Source.MAINS]
    monkeypatch.setattr(supplies, "source", lambda: now[-1])
    monkeypatch.setattr("daemon.machine.uevents.listen", lambda: None)
    return now


async def test_on_battery_idle_models_leave_sooner_and_a_smaller_one_answers(
    den: Open, source: list[Source]
) -> None:
    house = await den(BATTERY, 'sleep_hold = "1h"\n')
    await house.power.look_first()
    house.power.start()
    rooms = house.rooms
    await rooms.loaded("a")
    assert rooms.page("a").spec.keep_alive == 900
    assert rooms.configured.stock.catalog.default_model is None
    source.append(Source.BATTERY)
    house.power.slept()
    await rooms.until(lambda: house.told() == ["power"])
    (text,) = house.texts("power")
    words = "idle models leave after 60 s at the latest, b is the default model"
    assert text == f"on battery: {words}"
    assert rooms.control.status().power == f"on battery: {words}"
    assert rooms.page("a").spec.keep_alive == 60
    assert rooms.configured.stock.catalog.default_model == "b"
    assert rooms.orders == ["start a: context 4096"], "what runs is not touched"
    view = await rooms.configured.reload()
    assert (view.changed, view.settings) == ([], []), "the file says what it said"
    assert rooms.page("a").spec.keep_alive == 60
    source.append(Source.MAINS)
    await house.power.look()
    assert rooms.page("a").spec.keep_alive == 900
    assert rooms.configured.stock.catalog.default_model is None
    assert house.texts("power")[-1] == "plugged in: as configured otherwise"
    assert rooms.orders == ["start a: context 4096"]


async def test_it_may_begin_on_battery(den: Open, source: list[Source]) -> None:
    source.append(Source.BATTERY)
    house = await den(BATTERY)
    await house.power.look_first()
    assert house.rooms.configured.reader.on_battery
    reading = await asyncio.to_thread(house.rooms.configured.reader.again)
    assert reading.stock.specs()["a"].keep_alive == 60
    assert reading.settings.defaults.keep_alive == 900, "the settings are those of the file"
    assert house.told() == ["power"]


async def test_a_context_for_one_run_keeps_its_way_and_gets_the_keep_alive(
    den: Open, source: list[Source]
) -> None:
    house = await den(BATTERY)
    house.power.start()
    rooms = house.rooms
    await rooms.loaded("a", ctx=1024)
    source.append(Source.BATTERY)
    await house.power.look()
    assert rooms.page("a").spec.keep_alive == 60
    rooms.supervisor.tell(OperatorAsked(Ask.UNLOAD, "a"))
    rooms.exited("a")
    await rooms.until(lambda: not rooms.configured._overrides.of)
    assert rooms.page("a").spec.keep_alive == 60
    assert rooms.page("a").spec.plain[0].id == "context 4096"


async def test_a_machine_without_a_battery_says_nothing_of_it(
    den: Open, source: list[Source]
) -> None:
    source.append(Source.UNKNOWN)
    house = await den(BATTERY)
    house.power.start()
    await house.rooms.until(lambda: house.power.source is Source.UNKNOWN)
    assert (house.told(), house.rooms.control.status().power) == ([], "")


async def test_nobody_looks_unless_it_is_configured(den: Open, source: list[Source]) -> None:
    source.append(Source.BATTERY)
    house = await den()
    await house.power.look_first()
    house.power.start()
    house.power.slept()
    assert not house.power._looking.goes
    assert (house.power._tasks, house.power.source) == (set(), None)
    assert house.rooms.control.status().power == ""


async def test_the_kernels_word_is_enough(
    den: Open, source: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    monkeypatch.setattr("daemon.machine.uevents.listen", lambda: ours)
    monkeypatch.setattr(module, "SOON", 0.01)
    house = await den(BATTERY)
    house.power.start()
    await house.rooms.until(lambda: house.power.source is Source.MAINS)
    source.append(Source.BATTERY)
    with theirs:
        theirs.send(b"change@/x\0SUBSYSTEM=power_supply\0")
        await house.rooms.until(lambda: house.told() == ["power"])
        await house.power.stop()
    assert ours.fileno() == -1


# ---------------------------------------------------------------- before a sleep


@needs_bus
async def test_models_are_unloaded_before_a_sleep_and_come_back(
    den: Open, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNLOAD", 0.05)
    with private_logind(short_dir) as logind:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", logind.address)
        config = TWO + '[power]\nunload_before_sleep = "always"\n'
        house = await den(config, bus=logind.address)
        rooms = house.rooms
        await rooms.loaded("a")
        house.power.start()
        await rooms.until(lambda: logind.held == [("sleep", "delay", "modelport")])
        logind.sleeps(True)
        await rooms.until(lambda: "stop a" in rooms.orders)
        assert rooms.supervisor.scheduler.paused is not None, "nothing is started meanwhile"
        assert logind.held, "the sleep waits for the models"
        await rooms.until(lambda: "kill a" in rooms.orders)  # it took too long
        rooms.exited("a")
        await rooms.until(lambda: not logind.held)
        assert house.texts("sleep") == ["the machine is about to sleep: all models are unloaded"]
        logind.sleeps(False)
        await rooms.until(lambda: rooms.supervisor.scheduler.paused is None)
        await rooms.until(lambda: rooms.orders.count("start a: context 4096") == 2)
        await rooms.until(lambda: logind.held == [("sleep", "delay", "modelport")])
        rooms.control.pause(None, hold=True, force=False)
        logind.sleeps(True)
        await rooms.until(lambda: len(house.texts("sleep")) == 2)
        logind.sleeps(False)
        await rooms.until(lambda: logind.held == [("sleep", "delay", "modelport")])
        assert rooms.supervisor.scheduler.paused is not None, "that pause is the user's"
        await house.power.stop()
        await rooms.until(lambda: not logind.held)


async def test_without_a_bus_it_says_what_will_not_be_done(
    den: Open, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={short_dir}/none")
    house = await den(TWO + '[power]\nunload_before_sleep = "always"\n')
    house.power.start()
    await house.rooms.until(lambda: house.texts("sleep_unheard"))
    assert "no word from logind" in house.texts("sleep_unheard")[0]


async def test_discrete_is_for_cards_with_memory_of_their_own(den: Open) -> None:
    house = await den(TWO + '[power]\nunload_before_sleep = "discrete"\n')
    house.power.start()
    assert house.power._listener is None
    facts = house.rooms.configured.reader.facts
    card = facts.pools[0].__class__("gpu0", 1 << 34, 1 << 34, None, "nvml")
    house.rooms.configured.reader._facts = facts.__class__((*facts.pools, card), 1 << 35, "linux")
    assert house.power._unloads()
