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
from daemon.ports import LeasePort, ModelCard
from daemon.relay.doors import Door, Face
from daemon.relay.heads import Head
from daemon.relay.routes import Local, Place, Refused

LM_MODELS: Final = "/api/v0/models"
LM_MODEL: Final = LM_MODELS + "/"
_LLAMA: Final = frozenset({"/props", "/slots", "/v1/health"})
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
    return Place(None, Dialect.OPENAI, local=Local.FACE)


def allowed(path: str, door: Door) -> str:
    """The value of an ``Allow`` header for ``path``; empty where nothing of ours is."""
    one = door.face is Face.LMSTUDIO and path.startswith(LM_MODEL) and path != LM_MODEL
    return "GET, HEAD, OPTIONS" if one or path in _paths(door) else ""


def _paths(door: Door) -> frozenset[str]:
    if door.face is Face.OLLAMA:
        return frozenset({"/"})
    if door.face is Face.LMSTUDIO:
        return frozenset({LM_MODELS})
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
    return _JSON, servers.lm_models(cards(door, leases, who))


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
