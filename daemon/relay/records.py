"""What is told of a request once it is over, for access log, metrics and history."""

from __future__ import annotations

import re
import time

import msgspec

from daemon.ports import Waits


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
    key: str = ""  # the name of the key that it came with
    at: float = 0.0  # Unix time of its end
    evict: float | None = None  # while others made room
    load: float | None = None  # while its model was loaded
    evicted: tuple[str, ...] = ()
    tokens_in: int | None = None  # as the answer's usage says, where it was seen
    tokens_out: int | None = None


CLIENT_LEFT = 499
"""nginx's number for it; never sent."""


class Trace:
    """What is counted and timed while a request is served. Times are ``time.monotonic``'s:
    uvloop's own clock stands still within a turn of the loop."""

    __slots__ = (
        "attempt",
        "bytes_in",
        "bytes_out",
        "first_at",
        "heard",
        "leased_at",
        "own",
        "start",
        "status",
        "tokens",
        "waits",
    )

    def __init__(self, start: float) -> None:
        self.start = start
        self.leased_at: float | None = None
        self.first_at: float | None = None
        self.status = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.heard = 0  # bytes of an answer that were not sent on as they came
        self.own = 0  # bytes of signs of life: of our own, not the backend's
        self.tokens: tuple[int | None, int | None] | None = None  # where the answer's end hides it
        self.attempt = 1
        self.waits: Waits | None = None

    def sent(self) -> int:
        """Bytes of a good answer so far: errors are no progress of a backend."""
        return self.bytes_out + self.heard - self.own if self.status < 500 else 0

    def mark_first(self) -> None:
        """The first byte of the answer goes out."""
        self.first_at = time.monotonic()

    def waited(self) -> Waits:
        """What it waited for until its lease."""
        if self.waits is not None:
            return self.waits
        return Waits(0.0 if self.leased_at is None else self.leased_at - self.start)

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
        key: str = "",
        tail: bytes,
    ) -> RequestRecord:
        """The finished record, as of ``now``. ``tail``: the last bytes of the answer."""
        waits, leased = self.waits, self.leased_at
        tokens = self.tokens or (usage(tail) if tail else (None, None))
        return RequestRecord(
            request_id=request_id,
            method=method,
            path=path,
            model=model,
            status=self.status or CLIENT_LEFT,
            outcome=outcome,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            queue=waits.queue if waits else None if leased is None else leased - self.start,
            first_byte=None if self.first_at is None else self.first_at - self.start,
            total=now - self.start,
            attempts=self.attempt,
            peer=peer,
            client=client,
            key=key,
            at=time.time(),
            evict=waits.evict if waits else None,
            load=waits.load if waits else None,
            evicted=waits.evicted if waits else (),
            tokens_in=tokens[0],
            tokens_out=tokens[1],
        )


TAIL = 4096
"""Bytes. Where the usage stands in an answer: OpenAI's last chunk but ``[DONE]``, Anthropic's last
``message_delta``, the end of a whole answer."""
_USAGE = re.compile(
    rb'"(?:(prompt_tokens|input_tokens)|(?:completion_tokens|output_tokens))"\s*:\s*(\d{1,12})'
)


def usage(tail: bytes) -> tuple[int | None, int | None]:
    """Tokens in and out, as far as the end of an answer tells."""
    found: list[int | None] = [None, None]
    at = tail.rfind(b'"usage"')
    if at < 0:  # cut off, or not there
        if b'_tokens"' not in tail:
            return None, None
        at = max(0, len(tail) - TAIL)
    for match in _USAGE.finditer(tail, at):
        found[match[1] is None] = int(match[2])
    return found[0], found[1]
