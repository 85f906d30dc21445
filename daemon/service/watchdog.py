"""The sign of life that a service manager waits for, and one of our own where it wants none.

It is given by the event loop, and only after the scheduler has taken a fact and carried out what
followed: a loop that spins around a dead scheduler serves nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from daemon.service.notify import Notifier

log = logging.getLogger("modelport.watchdog")

INTERVAL: Final = 10.0  # seconds between two signs of life where nobody says how many
MISSED: Final = 3  # rounds without one after which a process that nobody watches ends itself
EXTENSION: Final = 3.0  # times the interval: how long a start or a stop may be silent


def _abort_now() -> None:
    """As systemd's watchdog: with a stack on stderr."""
    faulthandler.dump_traceback()
    os.abort()


@dataclass(slots=True)
class Watchdog:
    """Gives a sign of life every ``interval`` seconds as long as ``healthy`` says so.

    ``healthy`` returns "" or what is wrong; an exception is wrong, too.
    """

    notifier: Notifier
    interval: float
    healthy: Callable[[], str]
    sentinel: Sentinel | None = None
    _timer: asyncio.TimerHandle | None = None
    _said: str = ""

    def start(self) -> None:
        """From now on; at once."""
        if self.sentinel is not None:
            self.sentinel.start()
        self._beat()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.sentinel is not None:
            self.sentinel.stop()

    def _beat(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.interval, self._beat)
        wrong = self._look()
        if not wrong:
            self._said = ""
            self.notifier.alive()
            if self.sentinel is not None:
                self.sentinel.beat()
        elif wrong != self._said:
            self._said = wrong
            log.error("no sign of life is given: %s", wrong)
            self.notifier.status(f"not healthy: {wrong}")

    def _look(self) -> str:
        try:
            return self.healthy()
        except Exception as error:  # noqa: BLE001 (whatever it is: the core does not answer)
            return f"the scheduler does not answer ({type(error).__name__}: {error})"


@dataclass(slots=True)
class Sentinel:
    """A thread that ends the process when nobody gives a sign of life, for launchd: it has no
    watchdog, but starts what died.

    It counts rounds, not seconds: after a machine has slept, a clock says that hours have passed.
    """

    interval: float
    end: Callable[[], None] = field(default=_abort_now)
    missed: int = MISSED
    _seen: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self) -> None:
        self._seen.set()

    def stop(self) -> None:
        self._over.set()

    def _watch(self) -> None:
        silent = 0
        while not self._over.wait(self.interval):
            silent = 0 if self._seen.is_set() else silent + 1
            self._seen.clear()
            if silent >= self.missed:
                self.end()
                return


@dataclass(slots=True)
class Extending:
    """While a start or a stop goes on, the service manager is told to wait."""

    notifier: Notifier
    interval: float = INTERVAL
    _task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        self._task = asyncio.create_task(self._tell(), name="extending")

    async def end(self) -> None:
        """Also when it was never begun, or has ended."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _tell(self) -> None:
        while True:
            self.notifier.extend(EXTENSION * self.interval)
            await asyncio.sleep(self.interval)


@dataclass(slots=True)
class Status:
    """Tells the service manager how things are, at most once in ``pause`` seconds."""

    notifier: Notifier
    text: Callable[[], str]
    pause: float = 1.0
    _last: str = ""
    _told: float = -1e9
    _timer: asyncio.TimerHandle | None = None

    def changed(self, *_: object) -> None:
        """Something may have."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            wait = max(0.0, self._told + self.pause - time.monotonic())
            self._timer = loop.call_later(wait, self._tell)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _tell(self) -> None:
        self._timer, self._told = None, time.monotonic()
        text = self.text()
        if text != self._last:
            self._last = text
            self.notifier.status(text)
