"""The model list, as one superset that OpenAI, Anthropic and Codex clients all read.

``data`` holds OpenAI's and Anthropic's fields side by side; ``models`` is the catalog that Codex
wants (the smallest entry it accepts; anything less fails with "missing field").
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime

from daemon.dialects.servers import router_status
from daemon.views import ModelCard

OWNER = "modelport"
DISCOVERY_PREFIX = "anthropic/"
"""Claude Code's model picker shows only ids that begin with ``claude`` or ``anthropic``."""

_CODEX_INSTRUCTIONS = "You are a coding agent."
_CODEX_TOOL_OUTPUT_TOKENS = 10_000
_TEXT_KINDS = frozenset({"chat", "vision"})


def entry(card: ModelCard, name: str | None = None) -> dict[str, object]:
    """One model for ``data``, or the whole answer of ``GET /v1/models/{id}``."""
    model: dict[str, object] = {
        "id": name or card.id,
        "object": "model",
        "type": "model",
        "display_name": card.id,
        "created": card.created,
        "created_at": datetime.fromtimestamp(card.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "owned_by": OWNER,
        "lifecycle": "active",  # Anthropic's; the next four have no meaning here and are null
        "deprecated_at": None,
        "retires_at": None,
        "line": None,
        "capabilities": None,
        "aliases": list(card.aliases),
        "state": card.state,
        "engine": card.engine,
        "kind": card.kind,
    }
    if card.context is not None:
        model["context_length"] = card.context
        model["max_model_len"] = card.context
        model["max_input_tokens"] = card.context
    if card.max_output is not None:
        model["max_tokens"] = card.max_output
    if card.facts:
        model["meta"] = dict(card.facts)
    return model


def codex_entry(card: ModelCard, priority: int) -> dict[str, object]:
    """One model for ``models``. ``priority`` orders Codex's picker, 1 first."""
    model: dict[str, object] = {
        "slug": card.id,
        "display_name": card.id,
        "supported_reasoning_levels": [],
        "shell_type": "unified_exec",
        "visibility": "list",
        "supported_in_api": True,
        "priority": priority,
        "support_verbosity": False,
        "truncation_policy": {"mode": "tokens", "limit": _CODEX_TOOL_OUTPUT_TOKENS},
        "experimental_supported_tools": [],
        "base_instructions": _CODEX_INSTRUCTIONS,
        "input_modalities": ["text", "image"] if card.kind == "vision" else ["text"],
    }
    if card.context is not None:
        model["context_window"] = card.context
    return model


def listing(cards: Iterable[ModelCard], *, discovery: bool = False, routed: bool = False) -> bytes:
    """The body of ``GET /v1/models``, all of it on one page.

    ``discovery`` lists each model that Claude Code's picker would hide a second time, as
    ``anthropic/NAME``; ``routed`` adds each one's ``status``, as llama-server's router has it.
    """
    cards = list(cards)
    data = [entry(card) for card in cards]
    if routed:
        for model, card in zip(data, cards, strict=True):
            model["status"] = {"value": router_status(card)}
    if discovery:
        data += [
            entry(card, DISCOVERY_PREFIX + card.id)
            for card in cards
            if card.kind in _TEXT_KINDS and not card.id.startswith(("claude", "anthropic"))
        ]
    texts = [card for card in cards if card.kind in _TEXT_KINDS]
    return _json(
        {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": False,
            "models": [codex_entry(card, place) for place, card in enumerate(texts, 1)],
        }
    )


def single(card: ModelCard) -> bytes:
    """The body of ``GET /v1/models/{id}``."""
    return _json(entry(card))


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace")
