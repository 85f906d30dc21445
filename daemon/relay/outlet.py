"""The way out to a client: what is written, how it is held back, and how it is cut."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daemon.relay.plane import Plane

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s: closing sends RST
_FLUSH_POLL = 0.005  # seconds between two looks at a buffer; `close_linger` bounds the wait itself


class Outlet(asyncio.Protocol):
    """The half of a client's connection that knows nothing of requests."""

    __slots__ = (
        "_deadline",
        "_full",
        "_plane",
        "_reading",
        "_stall_at",
        "_stall_left",
        "_transport",
    )

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._transport: asyncio.Transport | None = None
        self._reading = True
        self._full = False  # of what the client does not take
        self._deadline = math.inf
        self._stall_at = math.inf
        self._stall_left = 0

    @property
    def full(self) -> bool:
        """Does it take no more for now?"""
        return self._full

    def write(self, data: bytes) -> None:
        """On to the client. What cannot be sent is buffered; see ``pause_writing``."""
        if self._transport is not None:
            self._transport.write(data)

    def pause(self, paused: bool) -> None:
        """Stop or go on reading."""
        transport = self._transport
        if transport is None or self._reading is not paused or transport.is_closing():
            return
        self._reading = not paused
        if paused:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def abort(self) -> None:
        """Drop the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def _reset(self) -> None:
        """Drop the connection and all that is on its way to the client."""
        transport = self._transport
        if transport is None:
            return
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()

    def _abort_flushed(self) -> None:
        transport = self._transport
        if transport is None:
            return
        if transport.get_write_buffer_size() == 0:
            transport.abort()
        else:
            self._plane.loop.call_later(_FLUSH_POLL, self._abort_flushed)

    def _arm_stall(self, now: float) -> None:
        if self._transport is not None:
            self._stall_left = self._transport.get_write_buffer_size()
            self._stall_at = now + self._plane.limits.write_stall

    def _check_stall(self, now: float) -> None:
        """The client had its time to take something of what waits for it."""
        transport = self._transport
        if transport is None:
            return
        limits = self._plane.limits
        taken = self._stall_left - transport.get_write_buffer_size()
        if taken >= min(limits.write_stall * limits.write_rate, self._stall_left):
            self._arm_stall(now)
        else:
            self._reset()  # or the kernel would go on trying
