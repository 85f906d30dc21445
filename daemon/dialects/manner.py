"""By which way a request reaches a model: the one place that decides it. Pure.

An engine gets a request as the client wrote it where it speaks that dialect and nothing in the
request needs shaping; everything else goes to it as a chat completion (or as Anthropic messages,
where it speaks nothing else). What needs shaping is seen in the roles and in whether tools are
offered: most requests need none, and of those nothing else is decoded, and nothing written again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

import msgspec

from daemon.dialects.norms import Norms, Schemas
from daemon.dialects.roles import Systems
from daemon.dialects.shapes import Shape

CHAT: Final = "chat"
MESSAGES: Final = "messages"
COUNT_TOKENS: Final = "count_tokens"
_SPOKEN: Final = frozenset({CHAT, "completions", MESSAGES, COUNT_TOKENS, "responses"})
_OWN: Final = {
    Shape.CHAT: CHAT,
    Shape.COMPLETIONS: "completions",
    Shape.MESSAGES: MESSAGES,
    Shape.RESPONSES: "responses",
}
_ATTRIBUTION: Final = b"x-anthropic-billing-header"


class Way(Enum):
    """How a request goes to the engine."""

    NATIVE = auto()  # as the client wrote it
    CHAT = auto()  # as a chat completion
    MESSAGES = auto()  # as Anthropic messages
    TOKENIZE = auto()  # counted by llama-server's template and tokenizer
    ASIDE = auto()  # not at all: counted by the model's own tokenizer, else estimated


@dataclass(frozen=True, slots=True)
class Manner:
    """How one model is spoken to. ``serves``: what its engine serves itself (values of
    ``ports.Route``); ``tokenizes``: it has llama-server's ``/apply-template`` and ``/tokenize``;
    ``loading_text``: streams of chat clients tell of its loading as reasoning."""

    serves: frozenset[str]
    norms: Norms = field(default_factory=Norms)
    tokenizes: bool = False
    loading_text: bool = False


def reachable(serves: frozenset[str]) -> frozenset[str]:
    """Routes that can be served with what the engine serves itself: one that chats is reached by
    every client."""
    return serves | _SPOKEN if CHAT in serves or MESSAGES in serves else serves


def way(
    shape: Shape,
    manner: Manner,
    body: bytes | bytearray,
    outline: Outline | None = None,
    *,
    begun: bool = False,
) -> Way:
    """How a request of ``shape`` goes to the model. ``outline``: the body's, if it is known.
    ``begun``: its answer was begun by us, with signs of life, so that only our own writer can go on
    with it."""
    serves = manner.serves
    native = _OWN.get(shape) in serves
    if native and (
        shape is Shape.COMPLETIONS or not (begun or needed(shape, manner.norms, body, outline))
    ):
        return Way.NATIVE
    if CHAT in serves:
        return Way.CHAT
    return Way.MESSAGES if MESSAGES in serves else Way.NATIVE


def counting_way(manner: Manner, body: bytes | bytearray) -> Way:
    """How tokens of an Anthropic request are counted by a model that is loaded: as the request
    itself would go to it, where that can be had."""
    native = COUNT_TOKENS in manner.serves
    if native and not (manner.tokenizes and needed(Shape.MESSAGES, manner.norms, body)):
        return Way.NATIVE
    return Way.TOKENIZE if manner.tokenizes else Way.ASIDE


def needed(
    shape: Shape, norms: Norms, body: bytes | bytearray, outline: Outline | None = None
) -> bool:
    """Must a request that the engine could read be shaped for the model, or its answer looked
    into?"""
    if norms.thinking is not None or norms.output_cap is not None:
        return True
    if norms.starts_thinking or norms.bare_thinking:
        return True
    if (norms.effort and b'effort"' in body) or (norms.blind and b"image" in body):
        return True
    return _shuffled(shape, norms, body, outline, tools=_tools(norms))


def _tools(norms: Norms) -> bool:
    """Is there anything to do where tools are offered?"""
    return bool(
        norms.rescue
        or norms.loud
        or norms.allow_tools is not None
        or norms.schemas is Schemas.PLAIN
        or norms.output_floor
    )


class _Turn(msgspec.Struct, gc=False):
    role: str = ""


class Outline(msgspec.Struct, gc=False):
    """All that is looked at of a body: a quarter of a microsecond, 0.3 ms for a MB. Whoever decodes
    the body for something else may take it along."""

    messages: list[_Turn] = []
    input: str | list[_Turn] = ""
    tools: msgspec.Raw = msgspec.Raw()

    @property
    def offers_tools(self) -> bool:
        """Are any tools offered?"""
        return bytes(memoryview(self.tools)[:8]).strip() not in _NO_TOOLS


_decoder: Final = msgspec.json.Decoder(Outline)
_NO_TOOLS: Final = (b"", b"[]", b"null")


def _shuffled(
    shape: Shape,
    norms: Norms,
    body: bytes | bytearray,
    outline: Outline | None = None,
    *,
    tools: bool = False,
) -> bool:
    """Are there roles where the model's template does not take them? Or (``tools``) any tools? Or
    Claude Code's attribution, by which no two sessions begin alike."""
    try:
        asked = outline or _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False  # the engine says what is wrong with it
    if tools and asked.offers_tools:
        return True
    turns = asked.messages or (asked.input if isinstance(asked.input, list) else [])
    first = norms.systems is Systems.FIRST and shape is not Shape.MESSAGES
    last = ""
    for place, turn in enumerate(turns):
        role = turn.role
        if role == "developer" and not norms.developer:
            return True
        if role == "system" and norms.systems is not Systems.ANYWHERE and (place or not first):
            return True
        if role == last == "user" and norms.merge_turns:
            return True
        last = role
    if last == "assistant":  # a begun answer: most models would think first, and refuse it
        return True
    return shape is Shape.MESSAGES and _ATTRIBUTION in body
