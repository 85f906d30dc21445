"""What an earlier daemon left: taken over as a service, ended in the foreground.

Adoption is a reconnect: the keeper says what it runs, and only what would be started today in
exactly the same way, and answers a real request, is taken over. Nothing is guessed from pids.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from daemon.backends.backend import Backend
from daemon.backends.keeping import Keeper, KeeperError
from daemon.backends.leftovers import Record, reap, records
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


async def settle_leftovers(
    directory: Path,
    mode: Literal["foreground", "service"],
    stock: Stock,
    supervisor: Supervisor,
    waits: Waits,
) -> None:
    """Deal with every keeper and engine that is still there, all at the same time."""
    found = await asyncio.to_thread(records, directory)
    results = await asyncio.gather(
        *(_settle(record, mode, stock, supervisor, waits) for record in found),
        return_exceptions=True,
    )
    for record, result in zip(found, results, strict=True):
        if isinstance(result, BaseException):
            log.error("leftover %s: %r", record.backend, result)


async def _settle(
    record: Record,
    mode: Literal["foreground", "service"],
    stock: Stock,
    supervisor: Supervisor,
    waits: Waits,
) -> None:
    if mode == "service":
        adopted = await _adopt(record, stock, supervisor, waits)
        if adopted:
            return
    await _end(record, waits)


async def _adopt(record: Record, stock: Stock, supervisor: Supervisor, waits: Waits) -> bool:
    resumed: Backend | None = None

    def early(event: object) -> None:  # told before the backend that wants to know exists
        if resumed is not None:
            resumed.on_event(event)  # type: ignore[arg-type]

    try:
        keeper = await Keeper.adopt(record.socket, on_event=early, patience=waits.adopt)
    except KeeperError as error:
        log.info("%s is not adopted: %s", record.backend, error)
        return False
    hello = keeper.hello
    resumed = stock.resume(keeper, supervisor.tell)
    ended = hello.error or hello.exit or hello.gone or hello.stopping
    alive = resumed is not None and not ended and await resumed.answers_now(waits.adopt)
    # Asked only now: it may have died since, and of two for one model the first is taken over.
    if resumed is None or not alive or resumed.died or resumed.model in supervisor.backends:
        log.info("%s is not adopted: it is not what would be started now", record.backend)
        keeper.kill()
        await keeper.wait_gone(waits.reap)
        await keeper.close()
        return True
    supervisor.adopt(resumed.model, resumed)
    supervisor.tell(BackendAdopted(resumed.model, resumed.generation, resumed.variant))
    return True


async def _end(record: Record, waits: Waits) -> None:
    """Its keeper ends it; where that is gone too, the record proves which process it was."""
    try:
        keeper = await Keeper.adopt(
            record.socket, on_event=lambda event: None, patience=waits.adopt
        )
    except KeeperError:
        verdict = await asyncio.to_thread(reap, record)
        log.info("leftover %s: %s", record.backend, verdict.value)
        return
    keeper.kill()
    gone = await keeper.wait_gone(waits.reap)
    await keeper.close()
    log.info("leftover %s: %s", record.backend, "ended" if gone else "did not end in time")
