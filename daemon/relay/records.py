"""What is told of a request once it is over, for access log, metrics and history."""

from __future__ import annotations

import msgspec


class RequestRecord(msgspec.Struct, frozen=True, gc=False):
    """One request. Times are in seconds, counted from its complete head; None: never came to it.

    ``path`` is as it was sent, never decoded. ``status`` 499: the client left before an answer.
    ``bytes_in`` is the body's size, ``bytes_out`` what was written, heads and chunk frames too.
    """

    request_id: str
    method: str
    path: str
    model: str
    status: int
    outcome: str
    bytes_in: int
    bytes_out: int
    queue: float | None
    first_byte: float | None
    total: float
    attempts: int
    peer: str
    client: str


CLIENT_LEFT = 499
"""nginx's number for it; never sent."""


class Trace:
    """What is counted and timed while a request is served. Times are ``time.monotonic``'s:
    uvloop's own clock stands still within a turn of the loop."""

    __slots__ = ("attempt", "bytes_in", "bytes_out", "first_at", "leased_at", "start", "status")

    def __init__(self, start: float) -> None:
        self.start = start
        self.leased_at: float | None = None
        self.first_at: float | None = None
        self.status = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.attempt = 1

    def record(
        self,
        now: float,
        *,
        request_id: str,
        method: str,
        path: str,
        model: str,
        outcome: str,
        peer: str,
        client: str,
    ) -> RequestRecord:
        """The finished record, as of ``now``."""
        return RequestRecord(
            request_id=request_id,
            method=method,
            path=path,
            model=model,
            status=self.status or CLIENT_LEFT,
            outcome=outcome,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            queue=None if self.leased_at is None else self.leased_at - self.start,
            first_byte=None if self.first_at is None else self.first_at - self.start,
            total=now - self.start,
            attempts=self.attempt,
            peer=peer,
            client=client,
        )
