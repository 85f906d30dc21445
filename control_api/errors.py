"""One error envelope: ``{"error": {"code", "message", "hint", "facts"}}``, and its status."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec
from aiohttp import web

from control_api.schemas import ErrorBody, ErrorDetail
from daemon.core.problems import Code, Problem, ProblemError

STATUS: Final[dict[Code, int]] = {
    Code.INVALID_REQUEST: 400,
    Code.INVALID_JSON: 400,
    Code.MODEL_MISSING: 400,
    Code.MODEL_NOT_FOUND: 404,
    Code.UNSUPPORTED_DIALECT: 400,
    Code.ROUTE_NOT_FOUND: 404,
    Code.REQUEST_UNKNOWN: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.BODY_TOO_LARGE: 413,
    Code.BODY_TIMEOUT: 408,
    Code.UNSUPPORTED_ENCODING: 415,
    Code.UNSUPPORTED_MEDIA_TYPE: 415,
    Code.UNAUTHORIZED: 401,
    Code.FORBIDDEN: 403,
    Code.MISDIRECTED: 421,
    Code.RATE_LIMITED: 429,
    Code.KEY_EXISTS: 409,
    Code.KEY_UNKNOWN: 404,
    Code.MODEL_TOO_LARGE: 409,
    Code.ALL_PINNED: 409,
    Code.QUEUE_FULL: 503,
    Code.QUEUE_TIMEOUT: 503,
    Code.UNLOADED: 409,
    Code.PREEMPTED: 503,
    Code.PAUSED: 503,
    Code.NOT_PULLED: 409,
    Code.PULL_FAILED: 502,
    Code.PULLING: 503,
    Code.PULL_UNKNOWN: 404,
    Code.MODEL_UNAVAILABLE: 503,
    Code.ENGINE_MISSING: 503,
    Code.BACKOFF: 503,
    Code.POISON: 400,
    Code.UPSTREAM_ERROR: 502,
    Code.SHUTTING_DOWN: 503,
    Code.CONFIG_INVALID: 422,
    Code.INTERNAL: 500,
}


class StatusProblemError(ProblemError):
    """A problem whose status is not the one of its code (no backend of a model is a 404)."""

    def __init__(
        self, problem: Problem, status: int, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(problem)
        self.status = status
        self.headers = headers or {}


def detail(problem: Problem) -> ErrorDetail:
    """The problem as the API shows it."""
    return ErrorDetail(
        code=problem.code.value,
        message=problem.message,
        hint=problem.hint,
        facts=dict(problem.facts),
    )


def encode(value: Any) -> bytes:
    """JSON bytes. A fact of a type that JSON lacks (a path, an enum) is shown as its text."""
    return msgspec.json.encode(value, enc_hook=str)


def response(error: ProblemError, retry_after_max: float) -> web.Response:
    """The envelope with its status; ``Retry-After`` (whole seconds, 1 to ``retry_after_max``) only
    where trying again may help."""
    problem = error.problem
    status, headers = STATUS[problem.code], {}
    if isinstance(error, StatusProblemError):
        status, headers = error.status, dict(error.headers)
    if problem.retry_after is not None:
        wait = max(1, min(int(retry_after_max), math.ceil(problem.retry_after)))
        headers["Retry-After"] = str(wait)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(
        status=status,
        body=encode(ErrorBody(error=detail(problem))),
        content_type="application/json",
        headers=headers,
    )
