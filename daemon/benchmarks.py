"""What ``ctl bench`` has measured, with how the model was served: kept in the history."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from daemon.backends.backend import Backend
from daemon.backends.prepare import Prepared
from daemon.core.problems import Code, Problem, ProblemError
from daemon.supervisor import Supervisor
from daemon.telemetry.history import History, HistoryError
from daemon.verdicts import Served
from daemon.views import BenchView, MeasuredView


@dataclass(slots=True)
class Benchmarks:
    """The measurements in ``path``. For the event loop; one call at a time touches the file.
    ``now``: seconds since the epoch."""

    path: Path
    now: Callable[[], float] = time.time
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def keep(self, bench: BenchView) -> BenchView:
        """Raises ProblemError where the disk refuses."""
        async with self._turn:
            try:
                return await asyncio.to_thread(History(self.path).add_bench, bench)
            except HistoryError as error:
                raise _refused(error, "kept") from None

    async def of(self, model: str | None, limit: int) -> list[BenchView]:
        """The newest first; None: of all models. Raises ProblemError."""
        async with self._turn:
            try:
                return await asyncio.to_thread(History(self.path).benches, model, limit)
            except HistoryError as error:
                raise _refused(error, "read") from None


def _refused(error: HistoryError, what: str) -> ProblemError:
    text = f"The history cannot be {what}: {error}."
    return ProblemError(Problem(Code.INTERNAL, text, "`ctl doctor` looks at the disk."))


def bench_of(
    item: Prepared, supervisor: Supervisor, measured: MeasuredView, at: float, modelport: str
) -> BenchView:
    """A measurement of a model as it is served: by its backend, else as it would be started."""
    model, best, served = item.model, item.best, Served.of(item)
    run = supervisor.backends.get(model.name)
    charged = dict(supervisor.scheduler.ledger.charged(model.name))
    live = run if isinstance(run, Backend) else None
    weights = item.weights
    return BenchView(
        id=0,
        at=at,
        model=model.name,
        kind=item.kind,
        engine=live.engine.name if live is not None else served.engine,
        version=live.installed.version if live is not None else served.version,
        quant=(weights.quantisation if weights else model.quant) or "",
        source=served.source,
        context=live.plan.running.ctx if live is not None else best.ctx if best else None,
        slots=live.plan.running.slots if live is not None else model.slots,
        footprint={pool: amount for pool, amount in charged.items() if amount},
        taken=live.measured if live is not None else None,
        modelport=modelport,
        measured=measured,
    )
