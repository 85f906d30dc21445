"""Which requests are small ones: titles, tags, classifiers, queries, autocompletion. Pure.

Clients send them beside the conversation, often under the main model's name, so that the name
tells nothing. They are known by how their instructions begin, and only where these stand: at the
head of the system prompt or of the last message, in a request that offers no tools. A needle near
the ends of the body decides whether it is worth looking, so that it is not decoded for nothing.

Recorded from Claude Code 2.1, Codex 0.169, opencode 1.18 and Open WebUI 0.12, whose older default
prompts are known too (backend/open_webui/config.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from daemon.ports import Route
from daemon.relay.body import Body


class Kind(StrEnum):
    """What a small call is for."""

    TITLE = "title"
    TAGS = "tags"
    QUERY = "query"
    FOLLOW_UP = "follow_up"
    EMOJI = "emoji"
    IMAGE = "image"
    CLASSIFIER = "classifier"
    COMPLETION = "completion"


@dataclass(frozen=True, slots=True)
class Small:
    """``kind`` None: an ordinary request. ``movable``: any model may answer it; a prompt that is
    written in one model's own marks is for that model alone."""

    kind: Kind | None = None
    movable: bool = True


ORDINARY: Final = Small()
_FIM: Final = Small(Kind.COMPLETION, movable=False)

_TASK: Final = "### Task:"
_Openings = tuple[tuple[str, Kind], ...]
_CLAUDE: Final[_Openings] = (
    ("You are naming a coding session", Kind.TITLE),
    ("You are a security monitor for autonomous AI coding agents", Kind.CLASSIFIER),
)
_CODEX: Final[_Openings] = (("Generate a concise, single-line task title", Kind.TITLE),)
_OPENCODE: Final[_Openings] = (
    ("You are a title generator. You output ONLY a thread title", Kind.TITLE),
)
_OPEN_WEBUI: Final[_Openings] = (
    (f"{_TASK}\nGenerate a concise title summarizing the chat history", Kind.TITLE),
    (f"{_TASK}\nGenerate a concise, 3-5 word title", Kind.TITLE),
    (f"{_TASK}\nGenerate 1-3 broad tags", Kind.TAGS),
    (f"{_TASK}\nAnalyze the chat history to determine the necessity of generating", Kind.QUERY),
    (f"{_TASK}\nYou are an autocompletion system", Kind.COMPLETION),
    (f"{_TASK}\nPredict 3-5 useful messages this user might", Kind.FOLLOW_UP),
    (f"{_TASK}\nSuggest 3-5 relevant follow-up questions", Kind.FOLLOW_UP),
    (f"{_TASK}\nGenerate a detailed prompt for am image generation task", Kind.IMAGE),
    ("Your task is to reflect the speaker's likely facial expression", Kind.EMOJI),
)
_OPENINGS: Final = {
    Route.MESSAGES: _CLAUDE,
    Route.RESPONSES: _CODEX,
    Route.CHAT: _OPENCODE + _OPEN_WEBUI,
}
# Their first lines as they stand in a body: none holds what JSON writes in more than one way. Each
# is looked for in all of it, so those that begin alike are one.
_NEEDLES: Final = {
    route: tuple({text.partition("\n")[0].encode() for text, _ in openings})
    for route, openings in _OPENINGS.items()
}
# Of the model families' own marks for filling in the middle, those in front.
_MARKS: Final = (b"<|fim_prefix|>", b"<fim_prefix>", b"<PRE> ", b"[SUFFIX]", b"<|fim_begin|>")
_WINDOW: Final = 4096  # bytes; all that were recorded have them in the first 1000
_LONGEST: Final = 1 << 18  # bytes; the longest recorded, a classifier's, is 144 KB
_decoder: Final = msgspec.json.Decoder(dict[str, Any])


def small_call(route: Route, body: Body, *, generate: bool = False) -> Small:
    """Whether this is a small one, and of which kind. ``generate``: of Ollama's path of that name,
    by which editors send what is to be filled in as a raw prompt."""
    if len(body) > _LONGEST:
        return ORDINARY
    if route is Route.COMPLETIONS or (generate and b'"raw"' in body):
        return _FIM if any(mark in body for mark in _MARKS) else ORDINARY
    if not _worth_a_look(route, body):
        return ORDINARY
    try:
        asked = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ORDINARY
    if asked.get("tools"):
        return ORDINARY
    heads = _heads(route, asked)
    for text, kind in _OPENINGS[route]:
        if any(head.lstrip().startswith(text) for head in heads):
            return Small(kind)
    return ORDINARY


def _worth_a_look(route: Route, body: Body) -> bool:
    """Does it hold one of the first lines, near its ends? A loop, as this is asked of all."""
    if len(body) > 2 * _WINDOW:  # instructions stand first, or behind all turns
        body = body[:_WINDOW] + body[-_WINDOW:]
    for needle in _NEEDLES.get(route, ()):  # noqa: SIM110
        if needle in body:
            return True
    return False


def _heads(route: Route, asked: dict[str, Any]) -> list[str]:
    """The texts in which instructions may stand: of the system, and the last message."""
    turns = asked.get("input" if route is Route.RESPONSES else "messages")
    heads = _texts(asked.get("system")) + _texts(asked.get("instructions"))
    if isinstance(turns, str):
        return [*heads, turns]
    if not isinstance(turns, list) or not turns:
        return heads
    for turn in (turns[0], turns[-1]):
        if isinstance(turn, dict):
            heads += _texts(turn.get("content"))
    return heads


def _texts(content: Any) -> list[str]:
    """The texts of a message's content: itself, or those of its blocks."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        return []
    texts = [block.get("text") for block in content if isinstance(block, dict)]
    return [text for text in texts if isinstance(text, str)]
