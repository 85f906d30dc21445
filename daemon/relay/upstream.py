"""One connection to a backend: a request out, its answer in, parsed by llhttp.

It tells its owner of the answer as it arrives, piece by piece, and of nothing else. What a
hostile or broken backend may do is bounded here: header count and size, interim answers without
end, answers nobody asked for, switches of protocol.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol, cast

import httptools

from daemon.ports import Target
from daemon.relay.answers import Answer, RefusedError, framed, learn, recall, whole_chunk
from daemon.relay.body import Parts
from daemon.relay.heads import Fields
from daemon.relay.limits import Limits

log = logging.getLogger(__name__)

JOIN_BELOW = 16 * 1024
"""Bytes. A head and a small body go out in one write; a large body is not copied for that."""
PIECE = 256 * 1024
"""Bytes of a large body that are handed to the transport at once: asyncio's copies what it cannot
send, so no more of it is there twice."""


class Fault(Enum):
    """How an exchange with a backend failed."""

    STALE = auto()  # a connection kept from before died without a byte: no verdict on the backend
    DIED = auto()  # gone before the end of its answer
    MALFORMED = auto()  # it lives, and answers what is not HTTP


class Owner(Protocol):
    """Whoever asked. Told exactly one end: ``ended`` true, ``failed``, or (a bug) ``crashed``."""

    def answered(self, answer: Answer, data: bytes, ended: bool) -> None: ...
    def continued(self, data: bytes, ended: bool) -> None: ...
    def passed(self, data: bytes) -> None: ...  # a chunk with its frame, to be sent on as it is
    def failed(self, fault: Fault, text: str) -> None: ...
    def backend_full(self, full: bool) -> None: ...
    def crashed(self) -> None: ...


class Upstream(asyncio.Protocol):
    """A connection that may be used again and again, by one owner at a time."""

    __slots__ = (
        "_answer",
        "_barren",
        "_border",
        "_done",
        "_fields",
        "_head_only",
        "_keep",
        "_left",
        "_limits",
        "_owner",
        "_parser",
        "_paused",
        "_pieces",
        "_raw",
        "_release",
        "_seen",
        "_stuffed",
        "_unsent",
        "_upgrade",
        "expires",
        "reused",
        "target",
        "transport",
    )

    def __init__(
        self, target: Target, limits: Limits, release: Callable[[Upstream, bool], None]
    ) -> None:
        """``release(self, usable)`` takes it back once an answer is complete, or it is lost."""
        self.target = target
        self.transport: asyncio.Transport | None = None
        self.expires = 0.0  # the pool's
        self.reused = False
        self._limits = limits
        self._release = release
        self._parser = httptools.HttpResponseParser(self)
        self._owner: Owner | None = None
        self._pieces: list[bytes] = []
        self._fields: Fields = []
        self._answer: Answer | None = None
        self._seen = self._done = self._keep = self._head_only = False
        self._upgrade = b""
        self._raw = False  # whole chunks may be passed on with their frames
        self._border = False  # the next byte of the answer begins a chunk
        self._left = -1  # of a body whose length is known and that llhttp does not read
        self._unsent: list[memoryview] = []
        self._paused = False
        self._stuffed = False  # the transport takes no more for now
        self._barren = 0

    # ------------------------------------------------------------ for the owner

    def ask(
        self,
        owner: Owner,
        head: bytes,
        body: Parts,
        *,
        head_only: bool = False,
        upgrade: bytes = b"",
        raw: bool = False,
    ) -> None:
        """Send a request; its answer goes to ``owner``. ``upgrade``: the protocol that it may
        switch to; ``raw``: chunks may come with their frames."""
        self._owner = owner
        self._answer = None
        self._fields = []
        self._seen = self._done = self._keep = self._border = False
        self._left = -1
        self._head_only = head_only
        self._upgrade = upgrade
        self._raw = raw
        self._barren = 0
        transport = self.transport
        assert transport is not None
        if sum(map(len, body)) < JOIN_BELOW:
            transport.write(b"".join((head, *body)))
            return
        transport.write(head)
        self._unsent = [memoryview(part) for part in body]
        self._send_more(transport)

    def _send_more(self, transport: asyncio.Transport) -> None:
        """Go on with a large body until the transport has enough; ``resume_writing`` comes here."""
        unsent = self._unsent
        while unsent and not self._stuffed and not transport.is_closing():
            part = unsent[0]
            if len(part) > PIECE:
                unsent[0] = part[PIECE:]
                part = part[:PIECE]
            else:
                del unsent[0]
            transport.write(part)

    def abort(self) -> None:
        """Drop the connection at once, so that the backend stops generating. Tells nobody."""
        self._owner = None
        if self.transport is not None:
            self.transport.abort()

    def send(self, data: bytes) -> None:
        """Bytes of a tunnel."""
        if self.transport is not None:
            self.transport.write(data)

    def pause(self, paused: bool) -> None:
        """Stop or go on reading: the client takes no more, or does again."""
        transport = self.transport
        if transport is None or paused is self._paused or transport.is_closing():
            return
        self._paused = paused
        if paused:
            transport.pause_reading()
        else:
            transport.resume_reading()

    @property
    def idle(self) -> bool:
        """Is it there, with nothing half sent, for a next request?"""
        transport = self.transport
        return (
            transport is not None
            and not transport.is_closing()
            and not self._unsent
            and transport.get_write_buffer_size() == 0
        )

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        owner = self._owner
        if owner is None:
            self.abort()  # it speaks without being asked: never use it again
            return
        try:
            if self._border and whole_chunk(data):
                owner.passed(data)
            elif self._left >= 0:
                self._count(owner, data)
            else:
                self._received(owner, data)
        except Exception:
            log.exception("an answer failed inside the relay")
            owner.crashed()

    def _received(self, owner: Owner, data: bytes) -> None:
        answer, first = self._answer, not self._seen
        if first:
            self._seen = True
            if not self._head_only and not self._upgrade and (known := recall(data)):
                self._answer = answer = known[0]
                self._left = answer.length or 0
                self._count(owner, data[known[1] :], answer)
                return
        elif answer is not None and answer.tunnel:
            owner.continued(data, False)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as switch:
            self._switched(owner, data[switch.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._malformed(owner, str(error.__context__ or error))
            return
        if self._border and not data.endswith(b"\r\n"):
            self._border = False
        if first and self._answer is not None and self._answer.length is not None:
            self._learn(data, self._answer)
        self._deliver(owner, len(data), answer is None)

    def _learn(self, data: bytes, answer: Answer) -> None:
        keeps = self._keep if self._done else self._parser.should_keep_alive()
        if keeps and not answer.bodiless and not answer.tunnel:
            learn(data, answer)

    def _count(self, owner: Owner, data: bytes, fresh: Answer | None = None) -> None:
        """Of an answer with a known head: bytes to its length."""
        left = self._left = self._left - len(data)
        done = left <= 0
        if done:
            self._left = -1
            self._owner = None
            self._release(self, left == 0)
            if left < 0:  # a second answer to one request
                data = data[:left]
        if fresh is not None:
            owner.answered(fresh, data, done)
        else:
            owner.continued(data, done)

    def _deliver(self, owner: Owner, size: int, fresh: bool) -> None:
        pieces = self._pieces
        data = b""
        if pieces:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._barren = 0
        done = self._done
        if done:
            self._owner = None
            self._release(self, self._keep)
        elif not data:
            # Head, interim answers, chunk lines and trailers: none may go on for ever.
            self._barren += size
            if self._barren > self._limits.answer_head_bytes:
                self._malformed(owner, "headers without end")
                return
        answer = self._answer
        if answer is not None and fresh:
            owner.answered(answer, data, done)
        elif data or done:
            owner.continued(data, done)

    def _switched(self, owner: Owner, rest: bytes) -> None:
        answer = self._answer
        if answer is None or not answer.tunnel:
            self._malformed(owner, "a switch of protocols that was not asked for")
            return
        owner.answered(answer, rest, False)

    def _malformed(self, owner: Owner, text: str) -> None:
        self.abort()
        owner.failed(Fault.MALFORMED, text)

    def connection_lost(self, exc: Exception | None) -> None:
        owner, self._owner = self._owner, None
        self.transport = None
        self._unsent = []
        del self._parser  # ends the cycle of parser and callbacks
        self._release(self, False)
        if owner is None:
            return
        try:
            self._lost(owner, exc)
        except Exception:
            log.exception("an answer failed inside the relay")
            owner.crashed()

    def _lost(self, owner: Owner, exc: Exception | None) -> None:
        answer = self._answer
        if answer is not None and exc is None and (answer.until_eof or answer.tunnel):
            owner.continued(b"", True)
        elif self.reused and not self._seen:
            owner.failed(Fault.STALE, "the connection was closed")
        else:
            owner.failed(Fault.DIED, str(exc or "the connection was closed"))

    def pause_writing(self) -> None:
        self._stuffed = True
        if self._owner is not None:
            self._owner.backend_full(True)

    def resume_writing(self) -> None:
        self._stuffed = False
        if self._unsent and self.transport is not None:
            self._send_more(self.transport)
        if self._owner is not None:
            self._owner.backend_full(False)

    # ------------------------------------------------------------ llhttp's callbacks

    def on_message_begin(self) -> None:
        if self._done:
            self._keep = False  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answer is None:
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._done:
            return
        status = self._parser.get_status_code()
        fields = self._fields
        if 100 <= status < 200 and status != 101:
            self._fields = []
            return
        if len(fields) > self._limits.answer_head_fields:
            raise RefusedError("too many header fields")
        if sum([len(name) + len(value) for name, value in fields]) > self._limits.answer_head_bytes:
            raise RefusedError("headers without end")
        if not 101 <= status <= 599:
            raise RefusedError(f"the status {status}")
        self._answer = answer = framed(status, fields, self._upgrade)
        if status == 101:
            if not answer.tunnel:
                raise RefusedError("a switch of protocols that was not asked for")
        elif self._head_only:
            # llhttp cannot be told that no body follows, so this connection ends here.
            answer.bodiless = self._done = True
        else:
            self._border = self._raw and answer.length is None and not answer.until_eof

    def on_chunk_header(self) -> None:
        self._border = False

    def on_chunk_complete(self) -> None:
        self._border = self._raw and not self._done

    def on_body(self, data: bytes) -> None:
        if not self._done:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        answer = self._answer
        if answer is not None and not self._done and not answer.tunnel:
            self._done = True
            self._border = False
            self._keep = self._parser.should_keep_alive()
