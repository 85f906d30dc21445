"""Connections to backends, kept between requests: the last one used is the first one taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from daemon.dialing import dial
from daemon.ports import Target
from daemon.relay.limits import Limits
from daemon.relay.upstream import Upstream


class Pool:
    """Idle connections per backend. Those in use belong to whoever asked."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        self._loop = loop
        self.limits = limits
        self._idle: dict[Target, list[Upstream]] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return sum(map(len, self._idle.values())) + len(self._opening)

    def take(self, target: Target) -> Upstream | None:
        """An idle connection, or None: then :meth:`open` one."""
        idle = self._idle.get(target)
        while idle:
            upstream = idle.pop()
            if upstream.idle:
                upstream.reused = True
                return upstream
            upstream.abort()
        return None

    def open(
        self, target: Target, done: Callable[[Upstream | OSError], None]
    ) -> asyncio.Task[None]:
        """Connect anew; ``done`` is called once, unless the task is cancelled before."""
        task = self._loop.create_task(self._open(target, done))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return task

    async def _open(self, target: Target, done: Callable[[Upstream | OSError], None]) -> None:
        def factory() -> Upstream:
            return Upstream(target, self.limits, self._release)

        try:
            async with asyncio.timeout(self.limits.connect_timeout):
                if target.uds is not None:
                    _, upstream = await self._loop.create_unix_connection(
                        factory, sock=await dial(target.uds)
                    )
                else:
                    _, upstream = await self._loop.create_connection(
                        factory, target.host, target.port
                    )
        except OSError as error:  # TimeoutError is one
            done(error)
        else:
            done(upstream)

    def _release(self, upstream: Upstream, usable: bool) -> None:
        """Take a connection back: for the next request, or, if lost or spent, to forget it."""
        idle = self._idle.setdefault(upstream.target, [])
        if usable and not self._closed and len(idle) < self.limits.pool_size and upstream.idle:
            upstream.pause(False)
            upstream.expires = self._loop.time() + self.limits.pool_idle
            idle.append(upstream)
            return
        upstream.abort()
        if upstream in idle:
            idle.remove(upstream)
        if not idle:
            del self._idle[upstream.target]

    def sweep(self, now: float) -> None:
        """Close what has been idle for too long."""
        for upstream in [one for idle in self._idle.values() for one in idle if one.expires <= now]:
            self._release(upstream, False)

    def drop(self, target: Target) -> None:
        """Close the idle connections to a backend that is about to be stopped."""
        for upstream in list(self._idle.get(target, ())):
            self._release(upstream, False)

    def close(self) -> None:
        """Close all that is idle, and keep nothing from now on."""
        self._closed = True
        for target in list(self._idle):
            self.drop(target)
        for task in self._opening:
            task.cancel()
