"""The listener: the one port, and its life from start to drain."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from daemon.access.principals import Principal
from daemon.ports import Hold, LeasePort, Target
from daemon.relay.doors import Door, Entry
from daemon.relay.guard import Guard
from daemon.relay.limits import Limits
from daemon.relay.listener import Listener, bound
from daemon.relay.plane import Plane
from daemon.relay.records import RequestRecord


class Front:
    """Listens, and owns every client connection and every idle backend connection.

    ``addresses`` are the pairs of address and port that it was bound to.
    """

    def __init__(self, plane: Plane, listeners: list[Listener]) -> None:
        self._plane = plane
        self._listeners = listeners
        names = [listener.sock.getsockname() for listener in listeners]
        self.addresses: list[tuple[str, int]] = [(name[0], name[1]) for name in names]

    @classmethod
    async def start(
        cls,
        host: str,
        port: int,
        *,
        leases: LeasePort,
        guard: Guard,
        limits: Limits | None = None,
        sock: socket.socket | None = None,
        on_done: Callable[[RequestRecord], None] | None = None,
    ) -> Front:
        """Listen on ``host``:``port``, or on ``sock`` (socket activation). Raises OSError.

        ``on_done`` is called once for each request that is over, in the event loop.
        """
        loop = asyncio.get_running_loop()
        plane = Plane(loop, leases=leases, guard=guard, limits=limits or Limits(), on_done=on_done)
        socks = [sock] if sock is not None else await bound(host, port)
        listeners = [Listener(plane, one) for one in socks]
        for listener in listeners:
            listener.open()
        return cls(plane, listeners)

    def open(self, sock: socket.socket, door: Door, tls: ssl.SSLContext | None = None) -> Listener:
        """Listen on one more socket, which from then on is the front's. :meth:`close` ends it.
        ``tls``: whoever comes that way speaks HTTPS."""
        listener = Listener(self._plane, sock, Entry(door), tls)
        self._listeners.append(listener)
        listener.open()
        return listener

    def close(self, listener: Listener) -> None:
        """Listen there no more. Who came that way goes: at once if idle, else after the answer in
        progress. Nobody else notices."""
        listener.entry.closed = True
        listener.close()
        self._listeners.remove(listener)
        for client in [one for one in self._plane.clients if one.entry is listener.entry]:
            client.drain()

    @property
    def port(self) -> int:
        return self.addresses[0][1]

    @property
    def connections(self) -> int:
        """Open client connections."""
        return len(self._plane.clients)

    def forget(self, target: Target) -> None:
        """Close idle connections to a backend that is about to be stopped."""
        self._plane.pool.drop(target)

    def set_guard(self, guard: Guard) -> None:
        """New rules from the next request on, also on connections that are open."""
        self._plane.guard = guard

    def set_control(self, control: Callable[[Principal], Hold]) -> None:
        """Where paths of the control plane go, with what states the checked principal."""
        self._plane.control = control

    def keep_meters(self, names: frozenset[str]) -> None:
        """Of these keys alone is it remembered how much they have asked."""
        self._plane.meters.forget(names)

    def set_limits(self, limits: Limits) -> None:
        """New limits from the next request on; connections to backends keep theirs."""
        self._plane.set_limits(limits)

    def close_listeners(self) -> None:
        """Take no new connections; those that are there go on."""
        for listener in self._listeners:
            listener.close()

    async def drain(self, grace: float) -> bool:
        """Stop in good order: idle connections go at once, answers in progress get ``grace``
        seconds. True if all were done by then; what is left is for :meth:`abort`."""
        self.close_listeners()
        self._plane.stopping = True
        for client in list(self._plane.clients):
            client.drain()
        try:
            async with asyncio.timeout(grace):
                await self._plane.empty.wait()
        except TimeoutError:
            return False
        return True

    def abort(self) -> None:
        """End everything now: listeners, clients, backend connections."""
        self.close_listeners()
        self._plane.stopping = True
        for client in list(self._plane.clients):
            client.abort()
        self._plane.close()
