"""Answers that are not passed on as they come: put into the client's words, and signs of life.

Between an exchange and its plain answer: a request that went to the engine as the client wrote it
is no more slowed by this than by a comparison.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Final

from daemon.core.messages import Outcome
from daemon.core.problems import Code, Problem, ProblemError
from daemon.dialects import refusals
from daemon.dialects.errors import Rendered
from daemon.dialects.shapes import Shape
from daemon.ports import Route
from daemon.relay import wire
from daemon.relay.admission import Admitted
from daemon.relay.answering import Answering, Step
from daemon.relay.answers import Answer
from daemon.relay.body import peek
from daemon.relay.heads import Head
from daemon.relay.retries import WHOLE, ends
from daemon.relay.talks import Talk
from daemon.relay.upstream import Fault
from daemon.relay.vigil import THINKERS, Vigil, sign

if TYPE_CHECKING:
    from daemon.dialects.translator import Answer as Spoken
    from daemon.relay.client import ClientConnection
    from daemon.relay.plane import Plane

_REFUSAL_BYTES: Final = 64 * 1024
"""Of an engine's error: what is longer says no more."""
_SILENT: Final = frozenset({Step.HEAD, Step.TUNNEL, Step.OVER})
_OLLAMA: Final = frozenset({Shape.OLLAMA_CHAT, Shape.OLLAMA_GENERATE})


