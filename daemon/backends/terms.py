"""What one backend's life is bound by: its waits, its files, the steps of its start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Timing:
    """The waits of a backend's life, in seconds (``[timing]``)."""

    start_stall: float
    ready_poll: float
    health_timeout: float
    probe_timeout: float
    stop_grace: float
    kill_grace: float
    keeper_start: float
    keeper_grace: float
    keeper_connect: float
    keeper_lost: float


@dataclass(frozen=True, slots=True)
class Places:
    """Where the files of one backend go."""

    socket: Path
    record: Path
    log: Path
    log_max_bytes: int
    log_keep: int
    cwd: Path


@dataclass(slots=True)
class Timeline:
    """When the steps of a start were done (monotonic seconds; 0: not yet)."""

    ordered: float = 0.0
    spawned: float = 0.0
    healthy: float = 0.0
    ready: float = 0.0
