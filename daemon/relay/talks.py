"""Requests that go to an engine in other words than the client's, and what is made of the answers.

Values for one lease: which words, decided by ``dialects.manner``. A request that goes as the client
wrote it has none of this. The translators are read when the first request needs them: a megabyte
that a daemon without such clients never takes.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from daemon.core.problems import Code, Problem, ProblemError
from daemon.dialects import counting, manner, ollama_answer, ollama_request, refusals
from daemon.dialects.chat_request import Chat
from daemon.dialects.errors import Dialect, Rendered, render
from daemon.dialects.fields import encode, read
from daemon.dialects.manner import Manner, Outline, Way
from daemon.dialects.norms import Norms
from daemon.dialects.shapes import Shape
from daemon.ports import Route, Tokens
from daemon.relay import bulk
from daemon.relay.body import Body, Parts
from daemon.relay.routes import Place

if TYPE_CHECKING:
    from daemon.dialects.translator import About, Answer, Translation

_JSON = ("Content-Type", "application/json")


class Talk(Protocol):
    """One request in the engine's words. ``path`` and ``parts``: what is asked of it next."""

    path: str
    parts: Parts
    rescued: int  # tool calls that a whole answer had as text

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out of the request, for a log."""
        ...

    @property
    def streamed(self) -> bool: ...
    def stream(self, begun: Answer | None) -> Answer:
        """For a streamed answer; asked only of one that is ``streamed``."""
        ...

    def whole(self, body: bytes) -> Rendered | None:
        """A whole answer for the client; None: the engine is to be asked once more."""
        ...

    def refused(self, status: int, body: bytes) -> Rendered:
        """An error of the engine's for the client."""
        ...


def talk_for(
    place: Place,
    body: Body,
    spoken: Manner,
    name: str,
    model: str,
    request_id: str,
    outline: Outline | None = None,
    *,
    begun: bool,
) -> Talk | None:
    """How a leased request goes to its engine; None: as the client wrote it. ``name``: the model's
    there; ``model``: as the client calls it; ``outline``: the body's, if it is known; ``begun``:
    the answer was begun with signs of life.

    Raises ProblemError: the client's mistake, or what this engine cannot do.
    """
    shape = place.shape
    if shape is not None:
        chosen = manner.way(shape, spoken, body, outline, begun=begun)
        if chosen is not Way.NATIVE:
            from daemon.dialects import translator

            path = translator.PATH if chosen is Way.CHAT else translator.MESSAGES_PATH
            about = translator.About(request_id, int(time.time()), model)
            completes = Route.COMPLETIONS.value in spoken.serves
            return _worded(shape, body, spoken.norms, about, path, name, completes=completes)
    elif place.route is Route.COUNT_TOKENS:
        chosen = manner.counting_way(spoken, body)
        if chosen is not Way.NATIVE:
            return Counted(chat_of(body, spoken.norms))
    elif place.dialect is Dialect.OLLAMA:
        return Embedded(body, name, model, request_id, old=place.upstream == "/api/embeddings")
    elif place.route is not None and place.route.value not in {
        *spoken.serves,
        Route.UPSTREAM.value,
    }:
        text = f"This model's engine has no {place.upstream}."
        raise ProblemError(Problem(Code.UNSUPPORTED_DIALECT, text, "Ask for chat completions."))
    return None


def counted(chat: Chat, tokens: Tokens | None) -> Rendered:
    """The answer to who counts. What nobody counted (None), or not to the last token, says so in a
    header."""
    if tokens is None:
        return _count(counting.estimate(chat), counting.ESTIMATED)
    return _count(tokens.count, *(() if tokens.exact else (counting.ESTIMATED,)))


def _worded(
    shape: Shape,
    body: Body,
    norms: Norms,
    about: About,
    path: str,
    name: str,
    *,
    completes: bool,
) -> Spoken:
    from daemon.dialects import translator

    translate = partial(translator.translate, completes=completes)
    found = bulk.light(body)
    if found is not None:
        with suppress(ProblemError):  # told of the body as it is
            made = translate(shape, found.body, norms, about, path, name)
            parts = found.restored(made.body)
            if parts is not None and not found.knows(encode(made.asked)):
                return Spoken(made, parts)
    made = translate(shape, body, norms, about, path, name)
    return Spoken(made, (made.body,))


