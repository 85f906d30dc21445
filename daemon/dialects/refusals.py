"""An engine's refusals in the client's own words.

What is too long for the context must be said as each client knows it: Claude Code then compacts
the conversation by itself, Codex knows nothing but the code (recorded). Everything else is told
with the engine's own text in the client's shape.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from daemon.core.problems import Code, Problem
from daemon.dialects.errors import Dialect, Rendered, render
from daemon.dialects.fields import Json, encode, loads
from daemon.dialects.shapes import Shape

_DIALECTS = {
    Shape.MESSAGES: Dialect.ANTHROPIC,
    Shape.OLLAMA_CHAT: Dialect.OLLAMA,
    Shape.OLLAMA_GENERATE: Dialect.OLLAMA,
}
_TRUE = frozenset({400, 408, 409, 413, 415, 422, 429})
"""Refusals that mean what they say (see :func:`problem_of` for the others)."""
# What llama-server answers 500 to, though it will be refused each time: recorded from it, and the
# words of its forms before (image parts). Clients would ask ten times and more.
_ASKED_WRONG = re.compile(
    r"(?:image|audio|video) input is not supported|Unsupported content part type"
    r"|Failed to parse (?:tool call arguments|messages|tools)|\[json\.exception\."
)
_LONGEST = 2000  # characters of an engine's text
_FEW_SECONDS = 1.0
_CODE = "context_length_exceeded"

# llama-server; its older text; vLLM (three); LM Studio; Ollama.
_NUMBERED = (
    re.compile(
        r"passed (?P<needed>\d+) input tokens.*?context length is only (?P<limit>\d+)", re.DOTALL
    ),
    re.compile(r"request \((?P<needed>\d+) tokens\) exceeds .*?\((?P<limit>\d+) tokens\)"),
    re.compile(r"context length is (?:only )?(?P<limit>\d+) tokens.*?(?P<needed>\d+)", re.DOTALL),
    re.compile(r"length (?P<needed>\d+)\) is longer than .*? of (?P<limit>\d+)"),
    re.compile(r"(?P<needed>\d+) tokens.*?context length of only (?P<limit>\d+)", re.DOTALL),
)
_SAID = re.compile(
    r"exceed_context_size|context_length_exceeded|exceeds? the (?:available )?context"
    r"|(?:exceeds|(?:longer|greater) than) the (?:maximum )?(?:model|context) length"
    r"|prompt is too long|context length (?:of|is) only|maximum context length is",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Overflow:
    """A prompt that is longer than the context. Tokens, where they are known."""

    needed: int | None = None
    limit: int | None = None


def overflow(text: str) -> Overflow | None:
    """Does an engine's text say that the prompt is too long?"""
    if not _SAID.search(text):
        return None
    for pattern in _NUMBERED:
        match = pattern.search(text)
        if match is not None:
            return Overflow(int(match["needed"]), int(match["limit"]))
    return Overflow()


def overflow_text(shape: Shape, found: Overflow) -> str:
    """The sentence that the client of ``shape`` recognises."""
    needed, limit = found.needed, found.limit
    if shape is Shape.MESSAGES:
        if limit is None:
            return "prompt is too long"
        return f"prompt is too long: {max(needed or 0, limit + 1)} tokens > {limit} maximum"
    if shape is Shape.RESPONSES:
        known = f" ({needed} tokens; {limit} fit)" if limit is not None else ""
        return f"Your input exceeds the context window of this model{known}."
    if limit is None:
        return "The messages exceed this model's maximum context length."
    return (
        f"This model's maximum context length is {limit} tokens. However, your messages resulted "
        f"in {max(needed or 0, limit + 1)} tokens. Please reduce the length of the messages."
    )


def rendered_overflow(shape: Shape, found: Overflow, request_id: str) -> Rendered:
    """The whole answer for a prompt that is too long: 400, not to be tried again."""
    problem = Problem(Code.INVALID_REQUEST, overflow_text(shape, found))
    status, headers, body = rendered(shape, problem, request_id)
    if shape in (Shape.CHAT, Shape.COMPLETIONS, Shape.RESPONSES):
        param = "input" if shape is Shape.RESPONSES else "messages"
        error = {"message": problem.text, "type": "invalid_request_error", "param": param}
        body = encode({"error": {**error, "code": _CODE}})
    return status, headers, body


def rendered(shape: Shape, problem: Problem, request_id: str) -> Rendered:
    """``problem`` as an answer in the client's shape."""
    return render(problem, _DIALECTS.get(shape, Dialect.OPENAI), request_id)


def said(body: bytes) -> str:
    """An engine's error text, in any of the shapes that they have."""
    value = loads(body)
    if isinstance(value, dict):
        error = value.get("error", value.get("detail", value.get("message")))
        if isinstance(error, dict):
            kind, text = error.get("type"), error.get("message")
            error = f"{text} ({kind})" if kind == "exceed_context_size_error" else text
        if isinstance(error, list):  # FastAPI's
            error = "; ".join([_detail(item) for item in error])
        if isinstance(error, str) and error:
            return error[:_LONGEST]
    text = body[:_LONGEST].decode("utf-8", "replace").strip()
    return text or "no reason given"


def _detail(item: object) -> str:
    if not isinstance(item, dict):
        return str(item)
    where = item.get("loc")
    path = ".".join(map(str, where)) if isinstance(where, list) else ""
    return f"{path}: {item.get('msg')}"


def problem_of(status: int, text: str) -> Problem:
    """What an engine's refusal means for the client.

    404 is mlx-lm's word for every failed generation, and 401 and 403 are between the engine and
    us: none of them is the client's mistake. Some of llama-server's 500s are.
    """
    if status in (400, 413, 415, 422) or (status >= 500 and _ASKED_WRONG.search(text)):
        return Problem(Code.INVALID_REQUEST, f"The engine refused the request: {text}")
    return Problem(
        Code.UPSTREAM_ERROR, f"The engine failed ({status}): {text}", retry_after=_FEW_SECONDS
    )


def answered(shape: Shape, status: int, body: bytes, request_id: str) -> Rendered:
    """An engine's error answer, for the client."""
    text = said(body)
    found = overflow(text)
    if found is not None:
        return rendered_overflow(shape, found, request_id)
    return rendered(shape, problem_of(status, text), request_id)


def native(shape: Shape, status: int, body: bytes, request_id: str) -> Rendered | None:
    """The same of an engine that speaks the client's dialect. None: it has said it as the client
    knows it, and that goes on as it came."""
    text = said(body)
    found = overflow(text)
    if found is not None:
        return rendered_overflow(shape, found, request_id)
    value = loads(body)
    error = value.get("error") if isinstance(value, dict) else None
    known = isinstance(error, dict) and isinstance(error.get("message"), str)
    if status >= 500 and _ASKED_WRONG.search(text):
        return rendered(shape, problem_of(status, text), request_id)
    if known and (shape is not Shape.MESSAGES or value.get("type") == "error"):
        return None
    own, headers, written = rendered(shape, problem_of(status, text), request_id)
    return status if status >= 500 or status in _TRUE else own, headers, written


def overflow_error(found: Overflow) -> Json:
    """The error of a ``response.failed`` event."""
    return {"code": _CODE, "message": overflow_text(Shape.RESPONSES, found)}
