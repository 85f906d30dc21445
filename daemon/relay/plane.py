"""What all connections of one front share: ports, rules, limits, the pool, and who is there."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
import resource
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from daemon.access.meters import Meters
from daemon.access.principals import Principal
from daemon.ports import Hold, LeasePort
from daemon.relay.guard import Guard, Peer
from daemon.relay.heads import Head
from daemon.relay.limits import Limits, room
from daemon.relay.pool import Pool
from daemon.relay.records import RequestRecord
from daemon.relay.retries import Budget

if TYPE_CHECKING:
    from daemon.relay.client import ClientConnection

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(rb"[0-9A-Za-z._:-]{1,128}")


class Plane:
    """The shared state of a front; its sweep is the one timer for every deadline."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        leases: LeasePort,
        guard: Guard,
        limits: Limits,
        on_done: Callable[[RequestRecord], None] | None,
    ) -> None:
        self.loop = loop
        self.leases = leases
        self.guard = guard
        self.pool = Pool(loop, limits)
        self.set_limits(limits)
        self.on_done = on_done
        self.budget = Budget()
        self.meters = Meters()  # of keys with a limit
        self.control: Callable[[Principal], Hold] | None = None  # the control plane, once there
        self.stopping = False
        self._closed = False
        self.clients: set[ClientConnection] = set()
        self.coming: set[ClientConnection] = set()  # accepted, and not made yet
        self.hands: dict[asyncio.Task[None], str] = {}  # TLS handshakes and whose, oldest first
        self.idle: dict[ClientConnection, None] = {}  # without a whole head; longest idle first
        self.empty = asyncio.Event()
        self.empty.set()
        self._strangers: Counter[str] = Counter()
        self._numbers = itertools.count(1)
        self._start = os.urandom(4).hex()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def draining(self) -> bool:
        """Is the daemon stopping? Then no connection is kept."""
        return self.stopping or self.leases.draining

    def request_id(self, head: Head | None) -> str:
        """The client's own id if it is a plain word, else a new one."""
        given = head.first.get(b"x-request-id") if head is not None else None
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given.decode("ascii")
        return f"req_{self._start}{next(self._numbers):06x}"

    def unix_time(self) -> int:
        """Seconds since 1970, for what answers say of themselves."""
        return int(time.time())

    def set_limits(self, limits: Limits) -> None:
        """New limits from now on; connections to backends keep theirs."""
        self.limits = self.pool.limits = limits
        self.most = room(limits, resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    def has_room(self, peer: Peer) -> bool:
        """May one more connection come in? If need be, the one that is idle longest goes; those of
        this machine for each other alone."""
        limits = self.limits
        if not peer.loopback and self._strangers[peer.address] >= limits.connections_per_peer:
            return False
        if len(self.clients) + len(self.coming) + len(self.hands) < self.most:
            return True
        for client in self.idle:
            if peer.loopback or not client.peer.loopback:
                client.give_way()
                return True
        return False

    def admit(self, client: ClientConnection, peer: Peer) -> bool:
        """Count a new connection in; False: there are too many, and it is not counted."""
        self.coming.discard(client)
        if self._closed or not self.has_room(peer):
            return False
        if not peer.loopback:
            self._strangers[peer.address] += 1
        self.clients.add(client)
        self.idle[client] = None
        self.empty.clear()
        if self._timer is None:
            self._timer = self.loop.call_later(self.limits.tick, self._sweep)
        return True

    def dismiss(self, client: ClientConnection, peer: Peer) -> None:
        """A connection is gone."""
        if client not in self.clients:
            return
        self.clients.discard(client)
        self.idle.pop(client, None)
        if not self.clients:
            self.empty.set()
        if not peer.loopback:
            self._strangers[peer.address] -= 1
            if self._strangers[peer.address] <= 0:
                del self._strangers[peer.address]

    def _sweep(self) -> None:
        now = self.loop.time()
        # Set first: whatever one connection does, the others keep their deadlines.
        self._timer = None
        if self.clients or len(self.pool):
            self._timer = self.loop.call_later(self.limits.tick, self._sweep)
        for client in list(self.clients):
            client.sweep(now)
        self.pool.sweep(now)

    def close(self) -> None:
        """Stop the sweep and let go of the pool; nobody comes in any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.pool.close()

    def told(self, record: RequestRecord) -> None:
        """Tell of a finished request. A listener's bug must not cost a client its connection."""
        if self.on_done is None:
            return
        try:
            self.on_done(record)
        except Exception:
            log.exception("the access hook failed")
