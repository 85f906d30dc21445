"""The signal before and after a sleep, from a logind on a private bus."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from daemon.machine import logind
from tests.machine.logind_house import MISSING, private_logind

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"without {', '.join(MISSING)}")
SECONDS = 10.0


async def test_each_word_is_told_in_order(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: asyncio.Queue[bool] = asyncio.Queue()
    ready = asyncio.Event()
    with private_logind(short_dir) as house:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", house.address)
        task = asyncio.create_task(logind.listen(heard.put, ready.set))
        async with asyncio.timeout(SECONDS):
            await ready.wait()
            for word in (True, False, True):
                house.sleeps(word)
            assert [await heard.get() for _ in range(3)] == [True, False, True]
    with pytest.raises((EOFError, OSError)):  # the bus has gone
        await asyncio.wait_for(task, SECONDS)


async def test_without_a_bus_it_says_so(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={short_dir}/none")

    async def told(begins: bool) -> None:
        raise AssertionError(begins)

    with pytest.raises(OSError, match="No such file"):
        await logind.listen(told, lambda: None)
