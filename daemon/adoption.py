"""What an earlier daemon left: taken over as a service, ended in the foreground.

Adoption is a reconnect: the keeper says what it runs, and only what would be started today in
exactly the same way, and answers a real request, is taken over. Nothing is guessed from pids.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Literal

from daemon.backends.backend import Backend
from daemon.backends.keeping import Keeper, KeeperError
from daemon.backends.leftovers import Record, reap, records
from daemon.backends.stock import Stock
from daemon.core.messages import BackendAdopted
from daemon.supervisor import Supervisor

log = logging.getLogger("modelport.adoption")


async def settle_leftovers(
    directory: Path,
    mode: Literal["foreground", "service"],
    stock: Stock,
    supervisor: Supervisor,
    deadline: float,
) -> None:
    """Deal with every keeper and engine that is still there, each within ``deadline`` seconds."""
    found = await asyncio.to_thread(records, directory)
    results = await asyncio.gather(
        *(_settle(record, mode, stock, supervisor, deadline) for record in found),
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
    deadline: float,
) -> None:
    if mode == "service":
        adopted = await _adopt(record, stock, supervisor, deadline)
        if adopted:
            return
    await _end(record, deadline)


async def _adopt(record: Record, stock: Stock, supervisor: Supervisor, deadline: float) -> bool:
    resumed: Backend | None = None

    def early(event: object) -> None:  # told before the backend that wants to know exists
        if resumed is not None:
            resumed.on_event(event)  # type: ignore[arg-type]

    try:
        keeper = await Keeper.adopt(record.socket, on_event=early)
    except KeeperError as error:
        log.info("%s is not adopted: %s", record.backend, error)
        return False
    hello = keeper.hello
    resumed = stock.resume(keeper, supervisor.tell)
    ended = hello.error or hello.exit or hello.gone
    alive = resumed is not None and not ended and await resumed.answers_now(deadline)
    # Asked only now: it may have died since, and of two for one model the first is taken over.
    if resumed is None or not alive or resumed.died or resumed.model in supervisor.backends:
        log.info("%s is not adopted: it is not what would be started now", record.backend)
        keeper.kill()
        await keeper.wait_gone(deadline)
        await keeper.close()
        return True
    supervisor.adopt(resumed.model, resumed)
    supervisor.tell(BackendAdopted(resumed.model, resumed.generation, resumed.variant))
    return True


async def _end(record: Record, deadline: float) -> None:
    """Its keeper ends it; where that is gone too, the record proves which process it was."""
    try:
        keeper = await Keeper.adopt(record.socket, on_event=lambda event: None)
    except KeeperError:
        verdict = await asyncio.to_thread(reap, record)
        log.info("leftover %s: %s", record.backend, verdict.value)
        return
    keeper.kill()
    gone = await keeper.wait_gone(deadline)
    await keeper.close()
    log.info("leftover %s: %s", record.backend, "ended" if gone else "did not end in time")
