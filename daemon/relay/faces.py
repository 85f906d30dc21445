"""What a port answers by itself where programs look for Ollama, LM Studio or llama-server: that
one is there, and which models it has. Pure but for asking for the models and the time.

Ollama's paths are served on every port (``routes``), as Codex asks for them wherever it is sent.
What is under ``/`` and LM Studio's and llama-server's own paths are theirs alone.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs, unquote

from daemon.access.principals import LOCAL, Principal
from daemon.core.problems import Code, Problem
from daemon.dialects import models, servers
from daemon.dialects.errors import Dialect
from daemon.ports import LeasePort, ModelCard, Route
from daemon.relay.doors import Door, Face
from daemon.relay.heads import Head
from daemon.relay.routes import BodyKind, Local, Order, Place, Refused, place_of

LM_MODELS: Final = "/api/v0/models"
LM_MODEL: Final = LM_MODELS + "/"
LM_LIST: Final = "/api/v1/models"
_LLAMA: Final = frozenset({"/props", "/slots", "/v1/health"})
_LM_TEXTS: Final = ("/chat/completions", "/completions", "/embeddings")
"""LM Studio adds statistics of its own to these, which no client needs to read an answer."""
_RUNNING: Final = b"Ollama is running"  # what `ollama serve` says at /, and programs look for
_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"


def _order(order: Order, upstream: str = "") -> Place:
    # By no route: whatever kind the model is of, it can be loaded.
    way = Route.UPSTREAM
    return Place(way, Dialect.OPENAI, upstream, BodyKind.JSON, order=order)


_POSTS: Final[dict[Face, dict[str, Place]]] = {
    Face.LMSTUDIO: {
        **{f"/api/v0{path}": place_of("/v1" + path) for path in _LM_TEXTS},
        LM_LIST + "/load": _order(Order.LOAD, LM_LIST),
        LM_LIST + "/unload": _order(Order.UNLOAD, LM_LIST),
    },
    Face.LLAMA_SERVER: {
        "/models/load": _order(Order.LOAD),
        "/models/unload": _order(Order.UNLOAD),
    },
}

Said = tuple[str, bytes]
"""Content type and body."""


def resolve(method: str, path: str, door: Door) -> Place | Refused | None:
    """What there is at ``path`` of this port, beyond what every port has; None: nothing."""
    posts = _POSTS.get(door.face, {})
    if method == "POST" and path in posts:
        return posts[path]
    allow = allowed(path, door)
    if not allow:
        return None
    if method not in allow.split(", "):
        text = f"{method} is not allowed here; allowed: {allow}."
        return Refused(Problem(Code.METHOD_NOT_ALLOWED, text), Dialect.OPENAI, allow)
    return Place(None, Dialect.OPENAI, local=Local.FACE)


def allowed(path: str, door: Door) -> str:
    """The value of an ``Allow`` header for ``path``; empty where nothing of ours is."""
    if path in _POSTS.get(door.face, ()):
        return "POST, OPTIONS"
    one = door.face is Face.LMSTUDIO and path.startswith(LM_MODEL) and path != LM_MODEL
    return "GET, HEAD, OPTIONS" if one or path in _paths(door) else ""


def _paths(door: Door) -> frozenset[str]:
    if door.face is Face.OLLAMA:
        return frozenset({"/"})
    if door.face is Face.LMSTUDIO:
        return frozenset({LM_MODELS, LM_LIST})
    # The ports of the guides that are bound to one model are llama-server's, too.
    return _LLAMA if door.face is Face.LLAMA_SERVER or door.model else frozenset()


def answer(door: Door, head: Head, leases: LeasePort, who: Principal = LOCAL) -> Said | Problem:
    """The answer of a place that :func:`resolve` gave. Never waits for a load."""
    path = head.path
    if path.startswith(LM_MODEL):
        card = leases.card(door.model or unquote(path[len(LM_MODEL) :]), "", who)
        return card if isinstance(card, Problem) else (_JSON, servers.lm_model(card))
    if path == "/":
        return _TEXT, _RUNNING
    if path in _LLAMA:
        return _llama(path, door, head, leases, who)
    told = servers.lm_list if path == LM_LIST else servers.lm_models
    return _JSON, told(cards(door, leases, who))


def cards(door: Door, leases: LeasePort, who: Principal = LOCAL) -> list[ModelCard]:
    """The models that ``who`` can ask for at this door."""
    if not door.model:
        return leases.cards(who)
    card = leases.card(door.model, "", who)
    return [card] if isinstance(card, ModelCard) else []


def _llama(path: str, door: Door, head: Head, leases: LeasePort, who: Principal) -> Said | Problem:
    """llama-server's words on itself; its router takes the model from the query."""
    if path == "/v1/health":
        return _JSON, b'{"status":"ok"}'
    name = door.model or _query(head).get("model", [""])[0]
    card = leases.card(name, "", who) if name else None
    if isinstance(card, Problem):
        return card
    return _JSON, servers.props(card) if path == "/props" else servers.slots(card)


def listing(door: Door, head: Head, leases: LeasePort, who: Principal = LOCAL) -> bytes:
    """``GET /v1/models`` at this door."""
    # Claude Code asks with ?limit=…; it shows only ids of Anthropic's making.
    routed = door.face is Face.LLAMA_SERVER
    discovery = "limit" in _query(head)
    return models.listing(cards(door, leases, who), discovery=discovery, routed=routed)


def _query(head: Head) -> dict[str, list[str]]:
    try:
        return parse_qs(head.query, max_num_fields=16) if head.query else {}
    except ValueError:  # more than anyone asks
        return {}