def chat_of(body: Body, norms: Norms) -> Chat:
    """What is counted. Raises ProblemError."""
    from daemon.dialects import translator

    return translator.counted(body, norms)


def _count(tokens: int, *more: tuple[str, str]) -> Rendered:
    return 200, [_JSON, *more], encode(counting.answer(tokens))


class Spoken:
    """What generates text: a translation."""

    __slots__ = ("_translation", "parts", "path", "rescued")

    def __init__(self, translation: Translation, parts: Parts) -> None:
        self.path = translation.path
        self.rescued = 0
        self.parts = parts
        self._translation = replace(translation, body=b"")  # ``parts`` has it, and lets it go

    @property
    def notes(self) -> tuple[str, ...]:
        """See ``Talk``."""
        return self._translation.notes

    @property
    def streamed(self) -> bool:
        """See ``Talk``."""
        return self._translation.streamed

    def stream(self, begun: Answer | None) -> Answer:
        """See ``Talk``."""
        return self._translation.stream(begun)

    def whole(self, body: bytes) -> Rendered | None:
        """See ``Talk``."""
        rendered, rescued = self._translation.whole_rescued(body)
        self.rescued = rescued.calls
        return rendered

    def refused(self, status: int, body: bytes) -> Rendered:
        """See ``Talk``."""
        return self._translation.refused(status, body)


class _Whole:
    """What is never streamed."""

    __slots__ = ("rescued",)
    streamed = False
    notes: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.rescued = 0

    def stream(self, begun: Answer | None) -> Answer:
        """See ``Talk``."""
        raise AssertionError("this is never streamed")


class Embedded(_Whole):
    """Ollama's embeddings, of an engine that has OpenAI's."""

    __slots__ = ("_model", "_old", "_request_id", "parts", "path")

    def __init__(self, body: Body, name: str, model: str, request_id: str, *, old: bool) -> None:
        """Raises ProblemError (INVALID_REQUEST)."""
        super().__init__()
        self.path = "/v1/embeddings"
        asked = ollama_request.embed_to_embeddings(read(body))
        self.parts: Parts = (encode({**asked, "model": name}),)
        self._model, self._old, self._request_id = model, old, request_id

    def whole(self, body: bytes) -> Rendered | None:
        """See ``Talk``."""
        made = ollama_answer.embedded(body, self._model, old=self._old)
        if made is None:
            problem = Problem(Code.UPSTREAM_ERROR, "The engine's answer holds no embeddings.")
            return render(problem, Dialect.OLLAMA, self._request_id)
        return 200, [_JSON], made

    def refused(self, status: int, body: bytes) -> Rendered:
        """See ``Talk``."""
        return refusals.answered(Shape.OLLAMA_CHAT, status, body, self._request_id)


class Counted(_Whole):
    """Tokens by llama-server's template and tokenizer; where these fail, estimated."""

    __slots__ = ("_chat", "_templated", "parts", "path")

    def __init__(self, chat: Chat) -> None:
        super().__init__()
        self.path = "/apply-template"
        self.parts: Parts = (counting.template_body(chat),)
        self._chat = chat
        self._templated = False

    def whole(self, body: bytes) -> Rendered | None:
        """See ``Talk``."""
        if self._templated:
            tokens = counting.counted_tokens(body)
            return self._estimated() if tokens is None else _count(tokens)
        asked = counting.tokenize_body(body)
        if asked is None:
            return self._estimated()
        self._templated = True
        self.path, self.parts = "/tokenize", (asked,)
        return None

    def refused(self, status: int, body: bytes) -> Rendered:
        """See ``Talk``."""
        return self._estimated()

    def _estimated(self) -> Rendered:
        return counted(self._chat, None)
