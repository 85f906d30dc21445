"""The one door of this room for whoever relays: a client's request in, a chat engine's out, and
the way back for its answer.

Used so: ``translation = translate(shape, body, norms, about)``; its ``body`` is posted to ``PATH``;
a streamed answer goes piece by piece through ``translation.stream()`` (a new one for each try), a
whole one through ``translation.whole``, an error through ``translation.refused``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from daemon.core.problems import Problem
from daemon.dialects import (
    chat_write,
    completions,
    messages_answer,
    messages_request,
    ollama_answer,
    ollama_request,
    refusals,
    responses_answer,
    responses_request,
)
from daemon.dialects import (
    norms as shaping,
)
from daemon.dialects.chat_answer import ChatReader, Ids
from daemon.dialects.chat_request import EFFORTS, Chat, Thinking, tool_objects
from daemon.dialects.chat_write import ChatStream, ChatWriter
from daemon.dialects.completions import CompletionsWriter
from daemon.dialects.errors import Rendered, chat_stream_error, messages_stream_error
from daemon.dialects.events import Failure, Thought, collect
from daemon.dialects.fields import Json, an_array, an_object, encode, read
from daemon.dialects.loud import Loud
from daemon.dialects.messages_answer import MessagesWriter
from daemon.dialects.messages_engine import MessagesReader, to_messages
from daemon.dialects.norms import Norms
from daemon.dialects.offered import Offered
from daemon.dialects.ollama_answer import OllamaWriter
from daemon.dialects.responses_answer import Asked, ResponsesWriter
from daemon.dialects.scan import Rescued, Scan
from daemon.dialects.shapes import Shape
from daemon.dialects.stream import Filter, Reader, Stream, Writer, filtered, finished
from daemon.dialects.tool_names import Names

PATH: Final = "/v1/chat/completions"
MESSAGES_PATH: Final = "/v1/messages"
COMPLETIONS_PATH: Final = "/v1/completions"
_REPEATED: Final = (*responses_answer.ECHOED, "stream_options")


@dataclass(frozen=True, slots=True)
class About:
    """What an answer says of itself. ``model``: as the client named it (empty: as in the body);
    ``created``: seconds since 1970."""

    request_id: str
    created: int
    model: str = ""


@dataclass(frozen=True, slots=True)
class Translation:
    """A request that became a chat engine's.

    ``notes``: what was left out and why, for a log. ``offered``: tools whose calls are looked for
    in text (None: none are); ``objects``: also as bare JSON; ``used``: ids of earlier calls;
    ``plain``: several answers at once, which are left as they are; ``asked``: what an answer
    repeats of its request. The conversation itself is in ``body`` alone: it may be large.
    """

    shape: Shape
    body: bytes
    streamed: bool
    about: About
    norms: Norms
    notes: tuple[str, ...] = ()
    offered: Offered | None = None
    objects: bool = True
    plain: bool = False
    used: frozenset[str] = frozenset()
    asked: Mapping[str, Any] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    path: str = PATH

    def stream(self, begun: Answer | None = None) -> Answer:
        """For one streamed answer. ``begun``: what has given signs of life for it so far, so that
        they and the answer are one stream."""
        reader, filters, scan = self._way()
        fresh = begun is None or self.shape is Shape.COMPLETIONS  # which knows what was asked for
        writer = self._writer() if fresh or begun is None else begun.writer
        if isinstance(writer, ChatWriter) and isinstance(reader, ChatReader):
            return Answer(self, ChatStream(reader, filters, writer), scan, writer)
        return Answer(self, Stream(reader, filters, writer), scan, writer)

    def whole(self, body: bytes) -> Rendered:
        """A whole answer (status 200) of the engine, for the client."""
        return self.whole_rescued(body)[0]

    def whole_rescued(self, body: bytes) -> tuple[Rendered, Rescued]:
        """The same, and what was made of text in it."""
        reader, filters, scan = self._way()
        return self._whole(body, reader, filters), scan.rescued

    def _whole(self, body: bytes, reader: Reader, filters: list[Filter]) -> Rendered:
        if self.shape is Shape.CHAT and isinstance(reader, ChatReader):
            return _ok(chat_write.whole_chat(body, reader, filters))
        events = filtered(filters, reader.whole(body)) + finished(filters)
        answer = collect(events)
        if answer.failure is not None:
            return self.failed(answer.failure)
        about, shape = self.about, self.shape
        if shape is Shape.MESSAGES:
            value = messages_answer.message(answer, about.model, about.request_id)
        elif shape is Shape.RESPONSES:
            value = responses_answer.response(answer, self._asked())
        elif shape is Shape.CHAT:
            value = chat_write.whole_of(answer, about.model, about.request_id, about.created)
        elif shape is Shape.COMPLETIONS:
            value = completions.completion(answer, about.model, about.request_id, about.created)
        else:
            generate = shape is Shape.OLLAMA_GENERATE
            value = ollama_answer.answer(answer, about.model, about.created, generate=generate)
        return _ok(encode(value))

    def refused(self, status: int, body: bytes) -> Rendered:
        """An error answer of the engine, for the client."""
        return refusals.answered(self.shape, status, body, self.about.request_id)

    def problem(self, failure: Failure) -> Problem:
        """What a failure within a stream means; without ``retry_after`` it is permanent."""
        return refusals.problem_of(failure.status, failure.message)

    def failed(self, failure: Failure) -> Rendered:
        """The same, where nothing has been sent yet."""
        found = refusals.overflow(failure.message)
        if found is not None:
            return refusals.rendered_overflow(self.shape, found, self.about.request_id)
        return refusals.rendered(self.shape, self.problem(failure), self.about.request_id)

    # ------------------------------------------------------------ parts

    def _way(self) -> tuple[Reader, list[Filter], Scan]:
        ids = Ids(self.about.request_id, self.used)
        scan = Scan(
            ids,
            self.offered,
            objects=self.objects,
            starts_thinking=self.norms.starts_thinking,
            bare_thinking=self.norms.bare_thinking,
        )
        filters: list[Filter] = [] if self.plain else [scan]
        if self.norms.loud and not self.plain:
            filters.append(Loud())
        reader = MessagesReader(ids) if self.path == MESSAGES_PATH else ChatReader(ids)
        return reader, filters, scan

    def _asked(self) -> Asked:
        about = self.about
        return Asked(about.model, about.request_id, about.created, self.asked, self.names)

    def _writer(self) -> Writer:
        about = self.about
        options = self.asked.get("stream_options")
        usage = isinstance(options, dict) and options.get("include_usage") is True
        match self.shape:
            case Shape.MESSAGES:
                return MessagesWriter(about.model, about.request_id)
            case Shape.RESPONSES:
                return ResponsesWriter(self._asked())
            case Shape.COMPLETIONS:
                return CompletionsWriter(about.model, about.request_id, about.created, usage=usage)
            case Shape.OLLAMA_CHAT | Shape.OLLAMA_GENERATE:
                generate = self.shape is Shape.OLLAMA_GENERATE
                return OllamaWriter(about.model, about.created, generate=generate)
            case Shape.CHAT:
                return ChatWriter(about.model, about.request_id, about.created, usage=usage)


class Answer:
    """One streamed answer on its way back, with its last words where it breaks off."""

    def __init__(
        self, translation: Translation, stream: Stream, scan: Scan, writer: Writer
    ) -> None:
        self._translation = translation
        self._stream = stream
        self._scan = scan
        self.writer = writer
        self.media = stream.media
        self.feed = stream.feed
        self.end = stream.end
        self.wait = stream.wait

    @property
    def over(self) -> bool:
        """Is the answer complete? If not, after :meth:`end`, it was broken off."""
        return self._stream.over

    @property
    def failure(self) -> Failure | None:
        """The engine's own words, where it broke off with some."""
        return self._stream.failure

    @property
    def rescued(self) -> Rescued:
        """What was made of text."""
        return self._scan.rescued

    @property
    def usage(self) -> Any:
        """Tokens, as far as the engine told them (``events.Usage``)."""
        return self._stream.usage

    def problem(self) -> Problem:
        """What its failure means."""
        assert self.failure is not None
        return self._translation.problem(self.failure)

    def failed(self) -> Rendered:
        """Its failure as an answer, where nothing has been sent yet."""
        assert self.failure is not None
        return self._translation.failed(self.failure)

    def think(self, text: str) -> bytes:
        """``text`` as a piece of reasoning, before there is an answer."""
        return self.writer.write([Thought(text)])

    def broken(self, problem: Problem) -> bytes:
        """What is said before the connection is cut, so that each client does the right thing.

        Chat: an error object. Messages: an event only where trying again is of no use, since it
        costs Claude Code its streaming retries. Responses: only what Codex gives up on.
        """
        translation = self._translation
        failure = self.failure
        found = refusals.overflow(failure.message if failure is not None else problem.message)
        shape = translation.shape
        if shape in (Shape.CHAT, Shape.COMPLETIONS):
            return chat_stream_error(problem)
        if shape is Shape.MESSAGES:
            if found is None and problem.retry_after is not None:
                return b""
            if found is not None:
                text = refusals.overflow_text(shape, found)
                problem = Problem(problem.code, text)
            return messages_stream_error(problem, translation.about.request_id)
        if shape is Shape.RESPONSES:
            if found is None or not isinstance(self.writer, ResponsesWriter):
                return b""
            error = refusals.overflow_error(found)
            return self.writer.failed(Failure(error["message"], 400), error["code"])
        return encode({"error": problem.text}) + b"\n"


