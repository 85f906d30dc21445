"""Being told to end, once or twice, and what becomes of the processes of models then."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Literal

from daemon.backends.backend import Backend
from daemon.config.settings import Settings
from daemon.core.messages import Ask, OperatorAsked
from daemon.supervisor import Supervisor


class Ending:
    """Whether the daemon is to end, and whether at once. ``told``: it is to end."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self._stops = 0
        self._hurry = asyncio.Event()

    def stop(self) -> None:
        """Stop in good order; the second time at once."""
        self._stops += 1
        self.told.set()
        if self._stops > 1:
            self._hurry.set()

    async def unless_hurried(self, work: Coroutine[Any, Any, bool]) -> None:
        """Wait for this, but no longer than until somebody is in a hurry."""
        task = asyncio.create_task(work)
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({task, hurry}, return_when=asyncio.FIRST_COMPLETED)
        for other in (task, hurry):
            other.cancel()
        await asyncio.gather(task, hurry, return_exceptions=True)


async def end_backends(
    supervisor: Supervisor,
    settings: Settings,
    mode: Literal["foreground", "service"],
    ending: Ending,
) -> None:
    """In the foreground nothing outlives us; as a service the keepers wait for a successor."""
    runs = [run for run in supervisor.backends.values() if isinstance(run, Backend)]
    if mode == "service" and settings.service.keep_backends:
        await asyncio.gather(*(run.detach() for run in runs))
        return
    supervisor.tell(OperatorAsked(Ask.UNLOAD, force=True))
    timing = settings.timing
    ladder = timing.stop_grace + timing.kill_grace + timing.reap_timeout
    await ending.unless_hurried(supervisor.all_gone(ladder))
    if supervisor.backends:
        for run in runs:
            run.kill()
        await supervisor.all_gone(timing.reap_timeout)
    await asyncio.gather(*(run.closed() for run in runs), return_exceptions=True)
