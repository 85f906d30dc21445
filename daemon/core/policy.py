"""The numbers that decisions go by. Every duration (seconds) can be set; the defaults are the
design's, found by simulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MemoryPolicy = Literal["wait", "wait_then_fail", "preempt"]
"""A claim whose victims stay busy: waits, gives up, or has their requests cut short."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Constants of scheduling and of restarts."""

    settle: float = 5.0  # longest wait for a dead process's memory to be seen back
    settle_share: float = 0.75  # of its bytes, seen back: settled
    unsettled_pools: frozenset[str] = frozenset({"ram"})  # given back by the kernel with the exit
    recent: float = 600.0  # a backend used within this is not shrunk away or pushed out lightly
    quantum_min: float = 2.0
    quantum_max: float = 60.0
    quantum_factor: float = 2.0
    linger_factor: float = 2.0  # of the usual gap between two requests
    linger_min: float = 0.5
    linger_max: float = 8.0
    linger_share: float = 0.5  # of a reload: waiting longer than that costs more than it saves
    priority_seconds: float = 30.0  # one step of priority counts as this much age
    priority_max: float = 60.0  # and all steps together as less than this: nobody starves
    memory_policy: MemoryPolicy = "wait"
    memory_wait: float = 60.0  # how long a claim bears busy victims, unless it just waits
    max_drain: float | None = None  # a longer drain has its requests ended; None: never
    small_evicts: bool = False  # whether small calls make models leave that are in use
    hard_factor: float = 1.5  # a backend this much over its first size is started anew
    pressure_clear: float = 60.0  # memory must be free this long before anything comes back
    thrash_window: float = 300.0
    thrash_warn: float = 0.4  # a larger share of that window spent starting is worth a warning
    queue_total: int = 4096
    queue_model: int = 2048
    queue_client: int = 512
    queue_bytes: int = 256 << 20
    backoff: float = 1.0
    backoff_max: float = 60.0
    backoff_jitter: float = 0.2
    breaker_crashes: int = 5
    breaker_window: float = 600.0
    half_open: float = 300.0
    port_retries: int = 3
    healthy_after: float = 600.0  # ready this long: earlier crashes are forgotten
    healthy_answers: int = 20  # or, in a fifth of it, after so many good answers
    memory_attempts: int = 3  # starts that one request waits for while they run out of memory
    climb_back: float = 86400.0  # after it a model on the ladder may try its full size again

    def bonus(self, priority: float) -> float:
        """Seconds of age that a priority is worth, negative for one below zero.

        The first steps count in full; then each is worth less, so that the order of priorities
        stays and no distance between two of them reaches the usual patience of a queue.
        """
        seconds, half = abs(priority) * self.priority_seconds, self.priority_max / 2
        if seconds > half:
            seconds = self.priority_max - half * half / seconds
        return seconds if priority > 0 else -seconds