def waiting(shape: Shape, body: bytes | bytearray, about: About) -> Answer:
    """Gives signs of life for an answer that is still to come, as it is not known from where.

    Raises ProblemError as :func:`translate` does.
    """
    if shape is Shape.RESPONSES:  # which says of its request what it was
        return replace(translate(shape, body, Norms(), about), body=b"").stream()
    return Translation(shape, b"", True, about, Norms()).stream()


def translate(
    shape: Shape,
    body: bytes | bytearray,
    norms: Norms,
    about: About,
    path: str = PATH,
    model: str | None = None,
    *,
    completes: bool = False,
) -> Translation:
    """A client's request as a chat engine's, shaped for the model. ``path``: MESSAGES_PATH for an
    engine that speaks Anthropic's messages and no chat; ``model``: its name there; ``completes``:
    the engine serves completions too, which is where a raw prompt goes.

    Raises ProblemError (INVALID_REQUEST, INVALID_JSON): the client's mistake, by its field.
    """
    asked = read(body)
    raw = completes and shape is Shape.OLLAMA_GENERATE and asked.get("raw") is True
    if raw:
        path = COMPLETIONS_PATH
    chat, names = _shaped(shape, asked, norms, raw=raw)
    if not about.model:
        about = About(about.request_id, about.created, str(asked.get("model") or ""))
    sent = chat.body
    if model is not None:
        sent["model"] = model
    calls = norms.rescue and sent.get("tool_choice") != "none"
    return Translation(
        shape,
        encode(to_messages(chat) if path == MESSAGES_PATH else sent),
        sent.get("stream") is True,
        about,
        norms,
        notes=tuple(chat.notes),
        offered=Offered(chat.tools) if calls and chat.tools else None,
        objects="response_format" not in sent,
        plain=raw or sent.get("n") not in (None, 1),
        used=frozenset() if raw else chat.used_ids(),
        asked={name: asked[name] for name in _REPEATED if name in asked},
        names=names,
        path=path,
    )


