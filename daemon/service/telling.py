"""What the service manager is told from the start to the end of a daemon's life."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from daemon.core.lifecycle import State
from daemon.core.units import format_bytes
from daemon.service.notify import Notifier, watchdog_interval
from daemon.service.watchdog import INTERVAL, Extending, Sentinel, Status, Watchdog
from daemon.supervisor import Supervisor
from daemon.telemetry.bus import Bus


@dataclass(slots=True)
class Telling:
    """See the module. ``url`` is asked for when it is needed: the port may be chosen late.

    As a service without a watchdog (launchd has none) the process watches itself.
    """

    supervisor: Supervisor
    bus: Bus
    url: Callable[[], str]
    environ: Mapping[str, str]
    service: bool
    notifier: Notifier = field(default_factory=Notifier)
    _extending: Extending | None = None
    _status: Status | None = None
    _watchdog: Watchdog | None = None
    _unsubscribe: Callable[[], None] = lambda: None

    async def starting(self) -> None:
        """It may take a while: backends are taken over."""
        self._extending = Extending(self.notifier)
        await self._extending.begin()

    async def serves(self, *, stopping: bool = False) -> None:
        """Ready. Signs of life from now on, unless it is ``stopping`` already."""
        await self._at_rest()
        self.ready()
        if stopping:
            return
        self._status = Status(self.notifier, self.text)
        self._unsubscribe = self.bus.subscribe(self._status.changed)
        interval = watchdog_interval(self.environ, os.getpid())
        if interval is None and not self.service:
            return
        sentinel = None if interval is not None else Sentinel(INTERVAL)
        self._watchdog = Watchdog(self.notifier, interval or INTERVAL, self._healthy, sentinel)
        self._watchdog.start()

    def ready(self) -> None:
        """Also after a reload."""
        self.notifier.ready(self.text())

    def reloading(self) -> None:
        self.notifier.reloading()

    async def stopping(self) -> None:
        """Running requests finish. Signs of life go on: the loop may still get stuck."""
        await self._at_rest()
        self._unsubscribe()
        if self._status is not None:
            self._status.stop()
        self.notifier.stopping()
        self._extending = Extending(self.notifier)
        await self._extending.begin()

    async def stopped(self) -> None:
        await self._at_rest()
        if self._watchdog is not None:
            self._watchdog.stop()
        self.notifier.close()

    async def _at_rest(self) -> None:
        if self._extending is not None:
            await self._extending.end()
            self._extending = None

    def _healthy(self) -> str:
        """What is wrong with us; "": nothing is."""
        return "" if self.supervisor.answers() else "the scheduler does not come to an end"

    def text(self) -> str:
        """``2 models loaded, 17.2 GiB; serving on http://…``"""
        pages = self.supervisor.scheduler.pages
        resident = [name for name, page in pages.items() if page.state.resident]
        starting = sum(pages[name].state is State.STARTING for name in resident)
        loaded = len(resident) - starting
        words = (
            f"{loaded} model{'' if loaded == 1 else 's'} loaded" if loaded else "no model loaded"
        )
        words += f", {starting} loading" if starting else ""
        if resident:
            charged = (self.supervisor.scheduler.ledger.charged(name) for name in resident)
            words += f", {format_bytes(sum(sum(parts.values()) for parts in charged))}"
        words += ", paused" if self.supervisor.scheduler.paused is not None else ""
        return f"{words}; serving on {self.url()}"
