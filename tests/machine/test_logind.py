"""The signal before and after a sleep, from a logind on a private bus."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest

from daemon.machine import logind
from tests.machine.logind_house import MISSING, private_logind

needs_bus = pytest.mark.skipif(bool(MISSING), reason=f"without {', '.join(MISSING)}")
SECONDS = 10.0


@needs_bus
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


@pytest.mark.parametrize("answer", [b"", b"REJECTED EXTERNAL\r\n", None])
async def test_a_bus_that_does_not_let_us_in_leaves_nothing_open(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes | None
) -> None:
    """It hangs up, it refuses, or it says nothing until nobody wants to know any more."""
    asked, left = asyncio.Event(), asyncio.Event()

    async def bus(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\n")
        asked.set()
        if answer is not None:
            writer.write(answer)
        if answer == b"":
            writer.write_eof()
        while await reader.read(100):
            pass
        left.set()
        writer.close()

    async def told(begins: bool) -> None:
        raise AssertionError(begins)

    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={short_dir}/bus")
    async with await asyncio.start_unix_server(bus, short_dir / "bus"):
        task = asyncio.create_task(logind.listen(told, lambda: None))
        async with asyncio.timeout(SECONDS):
            await asked.wait()
            if answer is None:
                task.cancel()
            with pytest.raises((EOFError, ValueError, asyncio.CancelledError)):
                await task
            await left.wait()
    gc.collect()  # whatever nobody closed is told now
