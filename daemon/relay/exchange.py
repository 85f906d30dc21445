"""One request from its head to its end: admission, lease, backend, answer.

Whatever happens, the lease is ended exactly once and the client's connection is handed back
exactly once. What was not yet sent on may be tried again; after the first byte nothing is.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Concatenate, ParamSpec

from daemon.core.messages import Outcome
from daemon.core.problems import Code, Problem, ProblemError
from daemon.dialects.errors import (
    Dialect,
    Rendered,
    chat_stream_error,
    messages_stream_error,
    render,
)
from daemon.ports import Lease, Route, Waiting, Waits, Wish
from daemon.relay import local, wire
from daemon.relay.admission import Admitted, admit, named, rewritten
from daemon.relay.body import Body
from daemon.relay.heads import Head
from daemon.relay.records import TAIL, Trace
from daemon.relay.retries import (
    LOADING,
    LOADING_BYTES,
    WHOLE,
    Loading,
    digest,
    ends,
    repeatable,
)
from daemon.relay.upstream import Answer, Fault, Upstream

if TYPE_CHECKING:
    from daemon.relay.client import ClientConnection
    from daemon.relay.plane import Plane

log = logging.getLogger(__name__)

P = ParamSpec("P")
_TOLD_IN_STREAM = frozenset({Route.CHAT, Route.COMPLETIONS})


class Step(Enum):
    """How far a request has come."""

    HEAD = auto()
    WAITING = auto()  # for a lease
    CONNECTING = auto()
    SENT = auto()
    ANSWERING = auto()
    TUNNEL = auto()
    OVER = auto()


def _entry(
    method: Callable[Concatenate[Exchange, P], None],
) -> Callable[Concatenate[Exchange, P], None]:
    """For what others call: a bug in one request ends that request, not its caller."""

    @functools.wraps(method)
    def guarded(self: Exchange, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception:
            log.exception("a request failed inside the relay")
            self.crashed()

    return guarded


class Exchange:
    """Owns one request; told by the client's connection, the lease port and the upstream."""

    def __init__(
        self,
        plane: Plane,
        client: ClientConnection,
        head: Head,
        admitted: Admitted | None = None,
    ) -> None:
        """``admitted`` if that was decided before, for the same head; else call :meth:`admit`."""
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
        self._arrived: float | None = None
        self._waiting: Waiting | None = None
        self._lease: Lease | None = None
        self._opening: asyncio.Task[None] | None = None
        self._upstream: Upstream | None = None
        self._fresh = self._refused = False  # tried once more on a new connection
        self._counted = False  # among those that want a backend
        self._loading: Loading | None = None  # it may say that it is still loading
        self._chunked = self._events = False  # the answer
        self._last = self._before = b""  # the pieces of the answer sent last

    # ------------------------------------------------------------ from the client's connection

    def admit(self) -> Admitted | None:
        """Decide on the head. None: it was answered, and its body need not be read."""
        verdict = admit(self.head, self._client.peer, self._plane.guard, self._plane.limits)
        self.dialect = verdict.dialect
        self._cors = verdict.cors
        if isinstance(verdict, Admitted):
            self._admitted = verdict
            return verdict
        if verdict.problem is None:
            self._plain(204, [("Allow", verdict.allow)], b"", verdict.lines)
        else:
            self.refuse(verdict.problem, verdict.allow)
        return None

    def run(self, body: Body) -> None:
        """The body is complete: answer it, or ask for a lease."""
        admitted = self._admitted
        assert admitted is not None
        self._body = body
        self._trace.bytes_in = len(body)
        if admitted.place.local is not None:
            self._plain(*local.answer(admitted.place, self.head, self._plane.leases, self))
            return
        try:
            self._model = named(admitted, self.head, body, self._plane.leases)
        except ProblemError as error:
            self.refuse(error.problem)
            return
        self._acquire(admitted)

    def client_gone(self) -> None:
        """The client left: stop waiting, and stop the backend's work for it at once."""
        if self.step is not Step.OVER:
            self._let_go()
            self._over(Outcome.OK if self.step is Step.TUNNEL else Outcome.CLIENT_GONE)

    def client_full(self, full: bool) -> None:
        """The client takes no more for now (or does again): so the backend is not read."""
        if self._upstream is not None:
            self._upstream.pause(full)

    def from_client(self, data: bytes) -> None:
        """Bytes of a tunnel."""
        if self._upstream is not None:
            self._upstream.send(data)

    def crashed(self) -> None:
        """A bug: nothing sensible can be said to the client any more."""
        self._let_go()
        if self.step is not Step.OVER:
            self._over(Outcome.UPSTREAM_ERROR)
        self._client.break_off(reset=True)

    # ------------------------------------------------------------ the lease

    def _acquire(self, admitted: Admitted) -> None:
        plane = self._plane
        if plane.stopping:
            retry = plane.limits.retry_after_drain
            text = "The daemon is stopping."
            self.refuse(Problem(Code.SHUTTING_DOWN, text, retry_after=retry))
            return
        assert admitted.place.route is not None
        wish = Wish(
            model=self._model,
            route=admitted.place.route,
            principal=admitted.principal,
            client=admitted.client,
            body_bytes=self._trace.bytes_in,
            request_id=self.request_id,
            attempt=self._trace.attempt,
            arrived=self._arrived,
            mark=self.mark,
        )
        if not self._counted:
            self._counted = True
            plane.budget.active += 1
        self.step = Step.WAITING
        waiting = plane.leases.acquire(wish, self._granted)
        # ``_granted`` may have run already, and all of the request with it.
        if self.step is Step.WAITING:
            self._waiting = waiting

    @_entry
    def _granted(self, result: Lease | Problem) -> None:
        self._waiting = None
        if isinstance(result, Problem):
            self.refuse(result)
            return
        result.on_cancel = self._cancelled
        result.sent = self._trace.sent
        self._lease = result
        self._trace.waits = result.waits()
        self._trace.leased_at = time.monotonic()
        self._open(fresh=False)

    @_entry
    def _cancelled(self, problem: Problem) -> None:
        """The supervisor takes the lease back: forced unload, or the backend is dead."""
        if self.step is Step.OVER:
            return
        if problem.code is Code.UPSTREAM_ERROR and problem.retry_after is None:
            problem = replace(problem, retry_after=self._plane.limits.retry_after_lost)
        self._let_go()
        if self.step in (Step.ANSWERING, Step.TUNNEL):
            self._break(problem)
        elif problem.code is Code.UPSTREAM_ERROR:
            self._again(problem)
        else:
            self._end_lease(Outcome.UPSTREAM_ERROR)
            self.refuse(problem)

    def _end_lease(self, outcome: Outcome) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.on_cancel = None
            lease.end(outcome)

    # ------------------------------------------------------------ the backend

    def _open(self, *, fresh: bool) -> None:
        lease = self._lease
        assert lease is not None
        upstream = None if fresh else self._plane.pool.take(lease.target)
        if upstream is not None:
            self._ask(lease, upstream)
        else:
            self.step = Step.CONNECTING
            self._opening = self._plane.pool.open(lease.target, self._opened)

    @_entry
    def _opened(self, result: Upstream | OSError) -> None:
        self._opening = None
        if isinstance(result, Upstream):
            assert self._lease is not None
            self._ask(self._lease, result)
        elif self._refused:
            self._fail(Fault.DIED, f"it takes no connection ({result})")
        else:
            self._refused = True
            self._open(fresh=True)

    def _ask(self, lease: Lease, upstream: Upstream) -> None:
        admitted, head, body = self._admitted, self.head, self._body
        assert admitted is not None
        if self._model and lease.upstream_model != self._model:
            body = rewritten(admitted, head, body, lease.upstream_model)
        path = admitted.upstream_path
        if lease.keep_query and head.query:
            path = f"{path}?{head.query}"
        upgrade = admitted.place.route is Route.UPSTREAM and head.upgrade
        sent = wire.request_head(
            head,
            path,
            lease.target,
            length=len(body),
            headers=lease.headers,
            request_id=self.request_id,
            upgrade=upgrade,
        )
        self.step = Step.SENT
        self._upstream = upstream
        upstream.ask(self, sent, body, head_only=head.method == "HEAD", upgrade=upgrade)

    def failed(self, fault: Fault, text: str) -> None:
        """The backend failed us. Before the first byte: tried again where that can help."""
        self._upstream = None
        self._fail(fault, text)

    def mark(self) -> str:
        """A digest of the body; "" where there is none. Worked out only when something died."""
        return digest(self._body) if self._body else ""

    def _repeatable(self) -> bool:
        assert self._admitted is not None
        return repeatable(self._admitted.place.route, self.head, self._body)

    def _fail(self, fault: Fault, text: str) -> None:
        retry = self._plane.limits.retry_after_lost
        message = f"The backend of {self._model or 'the model'} failed: {text}."
        if self.step in (Step.ANSWERING, Step.TUNNEL):
            problem = Problem(Code.UPSTREAM_ERROR, message, retry_after=retry)
            if self._lease is not None and self._lease.suspect():
                problem = replace(problem, retry_after=None)  # not by chance
            self._break(problem)
        elif fault is Fault.STALE and not self._fresh and self._repeatable():
            self._fresh = True
            self._open(fresh=True)
        elif fault is Fault.MALFORMED:
            self._end_lease(Outcome.UPSTREAM_ERROR)
            self.refuse(Problem(Code.UPSTREAM_ERROR, message))
        else:
            self._again(Problem(Code.UPSTREAM_ERROR, message, retry_after=retry))

    def _again(self, problem: Problem) -> None:
        """Lost before any byte was sent on: queue once more with the old arrival, else tell."""
        budget = self._plane.budget
        suspect = self._lease is not None and self._lease.suspect()
        self._arrived = self._lease.arrived if self._lease is not None else None
        written = self.step is Step.SENT
        self._end_lease(Outcome.LOST)
        if suspect:  # it was there when one died before: no client shall send it at once again
            problem = replace(problem, retry_after=None)
        if self._trace.attempt > 1 or not budget.allows() or (written and not self._repeatable()):
            self.refuse(problem)
            return
        budget.again += 1
        self._trace.attempt = 2
        self._fresh = self._refused = False
        assert self._admitted is not None
        self._acquire(self._admitted)

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
        own = b"x-request-id: %b\r\n%b%b" % (
            self.request_id.encode(),
            wire.server_timing(trace.waited()),
            self._cors,
        )
        if answer.tunnel:
            self.step = Step.TUNNEL
            self._send(wire.switching_head(answer.fields, own) + data)
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
        head = wire.answer_head(answer.status, answer.fields, answer.named, framing, own)
        self._forward(head, data, ended)

    def continued(self, data: bytes, ended: bool) -> None:
        """More of the body."""
        if self.step is Step.SENT:
            self._still_loading(data, ended)
        else:
            self._forward(b"", data, ended)

    def _may_be_loading(self, answer: Answer) -> bool:
        length, found = answer.length, self._loading
        waited = 0.0 if found is None else self._plane.loop.time() - found.since
        return (
            length is not None
            and 0 < length <= LOADING_BYTES
            and waited < self._plane.limits.loading_wait
        )

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

    @_entry
    def _ask_again(self) -> None:
        self._open(fresh=True)

    def _forward(self, head: bytes, data: bytes, ended: bool) -> None:
        if data:
            self._before, self._last = self._last, data
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

    def _send(self, data: bytes) -> None:
        if data:
            self._trace.bytes_out += len(data)
            self._client.write(data)

    def _break(self, problem: Problem) -> None:
        """Bytes were sent on: cut the connection, so that no client takes this for the end.

        A chat client is told why first; on messages and responses an error event would cost the
        client's own streaming retries, which a reset gives it.
        """
        told = self._last_event(problem) if self._events else b""
        if told:
            border = b"" if self._last.endswith(b"\n\n") else b"\n\n"
            event = border + told
            self._send(wire.chunk(event) if self._chunked else event)
        self._over(Outcome.UPSTREAM_ERROR)
        self._client.break_off(reset=not told)

    def _last_event(self, problem: Problem) -> bytes:
        route = self._admitted.place.route if self._admitted is not None else None
        if route in _TOLD_IN_STREAM:
            return chat_stream_error(problem)
        if route is Route.MESSAGES and problem.retry_after is None:
            return messages_stream_error(problem, self.request_id)
        return b""

    def backend_full(self, full: bool) -> None:
        """The backend takes no more for now. Of consequence only in a tunnel."""
        if self.step is Step.TUNNEL:
            self._client.pause(full)

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
        return wire.server_timing(Waits(time.monotonic() - self._trace.start))

    def _keep(self) -> bool:
        return self.head.keep_alive and not self._plane.draining

    def _let_go(self) -> None:
        """Stop whatever is under way for this request."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        if self._loading is not None and self._loading.timer is not None:
            self._loading.timer.cancel()
        if self._upstream is not None:
            self._upstream.abort()
            self._upstream = None

    def _over(self, outcome: Outcome) -> None:
        """End the lease and tell of the request."""
        self.step = Step.OVER
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
                    tail=self._before[-TAIL:] + self._last[-TAIL:],
                )
            )
