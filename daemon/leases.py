"""The relay's side of what the supervisor gives and keeps waiting: leases, waits, early wishes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daemon.core.messages import Outcome, Ticket
from daemon.core.problems import Problem
from daemon.dialects.manner import Manner
from daemon.ports import Edits, Hold, Lease, Target, Waiting, Waits, Wish

if TYPE_CHECKING:
    from daemon.supervisor import Supervisor


@dataclass(slots=True)
class Held:
    """A lease: the relay's side of a grant."""

    ticket: Ticket
    hold: Hold
    generation: int
    slot: int
    model: str  # whose backend serves it: a stand-in's, where the ticket's own is not ready
    granted: float
    mark: Callable[[], str]
    _supervisor: Supervisor
    status: int = 0
    rescued: int = 0
    sent: Callable[[], int] | None = None
    on_cancel: Callable[[Problem], None] | None = None
    taken_back: bool = False  # by the core, which knows why
    _over: bool = False

    @property
    def upstream_model(self) -> str:
        return self.hold.upstream_model

    @property
    def target(self) -> Target:
        return self.hold.target

    @property
    def headers(self) -> Mapping[str, str]:
        return self.hold.headers

    @property
    def keep_query(self) -> bool:
        return self.hold.keep_query

    @property
    def edits(self) -> Edits | None:
        """See ``Lease``: as configured now, not when its backend was started."""
        stock = self._supervisor.stock
        return None if stock is None else stock.edits(self.model)

    @property
    def manner(self) -> Manner | None:
        """See ``Lease``: as configured now."""
        stock = self._supervisor.stock
        return None if stock is None else stock.manner(self.model)

    @property
    def arrived(self) -> float:
        return self.ticket.arrived

    def waits(self) -> Waits | None:
        """See ``Lease``."""
        return self._supervisor.starts.waits(self.model, self.arrived, self.granted)

    def suspect(self) -> bool:
        """See ``Lease``."""
        # Of crashes before its own: the exit that it just lost its backend by may be known already.
        return self._supervisor.accidents.suspect(self.mark, self.granted)

    def end(self, outcome: Outcome) -> None:
        if not self._over:
            self._over = True
            self.on_cancel = None
            self._supervisor.ended(self, outcome)


@dataclass(slots=True)
class Queued:
    """A wish that waits for its grant."""

    ticket: Ticket
    done: Callable[[Lease | Problem], None]
    _supervisor: Supervisor
    mark: Callable[[], str] = str
    timer: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        self._supervisor.cancelled(self)


@dataclass(slots=True)
class Early:
    """A wish that came before the models were known."""

    wish: Wish
    done: Callable[[Lease | Problem], None]
    _supervisor: Supervisor
    inner: Waiting | None = None

    def cancel(self) -> None:
        if self.inner is not None:
            self.inner.cancel()
        else:
            self._supervisor.forget_early(self)
