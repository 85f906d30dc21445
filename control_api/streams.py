"""Answers that stay open: counted, bounded, ended when the daemon stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

from daemon.core.problems import Code, Problem, ProblemError

CROWDED_RETRY = 5.0  # seconds; nobody knows when a reader leaves


class Streams:
    """The open streams. Each gives a function that wakes and ends it; :meth:`close` calls all."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[Callable[[], None]] = set()
        self.closing = False

    @contextmanager
    def opened(self, end: Callable[[], None]) -> Iterator[None]:
        """Hold one place. Raises ``ProblemError`` when there is none left."""
        if self.closing:
            raise ProblemError(Problem(Code.SHUTTING_DOWN, "The daemon is stopping."))
        if len(self._open) >= self._limit:
            raise ProblemError(
                Problem(
                    Code.QUEUE_FULL,
                    f"{self._limit} event and log streams are open already.",
                    "Close one of them.",
                    retry_after=CROWDED_RETRY,
                )
            )
        self._open.add(end)
        try:
            yield
        finally:
            self._open.discard(end)

    def close(self) -> None:
        """End all streams, and let no new one begin."""
        self.closing = True
        for end in list(self._open):
            end()

    def __len__(self) -> int:
        return len(self._open)


async def begin(request: web.Request, media: str) -> web.StreamResponse:
    """Send the head of a streamed answer."""
    response = web.StreamResponse(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
    response.content_type = media
    response.charset = "utf-8"
    await response.prepare(request)
    return response


async def send(response: web.StreamResponse, data: bytes, seconds: float) -> bool:
    """Write, but wait no longer than ``seconds`` for a reader; False if it has gone."""
    try:
        async with asyncio.timeout(seconds):
            await response.write(data)
    except (ConnectionError, TimeoutError):
        return False
    return True


async def finish(response: web.StreamResponse, seconds: float) -> web.StreamResponse:
    """End the answer properly, if the reader is still there."""
    try:
        async with asyncio.timeout(seconds):
            await response.write_eof()
    except (ConnectionError, TimeoutError):
        response.force_close()
    return response
