"""The one way in: accepts connections while there is room for them, and never more.

A loop's own server accepts whatever comes; without file descriptors it logs each try, and engines
can no longer be started. Here room is looked at first. When there is none, the connection that has
been idle longest gives way (a flood of silent connections pushes out itself); when all are at work,
the new one is told so and closed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import sys
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from daemon.core.problems import Code, Problem
from daemon.dialects.errors import Dialect, render
from daemon.relay import wire
from daemon.relay.client import ClientConnection
from daemon.relay.doors import Entry
from daemon.relay.guard import Peer
from daemon.relay.limits import Limits

if TYPE_CHECKING:
    from daemon.relay.plane import Plane

log = logging.getLogger(__name__)

BACKLOG = 1024
_AT_ONCE = 32  # accepted and not made yet
_HANDS = 128  # shaken at once, by all ...
_HANDS_EACH = 16  # ... and by one address
_REFUSED = 32  # closing connections that were told that there is no room
_REST = 0.25  # seconds of not accepting when the system has nothing left
_SAID = 60.0  # seconds between two lines in the log on that
_NOTSENT_LOWAT: int = getattr(
    socket, "TCP_NOTSENT_LOWAT", 0x201 if sys.platform == "darwin" else 25
)
_NOT_SENT = 128 * 1024
"""Bytes in the kernel beyond what is under way to the client: without a bound, a client that does
not read has the kernel hold megabytes, and its backend goes on generating for nobody."""
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """One listening socket, whose owner it is from :meth:`open` to :meth:`close`."""

    def __init__(
        self,
        plane: Plane,
        sock: socket.socket,
        entry: Entry | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``tls``: of whoever comes from now on; another may be put in its place at any time."""
        self.sock = sock
        self.entry = entry or Entry()
        self.tls = tls
        self._plane = plane
        self._arriving: set[asyncio.Task[None]] = set()
        self._refused: deque[socket.socket] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._said = float("-inf")

    def open(self) -> None:
        """Accept from now on."""
        self.sock.setblocking(False)
        self.sock.listen(BACKLOG)
        self._plane.loop.add_reader(self.sock, self._readable)

    def close(self) -> None:
        """Accept no more. The socket of a service manager goes on listening for a successor."""
        if self.sock.fileno() < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._plane.loop.remove_reader(self.sock)
        self.sock.close()
        while self._refused:
            self._refused.popleft().close()
        for task in self._arriving & self._plane.hands.keys():
            task.cancel()

    def _readable(self) -> None:
        # No more than these: who is not made yet cannot give way to the next.
        while len(self._plane.coming) < min(_AT_ONCE, self._plane.most // 2 + 1):
            try:
                conn, name = self.sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(error)
                return
            self._arrived(conn, name)

    def _rest(self, error: OSError) -> None:
        """Nothing can be accepted: what waits would be offered again at once, for ever."""
        plane = self._plane
        now = plane.loop.time()
        if now - self._said >= _SAID:
            self._said = now
            what = "no file descriptors are left" if error.errno in _EXHAUSTED else str(error)
            log.warning("cannot accept connections: %s", what)
        plane.loop.remove_reader(self.sock)
        self._timer = plane.loop.call_later(_REST, self._again)

    def _again(self) -> None:
        self._timer = None
        self._plane.loop.add_reader(self.sock, self._readable)

    def _arrived(self, conn: socket.socket, name: object) -> None:
        conn.setblocking(False)
        with suppress(OSError):  # not TCP; asyncio sets it only where it knows the protocol
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            conn.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, _NOT_SENT)
        try:
            peer = Peer.of(name, conn.getsockname())
        except OSError:  # gone again
            conn.close()
            return
        if not self._plane.has_room(peer):
            self._refuse(conn)
            return
        if self.tls is not None:
            self._shake(conn, peer, self.tls)
            return
        client = ClientConnection(self._plane, self.entry)
        self._plane.coming.add(client)
        task = self._begin(self._take(conn, client), conn)
        task.add_done_callback(lambda done: self._plane.coming.discard(client))

    def _begin(self, taking: Coroutine[Any, Any, None], conn: socket.socket) -> asyncio.Task[None]:
        """A task that makes a connection of ``conn``, and is its owner until then."""
        task = self._plane.loop.create_task(taking)
        self._arriving.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._arriving.discard(task)
            if task.cancelled():  # perhaps before its first step: nothing of its own has run
                conn.close()

        task.add_done_callback(done)
        return task

    async def _take(self, conn: socket.socket, client: ClientConnection) -> None:
        try:
            await self._plane.loop.connect_accepted_socket(lambda: client, conn)
        except OSError:  # gone again
            conn.close()

    def _shake(self, conn: socket.socket, peer: Peer, tls: ssl.SSLContext) -> None:
        """Agree on keys first. That takes as long as the other side likes, so those who do are
        counted apart from who is only coming: the oldest gives way, its own address's first."""
        hands = self._plane.hands
        of_peer = [task for task, address in hands.items() if address == peer.address]
        if len(of_peer) >= _HANDS_EACH or len(hands) >= _HANDS:
            oldest = of_peer[0] if len(of_peer) >= _HANDS_EACH else next(iter(hands))
            oldest.cancel()
            del hands[oldest]
        task = self._begin(self._take_safely(conn, tls), conn)
        hands[task] = peer.address
        task.add_done_callback(lambda done: hands.pop(done, None))

    async def _take_safely(self, conn: socket.socket, tls: ssl.SSLContext) -> None:
        loop, limits = self._plane.loop, self._plane.limits
        client = ClientConnection(self._plane, self.entry)
        try:
            await loop.connect_accepted_socket(
                lambda: client,
                conn,
                ssl=tls,
                ssl_handshake_timeout=limits.head_timeout,
                ssl_shutdown_timeout=limits.linger,
            )
        except OSError:  # gone, no TLS, too slow
            conn.close()

    def _refuse(self, conn: socket.socket) -> None:
        """Say so and close, without ever waiting for it. What it sends is read for a moment, since
        closing on unread bytes would throw our answer away."""
        if self.tls is not None:  # no words without keys
            conn.close()
            return
        limits = self._plane.limits
        with suppress(OSError):
            conn.send(refusal(limits, self._plane.request_id(None)))
            conn.shutdown(socket.SHUT_WR)
        self._refused.append(conn)
        self._plane.loop.call_later(limits.linger, self._let_go, conn)
        while len(self._refused) > _REFUSED:
            self._let_go(self._refused[0])

    def _let_go(self, conn: socket.socket) -> None:
        if conn.fileno() < 0:
            return
        self._refused.remove(conn)
        with suppress(OSError):
            conn.recv(65536)
        conn.close()


def refusal(limits: Limits, request_id: str) -> bytes:
    """What is said where there is no room: no request was read, so in no special shape."""
    text = "There are too many open connections."
    problem = Problem(Code.QUEUE_FULL, text, retry_after=limits.retry_after_drain)
    status, headers, body = render(problem, Dialect.OPENAI, request_id, limits.retry_after_max)
    return wire.plain_answer(status, headers, body, wire.CLOSE, head_only=False)


async def bound(host: str, port: int) -> list[socket.socket]:
    """Sockets on every address of ``host``, not listening yet. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    socks: list[socket.socket] = []
    try:
        for family, kind, proto, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, proto)
            socks.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
    except OSError:
        for sock in socks:
            sock.close()
        raise
    return socks
