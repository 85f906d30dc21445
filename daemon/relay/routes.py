"""Which path is what: a table, and one function that reads it. No I/O.

Everything that is not listed is refused, so a backend's own management paths are out of reach
unless they are asked for by name under ``/upstream/``; and even there not those that write files
or change the model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum, auto
from urllib.parse import unquote

from daemon.core.problems import Code, Problem
from daemon.dialects.errors import Dialect
from daemon.dialects.shapes import SHAPES, Shape
from daemon.ports import Route


class BodyKind(Enum):
    """Where the model's name is looked for."""

    NONE = auto()
    JSON = auto()
    FORM = auto()  # multipart, or JSON if the content type says so
    RAW = auto()  # whatever it is, it is passed on


class Local(Enum):
    """What the front answers itself."""

    HEALTH = auto()
    WELCOME = auto()
    MODELS = auto()
    MODEL = auto()
    TAGS = auto()  # Ollama's
    RUNNING = auto()
    VERSION = auto()
    SHOW = auto()
    PULL = auto()
    DELETE = auto()
    FACE = auto()  # as another server would: ``faces`` knows


class Order(Enum):
    """What is asked of a model other than an answer."""

    LOAD = auto()
    UNLOAD = auto()


@dataclass(frozen=True, slots=True)
class Place:
    """What is served at a path. ``upstream`` is the path on the backend.

    ``bare``: the engine's own API, which has no ``model`` field, so that it may be left out.
    ``rest`` is what follows a prefix: a model's id, or ``model/path`` below ``/upstream/``.
    ``shape``: of its requests, where other engines can be asked the same in their own way.
    ``order``: all that is asked there is that the model be loaded or unloaded.
    """

    route: Route | None
    dialect: Dialect
    upstream: str = ""
    body: BodyKind = BodyKind.NONE
    local: Local | None = None
    bare: bool = False
    rest: str = ""
    shape: Shape | None = None
    control: bool = False  # the control plane's, to whose socket it goes
    order: Order | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """No such path, or not with this method; ``allow`` lists the methods that there are."""

    problem: Problem
    dialect: Dialect
    allow: str = ""


MODELS_PREFIX = "/v1/models/"
UPSTREAM_PREFIX = "/upstream/"
_CONTROL = re.compile(r"/(?:control|ui|metrics)(?:/|$)")
_MESSAGES = re.compile(r"/v1/messages(?:/|$)")
_OLLAMA = re.compile(r"/api(?:/|$)")


def _post(
    route: Route,
    *paths: str,
    to: str = "",
    dialect: Dialect = Dialect.OPENAI,
    body: BodyKind = BodyKind.JSON,
    bare: bool = False,
) -> dict[str, Place]:
    return {
        path: Place(route, dialect, to or path, body, bare=bare, shape=SHAPES.get(to or path))
        for path in paths
    }


def _ollama(local: Local, body: BodyKind = BodyKind.NONE) -> Place:
    return Place(None, Dialect.OLLAMA, body=body, local=local)


_RANK = ("/v1/rerank", "/v1/reranking", "/rerank", "/reranking")
_POSTS: dict[str, Place] = {
    **_post(Route.CHAT, "/v1/chat/completions", "/chat/completions", to="/v1/chat/completions"),
    **_post(Route.COMPLETIONS, "/v1/completions"),
    **_post(Route.COMPLETIONS, "/completion", "/completions", bare=True),
    **_post(Route.EMBEDDINGS, "/v1/embeddings"),
    **_post(Route.EMBEDDINGS, "/embedding", "/embeddings", bare=True),
    **_post(Route.MESSAGES, "/v1/messages", dialect=Dialect.ANTHROPIC),
    **_post(Route.COUNT_TOKENS, "/v1/messages/count_tokens", dialect=Dialect.ANTHROPIC),
    **_post(Route.RESPONSES, "/v1/responses", "/responses", to="/v1/responses"),
    **_post(Route.RERANK, *_RANK, to="/v1/rerank"),
    **_post(Route.INFILL, "/infill", bare=True),
    **_post(Route.TOKENS, "/tokenize", "/detokenize", "/apply-template", bare=True),
    **_post(Route.AUDIO, "/v1/audio/transcriptions", "/v1/audio/translations", body=BodyKind.FORM),
    **_post(Route.AUDIO, "/v1/audio/speech"),
    **_post(Route.IMAGES, "/v1/images/generations"),
    **_post(Route.IMAGES, "/v1/images/edits", "/v1/images/variations", body=BodyKind.FORM),
    **_post(Route.CHAT, "/api/chat", "/api/generate", dialect=Dialect.OLLAMA),
    **_post(Route.EMBEDDINGS, "/api/embed", "/api/embeddings", dialect=Dialect.OLLAMA),
    "/api/show": _ollama(Local.SHOW, BodyKind.JSON),
    "/api/pull": _ollama(Local.PULL, BodyKind.JSON),
}
_DELETES = {"/api/delete": _ollama(Local.DELETE, BodyKind.JSON)}
_GETS: dict[str, Place] = {
    "/": Place(None, Dialect.OPENAI, local=Local.WELCOME),
    "/health": Place(None, Dialect.OPENAI, local=Local.HEALTH),
    "/v1/models": Place(None, Dialect.OPENAI, local=Local.MODELS),
    "/models": Place(None, Dialect.OPENAI, local=Local.MODELS),
    "/api/tags": _ollama(Local.TAGS),
    "/api/ps": _ollama(Local.RUNNING),
    "/api/version": _ollama(Local.VERSION),
}
_READ = frozenset({"GET", "HEAD"})
# Not TRACE, which would tell the key of the backend, and not CONNECT, which no reader of answers
# expects.
_UPSTREAM = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_ALLOW_GET = "GET, HEAD, OPTIONS"
_ALLOW_POST = "POST, OPTIONS"


