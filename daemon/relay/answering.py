"""The answer of one request, on its way to the client: as it comes, or an error of our own.

The other half of an exchange (``daemon.relay.exchange``): there a lease and a backend are got for
it, here what comes back is passed on, broken off, or told.
"""

from __future__ import annotations

import functools
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from daemon.core.messages import Outcome
from daemon.core.problems import Problem
from daemon.dialects.errors import (
    Dialect,
    Rendered,
    chat_stream_error,
    messages_stream_error,
    render,
)
from daemon.ports import Lease, Route, Waits
from daemon.relay import wire
from daemon.relay.admission import Admitted
from daemon.relay.answers import Answer
from daemon.relay.body import Body, Parts
from daemon.relay.heads import Head
from daemon.relay.records import TAIL, Trace
from daemon.relay.retries import LOADING, LOADING_BYTES, WHOLE, Loading, digest, ends
from daemon.relay.upstream import Upstream

if TYPE_CHECKING:
    from daemon.relay.client import ClientConnection
    from daemon.relay.plane import Plane

log = logging.getLogger(__name__)

_TAIL_MOST = TAIL + 1024  # bytes; cutting it is dearer than letting it grow a little
_TOLD_IN_STREAM = frozenset({Route.CHAT, Route.COMPLETIONS})


A = TypeVar("A", bound="Answering")
P = ParamSpec("P")


class Step(Enum):
    """How far a request has come."""

    HEAD = auto()
    WAITING = auto()  # for a lease
    CONNECTING = auto()
    SENT = auto()
    ANSWERING = auto()
    TUNNEL = auto()
    OVER = auto()


