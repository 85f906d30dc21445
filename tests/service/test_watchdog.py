"""Signs of life: given by the loop while the scheduler answers, and missed when they cease."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from daemon.service.notify import Notifier
from daemon.service.watchdog import Extending, Sentinel, Status, Watchdog


class Heard(Notifier):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.news = asyncio.Event()

    def _add(self, text: str) -> None:
        self.told.append(text)
        self.news.set()

    def alive(self) -> None:
        self._add("alive")

    def status(self, text: str) -> None:
        self._add(text)

    def extend(self, seconds: float) -> None:
        self._add(f"extend {seconds:g}")

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not true():
                self.news.clear()
                await self.news.wait()


async def test_it_is_alive_while_the_core_answers() -> None:
    heard, wrong = Heard(), ""
    dog = Watchdog(heard, 0.01, lambda: wrong)
    dog.start()
    await heard.until(lambda: heard.told.count("alive") >= 3)
    wrong = "it hangs"
    await heard.until(lambda: heard.told[-1] == "not healthy: it hangs")
    count = heard.told.count("alive")
    await asyncio.sleep(0.05)
    assert heard.told.count("alive") == count, "no sign of life for a dead core"
    assert heard.told.count("not healthy: it hangs") == 1
    wrong = ""
    await heard.until(lambda: heard.told.count("alive") > count)
    dog.stop()


async def test_a_core_that_raises_is_not_alive(caplog: pytest.LogCaptureFixture) -> None:
    heard = Heard()

    def broken() -> str:
        raise AssertionError("illegal transition")

    dog = Watchdog(heard, 0.01, broken)
    dog.start()
    await heard.until(lambda: heard.told)
    dog.stop()
    assert heard.told[0].startswith("not healthy: the scheduler does not answer (AssertionError")
    assert "illegal transition" in caplog.text


def test_the_sentinel_ends_who_gives_no_sign() -> None:
    ended = threading.Event()
    sentinel = Sentinel(0.01, ended.set)
    sentinel.start()
    assert ended.wait(5)
    sentinel.stop()


def test_the_sentinel_lets_live_who_does() -> None:
    ended = threading.Event()

    class Rounds(threading.Event):
        """Thirty rounds that take no time, with a sign of life in each third."""

        count = 0

        def wait(self, timeout: float | None = None) -> bool:
            self.count += 1
            if self.count % 3 == 0:
                sentinel.beat()
            return self.count > 30

    sentinel = Sentinel(0.01, ended.set, missed=3, _over=Rounds())
    sentinel._watch()
    assert not ended.is_set()


async def test_a_sentinel_is_fed_by_the_loop() -> None:
    heard, ended = Heard(), threading.Event()
    sentinel = Sentinel(60.0, ended.set)
    dog = Watchdog(heard, 0.01, str, sentinel)
    dog.start()
    for _ in range(3):
        await heard.until(lambda: heard.told)
        assert sentinel._seen.is_set()
        sentinel._seen.clear()
        heard.told.clear()
    dog.stop()
    assert not ended.is_set()


async def test_waiting_is_asked_for_as_long_as_it_takes() -> None:
    heard = Heard()
    extending = Extending(heard, 0.01)
    await extending.end()  # never begun
    await extending.begin()
    await heard.until(lambda: len(heard.told) >= 3)
    await extending.end()
    count = len(heard.told)
    await asyncio.sleep(0.03)
    assert len(heard.told) == count
    assert set(heard.told) == {"extend 0.03"}


async def test_status_is_told_once_for_many_changes() -> None:
    heard, text = Heard(), "one"
    status = Status(heard, lambda: text, pause=0.02)
    for _ in range(10):
        status.changed()
    await heard.until(lambda: heard.told)
    assert heard.told == ["one"]
    status.changed()  # nothing that shows
    await asyncio.sleep(0.05)
    assert heard.told == ["one"]
    text = "two"
    status.changed()
    await heard.until(lambda: len(heard.told) == 2)
    status.changed()
    status.stop()
    assert heard.told == ["one", "two"]