class Speaking(Answering):
    """What an exchange does where the engine's words are not the client's."""

    __slots__ = ("_begun", "_gathered", "_hearing", "_said", "_stream", "_talk", "_vigil")

    def __init__(
        self, plane: Plane, client: ClientConnection, head: Head, admitted: Admitted | None
    ) -> None:
        super().__init__(plane, client, head, admitted)
        self._talk: Talk | None = None
        self._stream: Spoken | None = None  # what the client hears, in its own words
        self._hearing = False  # it is fed by the engine
        self._begun = False  # its head is out: from here on errors are told within it
        self._gathered: bytearray | None = None  # of an answer that is looked at as a whole
        self._said: Answer | None = None  # its head
        self._vigil: Vigil | None = None

    # ------------------------------------------------------------ from the backend

    def _answer(self, answer: Answer, data: bytes, ended: bool) -> None:
        talk = self._talk
        if talk is None and not (answer.status >= 400 and self._readable(answer)):
            if self._begun:
                self._go_on(answer, data, ended)
            else:
                super()._answer(answer, data, ended)
            return
        if self._lease is not None:
            self._lease.status = answer.status
        if talk is not None and talk.streamed and answer.status < 300:
            self._stream = talk.stream(self._stream if self._begun else None)
            self._hearing = True
            self._hear(data, ended)
        else:
            self._said, self._gathered = answer, bytearray()
            self._gather(data, ended)

    def continued(self, data: bytes, ended: bool) -> None:
        """More of the body."""
        if self._hearing:
            self._hear(data, ended)
        elif self._gathered is not None:
            self._gather(data, ended)
        else:
            super().continued(data, ended)

    @abstractmethod
    def failed(self, fault: Fault, text: str) -> None:
        """See ``upstream.Owner``."""

    def _readable(self, answer: Answer) -> bool:
        """Is this an error that the client should get in its own words?"""
        length = answer.length
        return (
            length is not None
            and length <= _REFUSAL_BYTES
            and not answer.bodiless
            and self._shape is not None
        )

    @property
    def _shape(self) -> Shape | None:
        place = self._admitted.place if self._admitted is not None else None
        if place is None:
            return None
        return Shape.MESSAGES if place.route is Route.COUNT_TOKENS else place.shape

    def _go_on(self, answer: Answer, data: bytes, ended: bool) -> None:
        """As it comes, behind the signs of life that were sent."""
        if self._lease is not None:
            self._lease.status = answer.status
        if answer.status >= 300:
            self._leave_upstream()
            self._cut(refusals.problem_of(answer.status, "no reason given"), Outcome.OK)
            return
        self._events = True
        self._answering()
        self._forward(b"", data, ended)

    # ------------------------------------------------------------ streams

    def _hear(self, data: bytes, ended: bool) -> None:
        stream = self._stream
        assert stream is not None
        self._trace.heard += len(data)
        out = stream.feed(data)
        if ended:
            self._upstream = None
            out += stream.end()
        if stream.failure is not None:
            self._engine_failed(stream, out)
            return
        if out:
            self._speak(stream, out)
        if ended and stream.over:
            self._finish()
        elif ended:
            self.failed(Fault.DIED, "its answer ended too early")

    def _speak(self, stream: Spoken, out: bytes) -> None:
        head = b"" if self._begun else self._begin(stream)
        if self.step is not Step.ANSWERING:
            self._answering()
        self._remember(out)
        self._send(head + (wire.chunk(out) if self._chunked else out))

    def _begin(self, stream: Spoken) -> bytes:
        """The head of a stream of our own."""
        self._begun = True
        self._trace.status = 200
        self._chunked = self.head.http11
        own = b"x-request-id: %b\r\n" % self.request_id.encode() + self._cors
        if self._lease is not None:
            own += wire.server_timing(self._trace.waited())
        if self._chunked:
            own += wire.CHUNKED
        if not (self._chunked and self._keep()):
            self._client.closing = True
            own += wire.CLOSE
        return wire.stream_head(stream.media, own)

    def _engine_failed(self, stream: Spoken, out: bytes) -> None:
        """It broke off with words of its own."""
        failure = stream.failure
        assert failure is not None
        self._leave_upstream()
        if self._lease is not None:
            self._lease.status = failure.status
        if not (self._begun or out):
            self._tell(stream.failed())
            return
        if out:
            self._speak(stream, out)
        bad = failure.status >= 500
        self._cut(stream.problem(), Outcome.UPSTREAM_ERROR if bad else Outcome.OK)

    def _finish(self) -> None:
        """All of it is said."""
        stream = self._stream
        assert stream is not None
        usage = stream.usage
        if usage.prompt or usage.output:
            self._trace.tokens = (usage.prompt, usage.output)
        if self._lease is not None:
            self._lease.rescued = stream.rescued.calls
        head = b"" if self._begun else self._begin(stream)
        self._send(head + (wire.LAST_CHUNK if self._chunked else b""))
        self._over(Outcome.OK)
        self._client.done(not self._client.closing)

    def _answering(self) -> None:
        """The first byte of the answer is about to be sent: nothing is tried again from here on,
        and the body is kept as far as its mark."""
        self.step = Step.ANSWERING
        self._trace.mark_first()
        self._parts = ()
        if self._talk is not None:
            self._talk.parts = ()
        if len(self._body) > WHOLE:
            self._body = ends(self._body)

    def _break(self, problem: Problem) -> None:
        if self._hearing:
            self._cut(problem, Outcome.UPSTREAM_ERROR)
        else:
            super()._break(problem)

    def _cut(self, problem: Problem, outcome: Outcome) -> None:
        """End a stream of our own so that it cannot be taken for a whole answer."""
        told = self._stream.broken(problem) if self._stream is not None else b""
        if told:
            self._send(wire.chunk(told) if self._chunked else told)
        self._over(outcome)
        self._client.break_off(reset=not told)

    def refuse(self, problem: Problem, allow: str = "") -> None:
        """Answer with an error in the client's shape; within the stream, if that was begun."""
        if self._begun:
            self._cut(problem, Outcome.OK)
        else:
            super().refuse(problem, allow)

    def _leave_upstream(self) -> None:
        if self._upstream is not None:
            self._upstream.abort()
            self._upstream = None

    # ------------------------------------------------------------ whole answers

    def _gather(self, data: bytes, ended: bool) -> None:
        kept, said = self._gathered, self._said
        assert kept is not None
        assert said is not None
        self._trace.heard += len(data)
        good = said.status < 300
        room = (self._plane.limits.answer_bytes if good else _REFUSAL_BYTES) - len(kept)
        kept += data[:room]
        if good and len(data) > room:
            self._leave_upstream()
            self.refuse(Problem(Code.UPSTREAM_ERROR, "The engine's answer is too long."))
        elif ended:
            self._upstream = self._gathered = None
            self._whole(said, bytes(kept))

    def _whole(self, said: Answer, body: bytes) -> None:
        """A whole answer, or an error of the engine's."""
        talk, shape = self._talk, self._shape
        if self._begun:
            self._cut(refusals.problem_of(said.status, refusals.said(body)), Outcome.OK)
            return
        if talk is None:
            assert shape is not None
            found = refusals.native(shape, said.status, body, self.request_id)
            if found is None:
                super()._answer(said, body, True)
                return
        elif said.status >= 300:
            found = talk.refused(said.status, body)
        else:
            self._remember(body)  # for its usage
            found = talk.whole(body)
            if self._lease is not None:
                self._lease.rescued = talk.rescued
        if found is not None:
            self._tell(found)
            return
        assert talk is not None
        self._parts = talk.parts  # it is asked twice
        self._ask_again()

    def _tell(self, rendered: Rendered) -> None:
        status, headers, body = rendered
        if not any(name == "x-request-id" for name, _ in headers):
            headers = [*headers, ("x-request-id", self.request_id)]
        self._plain(status, headers, body)

    # ------------------------------------------------------------ signs of life

    def sweep(self, now: float) -> None:
        """Every moment: has a stream been silent for too long?"""
        if self.step in _SILENT:
            return
        vigil = self._vigil
        if vigil is None:
            self._vigil = Vigil(now, self._trace.bytes_out)
            return
        quiet = vigil.silent(now, self._trace.bytes_out)
        limits = self._plane.limits
        if vigil.mute or quiet < min(limits.loading_text, limits.stream_keepalive):
            return
        said = b""
        if self.step is not Step.ANSWERING and quiet >= limits.loading_text:
            said = self._status(vigil)
        if not said and quiet >= limits.stream_keepalive:
            said = self._sign(vigil)
        if said:
            self._live(said)
            vigil.silent(now, self._trace.bytes_out)

    def _status(self, vigil: Vigil) -> bytes:
        """What is waited for, as reasoning, where the model's configuration wants it shown."""
        if vigil.tells is None:
            spoken = self._plane.leases.manner(self._model)
            if spoken is not None:
                vigil.tells = self._shape in THINKERS and spoken.loading_text
        stream = self._awaited(vigil) if vigil.tells else None
        text = self._plane.leases.waiting_text(self._model) if stream is not None else ""
        return stream.think(f"{text}\n") if stream is not None and text else b""

    def _sign(self, vigil: Vigil) -> bytes:
        if self.step is Step.ANSWERING and not self._hearing:
            return sign(self._shape) if self._events and self._between_events() else b""
        if self.step is Step.SENT and self._talk is None and self._shape is Shape.RESPONSES:
            return b""  # the engine begins with events of its own, which ours would not fit
        stream = self._awaited(vigil)
        return stream.wait() if stream is not None else b""

    def _awaited(self, vigil: Vigil) -> Spoken | None:
        """What can speak for an answer that is not there yet; None: no stream is awaited."""
        if self._stream is not None:
            return self._stream
        shape = self._shape
        try:
            asked = peek(self._body, required=False).stream if shape is not None else False
            if shape is None or not (asked is True or (asked is None and shape in _OLLAMA)):
                vigil.mute = True
                return None
            from daemon.dialects import translator  # see ``talks``

            about = translator.About(self.request_id, self._plane.unix_time(), self._model)
            self._stream = translator.waiting(shape, self._body, about)
        except ProblemError:
            vigil.mute = True  # told once it is known who serves it
        return self._stream

    def _live(self, said: bytes) -> None:
        """A sign of life, which is nothing of the backend's."""
        stream, before = self._stream, self._trace.bytes_out
        head = b""
        if self.step is not Step.ANSWERING and not self._begun:
            assert stream is not None
            head = self._begin(stream)
        self._send(head + (wire.chunk(said) if self._chunked else said))
        self._trace.own += self._trace.bytes_out - before
