"""Settings as the parts below want them: plain values for the core and for backends. Pure."""

from __future__ import annotations

from daemon.backends.terms import Timing
from daemon.config.settings import Settings
from daemon.config.types import Share
from daemon.core.policy import Policy
from daemon.downloads.pull import Patience


def policy(settings: Settings) -> Policy:
    """The scheduler's constants."""
    timing = settings.timing
    return Policy(
        memory_policy=settings.memory.policy,
        memory_wait=timing.memory_wait,
        max_drain=settings.memory.max_drain,
        small_evicts=settings.server.small_evicts,
        pressure_clear=timing.pressure_clear,
        thrash_window=timing.thrash_window,
        settle=timing.settle,
        recent=timing.recent_use,
        quantum_min=timing.quantum_min,
        quantum_max=timing.quantum_max,
        linger_min=timing.linger_min,
        linger_max=timing.linger_max,
        backoff=timing.backoff,
        backoff_max=timing.backoff_max,
        breaker_crashes=timing.breaker.count,
        breaker_window=timing.breaker.window,
        half_open=timing.breaker_retry,
        healthy_after=timing.backoff_reset,
        climb_back=timing.climb_back,
    )


def backend_timing(settings: Settings) -> Timing:
    """The waits of a backend's life."""
    timing = settings.timing
    return Timing(
        start_stall=timing.start_stall,
        ready_poll=timing.ready_poll,
        health_timeout=timing.health_timeout,
        probe_timeout=timing.probe_timeout,
        stop_grace=timing.stop_grace,
        kill_grace=timing.kill_grace,
        keeper_start=timing.keeper_start,
        keeper_grace=timing.keeper_grace,
        keeper_connect=timing.keeper_connect,
        keeper_lost=timing.keeper_lost,
    )


def patience(settings: Settings) -> Patience:
    """How long a download tries."""
    timing = settings.timing
    return Patience(stall=timing.download_stall, retry=timing.download_retry)


def budget_text(settings: Settings) -> str | dict[str, str] | None:
    """``memory.budget`` as text per pool; None: from the machine."""
    setting = settings.memory.budget
    if setting is None:
        return None
    if isinstance(setting, int | Share):
        return _amount(setting)
    return {pool: _amount(amount) for pool, amount in setting.items()}


def _amount(amount: int | Share) -> str:
    if isinstance(amount, int):
        return str(amount)
    percent = max(amount.percent, 0.001)  # the machine reads three digits
    return f"{percent:.3f}".rstrip("0").rstrip(".") + "%"
