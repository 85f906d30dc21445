"""What to do after a backend died: again, again but smaller, or not any more."""

from __future__ import annotations

from dataclasses import dataclass, field
from zlib import crc32

from daemon.core.messages import ExitClass
from daemon.core.policy import Policy


@dataclass(frozen=True, slots=True)
class Retry:
    """Start it again, at the earliest at ``at``; ``smaller``: with the next variant."""

    at: float
    smaller: bool = False


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Not again before ``half_open`` (None: only after a change or an operator's word)."""

    half_open: float | None


@dataclass(slots=True)
class History:
    """A model's recent deaths (monotonic seconds), the breaker's memory."""

    crashes: list[float] = field(default_factory=list)
    consecutive: int = 0
    ports: int = 0

    def clear(self) -> None:
        self.crashes.clear()
        self.consecutive = 0
        self.ports = 0


def jitter(model: str, generation: int, share: float) -> float:
    """A factor within 1 ± share, the same for the same start: decisions stay reproducible."""
    unit = crc32(f"{model}/{generation}".encode()) / 0xFFFFFFFF
    return 1.0 + share * (2.0 * unit - 1.0)


def after_exit(
    history: History,
    exit_class: ExitClass,
    *,
    model: str,
    generation: int,
    now: float,
    ready_for: float,
    policy: Policy,
) -> Retry | GiveUp:
    """Decide, and write the death into ``history``. ``ready_for``: seconds that it had served."""
    if exit_class is ExitClass.PERMANENT:
        return GiveUp(None)
    if exit_class is ExitClass.PORT and history.ports < policy.port_retries:
        history.ports += 1
        return Retry(now)
    if ready_for >= policy.healthy_after:
        history.clear()
    history.consecutive += 1
    history.crashes = [t for t in history.crashes if now - t < policy.breaker_window] + [now]
    if exit_class is ExitClass.OUT_OF_MEMORY:
        return Retry(now + policy.backoff, smaller=True)
    if len(history.crashes) >= policy.breaker_crashes:
        return GiveUp(now + policy.half_open)
    doublings = min(history.consecutive - 1, 64)  # a float overflows after 1023
    delay = min(policy.backoff_max, policy.backoff * 2.0**doublings)
    return Retry(now + delay * jitter(model, generation, policy.backoff_jitter))
