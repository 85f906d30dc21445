"""How a :class:`Problem` looks on the wire: status, headers and body for each client-facing shape.

The statuses and the retry hints are chosen by what real clients do with them: the OpenAI and
Anthropic SDKs retry 408, 409, 429 and every 5xx unless ``x-should-retry`` says no, and some sleep
whatever ``Retry-After`` says. So that header has a limit, and what would be refused again says so.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import StrEnum

from daemon.core.problems import Code, Problem

MAX_RETRY_AFTER = 30.0
"""Seconds, where nothing else is configured. The OpenAI SDK gives up above 120; the Anthropic SDK
sleeps as long as it is told."""


class Dialect(StrEnum):
    """The shape of an error body."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    OLLAMA = "ollama"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class _Look:
    """Status and error type per shape; ``param`` is the field of the request at fault."""

    openai: int
    openai_type: str
    anthropic: int
    anthropic_type: str
    control: int
    param: str | None = None


_BAD = "invalid_request_error"
_BUSY = _Look(503, "server_error", 529, "overloaded_error", 503)
_DOWN = _Look(503, "server_error", 500, "api_error", 503, "model")
_NO_ROOM = _Look(400, _BAD, 400, _BAD, 409, "model")


def _same(status: int, openai: str, anthropic: str, param: str | None = None) -> _Look:
    return _Look(status, openai, status, anthropic, status, param)


_LOOKS: dict[Code, _Look] = {
    Code.INVALID_REQUEST: _same(400, _BAD, _BAD),
    Code.INVALID_JSON: _same(400, _BAD, _BAD),
    Code.MODEL_MISSING: _same(400, _BAD, _BAD, "model"),
    Code.MODEL_NOT_FOUND: _same(404, _BAD, "not_found_error", "model"),
    Code.UNSUPPORTED_DIALECT: _same(400, _BAD, _BAD, "model"),
    Code.REQUEST_UNKNOWN: _same(404, _BAD, "not_found_error"),
    Code.ROUTE_NOT_FOUND: _same(404, _BAD, "not_found_error"),
    Code.METHOD_NOT_ALLOWED: _same(405, _BAD, _BAD),
    Code.BODY_TOO_LARGE: _same(413, _BAD, "request_too_large"),
    Code.BODY_TIMEOUT: _same(408, _BAD, "timeout_error"),
    Code.UNSUPPORTED_ENCODING: _same(415, _BAD, _BAD),
    Code.UNSUPPORTED_MEDIA_TYPE: _same(415, _BAD, _BAD),
    Code.UNAUTHORIZED: _same(401, "authentication_error", "authentication_error"),
    Code.FORBIDDEN: _same(403, "permission_error", "permission_error"),
    Code.MISDIRECTED: _same(421, _BAD, _BAD),
    Code.RATE_LIMITED: _same(429, "rate_limit_error", "rate_limit_error"),
    Code.KEY_EXISTS: _same(409, _BAD, _BAD),
    Code.KEY_UNKNOWN: _same(404, _BAD, "not_found_error"),
    Code.MODEL_TOO_LARGE: _NO_ROOM,
    Code.ALL_PINNED: _NO_ROOM,
    Code.QUEUE_FULL: _BUSY,
    Code.QUEUE_TIMEOUT: _BUSY,
    Code.UNLOADED: _BUSY,
    Code.PREEMPTED: _BUSY,
    Code.PAUSED: _BUSY,
    # Not on the disk will not mend itself: 400, whose text every client shows.
    Code.NOT_PULLED: _Look(400, _BAD, 400, _BAD, 409, "model"),
    Code.PULL_FAILED: _DOWN,
    Code.PULLING: _BUSY,
    Code.PULL_UNKNOWN: _same(404, _BAD, "not_found_error"),
    Code.MODEL_UNAVAILABLE: _DOWN,
    Code.ENGINE_MISSING: _DOWN,
    Code.BACKOFF: _BUSY,
    Code.UPSTREAM_ERROR: _Look(502, "server_error", 500, "api_error", 502),
    Code.POISON: _same(400, _BAD, _BAD),
    Code.SHUTTING_DOWN: _BUSY,
    Code.CONFIG_INVALID: _Look(500, "server_error", 500, "api_error", 400),
    Code.INTERNAL: _same(500, "server_error", "api_error"),
}

Rendered = tuple[int, list[tuple[str, str]], bytes]
"""Status, headers, body. The body is left out by whoever answers a HEAD request."""


def render(
    problem: Problem,
    dialect: Dialect | str,
    request_id: str,
    retry_after_max: float = MAX_RETRY_AFTER,
) -> Rendered:
    """The answer that carries ``problem`` in the client's own shape.

    Headers are Content-Type, ``x-request-id``, ``x-should-retry`` and, where trying again may
    help, Retry-After (whole seconds, 1 to ``retry_after_max``); WWW-Authenticate on a 401 (RFC
    9110, 15.5.2). Framing headers are the caller's.
    """
    look = _LOOKS[problem.code]
    dialect = Dialect(dialect)
    if dialect is Dialect.OPENAI:
        status, body = look.openai, openai_error(problem)
    elif dialect is Dialect.ANTHROPIC:
        status, body = look.anthropic, anthropic_error(problem, request_id)
    elif dialect is Dialect.OLLAMA:
        status, body = look.openai, {"error": problem.text}
    else:
        status, body = look.control, control_error(problem, request_id)
    headers = [
        ("Content-Type", "application/json"),
        ("x-request-id", request_id),
        ("x-should-retry", "false" if problem.retry_after is None else "true"),
    ]
    if dialect is Dialect.ANTHROPIC:
        headers.append(("request-id", request_id))  # where Anthropic's SDK looks for it
    if problem.retry_after is not None:
        wait = max(1, min(int(retry_after_max), math.ceil(problem.retry_after)))
        headers.append(("Retry-After", str(wait)))
    if status == 401:
        headers.append(("WWW-Authenticate", "Bearer"))
    return status, headers, _json(body)


def openai_error(problem: Problem) -> dict[str, object]:
    """OpenAI's error object; ``code`` is ours and stable."""
    look = _LOOKS[problem.code]
    return {
        "error": {
            "message": problem.text,
            "type": look.openai_type,
            "param": look.param,
            "code": problem.code.value,
        }
    }


def anthropic_error(problem: Problem, request_id: str) -> dict[str, object]:
    """Anthropic's error object, which has no field for a code: the text says it all."""
    return {
        "type": "error",
        "error": {"type": _LOOKS[problem.code].anthropic_type, "message": problem.text},
        "request_id": request_id,
    }


def control_error(problem: Problem, request_id: str) -> dict[str, object]:
    """Our own error object: nothing is folded into prose that a program may want."""
    return {
        "error": {
            "code": problem.code.value,
            "message": problem.message,
            "hint": problem.hint,
            "retry_after": problem.retry_after,
            "facts": dict(problem.facts),
            "request_id": request_id,
        }
    }


def chat_stream_error(problem: Problem) -> bytes:
    """The last event of a chat stream that broke: an error object, then no ``[DONE]``."""
    return b"data: " + _json(openai_error(problem)) + b"\n\n"


def messages_stream_error(problem: Problem, request_id: str) -> bytes:
    """The same of a messages stream. Only where trying again is of no use: it makes Claude Code
    give up its own streaming retries, which a reset gives it."""
    return b"event: error\ndata: " + _json(anthropic_error(problem, request_id)) + b"\n\n"


def _json(value: object) -> bytes:
    # default=str: facts may hold a path or an enum, and an error must never fail to be told.
    return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace")
