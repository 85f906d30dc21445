"""One client's connection: heads and bodies in, in order, one request at a time.

While a request is being served its connection is still read, since that is how a client's leaving
is noticed; what arrives early (pipelining) is kept, up to a limit, until its turn.
"""

from __future__ import annotations

import asyncio
import logging
import math
from enum import Enum, auto
from typing import TYPE_CHECKING, cast

from daemon.core.problems import Code, Problem, ProblemError
from daemon.dialects.errors import Dialect, render
from daemon.relay import wire
from daemon.relay.body import BodyReader
from daemon.relay.doors import Entry
from daemon.relay.exchange import Exchange
from daemon.relay.guard import Peer
from daemon.relay.heads import END, Head, bad, check_start, parse_head
from daemon.relay.memo import Known, again, learn
from daemon.relay.outlet import Outlet

if TYPE_CHECKING:
    from daemon.relay.plane import Plane

log = logging.getLogger(__name__)

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Phase(Enum):
    """What the next bytes from the client are."""

    HEAD = auto()
    BODY = auto()
    BUSY = auto()  # early bytes of a next request
    TUNNEL = auto()
    CLOSING = auto()  # dropped


class ClientConnection(Outlet):
    """Frames requests, hands each to an :class:`Exchange`, keeps the deadlines of the client."""

    __slots__ = (
        "_advancing",
        "_blank",
        "_body_at",
        "_dropped",
        "_exchange",
        "_known",
        "_pending",
        "_phase",
        "_reader",
        "closing",
        "entry",
        "peer",
        "unread",
    )

    def __init__(self, plane: Plane, entry: Entry | None = None) -> None:
        """``entry``: of the port that it came by; without one, as by the fixed port."""
        super().__init__(plane)
        self.entry = entry or Entry()
        self.peer = Peer("", "", False)
        self.closing = False  # this answer is the last
        self.unread = False  # a body was announced that is not read yet
        self._phase = Phase.HEAD
        self._pending: bytes | bytearray = b""
        self._known: Known | None = None
        self._reader: BodyReader | None = None
        self._exchange: Exchange | None = None
        self._advancing = False
        self._blank = False  # an empty line came before this head
        self._body_at = 0.0
        self._dropped = 0

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        plane, limits = self._plane, self._plane.limits
        self._transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(limits.write_high, limits.write_low)
        self.peer = Peer.of(
            transport.get_extra_info("peername"),
            transport.get_extra_info("sockname"),
            tls=transport.get_extra_info("ssl_object") is not None,
        )
        self._deadline = plane.loop.time() + limits.head_timeout
        if not plane.admit(self, self.peer):  # filled up since it was accepted
            transport.abort()

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        try:
            if phase is Phase.HEAD:
                fresh = len(self._pending)
                self._append(data)
                if self._full:
                    self._hold_back()  # it asks, and does not take its answers
                else:
                    self._advance(fresh)
            elif phase is Phase.BODY:
                self._read_body(data)
            elif phase is Phase.BUSY:
                self._append(data)
                self._hold_back()
            elif phase is Phase.TUNNEL:
                assert self._exchange is not None
                self._exchange.from_client(data)
            else:
                self._dropped += len(data)
                if self._dropped > self._plane.limits.linger_bytes:
                    self.abort()
        except Exception:
            log.exception("a client's connection failed inside the relay")
            self._crashed()

    def eof_received(self) -> bool:
        # Half-closed is left: nobody who waits for an answer closes first, and a client that is
        # gone looks the same.
        self._leave()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._leave()
        self._pending = b""
        self._plane.dismiss(self, self.peer)

    def pause_writing(self) -> None:
        self._full = True
        self._arm_stall(self._plane.loop.time())
        if self._exchange is not None:
            self._exchange.client_full(True)

    def resume_writing(self) -> None:
        self._full = False
        self._stall_at = math.inf
        if self._exchange is not None:
            self._exchange.client_full(False)
        else:
            self.pause(False)
            self._advance()

    # ------------------------------------------------------------ framing

    def _hold_back(self) -> None:
        """No more than a certain amount is read ahead of what is being served."""
        if len(self._pending) > self._plane.limits.pipeline_bytes:
            # From here on its leaving is noticed by a failed write only.
            self.pause(True)

    def _append(self, data: bytes) -> None:
        if not self._pending:
            self._pending = data
            return
        if isinstance(self._pending, bytes):
            self._pending = bytearray(self._pending)
        self._pending += data

    def _advance(self, fresh: int = 0) -> None:
        """Serve what is pending, whose bytes from ``fresh`` on were not looked at yet.

        Requests that end at once are served in a loop, so that they do not pile up on the stack.
        """
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._phase is Phase.HEAD and self._pending and not self._full:
                if not self._take_head(fresh):
                    return
                fresh = 0
        except ProblemError as error:
            self._refuse(error.problem)
        except Exception:
            log.exception("a client's connection failed inside the relay")
            self._crashed()
        finally:
            self._advancing = False

    def _take_head(self, fresh: int) -> bool:
        """Take one head from what is pending; False: it is not complete. Raises ProblemError."""
        limits = self._plane.limits
        if self._pending[:2] == b"\r\n":  # RFC 9112, 2.2: one empty line before a request
            if self._blank:
                raise bad("Two empty lines are before the request.")
            self._blank = True
            self._pending = self._pending[2:]
            if not self._pending:
                return False
        pending = self._pending
        end = pending.find(END, max(0, fresh - len(END)))
        if end < 0:
            if fresh == 0:
                self._deadline = self._plane.loop.time() + limits.head_timeout
            if pending != b"\r":
                check_start(pending, fresh, limits)
            return False
        end += len(END)
        raw, rest = bytes(pending[:end]), bytes(pending[end:])
        self._deadline = math.inf
        known, door = self._known, self.entry.door
        if known is not None and again(known, raw, self._plane.guard, limits, door):
            self._begin(known.head, rest)
            exchange = self._exchange = Exchange(self._plane, self, known.head, known.admitted)
        else:
            self._known = None
            head = parse_head(raw, limits)
            self._begin(head, rest)
            exchange = self._exchange = Exchange(self._plane, self, head)
            admitted = exchange.admit()
            if admitted is None:
                return True
            self._known = learn(raw, self._plane.guard, head, admitted, door)
        self._take_body(exchange, rest)
        return True

    def _begin(self, head: Head, rest: bytes) -> None:
        self._plane.idle.pop(self, None)
        self._phase = Phase.BUSY
        self._blank = False
        self._pending = rest
        self.unread = head.has_body

    def _take_body(self, exchange: Exchange, rest: bytes) -> None:
        head = exchange.head
        length = head.length or 0
        if not head.chunked and len(rest) >= length:
            self._pending = rest[length:]
            self.unread = False
            exchange.run(rest[:length])
            return
        self._pending = b""
        self._phase = Phase.BODY
        self._reader = BodyReader(head.length, self._plane.limits)
        self._body_at = self._plane.loop.time()
        if head.expects and not rest:
            self.write(_CONTINUE)
        self._read_body(rest)

    def _read_body(self, data: bytes) -> None:
        reader, exchange = self._reader, self._exchange
        assert reader is not None
        assert exchange is not None
        try:
            rest = reader.feed(data)
        except ProblemError as error:
            self._phase = Phase.BUSY
            exchange.refuse(error.problem)
            return
        if rest is None:
            self._deadline = self._plane.loop.time() + self._plane.limits.body_silence
            return
        self._deadline = math.inf
        self._phase = Phase.BUSY
        self._pending = rest
        self._reader = None
        self.unread = False
        exchange.run(reader.data)

    # ------------------------------------------------------------ for the exchange

    def done(self, keep: bool) -> None:
        """The request is answered: on to the next, or close."""
        self._exchange = None
        if not keep or self._phase is Phase.CLOSING:
            self._close()
            return
        self._phase = Phase.HEAD
        self._plane.idle[self] = None
        self._deadline = self._plane.loop.time() + self._plane.limits.idle_timeout
        if self._pending:
            self.pause(False)
            self._advance()

    def tunnel(self) -> None:
        """From here on the client's bytes go straight to the backend."""
        self._phase = Phase.TUNNEL
        self.pause(False)  # it may have been held back as for a next request
        early, self._pending = self._pending, b""
        if early and self._exchange is not None:
            self._exchange.from_client(bytes(early))

    def break_off(self, *, reset: bool) -> None:
        """End the connection so that it cannot be taken for a complete answer.

        ``reset`` sends RST, which clients retry best; without it what was written is flushed
        first, and the missing last chunk tells.
        """
        self._exchange = None
        self._phase = Phase.CLOSING
        transport = self._transport
        if transport is None:
            return
        if reset:
            self._reset()
            return
        self._deadline = self._plane.loop.time() + self._plane.limits.linger
        if transport.can_write_eof():
            self._abort_flushed()
        else:  # TLS: its buffer is not all that is under way
            transport.close()

    # ------------------------------------------------------------ ends

    def give_way(self) -> None:
        """It is idle, and another connection needs its place."""
        transport = self._transport
        if transport is not None and transport.get_write_buffer_size():
            transport.abort()  # it does not even take its last answer
        else:
            self._close()
        self._plane.dismiss(self, self.peer)

    def drain(self) -> None:
        """The daemon is stopping: go if idle, else after the answer in progress."""
        if self._phase is Phase.HEAD:
            self._close()

    def _leave(self) -> None:
        exchange, self._exchange = self._exchange, None
        self._phase = Phase.CLOSING
        self._deadline = self._plane.loop.time() + self._plane.limits.linger
        if exchange is not None:
            exchange.client_gone()

    def _close(self) -> None:
        """Close once all is flushed; within ``linger`` in any case (the sweep sees to it).

        While a client is still sending, closing would make its kernel throw our answer away: so
        say that we are done, and drop what comes until it has read and closed.
        """
        self._phase = Phase.CLOSING
        self._plane.idle.pop(self, None)
        self._deadline = self._plane.loop.time() + self._plane.limits.linger
        self._pending = b""
        self._reader = None
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self.pause(False)
        if not self.unread:
            transport.close()
        elif transport.can_write_eof():
            transport.write_eof()
        # else TLS, which has no half-closing: the answer says that it is the last

    def _refuse(self, problem: Problem) -> None:
        """Answer what never became a request, and close."""
        plane = self._plane
        status, headers, body = render(
            problem, Dialect.OPENAI, plane.request_id(None), plane.limits.retry_after_max
        )
        self.write(wire.plain_answer(status, headers, body, wire.CLOSE, head_only=False))
        self.unread = True
        self._close()

    def _crashed(self) -> None:
        if self._exchange is not None:
            self._exchange.crashed()
        self._phase = Phase.CLOSING
        self.abort()

    # ------------------------------------------------------------ deadlines

    def sweep(self, now: float) -> None:
        """Look at this connection's deadlines."""
        if now >= self._deadline or (self._phase is Phase.BODY and self._too_slow(now)):
            self._expire()
        if now >= self._stall_at:
            self._check_stall(now)
        if self._exchange is not None and self._phase is Phase.BUSY:
            self._exchange.sweep(now)

    def _too_slow(self, now: float) -> bool:
        assert self._reader is not None
        limits = self._plane.limits
        spent = now - self._body_at
        return spent > limits.body_silence and self._reader.received < spent * limits.body_rate

    def _expire(self) -> None:
        if self._phase is Phase.BODY:
            assert self._exchange is not None
            self._phase = Phase.BUSY
            text = "The body did not arrive in time."
            self._exchange.refuse(Problem(Code.BODY_TIMEOUT, text))
        elif self._phase is Phase.HEAD and self._pending:
            text = "The request head did not arrive in time."
            self._refuse(Problem(Code.BODY_TIMEOUT, text))
        elif self._phase is Phase.HEAD:
            self._close()
        else:
            self.abort()
