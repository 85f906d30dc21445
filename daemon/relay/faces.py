"""What a port answers by itself where programs look for Ollama, LM Studio or llama-server: that
one is there, and which models it has. Pure but for asking for the models and the time.

Ollama's paths are served on every port, as Codex asks for them wherever it is sent. What is under
``/`` and LM Studio's and llama-server's own paths are theirs alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs, unquote

import msgspec

from daemon.core.problems import Code, Problem
from daemon.dialects import models, ollama_answer, servers
from daemon.dialects.errors import Dialect
from daemon.ports import LeasePort, ModelCard
from daemon.relay.body import Body
from daemon.relay.doors import Door, Face
from daemon.relay.heads import Head
from daemon.relay.routes import BodyKind, Local, Place, Refused

LM_MODEL: Final = "/api/v0/models/"
_LLAMA: Final = frozenset({"/props", "/slots", "/v1/health"})
_OLLAMA: Final = frozenset({"/api/version", "/api/tags", "/api/ps"})
_SHOW: Final = "/api/show"
_RUNNING: Final = b"Ollama is running"  # what `ollama serve` says at /, and programs look for
_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"

Said = tuple[str, bytes]
"""Content type and body."""


def resolve(method: str, path: str, door: Door) -> Place | Refused | None:
    """What this port answers by itself at ``path``, beyond what every port does; None: nothing."""
    allow = allowed(path, door)
    if not allow:
        return None
    if method not in allow.split(", "):
        text = f"{method} is not allowed here; allowed: {allow}."
        return Refused(Problem(Code.METHOD_NOT_ALLOWED, text), Dialect.OPENAI, allow)
    body = BodyKind.JSON if path == _SHOW else BodyKind.NONE
    return Place(None, Dialect.OPENAI, body=body, local=Local.FACE)


def allowed(path: str, door: Door) -> str:
    """The value of an ``Allow`` header for ``path``; empty where nothing of ours is."""
    if path == _SHOW:
        return "POST, OPTIONS"
    one = door.face is Face.LMSTUDIO and path.startswith(LM_MODEL) and path != LM_MODEL
    return "GET, HEAD, OPTIONS" if one or path in _paths(door) else ""


def everywhere() -> list[tuple[str, str]]:
    """Every method and path that each port has, for tests and documents."""
    return [("GET", path) for path in sorted(_OLLAMA)] + [("POST", _SHOW)]


def plain(head: Head) -> bool:
    """Whether an error there is a bare sentence, as Ollama's are."""
    return head.path == _SHOW or head.path in _OLLAMA


def _paths(door: Door) -> frozenset[str]:
    if door.face is Face.OLLAMA:
        return _OLLAMA | {"/"}
    if door.face is Face.LMSTUDIO:
        return _OLLAMA | {"/api/v0/models"}
    # The ports of the guides that are bound to one model are llama-server's, too.
    return _OLLAMA | _LLAMA if door.face is Face.LLAMA_SERVER or door.model else _OLLAMA


def answer(door: Door, head: Head, body: Body, leases: LeasePort) -> Said | Problem:
    """The answer of a place that :func:`resolve` gave. Never waits for a load."""
    path = head.path
    if path == _SHOW:
        card = _shown(door, body, leases)
        return card if isinstance(card, Problem) else (_JSON, ollama_answer.show(card))
    if path.startswith(LM_MODEL):
        card = leases.card(door.model or unquote(path[len(LM_MODEL) :]))
        return card if isinstance(card, Problem) else (_JSON, servers.lm_model(card))
    if path == "/":
        return _TEXT, _RUNNING
    if path in _LLAMA:
        return _llama(path, door, head, leases)
    return _JSON, _LISTS[path](cards(door, leases))


def cards(door: Door, leases: LeasePort) -> list[ModelCard]:
    """The models that can be asked for at this door."""
    if not door.model:
        return leases.cards()
    card = leases.card(door.model)
    return [card] if isinstance(card, ModelCard) else []


def _llama(path: str, door: Door, head: Head, leases: LeasePort) -> Said | Problem:
    """llama-server's words on itself; its router takes the model from the query."""
    if path == "/v1/health":
        return _JSON, b'{"status":"ok"}'
    name = door.model or _query(head).get("model", [""])[0]
    card = leases.card(name) if name else None
    if isinstance(card, Problem):
        return card
    return _JSON, servers.props(card) if path == "/props" else servers.slots(card)


def _shown(door: Door, body: Body, leases: LeasePort) -> ModelCard | Problem:
    """The model of ``POST /api/show``: ``model``, in older clients ``name``."""
    try:
        asked = _show.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = "The body must be a JSON object with the field `model`."
        return Problem(Code.INVALID_JSON, text)
    name = door.model or asked.model or asked.name
    if not name:
        return Problem(Code.MODEL_MISSING, "The field `model` is missing.")
    return leases.card(name)


class _Show(msgspec.Struct, gc=False, frozen=True):
    model: str = ""
    name: str = ""


_show = msgspec.json.Decoder(_Show)
_LISTS: Final[dict[str, Callable[[list[ModelCard]], bytes]]] = {
    "/api/version": lambda _: ollama_answer.version(),
    "/api/tags": ollama_answer.tags,
    "/api/ps": lambda cards: ollama_answer.running(cards, time.time()),
    "/api/v0/models": servers.lm_models,
}


def listing(door: Door, head: Head, leases: LeasePort) -> bytes:
    """``GET /v1/models`` at this door."""
    # Claude Code asks with ?limit=…; it shows only ids of Anthropic's making.
    routed = door.face is Face.LLAMA_SERVER
    discovery = "limit" in _query(head)
    return models.listing(cards(door, leases), discovery=discovery, routed=routed)


def _query(head: Head) -> dict[str, list[str]]:
    try:
        return parse_qs(head.query, max_num_fields=16) if head.query else {}
    except ValueError:  # more than anyone asks
        return {}