def entry(method: Callable[Concatenate[A, P], None]) -> Callable[Concatenate[A, P], None]:
    """For what others call: a bug in one request ends that request, not its caller."""

    @functools.wraps(method)
    def guarded(self: A, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception:
            log.exception("a request failed inside the relay")
            self.crashed()

    return guarded


class Answering(ABC):
    """What an exchange knows, and what it does with an answer."""

    __slots__ = (
        "_admitted",
        "_body",
        "_chunked",
        "_client",
        "_cors",
        "_counted",
        "_events",
        "_framed",
        "_lease",
        "_loading",
        "_metered",
        "_model",
        "_parts",
        "_plane",
        "_tail",
        "_trace",
        "_upstream",
        "dialect",
        "head",
        "request_id",
        "step",
    )

    def __init__(
        self, plane: Plane, client: ClientConnection, head: Head, admitted: Admitted | None
    ) -> None:
        self._plane = plane
        self._client = client
        self._trace = Trace(time.monotonic())
        self.head = head
        self.request_id = plane.request_id(head)
        self.dialect = admitted.dialect if admitted is not None else Dialect.OPENAI
        self.step = Step.HEAD
        self._admitted = admitted
        self._cors = admitted.cors if admitted is not None else b""
        self._model = ""
        self._body: Body = b""
        self._parts: Parts = ()  # the same as it goes to the backend
        self._lease: Lease | None = None
        self._upstream: Upstream | None = None
        self._counted = False  # among those that want a backend
        self._metered = False  # among those of its key
        self._loading: Loading | None = None  # it says that it is still loading
        self._chunked = self._events = False  # the answer
        self._framed = False  # the piece sent last is a chunk with its frame
        self._tail = bytearray()  # of the answer as it was sent

    @abstractmethod
    def crashed(self) -> None:
        """A bug: nothing sensible can be said to the client any more."""

    # ------------------------------------------------------------ the answer

    def answered(self, answer: Answer, data: bytes, ended: bool) -> None:
        """The backend's head, and what came with it: on to the client in one write."""
        if answer.status == 503 and self._may_be_loading(answer):
            self._loading = self._loading or Loading(self._plane.loop.time())
            self._loading.begin(answer)
            self._still_loading(data, ended)
            return
        self._answer(answer, data, ended)

    def _answer(self, answer: Answer, data: bytes, ended: bool) -> None:
        trace = self._trace
        trace.first_at = time.monotonic()
        trace.status = answer.status
        if self._lease is not None:
            self._lease.status = answer.status
        if len(self._body) > WHOLE:  # no second try from here on; it is kept as far as its mark
            self._body = ends(self._body)
            self._parts = ()
        own = b"x-request-id: %b\r\n%b%b" % (
            self.request_id.encode(),
            wire.server_timing(trace.waited()),
            self._cors,
        )
        if answer.tunnel:
            self.step = Step.TUNNEL
            self._send(wire.switching_head(answer.written(), self.head.upgrade, own) + data)
            self._client.tunnel()
            return
        self.step = Step.ANSWERING
        framing = b""
        keep = self._keep()
        if answer.length is not None:
            framing = b"" if answer.status == 204 else b"content-length: %d\r\n" % answer.length
        elif not answer.bodiless:
            self._chunked = self.head.http11
            self._events = answer.events
            framing = wire.CHUNKED if self._chunked else b""
            keep = keep and self._chunked
        if not keep:
            self._client.closing = True
            own += wire.CLOSE
        head = b"%b%b%b\r\n" % (answer.written(), framing, own)
        self._forward(head, data, ended)

    def continued(self, data: bytes, ended: bool) -> None:
        """More of the body."""
        if self.step is Step.SENT:
            self._still_loading(data, ended)
        else:
            self._forward(b"", data, ended)

    def passed(self, data: bytes) -> None:
        """One more chunk, with its frame: nothing is to be done to it."""
        tail = self._tail
        # In front of a frame there is always an end of line: so ``usage`` knows it.
        tail += data[-TAIL:] if self._framed else b"\r\n" + data[-TAIL:]
        if len(tail) > _TAIL_MOST:
            del tail[:-TAIL]
        self._framed = True
        self._trace.bytes_out += len(data)
        self._client.write(data)

    def _may_be_loading(self, answer: Answer) -> bool:
        if answer.length is None or not 0 < answer.length <= LOADING_BYTES:
            return False
        since = None if self._loading is None else self._loading.since
        return since is None or self._plane.loop.time() - since < self._plane.limits.loading_wait

    def _still_loading(self, data: bytes, ended: bool) -> None:
        """A short 503: once it is complete, it is passed on, or asked again in a moment."""
        loading = self._loading
        assert loading is not None
        assert loading.answer is not None
        loading.body += data
        if not ended:
            return
        self._upstream = None
        if LOADING not in loading.body:
            self._answer(loading.answer, loading.body, True)
            return
        self.step = Step.CONNECTING
        loop, poll = self._plane.loop, self._plane.limits.loading_poll
        loading.timer = loop.call_later(poll, self._ask_again)

    @abstractmethod
    def _ask_again(self) -> None:
        """The backend may have loaded by now."""

    def _forward(self, head: bytes, data: bytes, ended: bool) -> None:
        if data:
            self._remember(data)
        if self._chunked:
            if data:
                data = wire.chunk(data)
            if ended:
                data += wire.LAST_CHUNK
        if ended:
            self._upstream = None
        self._send(head + data if head else data)
        if ended:
            keep = self.step is Step.ANSWERING and not self._client.closing
            self._over(Outcome.OK)
            self._client.done(keep)

    def _remember(self, data: bytes) -> None:
        """The end of what was sent, of pieces without frames."""
        tail = self._tail
        if self._framed:
            self._framed = False
            del tail[-2:]  # the frame's
        tail += data[-TAIL:]
        if len(tail) > _TAIL_MOST:
            del tail[:-TAIL]

    def _between_events(self) -> bool:
        """Was the last thing that was sent the end of an event?"""
        tail = self._tail[-6:]
        end = tail[:-2] if self._framed else tail
        return end.endswith((b"\n\n", b"\r\n\r\n"))

    def _send(self, data: bytes) -> None:
        if data:
            self._trace.bytes_out += len(data)
            self._client.write(data)

    def backend_full(self, full: bool) -> None:
        """The backend takes no more for now. Of consequence only in a tunnel."""
        if self.step is Step.TUNNEL:
            self._client.pause(full)

    def _break(self, problem: Problem) -> None:
        """Bytes were sent on: cut the connection, so that no client takes this for the end.

        A chat client is told why first, unless it has half an event: ended by ours that would be a
        whole one, which no client can read. On messages and responses an error event would cost
        the client's own streaming retries, which a reset gives it.
        """
        whole = self._events and self._between_events()
        told = self._last_event(problem) if whole else b""
        if told:
            self._send(wire.chunk(told) if self._chunked else told)
        self._over(Outcome.UPSTREAM_ERROR)
        self._client.break_off(reset=not told)

    def _last_event(self, problem: Problem) -> bytes:
        route = self._admitted.place.route if self._admitted is not None else None
        if route in _TOLD_IN_STREAM:
            return chat_stream_error(problem)
        if route is Route.MESSAGES and problem.retry_after is None:
            return messages_stream_error(problem, self.request_id)
        return b""

    # ------------------------------------------------------------ ends

    def refuse(self, problem: Problem, allow: str = "") -> None:
        """Answer with an error in the client's shape."""
        status, headers, body = self.rendered(problem)
        if allow:
            headers.append(("Allow", allow))
        self._plain(status, headers, body)

    def rendered(self, problem: Problem) -> Rendered:
        """An error in the client's shape: status, headers, body."""
        longest = self._plane.limits.retry_after_max
        return render(problem, self.dialect, self.request_id, longest)

    def _plain(
        self, status: int, headers: list[tuple[str, str]], body: bytes, lines: bytes = b""
    ) -> None:
        keep = self._keep() and not self._client.unread
        own = self._cors + lines + (b"" if keep else wire.CLOSE)
        if self._counted:
            own = self._waited() + own
        only = self.head.method == "HEAD"
        self._trace.status = status
        self._trace.first_at = time.monotonic()
        self._send(wire.plain_answer(status, headers, body, own, head_only=only))
        self._over(Outcome.OK)
        self._client.done(keep)

    def _waited(self) -> bytes:
        """Of a request that was refused: all that is known is how long that took."""
        if self._lease is not None:
            return wire.server_timing(self._trace.waited())
        return wire.server_timing(Waits(time.monotonic() - self._trace.start))

    def _keep(self) -> bool:
        leaves = self._plane.draining or self._client.entry.closed
        return self.head.keep_alive and not leaves

    def mark(self) -> str:
        """A digest of the body; "" where there is none. Worked out only when something died."""
        return digest(self._body) if self._body else ""

    def _key(self) -> str:
        principal = self._admitted.principal if self._admitted is not None else None
        return principal.name if principal is not None and principal.keyed else ""

    def _end_lease(self, outcome: Outcome) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.on_cancel = None
            lease.end(outcome)

    def _over(self, outcome: Outcome) -> None:
        """End the lease and tell of the request."""
        self.step = Step.OVER
        if self._metered:  # first: whatever goes wrong below, no key loses a place for good
            self._metered = False
            assert self._admitted is not None
            self._plane.meters.end(self._admitted.principal)
        self._end_lease(outcome)
        if self._counted:
            self._counted = False
            budget = self._plane.budget
            budget.active -= 1
            budget.again -= self._trace.attempt - 1
        if self._plane.on_done is not None:
            self._plane.told(
                self._trace.record(
                    time.monotonic(),
                    request_id=self.request_id,
                    method=self.head.method,
                    path=self.head.path,
                    model=self._model,
                    outcome=outcome.value,
                    peer=self._client.peer.address,
                    client=self._admitted.client if self._admitted is not None else "",
                    key=self._key(),
                    tail=self._tail,
                )
            )
