"""One route of the control API as data. The router, the checks on what comes in and the OpenAPI
document are all made from the same list of these, so they cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from control_api.errors import encode
from control_api.jobs import Jobs
from control_api.schemas import MODEL_NAME, Body, Empty
from control_api.streams import Streams
from daemon.core.problems import Code, Problem, ProblemError
from daemon.logs.follow import POLL
from daemon.ports import ControlPort

PREFIX: Final = "/control/v1"

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
SSE: Final = "text/event-stream"
TEXT: Final = "text/plain"

_NAME: Final = re.compile(MODEL_NAME, re.ASCII)
_TRUE, _FALSE = {"1", "true", "yes"}, {"0", "false", "no"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the control API: seconds, bytes and counts. Tests shorten them.

    Those of the heartbeat and of Retry-After are settings (``[timing]``); the others guard a
    private socket against programs of the same user, and are none.
    """

    body_bytes: int = 64 * 1024
    body_seconds: float = 10.0  # for the whole body of a request
    write_seconds: float = 60.0  # a reader that takes nothing for so long is cut off
    heartbeat_seconds: float = 15.0  # at most half of what ctl waits for one
    retry_after_max: float = 30.0  # clients obey longer ones: one SDK sleeps whatever it is told
    first_step_seconds: float = 0.5  # a load refused within this gets a status of its own
    log_poll_seconds: float = POLL
    streams: int = 32  # open event and log streams
    event_queue: int = 256  # events kept for a slow reader before it is dropped


@dataclass(frozen=True, slots=True)
class Query:
    """A query parameter: an integer from ``low`` to ``high``, (``default`` is a bool) a flag, or
    (``default`` is a text) the name of a model."""

    name: str
    default: int | bool | str
    text: str
    low: int = 0
    high: int = 2**53

    def parse(self, raw: str) -> int | bool | str:
        """Raises ``ProblemError`` INVALID_REQUEST with what is allowed."""
        if isinstance(self.default, str):
            if _NAME.fullmatch(raw):
                return raw
            raise bad_request(f"{self.name} is {raw[:80]!r}; the name of a model is allowed.")
        if isinstance(self.default, bool):
            if raw.lower() in _TRUE | _FALSE:
                return raw.lower() in _TRUE
            raise bad_request(f"{self.name} is {raw!r}; 1 and 0 are allowed.")
        # isdecimal alone lets other scripts' digits through
        if raw.isascii() and raw.isdecimal() and self.low <= int(raw[:20]) <= self.high:
            return int(raw)
        raise bad_request(
            f"{self.name} is {raw[:40]!r}; a number from {self.low} to {self.high} is allowed."
        )


@dataclass(frozen=True, slots=True)
class Call:
    """One checked request, as its handler gets it."""

    request: web.Request
    port: ControlPort
    limits: Limits
    jobs: Jobs
    streams: Streams
    redact: Callable[[str], str]
    name: str = ""
    body: Any = None
    query: dict[str, Any] = field(default_factory=dict)


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A method on a path below :data:`PREFIX`. ``answer`` is the type of the JSON answer (or of one
    line or event, for a stream); ``errors`` are the codes that are its own."""

    method: str
    path: str
    handler: Handler
    tag: str
    summary: str
    answer: Any
    media: str = JSON
    status: int = 200
    body: type[Body] | None = None
    query: tuple[Query, ...] = ()
    errors: tuple[Code, ...] = ()
    also: dict[int, tuple[str, Any]] = field(default_factory=dict)  # status -> media, type


def bad_request(message: str, hint: str = "", code: Code = Code.INVALID_REQUEST) -> ProblemError:
    return ProblemError(Problem(code, message, hint))


def answer(value: Any, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(body=encode(value), status=status, content_type=JSON)


def model_name(request: web.Request) -> str:
    """The ``{name}`` of the path, decoded; "" where the path has none.

    Raises ``ProblemError`` MODEL_NOT_FOUND for what cannot be a name.
    """
    name = request.match_info.get("name", "")
    if "name" in request.match_info and not _NAME.fullmatch(name):
        raise ProblemError(
            Problem(
                Code.MODEL_NOT_FOUND,
                f"{name[:80]!r} is not the name of a model.",
                "`ctl ls` shows the names.",
            )
        )
    return name


def query_of(operation: Operation, request: web.Request) -> dict[str, Any]:
    """The query with defaults filled in. Unknown and repeated parameters are refused."""
    known = {query.name: query for query in operation.query}
    values: dict[str, Any] = {query.name: query.default for query in operation.query}
    seen: set[str] = set()
    for key, raw in request.query.items():
        if key not in known:
            allowed = ", ".join(known) or "none"
            raise bad_request(f"Unknown query parameter {key[:40]!r}.", f"Allowed: {allowed}.")
        if key in seen:
            raise bad_request(f"Query parameter {key!r} was given twice.")
        seen.add(key)
        values[key] = known[key].parse(raw)
    return values


def require_json(request: web.Request) -> None:
    """Refuses every other media type: a web page can send those without asking (CSRF)."""
    if request.headers.get("Content-Type", "").split(";")[0].strip().lower() != JSON:
        found = request.headers.get("Content-Type", "none")[:80]
        raise bad_request(
            f"Content-Type is {found!r}; this API takes JSON only.",
            "Send `Content-Type: application/json`.",
            Code.UNSUPPORTED_MEDIA_TYPE,
        )
    if "Content-Encoding" in request.headers:
        raise bad_request(
            "The body is compressed; this API takes plain JSON only.",
            "Leave Content-Encoding out.",
            Code.UNSUPPORTED_ENCODING,
        )


__all__ = [
    "JSON",
    "NDJSON",
    "PREFIX",
    "SSE",
    "TEXT",
    "Call",
    "Empty",
    "Limits",
    "Operation",
    "Query",
    "answer",
    "bad_request",
    "model_name",
    "query_of",
    "require_json",
]
