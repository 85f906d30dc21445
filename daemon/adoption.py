"""What an earlier daemon left: taken over as a service, ended in the foreground.

Adoption is a reconnect: the keeper says what it runs, and only what would be started today in
exactly the same way, and answers a real request or is at work, is taken over. Nothing is guessed
from pids.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from daemon.backends.backend import Backend
from daemon.backends.keeping import (
    Exited,
    Keeper,
    KeeperError,
    KeeperEvent,
    LogTrouble,
)
from daemon.backends.leftovers import Record, reap, records, sweep
from daemon.backends.readiness import Found
from daemon.backends.stock import Stock
from daemon.config.settings import Settings
from daemon.core.messages import BackendAdopted
from daemon.supervisor import Supervisor

log = logging.getLogger("modelport.adoption")


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds. ``adopt``: for a keeper to say what it runs, and for its engine to answer.
    ``reap``: from the order to end it until nothing of it is left."""

    adopt: float
    reap: float

    @classmethod
    def of(cls, settings: Settings) -> Waits:
        """As configured."""
        return cls(adopt=settings.timing.adopt_timeout, reap=settings.timing.reap_timeout)


Missed = Callable[[str, int, Mapping[str, Any], Exited], None]
"""Told of an end that no daemon has seen: model, generation, facts of its start, how."""
Doubt = Callable[[str, int, str], None]
"""Told of one that was taken over at work, without an answer: model, generation, why it is to be
looked after."""


async def settle_leftovers(
    directory: Path,
    mode: Literal["foreground", "service"],
    stock: Stock,
    supervisor: Supervisor,
    waits: Waits,
    missed: Missed = lambda model, generation, facts, end: None,
    doubt: Doubt = lambda model, generation, why: None,
) -> None:
    """Deal with every keeper and engine that is still there, all at the same time."""
    await asyncio.to_thread(sweep, directory)  # before anything of ours is begun there
    found = await asyncio.to_thread(records, directory)
    settling = _Settling(mode, stock, supervisor, waits, missed, doubt)
    results = await asyncio.gather(
        *(settling.settle(record) for record in found), return_exceptions=True
    )
    for record, result in zip(found, results, strict=True):
        if isinstance(result, BaseException):
            log.error("leftover %s: %r", record.backend, result)


@dataclass(frozen=True, slots=True)
class _Settling:
    """One daemon's way with leftovers."""

    mode: Literal["foreground", "service"]
    stock: Stock
    supervisor: Supervisor
    waits: Waits
    missed: Missed
    doubt: Doubt

    async def settle(self, record: Record) -> None:
        if record.exit is not None and await asyncio.to_thread(_left_alone, record):
            self.missed(record.backend, record.generation, record.facts, record.exit)
        if self.mode == "service" and await self._adopt(record):
            return
        await self._end(record)

    async def _adopt(self, record: Record) -> bool:
        resumed: Backend | None = None
        told: list[KeeperEvent] = []  # before the backend that wants to know exists

        def hear(event: KeeperEvent) -> None:
            (told.append if resumed is None else resumed.on_event)(event)

        try:
            keeper = await Keeper.adopt(record.socket, on_event=hear, patience=self.waits.adopt)
        except KeeperError as error:
            log.info("%s is not adopted: %s", record.backend, error)
            return False
        resumed = self.stock.resume(keeper, self.supervisor.tell)
        end = _by_itself(told)
        if (
            resumed is not None
            and end is not None
            and resumed.model not in self.supervisor.backends
        ):
            self._take_over(resumed, unattended=True)
            for event in told:
                resumed.on_event(event)
            return True
        hello = keeper.hello
        stopping = hello.error or hello.exit or hello.gone or hello.stopping
        ended = end is not None or stopping
        does = Found.FAILS
        if resumed is not None and not ended:
            does = await resumed.look_over(self.waits.adopt)
        # Asked only now: it may have died since, and of two for one model the first is taken over.
        if (
            resumed is None
            or does is Found.FAILS
            or resumed.died
            or resumed.model in self.supervisor.backends
        ):
            log.info("%s is not adopted: it is not what would be started now", record.backend)
            if end is not None:
                self._missed(keeper, end)
            await self._put_down(keeper, record)
            return True
        for event in told:
            if isinstance(event, LogTrouble):
                resumed.on_event(event)
        self._take_over(resumed)
        if does is Found.WORKS:
            why = f"it did not answer the daemon that took it over within {self.waits.adopt:g} s"
            self.doubt(resumed.model, resumed.generation, why)
        return True

    def _take_over(self, resumed: Backend, *, unattended: bool = False) -> None:
        """``unattended``: it is dead already, and its end is told next, as any other is."""
        resumed.unattended = unattended
        self.supervisor.adopt(resumed.model, resumed)
        self.supervisor.tell(BackendAdopted(resumed.model, resumed.generation, resumed.variant))

    async def _end(self, record: Record) -> None:
        """Its keeper ends it; where that is gone too, the record proves which process it was."""
        told: list[KeeperEvent] = []
        try:
            keeper = await Keeper.adopt(
                record.socket, on_event=told.append, patience=self.waits.adopt
            )
        except KeeperError:
            verdict = await asyncio.to_thread(reap, record)
            log.info("leftover %s: %s", record.backend, verdict.value)
            return
        if (end := _by_itself(told)) is not None:
            self._missed(keeper, end)
        gone = await self._put_down(keeper, record)
        log.info("leftover %s: %s", record.backend, "ended" if gone else "did not end in time")

    async def _put_down(self, keeper: Keeper, record: Record) -> bool:
        """Have its keeper end it; False if it is not gone in time."""
        keeper.kill()
        gone = await keeper.wait_gone(self.waits.reap)
        await keeper.close()
        if not gone and await asyncio.to_thread(_left_alone, record):  # killed at this work
            await asyncio.to_thread(reap, record)
            return True
        return gone

    def _missed(self, keeper: Keeper, end: Exited) -> None:
        self.missed(keeper.hello.backend, keeper.hello.generation, keeper.hello.facts, end)


def _left_alone(record: Record) -> bool:
    return not record.keeper_alive


def _by_itself(told: Sequence[KeeperEvent]) -> Exited | None:
    """The end among these events, unless its keeper had stopped it."""
    ends = [event for event in told if isinstance(event, Exited) and not event.stopped]
    return ends[0] if ends else None
