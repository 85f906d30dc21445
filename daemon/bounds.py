"""What the settings come to for each part of the daemon: who is let in, how long is waited."""

from __future__ import annotations

import logging

from daemon.backends.counters import Patience as CountPatience
from daemon.config.settings import Settings
from daemon.keys import Keys
from daemon.logs.files import RotatingHandler
from daemon.relay.guard import Guard
from daemon.relay.limits import Limits

SILENCE = 3.0  # rounds of looking at memory that may be late before that is taken for sleep
LOADING_POLL = 0.1  # seconds; a backend that says it is loading is asked again, not hammered


def guard_of(settings: Settings, keys: Keys) -> Guard:
    """Who is let in, as configured and by the keys that there are."""
    return Guard(
        hosts=settings.server.hosts,
        cors_origins=settings.server.cors_origins,
        keys=keys.ring,
        failures=keys.failures,
        keyless=keys.insecure,
    )


def follow_logs(settings: Settings) -> None:
    """The daemon's own log as configured now; those of backends follow at their next start."""
    logs, root = settings.logs, logging.getLogger()
    root.setLevel(logs.level.upper())
    for handler in root.handlers:
        if isinstance(handler, RotatingHandler):
            handler.max_bytes, handler.keep = logs.max_size, logs.keep
            handler.form = logs.format


def wake_gap(settings: Settings) -> float:
    """How long a silence of the clock is sleep: longer than it is silent by itself."""
    timing = settings.timing
    return max(timing.wake_gap, SILENCE * min(timing.memory_sample, timing.machine_sample))


def count_patience(settings: Settings) -> CountPatience:
    """How long counting may take, as configured."""
    return CountPatience(settings.timing.count_wait, settings.timing.count_idle)


def relay_limits(settings: Settings) -> Limits:
    """The data plane's limits as configured."""
    timing = settings.timing
    return Limits(
        body_bytes=settings.server.body_limit,
        head_timeout=timing.header_timeout,
        idle_timeout=timing.client_idle,
        body_silence=timing.body_stall,
        write_stall=timing.write_stall,
        linger=timing.close_linger,
        connect_timeout=timing.connect_timeout,
        loading_poll=max(timing.ready_poll, LOADING_POLL),
        loading_wait=timing.start_stall,
        pool_idle=timing.upstream_idle,
        stream_keepalive=timing.stream_keepalive,
        loading_text=timing.loading_text,
        tick=timing.sweep,
        late=timing.auth_delay,
        retry_after_drain=timing.shutdown_retry,
        retry_after_lost=timing.lost_retry,
        retry_after_max=timing.retry_after_max,
    )
