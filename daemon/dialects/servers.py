"""What LM Studio and llama-server say of themselves and their models, for programs that look for
them by port. (Ollama's words are in ``ollama_answer``.)

Sources: LM Studio's REST API v0 and v1 (lmstudio.ai/docs/developer/rest); llama-server as it
answered (a build of November 2026) and tools/server/README.md for the router's ``status``.
"""

from __future__ import annotations

from collections.abc import Iterable

from daemon.dialects.fields import Json, encode
from daemon.views import ModelCard

_LOADED = frozenset({"ready", "draining"})
_LM_TYPES = {"vision": "vlm", "embedding": "embeddings"}
BUILD = "modelport"


def is_loaded(card: ModelCard) -> bool:
    """Whether requests for it are answered at once."""
    return card.state in _LOADED


def _fact(card: ModelCard, name: str, other: str = "") -> str:
    return str(card.facts.get(name) or other)


# ---------------------------------------------------------------- LM Studio


def lm_entry(card: ModelCard) -> Json:
    """One model of ``GET /api/v0/models``, or the answer of ``/api/v0/models/{id}``."""
    kind = _fact(card, "format", "gguf")
    found: Json = {
        "id": card.id,
        "object": "model",
        "type": _LM_TYPES.get(card.kind, "llm"),
        "publisher": "modelport",
        "arch": _fact(card, "architecture", card.engine or "unknown"),
        "compatibility_type": "gguf" if kind == "gguf" else "mlx",
        "quantization": _fact(card, "quantisation", "unknown"),
        "state": "loaded" if is_loaded(card) else "not-loaded",
        "max_context_length": card.context or 0,
    }
    if is_loaded(card):
        found["loaded_context_length"] = card.context or 0
    if card.kind in ("chat", "vision"):
        found["capabilities"] = ["tool_use"]
    return found


def lm_models(cards: Iterable[ModelCard]) -> bytes:
    """``GET /api/v0/models``: all on the disk, loaded or not."""
    return encode({"object": "list", "data": [lm_entry(card) for card in cards]})


def lm_model(card: ModelCard) -> bytes:
    """``GET /api/v0/models/{id}``."""
    return encode(lm_entry(card))


def _lm_type(card: ModelCard | None) -> str:
    return "embedding" if card is not None and card.kind == "embedding" else "llm"


def _lm_item(card: ModelCard) -> Json:
    kind, words = _fact(card, "format", "gguf"), _fact(card, "quantisation")
    context = card.context or 0
    loaded: list[Json] = [{"id": card.id, "config": {"context_length": context}}]
    found: Json = {
        "type": _lm_type(card),
        "publisher": "modelport",
        "key": card.id,
        "display_name": card.id,
        "architecture": _fact(card, "architecture") or None,
        "quantization": {"name": words, "bits_per_weight": None} if words else None,
        "size_bytes": card.facts.get("size") or 0,
        "params_string": None,
        "loaded_instances": loaded if is_loaded(card) else [],
        "max_context_length": context,
        "format": "gguf" if kind == "gguf" else "mlx",
        "description": None,
    }
    if card.kind in ("chat", "vision"):
        vision = card.kind == "vision"
        found["capabilities"] = {"vision": vision, "trained_for_tool_use": True}
    return found


def lm_list(cards: Iterable[ModelCard]) -> bytes:
    """``GET /api/v1/models``: the same as :func:`lm_models`, as newer versions tell it."""
    return encode({"models": [_lm_item(card) for card in cards]})


def lm_loaded(model: str, card: ModelCard | None, seconds: float) -> bytes:
    """``POST /api/v1/models/load``. ``seconds``: how long it took."""
    said = {"type": _lm_type(card), "instance_id": model, "status": "loaded"}
    return encode({**said, "load_time_seconds": round(seconds, 3)})


def lm_unloaded(model: str) -> bytes:
    """``POST /api/v1/models/unload``."""
    return encode({"instance_id": model})


# ---------------------------------------------------------------- llama-server

SUCCESS = b'{"success":true}'
"""Its router's answer to orders."""


def router_status(card: ModelCard) -> str:
    """The word of llama-server's router for a model's state."""
    if is_loaded(card):
        return "loaded"
    return "loading" if card.state == "starting" else "unloaded"


def props(card: ModelCard | None) -> bytes:
    """``GET /props``: of one model, or (None) of a router that has several."""
    if card is None:
        return encode(
            {
                "role": "router",
                "models_autoload": True,
                "model_alias": BUILD,
                "model_path": "none",
                "default_generation_settings": {"params": {}, "n_ctx": 0},
                "build_info": BUILD,
            }
        )
    return encode(
        {
            "default_generation_settings": {"params": {}, "n_ctx": card.context or 0},
            "total_slots": _slots(card),
            "model_alias": card.id,
            "model_ftype": _fact(card, "quantisation"),
            "model_path": card.id,
            "modalities": {"vision": card.kind == "vision", "video": False, "audio": False},
            "endpoint_slots": True,
            "endpoint_props": False,
            "endpoint_metrics": False,
            "chat_template": "",
            "build_info": BUILD,
        }
    )


def slots(card: ModelCard | None) -> bytes:
    """``GET /slots``: of a model that is loaded; none otherwise."""
    if card is None or not is_loaded(card):
        return b"[]"
    busy = card.facts.get("busy")
    working = busy if isinstance(busy, int) else 0
    return encode(
        [
            {
                "id": index,
                "n_ctx": card.context or 0,
                "speculative": False,
                "is_processing": index < working,
            }
            for index in range(_slots(card))
        ]
    )


def _slots(card: ModelCard) -> int:
    found = card.facts.get("slots")
    return found if isinstance(found, int) else 1
