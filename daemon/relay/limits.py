"""Every size and duration of the data plane, in one place: bytes and seconds."""

from __future__ import annotations

import resource
from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, one request and one backend may take. Bytes and seconds.

    Durations are looked at every ``tick``, so each ends at most one tick late: one timer for the
    whole front instead of several per request.
    """

    # a client's request
    head_bytes: int = 64 * KIB
    head_fields: int = 100
    body_bytes: int = 64 * MIB
    body_chunks: int = 131_072  # one-byte chunks would cost far more time than their bytes
    trailer_bytes: int = 8 * KIB
    pipeline_bytes: int = 256 * KIB  # read ahead while a request is being served
    head_timeout: float = 15.0  # first byte of a head to its last
    idle_timeout: float = 75.0  # between two requests
    body_silence: float = 30.0  # without a byte of a body
    body_rate: float = 1024.0  # bytes per second, on average, once body_silence has passed
    # a client's reading
    write_high: int = 256 * KIB  # above this the backend is no longer read
    write_low: int = 64 * KIB
    write_stall: float = 60.0  # with next to nothing taken by the client
    write_rate: float = 1024.0  # bytes per second, on average, over write_stall
    linger: float = 2.0  # how long a closing connection may still be flushed and drained
    linger_bytes: int = 16 * MIB  # what is read and dropped meanwhile
    # all clients
    connections: int = 4096
    connections_per_peer: int = 64  # for each address that is not loopback
    # a backend
    connect_timeout: float = 5.0
    loading_poll: float = 0.1  # between two looks at one that says that it is still loading
    loading_wait: float = 120.0  # how long that may go on
    answer_head_bytes: int = 64 * KIB
    answer_head_fields: int = 100
    pool_idle: float = 60.0
    pool_size: int = 64  # idle connections kept for each backend
    answer_bytes: int = 64 * MIB  # of a whole answer that is put into the client's dialect
    # signs of life, to clients that asked for a stream
    stream_keepalive: float = 15.0  # of silence
    loading_text: float = 3.0  # between two lines of the loading status
    # the sweeps
    tick: float = 0.5
    late: float = 1.0  # before one more refusal to who has had too many
    # what a client is told
    retry_after_drain: float = 5.0
    retry_after_lost: float = 1.0
    retry_after_max: float = 30.0


_OWN = 64  # descriptors that are neither a client's nor a client's backend's


def room(limits: Limits, descriptors: int) -> int:
    """Clients that there is room for: each may need a connection to a backend, too."""
    if descriptors == resource.RLIM_INFINITY:
        return limits.connections
    return min(limits.connections, max(8, (descriptors - _OWN) // 2))