def _shaped(shape: Shape, asked: Json, norms: Norms, *, raw: bool) -> tuple[Chat, Names]:
    names = Names()
    if raw:
        chat = ollama_request.raw_to_completion(asked)
        shaping.fields(chat.body, norms)
        return chat, names
    if shape is Shape.RESPONSES:
        chat, names = responses_request.to_chat(asked)
    else:
        chat = _READERS[shape](asked)
    shaping.apply(chat, norms)
    return chat, names


def counted(body: bytes | bytearray, norms: Norms) -> Chat:
    """A count_tokens request as the chat that it asks about (see ``counting``).

    Raises ProblemError as :func:`translate` does.
    """
    chat = messages_request.to_chat(read(body), counting=True)
    shaping.apply(chat, norms)
    return chat


def _chat(body: Json) -> Chat:
    """A chat client's own request."""
    messages = an_array(body.get("messages"), "messages")
    for place, message in enumerate(messages):
        an_object(message, f"messages.{place}")
    if body.get("tools") is not None:
        tool_objects(body["tools"])
    effort = body.get("reasoning_effort")
    wish = Thinking(
        False if effort == "none" else None, None, effort if effort in EFFORTS else None
    )
    return Chat(dict(body), wish)


_READERS = {
    Shape.CHAT: _chat,
    Shape.COMPLETIONS: completions.to_chat,
    Shape.MESSAGES: messages_request.to_chat,
    Shape.OLLAMA_CHAT: ollama_request.chat_to_chat,
    Shape.OLLAMA_GENERATE: ollama_request.generate_to_chat,
}


def _ok(body: bytes) -> Rendered:
    return 200, [("Content-Type", "application/json")], body
