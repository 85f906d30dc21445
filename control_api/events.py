"""Events as server-sent events: resumable by id, with heartbeats, bounded for slow readers.

A reader that is too slow is told so by an event ``gap`` and dropped; it may come back with
``Last-Event-ID`` and gets what is still remembered. A ``gap`` at the start says that events between
that id and the first one sent are forgotten (or that the daemon has been restarted).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from aiohttp import web

from control_api.errors import encode
from control_api.operation import SSE, Call, Operation, Query, bad_request
from control_api.redacted import redacted
from control_api.schemas import EventView
from control_api.streams import begin, finish, send
from daemon.ports import ControlPort

LAST_ID: Final = "Last-Event-ID"


class Subscription:
    """The events for one reader, from now on. ``close`` must be called in the end."""

    def __init__(self, port: ControlPort, size: int) -> None:
        self.overflowed = False
        self.closed = False
        self._size = size
        self._waiting: deque[EventView] = deque()
        self._news = asyncio.Event()
        self._end = port.subscribe(self._arrived)

    def _arrived(self, event: EventView) -> None:
        if self.overflowed:
            return
        if len(self._waiting) >= self._size:
            self.overflowed = True
        else:
            self._waiting.append(event)
        self._news.set()

    def wake(self) -> None:
        """The daemon stops: end the stream after what is waiting."""
        self.closed = True
        self._news.set()

    def take(self) -> EventView | None:
        return self._waiting.popleft() if self._waiting else None

    async def news(self, seconds: float) -> None:
        """Wait for something to take, or an end. Raises ``TimeoutError``."""
        if self._waiting or self.overflowed or self.closed:
            return
        self._news.clear()
        async with asyncio.timeout(seconds):
            await self._news.wait()

    def close(self) -> None:
        self._end()


async def events(call: Call) -> web.StreamResponse:
    after = _resume_after(call)
    subscription = Subscription(call.port, call.limits.event_queue)
    try:
        with call.streams.opened(subscription.wake):
            # subscribed first, then read: nothing falls between; what comes twice is skipped by id
            start, past, gap = _past(call.port, after)
            response = await begin(call.request, SSE)
            wait = call.limits.write_seconds
            head = b"retry: 1000\n\n" + (_gap(gap) if gap else b"")
            shown = [_event(event, call.redact) for event in past]
            sent = await send(response, head + b"".join(shown), wait)
            if sent and call.query["follow"]:
                sent = await _follow(call, subscription, response, start)
            return await finish(response, wait) if sent else response
    finally:
        subscription.close()


async def _follow(
    call: Call, subscription: Subscription, response: web.StreamResponse, last: int
) -> bool:
    """Send until the reader leaves (False), is too slow, or the daemon stops."""
    wait = call.limits.write_seconds
    while True:
        while (event := subscription.take()) is not None:
            if event.id > last:
                last = event.id
                if not await send(response, _event(event, call.redact), wait):
                    return False
        if subscription.overflowed:
            return await send(response, _gap({"after": last, "reason": "slow reader"}), wait)
        if subscription.closed:
            return True
        try:
            await subscription.news(call.limits.heartbeat_seconds)
        except TimeoutError:
            if not await send(response, b": still here\n\n", wait):
                return False


def _resume_after(call: Call) -> int | None:
    """The id after which the reader wants events; None: only new ones."""
    raw = call.request.headers.get(LAST_ID)
    if raw is None:
        since = call.query["since"]
        return None if since < 0 else int(since)
    if not (raw.isascii() and raw.isdecimal() and len(raw) < 17):
        raise bad_request(f"{LAST_ID} is {raw[:40]!r}; the id of an event is a number.")
    return int(raw)


def _past(
    port: ControlPort, after: int | None
) -> tuple[int, list[EventView], dict[str, Any] | None]:
    """The id to go on from, what is remembered above ``after``, and the gap before it, if any."""
    known = port.history(0)
    newest = known[-1].id if known else 0
    if after is None:
        return newest, [], None
    if after > newest:  # ids of an earlier daemon
        return newest, known, {"after": after, "reason": "the daemon was restarted"}
    past = [event for event in known if event.id > after]
    oldest = known[0].id if known else 1
    lost = oldest > after + 1 and after < newest
    return newest, past, {"after": after, "reason": "too old"} if lost else None


def _event(event: EventView, redact: Callable[[str], str]) -> bytes:
    # JSON has no raw newline, and a kind is one word: neither can break out of its line
    kind = "".join(c for c in event.kind if c.isalnum() or c in "_-.") or "event"
    shown = replace(event, text=redact(event.text), facts=redacted(event.facts, redact))
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.id, kind.encode(), encode(shown))


def _gap(facts: dict[str, Any]) -> bytes:
    return b"event: gap\ndata: %s\n\n" % encode(facts)


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/events",
        handler=events,
        tag="events",
        summary="What happens, as server-sent events; resume with Last-Event-ID or since.",
        answer=EventView,
        media=SSE,
        query=(
            Query("since", -1, "Events after this id first; 0: all that are remembered."),
            Query("follow", True, "Stay open for new events."),
        ),
    ),
)
