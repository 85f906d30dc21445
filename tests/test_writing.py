"""What changes in the loop and is kept on the disk."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from daemon.writing import Writer


async def test_one_write_at_a_time_and_the_last_word_is_written() -> None:
    state, gate = 0, threading.Event()
    written: list[int] = []

    def write(value: int) -> None:
        assert gate.wait(10)
        written.append(value)

    writer = Writer("numbers", lambda: state, write)
    await writer.done()  # nothing to wait for
    for _ in range(5):
        state += 1
        writer.soon()
    gate.set()
    await writer.done()
    assert written == [5]


async def test_what_changes_while_it_writes_goes_with_the_next() -> None:
    state = ["first"]
    written: list[list[str]] = []
    loop, begun, told = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def write(value: list[str]) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert told.wait(10)
        written.append(value)

    writer = Writer("words", lambda: list(state), write)
    writer.soon()
    await asyncio.wait_for(begun.wait(), 10)
    state.append("second")
    writer.soon()
    told.set()
    await writer.done()
    assert written == [["first"], ["first", "second"]]


async def test_what_fails_is_logged_and_tried_again_at_the_next_change(
    caplog: pytest.LogCaptureFixture,
) -> None:
    full = True
    written: list[int] = []

    def write(value: int) -> None:
        if full:
            raise RuntimeError("of all things")
        written.append(value)

    writer = Writer("numbers", lambda: 7, write)
    with caplog.at_level(logging.ERROR):
        writer.soon()
        await writer.done()
    assert "numbers could not be written" in caplog.text
    full = False
    writer.soon()
    await writer.done()
    assert written == [7]
