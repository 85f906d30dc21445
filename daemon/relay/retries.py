"""What may be tried again, and how much of it at once. Pure."""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from typing import Any

import msgspec

from daemon.ports import Route
from daemon.relay.answers import Answer
from daemon.relay.body import Body
from daemon.relay.heads import Head

SHARE = 0.2
LEAST = 3
"""Second attempts under way at once: a fifth of the requests, three at the least, as in Envoy's
retry budget. When everything dies at once, its clients are told instead of all coming twice."""

LOADING = b"Loading model"  # llama-server's own words, with status 503: the one answer that waits
LOADING_BYTES = 4096  # of an answer that may say so


class Budget:
    """Counts requests that want a backend, and those of them that are on their second attempt."""

    __slots__ = ("active", "again")

    def __init__(self) -> None:
        self.active = self.again = 0

    def allows(self) -> bool:
        """Room for one more second attempt?"""
        return self.again < max(LEAST, SHARE * self.active)


class _Store(msgspec.Struct, gc=False):
    store: Any = None


_store = msgspec.json.Decoder(_Store)


def repeatable(route: Route | None, head: Head, body: Body) -> bool:
    """Whether sending it twice does no more than sending it once.

    Inference has no side effects. What goes below ``/upstream/`` may (files, batches), unless it
    only reads; and so has an answer that is to be stored.
    """
    if route is Route.UPSTREAM:
        return head.method in ("GET", "HEAD")
    if b'"store"' not in body:
        return True
    try:
        return _store.decode(body).store is not True
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True  # a form: it was read before, and has no such field


class Loading:
    """A backend that said it was not ready yet. ``since``: loop time of the first such answer."""

    __slots__ = ("answer", "body", "since", "timer")

    def __init__(self, since: float) -> None:
        self.since = since
        self.answer: Answer | None = None
        self.body = b""
        self.timer: asyncio.TimerHandle | None = None

    def begin(self, answer: Answer) -> None:
        """Its head is here, and what comes next is its body."""
        self.answer, self.body = answer, b""


WHOLE = 256 << 10  # bytes of a body that a mark is made of; of a longer one, its two ends


def digest(body: Body) -> str:
    """The mark of a body, by which one that ends backends is known again. Two long ones of the same
    length and ends count as one: images differ in their beginnings, conversations in their ends."""
    return blake2b(ends(body), digest_size=16).hexdigest()


def ends(body: Body) -> Body:
    """As much of a body as its mark is made of, its length among it. Of itself, itself."""
    if len(body) <= WHOLE:
        return body
    view, half = memoryview(body), WHOLE // 2 - 4
    return b"".join((len(body).to_bytes(8, "big"), view[:half], view[-half:]))
