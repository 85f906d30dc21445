"""``[timing]``: every wait of the program, in seconds, so that tests can shorten them."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from daemon.config.base import Part
from daemon.config.types import Interval, Seconds, Whole, refuse


class Breaker(Part):
    """How many crashes in which time open the circuit of a model."""

    count: Whole = Field(default=5, ge=1, le=1000, description="Crashes that open the circuit.")
    window: Seconds = Field(default=600.0, description="Time within which they are counted.")


def _read_breaker(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d{1,6})\s+in\s+(.+)", value)
    if match is None:
        raise refuse('"5 in 600 s", or a table of count and window')
    return {"count": int(match[1]), "window": match[2]}


BreakerSetting = Annotated[
    Breaker,
    BeforeValidator(_read_breaker),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "examples": ["5 in 600 s"]},
                {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "count": {"type": "integer", "description": "Crashes that open it."},
                        "window": {"type": ["number", "string"], "description": "In which time."},
                    },
                },
            ]
        }
    ),
]


def _seconds(default: float, description: str) -> Any:
    return Field(default=default, description=description)


class Timing(Part):
    """Every wait. All values are seconds once read."""

    # a backend's life
    start_stall: Seconds = _seconds(120.0, "A start without any progress for this long has hung.")
    answer_stall: Seconds = _seconds(120.0, "Requests in flight, no byte and no work: hung.")
    ready_poll: Interval = _seconds(0.01, "Between two looks at whether an engine is up.")
    probe_timeout: Seconds = _seconds(60.0, "A loaded engine answers its first request within.")
    health_timeout: Seconds = _seconds(2.0, "One look at an engine's health address.")
    liveness_interval: Interval = _seconds(5.0, "Between two checks of a running backend.")
    stop_grace: Seconds = _seconds(8.0, "From the first TERM to the second.")
    kill_grace: Seconds = _seconds(2.0, "From the second TERM to KILL of the group.")
    reap_timeout: Seconds = _seconds(15.0, "After KILL, until the process must be gone.")
    keeper_start: Seconds = _seconds(5.0, "Until a new keeper must have answered.")
    keeper_grace: Seconds = _seconds(60.0, "How long backends outlive the daemon as a service.")
    keeper_connect: Seconds = _seconds(10.0, "A new keeper waits for its daemon so long.")
    keeper_lost: Seconds = _seconds(1.0, "From TERM to KILL for what lost its daemon or engine.")
    adopt_timeout: Seconds = _seconds(5.0, "For a keeper and its engine to answer at a take-over.")
    drain_grace: Seconds = _seconds(20.0, "Running requests may finish when the daemon stops.")
    wake_gap: Seconds = _seconds(30.0, "A longer gap between ticks means the machine slept.")
    # failures
    backoff: Seconds = _seconds(1.0, "Before the first restart after a crash; then doubled.")
    backoff_max: Seconds = _seconds(60.0, "The longest pause between two restarts.")
    backoff_reset: Seconds = _seconds(600.0, "After this long without a crash it is forgotten.")
    breaker: BreakerSetting = Field(
        default=Breaker(count=5, window=600.0), description="Crashes that end the restarts."
    )
    breaker_retry: Seconds = _seconds(300.0, "An open circuit allows one try this often.")
    poison_window: Seconds = _seconds(600.0, "Two crashes by the same body in it: refused.")
    climb_back: Seconds = _seconds(86400.0, "After it a degraded model may try its full size.")
    # the schedule
    settle: Seconds = _seconds(5.0, "The longest wait for the memory of a process that ended.")
    settle_poll: Interval = _seconds(0.02, "Between two looks at memory while something settles.")
    linger_min: Seconds = _seconds(0.5, "An idle model stays at least this long.")
    linger_max: Seconds = _seconds(8.0, "An idle model lingers at most this long for its client.")
    quantum_min: Seconds = _seconds(2.0, "The shortest turn of a busy model.")
    quantum_max: Seconds = _seconds(60.0, "The longest turn of a busy model.")
    memory_wait: Seconds = _seconds(
        60.0, "How long a request bears busy models; see memory.policy (wait: no limit)."
    )
    recent_use: Seconds = _seconds(600.0, "A backend used within it is not pushed out to grow.")
    thrash_window: Seconds = _seconds(300.0, "Time over which the share of starting is told.")
    pressure_clear: Seconds = _seconds(60.0, "Memory must be free this long before a return.")
    # memory and machine
    memory_sample: Interval = _seconds(2.0, "Between two looks at the memory of each backend.")
    machine_sample: Interval = _seconds(5.0, "Between two looks at the memory of the machine.")
    machine_probe: Seconds = _seconds(10.0, "For a program that says what the machine has.")
    engine_probe: Seconds = _seconds(30.0, "For an engine to tell its version and its flags.")
    # clients
    header_timeout: Seconds = _seconds(15.0, "For a client to send the head of a request.")
    body_stall: Seconds = _seconds(30.0, "A body that brings no byte for this long is refused.")
    client_idle: Seconds = _seconds(75.0, "An idle connection of a client is closed.")
    write_stall: Seconds = _seconds(60.0, "A client that reads nothing for this long is cut.")
    stream_keepalive: Interval = _seconds(15.0, "Silence before a sign of life in a stream.")
    loading_text: Interval = _seconds(3.0, "Between two lines of the loading status.")
    close_linger: Seconds = _seconds(2.0, "A connection that is being closed may still drain.")
    sweep: Interval = _seconds(0.5, "Between two looks at the deadlines of connections.")
    retry_after_max: Seconds = _seconds(30.0, "The longest Retry-After that is sent.")
    shutdown_retry: Seconds = _seconds(5.0, "The Retry-After while the daemon stops.")
    lost_retry: Seconds = _seconds(1.0, "The Retry-After once a backend was lost.")
    auth_window: Seconds = _seconds(60.0, "Wrong keys are counted over it, per address.")
    auth_delay: Seconds = _seconds(1.0, "Added to answers once too many keys were wrong.")
    keys_poll: Interval = Field(
        default=10.0, description="Between two looks at the file of keys, for edits by hand."
    )
    keys_noted: Interval = Field(
        default=60.0, description="Between two writes of when keys were used last."
    )
    count_wait: Seconds = _seconds(5.0, "Tokens that are not counted by then are estimated.")
    count_idle: Seconds = _seconds(60.0, "A tokenizer that has counted nothing for this long ends.")
    # other machines
    address_poll: Interval = _seconds(10.0, "Between two looks at the addresses of the machine.")
    certificate_life: Seconds = _seconds(800 * 86400.0, "How long a self-made one is good.")
    certificate_renewal: Seconds = _seconds(30 * 86400.0, "It is made anew so long before its end.")
    certificate_make: Seconds = _seconds(30.0, "For the program that makes or reads one.")
    announce: Seconds = _seconds(
        5.0, "For announcing the server on the network, and for ending it."
    )
    # upstream and control
    connect_timeout: Seconds = _seconds(5.0, "To connect to a backend.")
    upstream_idle: Seconds = _seconds(60.0, "An idle connection to a backend is closed.")
    event_keepalive: Interval = Field(
        default=15.0, le=30.0, description="Silence before a sign of life in events and progress."
    )
    # sleep and power
    sleep_hold: Seconds = _seconds(10.0, "Work lasts so long before idle sleep is held off.")
    sleep_release: Seconds = _seconds(30.0, "Without work so long, the machine may sleep again.")
    power_poll: Interval = _seconds(60.0, "Between two looks at where power comes from.")
    # downloads and housekeeping
    discovery_wait: Seconds = _seconds(
        5.0, "A request for an unknown name waits so long while the disk is looked at."
    )
    discovery_pause: Seconds = _seconds(2.0, "Between two looks for unknown names.")
    download_stall: Seconds = _seconds(240.0, "A download without a byte for this long stops.")
    download_retry: Seconds = _seconds(5.0, "Before a stalled download goes on; then doubled.")
    housekeeping: Interval = _seconds(3600.0, "Between two rounds of pruning and tidying.")
    schedule_grace: Seconds = _seconds(
        3600.0, "A load of the calendar that the machine slept through is done up to so much later."
    )
    flush: Interval = _seconds(1.0, "The longest that history and logs stay unwritten.")
    disk_retry: Interval = _seconds(15.0, "Before state that a full disk refused is tried again.")
