"""What to do after a backend died: again, again but smaller, or not any more."""

from __future__ import annotations

from dataclasses import dataclass, field
from zlib import crc32

from daemon.core.messages import ExitClass
from daemon.core.policy import Policy

HEALTHY_SHARE = 0.2  # of ``Policy.healthy_after``, where many answers were good


@dataclass(frozen=True, slots=True)
class Retry:
    """Start it again, at the earliest at ``at``."""

    at: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Not again before ``half_open`` (None: only after a change or an operator's word)."""

    half_open: float | None


@dataclass(frozen=True, slots=True)
class Life:
    """How a backend had done until it died. ``served``: seconds that it was ready (None: never).
    ``good``: answers that it gave well. ``repeated``: see ``BackendExited``."""

    served: float | None = None
    good: int = 0
    repeated: bool = False

    def healthy(self, policy: Policy) -> bool:
        """Long or busy enough for earlier crashes to be forgotten."""
        if self.served is None:
            return False
        busy = self.good >= policy.healthy_answers
        return self.served >= policy.healthy_after * (HEALTHY_SHARE if busy else 1.0)


@dataclass(slots=True)
class History:
    """A model's recent deaths (monotonic seconds), the breaker's memory."""

    crashes: list[float] = field(default_factory=list)
    consecutive: int = 0
    ports: int = 0
    metal: int = 0  # starts that failed for want of Metal

    def clear(self) -> None:
        self.crashes.clear()
        self.consecutive = 0
        self.ports = 0
        self.metal = 0

    def count(self, now: float, window: float, *, repeated: bool) -> None:
        """One more crash; by a request that had ended one before, both count as one."""
        self.crashes = [t for t in self.crashes if now - t < window]
        if repeated and self.crashes:
            self.crashes.pop()
            self.consecutive = max(0, self.consecutive - 1)
        self.consecutive += 1
        self.crashes.append(now)


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
    life: Life,
    policy: Policy,
    smaller: bool = False,
) -> Retry | GiveUp:
    """Decide, and write the death into ``history``.

    ``smaller``: its memory was too short, and a smaller variant is left. That is no crash for the
    breaker: the ladder has an end of its own.
    """
    if smaller:
        return Retry(now + policy.backoff)
    if exit_class is ExitClass.PERMANENT:
        return GiveUp(None)
    if exit_class is ExitClass.METAL_INIT:
        if history.metal and not life.healthy(policy):
            return GiveUp(None)  # the shell has changed what can be changed
        history.metal += 1
        return Retry(now)
    if exit_class is ExitClass.PORT and history.ports < policy.port_retries:
        history.ports += 1
        return Retry(now)
    if exit_class is ExitClass.OUT_OF_MEMORY and life.served is None:
        return GiveUp(now + policy.half_open)  # the same start would end in the same way
    if life.healthy(policy):
        history.clear()
    history.count(now, policy.breaker_window, repeated=life.repeated)
    if len(history.crashes) >= policy.breaker_crashes:
        return GiveUp(now + policy.half_open)
    doublings = min(history.consecutive - 1, 64)  # a float overflows after 1023
    delay = min(policy.backoff_max, policy.backoff * 2.0**doublings)
    return Retry(now + delay * jitter(model, generation, policy.backoff_jitter))
