"""An alarm by the time of day."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from daemon.machine.alarm import Alarm


def descriptors() -> set[str]:
    return (
        {str(path) for path in Path("/proc/self/fd").iterdir()} if Path("/proc").is_dir() else set()
    )


@pytest.mark.parametrize("native", [True, False])
async def test_it_rings_at_its_time(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rang = asyncio.Event()
    alarm = Alarm(rang.set)
    if not native:
        monkeypatch.setattr(alarm, "_armed", lambda instant: None)
    at = time.time() + 0.05
    alarm.at(time.time() + 3600)
    alarm.at(at)  # the last word counts
    async with asyncio.timeout(5):
        await rang.wait()
    assert time.time() >= at
    alarm.close()


async def test_a_time_that_has_passed_rings_at_once() -> None:
    rang = asyncio.Event()
    alarm = Alarm(rang.set)
    alarm.at(time.time() - 3600)
    async with asyncio.timeout(5):
        await rang.wait()
    alarm.close()


async def test_it_holds_nothing_open() -> None:
    before = descriptors()
    alarm = Alarm(lambda: None)
    alarm.at(time.time() + 3600)
    alarm.at(None)
    alarm.close()
    assert len(descriptors()) <= len(before)
    assert alarm._watched is None
