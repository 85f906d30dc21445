"""The control plane as one more upstream: what stands for a lease on it. It waits for nothing, and
nothing of it is counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from daemon.core.messages import Outcome
from daemon.core.problems import Problem
from daemon.dialects.manner import Manner
from daemon.ports import Edits, Hold, Target, Waits


@dataclass(slots=True)
class Backstage:
    """See ``Lease``. ``hold``: the socket, and the headers that state who asks."""

    hold: Hold
    status: int = 0
    rescued: int = 0
    on_cancel: Callable[[Problem], None] | None = None
    sent: Callable[[], int] | None = None
    model: str = ""
    upstream_model: str = ""
    edits: Edits | None = None
    manner: Manner | None = None
    arrived: float = 0.0

    @property
    def target(self) -> Target:
        return self.hold.target

    @property
    def headers(self) -> Mapping[str, str]:
        return self.hold.headers

    @property
    def keep_query(self) -> bool:
        return self.hold.keep_query

    def waits(self) -> Waits | None:
        """See ``Lease``."""
        return None

    def suspect(self) -> bool:
        """See ``Lease``."""
        return False

    def end(self, outcome: Outcome) -> None:
        """See ``Lease``: nobody waits for it."""
