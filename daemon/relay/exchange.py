"""One request from its head to its end: admission, lease, backend, answer.

Whatever happens, the lease is ended exactly once and the client's connection is handed back
exactly once. What was not yet sent on may be tried again; after the first byte nothing is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from daemon.core.messages import Outcome
from daemon.core.problems import Code, Problem, ProblemError
from daemon.dialects.errors import Dialect
from daemon.dialects.manner import Outline
from daemon.dialects.shapes import Shape
from daemon.ports import Lease, ModelCard, Route, Wish
from daemon.relay import calls, local, orders, wire
from daemon.relay.admission import Admitted, admit, named, rewritten
from daemon.relay.answering import Step, entry
from daemon.relay.backstage import Backstage
from daemon.relay.body import Body, readable
from daemon.relay.counts import Counting
from daemon.relay.doors import MAIN
from daemon.relay.heads import Head
from daemon.relay.retries import repeatable
from daemon.relay.routes import Order
from daemon.relay.talks import talk_for
from daemon.relay.upstream import Fault, Upstream

if TYPE_CHECKING:
    from daemon.relay.client import ClientConnection
    from daemon.relay.plane import Plane

log = logging.getLogger(__name__)

_ONCE_MORE = "Please retry your request."
"""In these words: pi knows from the text alone, and by them, that asking again may help."""


class Exchange(Counting):
    """Owns one request; told by the client's connection, the lease port and the upstream."""

    __slots__ = (
        "_arrived",
        "_door",
        "_fresh",
        "_late",
        "_loads",
        "_opening",
        "_outline",
        "_refused",
    )

    def __init__(
        self,
        plane: Plane,
        client: ClientConnection,
        head: Head,
        admitted: Admitted | None = None,
    ) -> None:
        """``admitted`` if that was decided before, for the same head; else call :meth:`admit`."""
        super().__init__(plane, client, head, admitted)
        self._arrived: float | None = None
        self._late: asyncio.TimerHandle | None = None  # a refusal that is not told yet
        self._opening: asyncio.Task[None] | None = None
        self._loads = False  # it is no question, but an order to load the model
        self._fresh = self._refused = False  # tried once more on a new connection
        self._door = MAIN
        self._outline: Outline | None = None  # of the body, until it is worded

    # ------------------------------------------------------------ from the client's connection

    def admit(self) -> Admitted | None:
        """Decide on the head. None: it was answered, and its body need not be read."""
        verdict = admit(
            self.head,
            self._client.peer,
            self._plane.guard,
            self._plane.limits,
            self._client.entry.door,
        )
        self.dialect = verdict.dialect
        self._cors = verdict.cors
        if isinstance(verdict, Admitted):
            self._admitted = verdict
            return verdict
        if verdict.late and verdict.problem is not None:
            loop, late = self._plane.loop, self._plane.limits.late
            self._late = loop.call_later(late, self._refuse_late, verdict.problem)
        elif verdict.problem is None:
            self._plain(204, [("Allow", verdict.allow)], b"", verdict.lines)
        else:
            self.refuse(verdict.problem, verdict.allow)
        return None

    @entry
    def _refuse_late(self, problem: Problem) -> None:
        self._late = None
        self.refuse(problem)

    def run(self, body: Body) -> None:
        """The body is complete: answer it, or ask for a lease."""
        admitted = self._admitted
        assert admitted is not None
        self._body = body
        self._trace.bytes_in = len(body)
        leases, place = self._plane.leases, admitted.place
        door = self._door = self._client.entry.door
        try:
            if place.control:
                self._ask_control(admitted)
                return
            if place.local is not None:
                self._plain(*local.answer(admitted, self.head, body, leases, self, door))
                return
            try:
                self._model, self._outline = named(admitted, self.head, body, leases, door)
            except ProblemError as error:
                body = self._body = readable(body, error)
                self._model, self._outline = named(admitted, self.head, body, leases, door)
            if self._counts and not self._by_engine():
                self._tally(admitted)
                if self._aside():
                    return
            if (place.dialect is Dialect.OLLAMA or place.order) and self._obeyed(admitted, body):
                return
        except ProblemError as error:
            self.refuse(error.problem)
            return
        self._acquire(admitted)

    def _ask_control(self, admitted: Admitted) -> None:
        """On to the control plane, which is told who asks."""
        control = self._plane.control
        if control is None or self._plane.stopping:
            text = f"The daemon is {'starting' if control is None else 'stopping'}."
            raise ProblemError(Problem(Code.SHUTTING_DOWN, text, "Try again.", 1.0))
        self._granted(Backstage(control(admitted.principal)))

    def _tally(self, admitted: Admitted) -> None:
        """What no engine does is a request of its key all the same. Raises ProblemError."""
        if admitted.principal.limited and not self._metered:
            problem = self._plane.meters.count(admitted.principal, time.monotonic())
            if problem is not None:
                raise ProblemError(problem)

    def _obeyed(self, admitted: Admitted, body: Body) -> bool:
        """Was this an order, and is it carried out? One to load a model is once that is ready.
        Raises ProblemError."""
        order = orders.order_of(admitted.place, body)
        if order is None:
            return False
        orders.check(order, admitted.principal, self._model)
        self._loads = order is Order.LOAD
        if self._loads:
            return False
        problem = self._plane.leases.unload(self._model, admitted.principal)
        if problem is not None:
            raise ProblemError(problem)
        self._tell(orders.done(order, admitted.place, self._model, None, 0.0))
        return True

    def client_gone(self) -> None:
        """The client left: stop waiting, and stop the backend's work for it at once."""
        if self.step is not Step.OVER:
            self._let_go()
            self._over(Outcome.OK if self.step is Step.TUNNEL else Outcome.CLIENT_GONE)

    def client_full(self, full: bool) -> None:
        """The client takes no more for now (or does again): so the backend is not read."""
        if self._upstream is not None:
            self._upstream.pause(full)

    @entry
    def sweep(self, now: float) -> None:
        """Every moment, from the plane's one timer."""
        super().sweep(now)

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
        route, generate = admitted.place.route, admitted.place.shape is Shape.OLLAMA_GENERATE
        assert route is not None
        if admitted.principal.limited and not self._metered:
            problem = plane.meters.begin(admitted.principal, time.monotonic())
            if problem is not None:
                self.refuse(problem)
                return
            self._metered = True
        outline = self._outline
        offers = outline is not None and outline.offers_tools
        small = calls.ORDINARY
        if not offers:
            small = calls.small_call(route, self._body, generate=generate)
        wish = Wish(
            model=self._model,
            route=route,
            principal=admitted.principal,
            client=admitted.client,
            body_bytes=self._trace.bytes_in,
            request_id=self.request_id,
            attempt=self._trace.attempt,
            arrived=self._arrived,
            mark=self.mark,
            small=small.kind is not None,
            movable=small.movable and not self._door.model,
        )
        if not self._counted:
            self._counted = True
            plane.budget.active += 1
        self.step = Step.WAITING
        waiting = plane.leases.acquire(wish, self._granted)
        # ``_granted`` may have run already, and all of the request with it.
        if self.step is Step.WAITING:
            self._waiting = waiting

    @entry
    def _granted(self, result: Lease | Problem) -> None:
        self._waiting = None
        if isinstance(result, Problem):
            self._no_lease(result)
            return
        result.on_cancel = self._cancelled
        result.sent = self._trace.sent
        self._lease = result
        self._trace.waits = result.waits()
        self._trace.leased_at = time.monotonic()
        assert self._admitted is not None
        if self._loads:
            card = self._plane.leases.card(self._model, "", self._admitted.principal)
            known = card if isinstance(card, ModelCard) else None
            took = time.monotonic() - self._trace.start
            self._tell(orders.done(Order.LOAD, self._admitted.place, self._model, known, took))
            return
        try:
            self._word(result, self._admitted)
        except ProblemError as error:
            self.refuse(error.problem)
            return
        # The control plane's connections are not kept: an order is never sent twice.
        self._open(fresh=self._admitted.place.control)

    def _word(self, lease: Lease, admitted: Admitted) -> None:
        """What goes to the engine of this lease. Raises ProblemError."""
        body, name, spoken = self._body, lease.upstream_model, lease.manner
        # Not kept: it holds the body, which may be let go before the answer's end.
        outline, self._outline = self._outline, None
        self._talk = talk = None
        if admitted.place.control:
            self._parts = (body,)
            return
        if spoken is not None:
            who = (self._model, self.request_id)
            place, begun = admitted.place, self._begun
            talk = talk_for(place, body, spoken, name, *who, outline, begun=begun)
        if talk is not None:
            self._talk, self._parts = talk, talk.parts
            for note in talk.notes:
                log.debug("%s: %s", self.request_id, note)
            return
        given = bool(self._door.model) or not (self._model or admitted.place.bare)
        renamed = given or (bool(self._model) and name != self._model)
        edits, wanted = lease.edits, name if renamed else None
        self._parts = rewritten(admitted, self.head, body, wanted, edits, given=given)

    @entry
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

    @entry
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
        admitted, head = self._admitted, self.head
        assert admitted is not None
        body = self._parts
        path, headers, talk = admitted.upstream_path, lease.headers, self._talk
        if talk is not None:
            path, headers = talk.path, {**headers, "content-type": "application/json"}
        elif lease.keep_query and head.query:
            path = f"{path}?{head.query}"
        upgrade = head.upgrade if admitted.place.route is Route.UPSTREAM else b""
        sent = wire.request_head(
            head,
            path,
            lease.target,
            length=sum(map(len, body)),
            headers=headers,
            request_id=self.request_id,
            upgrade=upgrade,
        )
        self.step = Step.SENT
        self._upstream = upstream
        if self._client.full:
            upstream.pause(True)
        upstream.ask(
            self,
            sent,
            body,
            head_only=head.method == "HEAD",
            upgrade=upgrade,
            raw=head.http11 and talk is None,
        )

    def failed(self, fault: Fault, text: str) -> None:
        """The backend failed us. Before the first byte: tried again where that can help."""
        self._upstream = None
        self._fail(fault, text)

    def _repeatable(self) -> bool:
        assert self._admitted is not None
        return repeatable(self._admitted.place.route, self.head, self._body)

    def _fail(self, fault: Fault, text: str) -> None:
        retry = self._plane.limits.retry_after_lost
        if self._hearing and self._stream is not None and self._stream.over:
            self._finish()  # it had said all
            return
        assert self._admitted is not None
        control = self._admitted.place.control
        who = "The control plane" if control else f"The backend of {self._model or 'the model'}"
        message = f"{who} failed: {text}."
        if self.step in (Step.ANSWERING, Step.TUNNEL):
            problem = Problem(Code.UPSTREAM_ERROR, message, _ONCE_MORE, retry_after=retry)
            if self._lease is not None and self._lease.suspect():
                problem = replace(problem, hint="", retry_after=None)  # not by chance
            self._break(problem)
        elif fault is Fault.STALE and not self._fresh and self._repeatable():
            self._fresh = True
            self._open(fresh=True)
        elif self._aside():
            return
        elif fault is Fault.MALFORMED or control:
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
        spent = self._trace.attempt > 1 or suspect or not budget.allows()
        if spent or (written and not self._repeatable()):
            self.refuse(problem)
            return
        budget.again += 1
        self._trace.attempt = 2
        self._hearing = False
        self._gathered = None
        if not self._begun:
            self._stream = None
        self._fresh = self._refused = False
        assert self._admitted is not None
        self._acquire(self._admitted)

    @entry
    def _ask_again(self) -> None:
        self._open(fresh=True)

    def _let_go(self) -> None:
        """Stop whatever is under way for this request."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        if self._late is not None:
            self._late.cancel()
            self._late = None
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        if self._loading is not None and self._loading.timer is not None:
            self._loading.timer.cancel()
        if self._upstream is not None:
            self._upstream.abort()
            self._upstream = None
