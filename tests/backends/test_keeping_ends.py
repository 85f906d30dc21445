"""How engines end below their keepers, with a daemon and without one."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from daemon.backends.keeping import (
    Exited,
    Gone,
    Keeper,
    KeeperError,
    Lost,
    Reaped,
    reap,
    records,
)
from tests.backends.keeper_house import (
    CHILD,
    DEADLINE,
    DEAF_WAIT,
    WAIT,
    Events,
    House,
    begin,
    gone,
    is_up,
    until,
)
from tests.backends.keeper_house import house as _house

pytestmark = pytest.mark.processes

house = pytest.fixture(_house)

# --- the end -------------------------------------------------------------------------------------


async def test_the_second_term_after_the_grace(house: House) -> None:
    code = """
import signal, sys
count = 0
def term(*_):
    global count
    count += 1
    if count == 2: sys.exit(1)
signal.signal(15, term); print("up", flush=True)
while True: signal.pause()
"""
    # The order's own graces are longer than `gone` waits, here and below: the told ones count. And
    # a signal that comes again to one who sleeps is one: so the first grace is no short one.
    order = house.order(house.engine(code), stop_grace=60.0, kill_grace=60.0)
    keeper, events = await begin(order)
    await until(lambda: is_up(house))
    began = time.monotonic()
    keeper.stop(1.0, 60.0)
    await gone(keeper, events)
    assert time.monotonic() - began >= 1.0
    assert events[0].status == 1  # type: ignore[union-attr]


async def test_who_ignores_term_is_killed_with_grandchildren_in_other_sessions(
    house: House,
) -> None:
    engine = house.engine(CHILD + "while True: signal.pause()")
    keeper, events = await begin(house.order(engine, stop_grace=60.0, kill_grace=60.0))
    await until(lambda: is_up(house))
    assert len(house.pids()) == 4
    began = time.monotonic()
    keeper.stop(0.1, 0.1)
    await gone(keeper, events)
    assert time.monotonic() - began >= 0.2
    assert events[0].status == -signal.SIGKILL  # type: ignore[union-attr]
    await house.empty()


@pytest.mark.parametrize("mode", ["foreground", "service"])
async def test_a_daemon_that_dies_while_it_stops_an_engine_leaves_its_patience_behind(
    house: House, mode: str
) -> None:
    """In the foreground nothing outlives it by a grace of its own; a service has its time."""
    stop = 60.0 if mode == "foreground" else 0.5
    order = house.order(house.engine(DEAF_WAIT), mode=mode, grace=0.0)
    keeper, _ = await begin(order)
    await until(lambda: is_up(house))
    began = time.monotonic()
    keeper.stop(stop, stop)
    await keeper.refresh()  # it has the order
    keeper._abort()
    await house.empty()
    assert time.monotonic() - began >= (0.2 if mode == "foreground" else 1.0)
    await keeper.close()


async def test_the_last_grace_is_its_own(house: House) -> None:
    keeper, events = await begin(house.order(house.engine(DEAF_WAIT)))
    await until(lambda: is_up(house))
    began = time.monotonic()
    keeper.stop(0.05, 0.5)
    await gone(keeper, events)
    assert time.monotonic() - began >= 0.55
    assert events[0].status == -signal.SIGKILL  # type: ignore[union-attr]


async def test_an_older_daemon_says_one_grace_for_both(house: House) -> None:
    keeper, events = await begin(house.order(house.engine(DEAF_WAIT), kill_grace=60.0))
    await until(lambda: is_up(house))
    keeper._send({"type": "stop", "grace": 0.05})
    await gone(keeper, events)
    assert events[0].status == -signal.SIGKILL  # type: ignore[union-attr]


async def test_a_keeper_told_to_end_has_the_orders_graces(house: House) -> None:
    order = house.order(house.engine(DEAF_WAIT), stop_grace=0.05, kill_grace=0.5)
    keeper, events = await begin(order)
    await until(lambda: is_up(house))
    began = time.monotonic()
    os.kill(keeper.hello.keeper_pid, signal.SIGTERM)
    await gone(keeper, events)
    assert time.monotonic() - began >= 0.55


async def test_kill_is_at_once(house: House) -> None:
    keeper, events = await begin(house.order(house.engine(CHILD + "while True: signal.pause()")))
    await until(lambda: is_up(house))
    keeper.stop(60.0, 60.0)
    keeper.kill()
    await gone(keeper, events)
    assert events[0].status == -signal.SIGKILL  # type: ignore[union-attr]


async def test_a_shorter_grace_hastens_a_stop(house: House) -> None:
    keeper, events = await begin(house.order(house.engine(DEAF_WAIT)))
    await until(lambda: is_up(house))
    keeper.stop(60.0, 60.0)
    keeper.stop(0.05, 0.05)
    await gone(keeper, events)
    assert events[0].status == -signal.SIGKILL  # type: ignore[union-attr]


async def test_an_exit_is_seen_though_a_grandchild_keeps_the_pipe(house: House) -> None:
    keeper, events = await begin(house.order(house.engine(CHILD + "sys.exit(3)"), lost_grace=60.0))
    await until(lambda: events.of(Exited))
    assert events.of(Gone) == [], "the grandchild has its grace"
    assert events[0].status == 3  # type: ignore[union-attr]
    keeper.stop(0.05, 0.05)  # which is hastened
    await gone(keeper, events)
    await house.empty()


async def test_a_grandchild_has_no_more_than_its_grace(house: House) -> None:
    keeper, events = await begin(house.order(house.engine(CHILD + "sys.exit(3)"), lost_grace=0.3))
    await gone(keeper, events)
    (exited,) = events.of(Exited)
    assert time.monotonic() - exited.at >= 0.3
    await house.empty()


async def test_a_keeper_told_to_end_stops_its_engine(house: House) -> None:
    keeper, events = await begin(house.order(house.engine(WAIT), mode="service", grace=60.0))
    await until(lambda: is_up(house))
    os.kill(keeper.hello.keeper_pid, signal.SIGHUP)
    os.kill(keeper.hello.keeper_pid, signal.SIGTERM)
    await gone(keeper, events)
    assert events[0].status == -signal.SIGTERM  # type: ignore[union-attr]


async def test_a_killed_keeper_takes_its_engine_along(house: House) -> None:
    order = house.order(house.engine(DEAF_WAIT), mode="service", grace=60.0)
    keeper, events = await begin(order)
    await until(lambda: is_up(house))
    os.kill(keeper.hello.keeper_pid, signal.SIGKILL)
    assert not await keeper.wait_gone(DEADLINE)
    assert events == [Lost()]
    await house.empty()
    assert await keeper.close()
    with pytest.raises(KeeperError, match="not connected"):
        await keeper.refresh()
    [record] = records(order.record.parent)
    assert not record.keeper_alive
    assert reap(record) is Reaped.ABSENT
    assert records(order.record.parent) == []
    assert not order.socket.exists()


# --- nobody is there -----------------------------------------------------------------------------


async def test_foreground_a_lost_daemon_ends_the_engine_at_once(house: House) -> None:
    keeper, _ = await begin(house.order(house.engine(DEAF_WAIT), grace=60.0, stop_grace=60.0))
    await until(lambda: is_up(house))
    began = time.monotonic()
    keeper._abort()
    await house.empty()
    assert time.monotonic() - began >= 0.2
    assert await keeper.close()
    assert list((house.root / "run").iterdir()) == []


async def test_service_a_reconnect_within_the_grace_keeps_the_engine(house: House) -> None:
    code = "import os; print('out of memory, almost', flush=True)\n" + DEAF_WAIT
    order = house.order(house.engine(code), mode="service", grace=60.0, pattern="memory")
    keeper, events = await begin(order)
    await until(lambda: is_up(house))
    first = keeper.hello
    keeper._abort()
    await until(lambda: events.of(Lost))

    events = Events()
    keeper = await Keeper.adopt(order.socket, on_event=events, patience=DEADLINE)
    assert (keeper.pid, keeper.hello.start) == (first.pid, first.start)
    assert events.lines == ["out of memory, almost"]
    keeper.kill()
    await gone(keeper, events)


async def test_service_an_exit_while_nobody_is_there_is_kept_and_told(house: House) -> None:
    code = "import os\nopen('go').read()\nprint('failed: x', flush=True)\nos.abort()"
    os.mkfifo(house.root / "go")
    order = house.order(
        house.engine(code), mode="service", grace=60.0, pattern="failed", cwd=house.root
    )
    keeper, _ = await begin(order)
    await keeper.detach(60.0)
    (house.root / "go").write_text("x")
    await until(lambda: keeper.pid not in house.pids())
    told = []
    for _ in range(2):  # told as often as it is asked
        events = Events()
        keeper = await Keeper.adopt(order.socket, on_event=events, patience=DEADLINE)
        assert await keeper.wait_gone(DEADLINE)
        [exited] = events.of(Exited)
        told.append((exited.status, exited.lines))
        await keeper.detach(60.0)
    assert told == [(-signal.SIGABRT, ("failed: x",))] * 2
    assert keeper.hello.gone, "all was over before the second one asked"
    events = Events()
    await gone(await Keeper.adopt(order.socket, on_event=events, patience=DEADLINE), events)
    await house.empty()
    assert list((house.root / "run").iterdir()) == []


async def test_an_end_that_nobody_was_told_of_stays_in_the_record(house: House) -> None:
    """The keeper has to leave: whoever comes later finds how and when it was."""
    order = house.order(
        house.engine("import os\nopen('go').read()\nprint('failed: x', flush=True)\nos.abort()"),
        mode="service", grace=0.1, pattern="failed", cwd=house.root,
    )  # fmt: skip
    os.mkfifo(house.root / "go")
    began = time.time()
    keeper, _ = await begin(order)
    await keeper.detach(3.0)  # it ends by itself in this time
    (house.root / "go").write_text("x")
    await house.empty()
    (record,) = records(order.record.parent)
    assert list((house.root / "run").iterdir()) == [order.record]
    assert stat.S_IMODE(order.record.stat().st_mode) == 0o600
    await until(lambda: not record.keeper_alive)  # it may just be ending
    assert record.exit is not None
    assert (record.exit.status, record.exit.stopped) == (-signal.SIGABRT, False)
    assert record.exit.lines == ("failed: x",)
    assert record.exit.time is not None
    assert began <= record.exit.time <= time.time()
    assert reap(record) is Reaped.ABSENT
    assert list((house.root / "run").iterdir()) == []


async def test_service_after_the_grace_the_engine_is_stopped(house: House) -> None:
    order = house.order(house.engine(WAIT), mode="service", grace=0.3)
    keeper, _ = await begin(order)
    await until(lambda: is_up(house))
    began = time.monotonic()
    keeper._abort()
    await house.empty()
    assert time.monotonic() - began >= 0.3
    assert list((house.root / "run").iterdir()) == []


@pytest.mark.parametrize("grace", [60.0, 1e300])
async def test_detaching_overrides_the_mode(house: House, grace: float) -> None:
    order = house.order(house.engine(WAIT), mode="foreground")
    keeper, _ = await begin(order)
    await keeper.detach(grace)
    events = Events()
    keeper = await Keeper.adopt(order.socket, on_event=events, patience=DEADLINE)
    assert keeper.hello.exit is None
    keeper.stop(DEADLINE, DEADLINE)
    await gone(keeper, events)


async def test_one_of_two_connections_is_enough(house: House) -> None:
    order = house.order(house.engine(WAIT))
    keeper, events = await begin(order)
    other = await Keeper.adopt(order.socket, on_event=Events(), patience=DEADLINE)
    keeper._abort()
    await until(lambda: events.of(Lost))
    assert (await other.refresh()).exit is None
    other.kill()
    assert await other.wait_gone(DEADLINE)
    await other.close()
    await house.empty()


DAEMON = """
import asyncio, json, sys
from pathlib import Path
from daemon.backends.keeping import Keeper, Order
async def main():
    fields = json.loads(sys.stdin.readline())
    for name in ("socket", "record", "log"):
        fields[name] = Path(fields[name])
    order = Order(**{**fields, "argv": tuple(fields["argv"])})
    await Keeper.start(order, on_event=print, patience=20.0)
    print("started", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def daemon_for(house: House, **changes: object) -> subprocess.Popen[str]:
    """A daemon in a process of its own, its keeper up."""
    order = house.order(house.engine(WAIT), **changes)
    fields = json.loads(order.encode())
    for name in ("protocol", "files", "cwd"):
        del fields[name]
    process = subprocess.Popen(
        [sys.executable, "-c", DAEMON, house.tag],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(fields) + "\n")
    process.stdin.flush()
    assert process.stdout.readline() == "started\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=DEADLINE)


async def test_foreground_kill_9_of_the_daemon_leaves_nothing(house: House) -> None:
    process = daemon_for(house)
    await until(lambda: len(house.pids()) == 3)
    end(process)
    await house.empty()
    assert list((house.root / "run").iterdir()) == []


async def test_service_kill_9_of_the_daemon_and_adoption(house: House) -> None:
    end(daemon_for(house, mode="service", grace=60.0))
    [record] = records(house.root / "run")
    events = Events()
    keeper = await Keeper.adopt(record.socket, on_event=events, patience=DEADLINE)
    assert (keeper.pid, keeper.hello.start, keeper.hello.argv) == (
        *(record.pid, record.start),
        record.argv,
    )
    keeper.stop(DEADLINE, DEADLINE)
    await gone(keeper, events)
    await house.empty()