def listed() -> list[tuple[str, str]]:
    """Every method and path of the table, for tests and documents."""
    tables = (("POST", _POSTS), ("GET", _GETS), ("DELETE", _DELETES))
    return [(method, path) for method, table in tables for path in table]


def place_of(path: str) -> Place:
    """What POST reaches at a path of the table."""
    return _POSTS[path]


def is_control(path: str) -> bool:
    """Does this path belong to the control plane?"""
    return _CONTROL.match(path) is not None


def dialect_of(path: str) -> Dialect:
    """The shape of errors below ``path``, whether or not there is anything."""
    if _MESSAGES.match(path):
        return Dialect.ANTHROPIC
    if _OLLAMA.match(path):
        return Dialect.OLLAMA
    return Dialect.CONTROL if is_control(path) else Dialect.OPENAI


_CONTROL_PLACE = Place(None, Dialect.CONTROL, body=BodyKind.RAW, control=True)


def resolve(method: str, path: str) -> Place | Refused:
    """What is served at ``path``, as it was sent (not percent-decoded)."""
    if is_control(path):  # it knows itself what it has
        return replace(_CONTROL_PLACE, upstream=path)
    if method == "POST" and (place := _POSTS.get(path)) is not None:
        return place
    if method in _READ and (place := _GETS.get(path)) is not None:
        return place
    if method == "DELETE" and (place := _DELETES.get(path)) is not None:
        return place
    if _is_upstream(path) and method in _UPSTREAM:
        rest = path[len(UPSTREAM_PREFIX) :]
        return Place(Route.UPSTREAM, Dialect.OPENAI, body=BodyKind.RAW, rest=rest)
    return _one_model(method, path) or _refuse(method, path)


def _is_upstream(path: str) -> bool:
    return path.startswith(UPSTREAM_PREFIX) and len(path) > len(UPSTREAM_PREFIX)


def _one_model(method: str, path: str) -> Place | None:
    if method not in _READ or not path.startswith(MODELS_PREFIX) or path == MODELS_PREFIX:
        return None
    # Ids hold slashes, written as they are or as %2F.
    name = unquote(path[len(MODELS_PREFIX) :])
    return Place(None, Dialect.OPENAI, local=Local.MODEL, rest=name)


def _refuse(method: str, path: str) -> Refused:
    dialect = dialect_of(path)
    allow = allowed(path)
    if allow:
        text = f"{method} is not allowed here; allowed: {allow}."
        return Refused(Problem(Code.METHOD_NOT_ALLOWED, text), dialect, allow)
    hint = "Known paths are listed at /."
    if path.startswith("/v1/v1/"):
        hint = "There is one /v1 too many: take it off the client's base URL."
    text = f"There is nothing at {shown(path)}."
    return Refused(Problem(Code.ROUTE_NOT_FOUND, text, hint), dialect)


def allowed(path: str) -> str:
    """The value of an ``Allow`` header for ``path``; empty if there is nothing."""
    if path in _POSTS:
        return _ALLOW_POST
    if path in _DELETES:
        return "DELETE, OPTIONS"
    if path in _GETS or (path.startswith(MODELS_PREFIX) and path != MODELS_PREFIX):
        return _ALLOW_GET
    if _is_upstream(path):
        return ", ".join(_UPSTREAM)
    return ""


def shown(text: str, limit: int = 120) -> str:
    """``text`` from a client, cut, for an error message. It holds no control characters."""
    return text if len(text) <= limit else text[:limit] + "…"


# ---------------------------------------------------------------- /upstream/<model>/<path>

_GUARDED = frozenset({"props", "slots", "lora-adapters"})
_SEGMENTS_TRIED = 4


def upstream_splits(rest: str) -> list[tuple[str, str]]:
    """Ways to read ``model/path``: names hold slashes, so the shortest that exists is taken.

    Each is (model, path on the backend). A name with a slash may also be sent with %2F.
    """
    parts = rest.split("/")
    return [
        (unquote("/".join(parts[:count])), "/" + "/".join(parts[count:]))
        for count in range(1, min(len(parts), _SEGMENTS_TRIED) + 1)
    ]


def refuse_upstream(method: str, path: str) -> Problem | None:
    """What may not be asked of a backend, even by name: slot files, adapters, properties.

    Compared after decoding, since backends decode too; anything that a backend could normalise
    into another path (dot segments, doubled or encoded slashes, backslashes) is refused.
    """
    decoded = unquote(path)
    segments = decoded.split("/")[1:]
    if (
        any(part in (".", "..") for part in segments)
        or "" in segments[:-1]
        or "%2f" in path.lower()
        or any(char in "\\%\x7f" or char < " " for char in decoded)
    ):
        text = "The path below /upstream/ must be plain: no dot segments, no doubled or encoded "
        return Problem(Code.INVALID_REQUEST, text + "slashes, no backslashes.")
    if method not in _READ and any(part.lower() in _GUARDED for part in segments):
        text = f"{method} {shown(path)} would change the backend itself."
        return Problem(Code.FORBIDDEN, text, "Change its options in the configuration instead.")
    return None
