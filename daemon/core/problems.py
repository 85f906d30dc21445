"""Stable error codes: what can go wrong for a person or a client, as a value.

A :class:`Problem` says what was found and what to do next. How it looks on the wire (status, body,
headers) belongs to ``daemon.dialects.errors``; what a code *means* belongs here, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Code(StrEnum):
    """Why something was refused. The value is part of the API and never changes its meaning."""

    # the request itself
    INVALID_REQUEST = "invalid_request"
    INVALID_JSON = "invalid_json"
    MODEL_MISSING = "model_required"
    MODEL_NOT_FOUND = "model_not_found"
    UNSUPPORTED_DIALECT = "unsupported_dialect"
    ROUTE_NOT_FOUND = "route_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    BODY_TOO_LARGE = "body_too_large"
    BODY_TIMEOUT = "body_timeout"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    MISDIRECTED = "misdirected_host"
    REQUEST_UNKNOWN = "request_unknown"
    RATE_LIMITED = "rate_limited"
    KEY_EXISTS = "key_exists"
    KEY_UNKNOWN = "key_unknown"
    # the schedule
    MODEL_TOO_LARGE = "model_too_large"
    ALL_PINNED = "all_pinned"
    QUEUE_FULL = "queue_full"
    QUEUE_TIMEOUT = "queue_timeout"
    UNLOADED = "unloaded"
    PREEMPTED = "preempted"
    PAUSED = "paused"
    NOT_PULLED = "not_pulled"
    PULL_FAILED = "pull_failed"
    PULLING = "pulling"
    PULL_UNKNOWN = "pull_unknown"
    # the backend
    MODEL_UNAVAILABLE = "model_unavailable"
    ENGINE_MISSING = "engine_missing"
    BACKOFF = "backoff"
    UPSTREAM_ERROR = "upstream_error"
    POISON = "request_crashes_model"
    # the daemon
    SHUTTING_DOWN = "shutting_down"
    CONFIG_INVALID = "config_invalid"
    INTERNAL = "internal_error"


@dataclass(frozen=True, slots=True)
class Problem:
    """One refusal: a code for programs, a sentence and a next step for people.

    ``retry_after`` is in seconds and is set only where trying again may help; None means that the
    same request would be refused again. ``facts`` are numbers and names for programs (bytes).
    """

    code: Code
    message: str
    hint: str = ""
    retry_after: float | None = None
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Message and next step in one line, as a client shows it."""
        return f"{self.message} {self.hint}".strip()


class ProblemError(Exception):
    """A :class:`Problem` on its way up to whoever can answer it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem
