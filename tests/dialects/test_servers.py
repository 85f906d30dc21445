"""LM Studio's and llama-server's words."""

from __future__ import annotations

import json

from daemon.dialects import servers
from daemon.ports import ModelCard

COLD = ModelCard("cold", context=4096, facts={"quantisation": "Q4_K_M", "format": "gguf"})
WARM = ModelCard(
    "warm",
    context=8192,
    state="ready",
    kind="vision",
    facts={"slots": 2, "busy": 1, "architecture": "qwen3vl", "format": "safetensors"},
)
EMBED = ModelCard("embed", kind="embedding", state="starting")


def test_lm_studios_list() -> None:
    said = json.loads(servers.lm_models([COLD, WARM, EMBED]))
    assert said["object"] == "list"
    cold, warm, embed = said["data"]
    assert cold == {
        "id": "cold",
        "object": "model",
        "type": "llm",
        "publisher": "modelport",
        "arch": "unknown",
        "compatibility_type": "gguf",
        "quantization": "Q4_K_M",
        "state": "not-loaded",
        "max_context_length": 4096,
        "capabilities": ["tool_use"],
    }
    assert (warm["type"], warm["state"], warm["loaded_context_length"]) == ("vlm", "loaded", 8192)
    assert (warm["arch"], warm["compatibility_type"]) == ("qwen3vl", "mlx")
    assert (embed["type"], embed["state"]) == ("embeddings", "not-loaded")
    assert json.loads(servers.lm_model(WARM)) == warm


def test_llama_servers_words_for_states() -> None:
    words = [servers.router_status(card) for card in (COLD, WARM, EMBED)]
    assert words == ["unloaded", "loaded", "loading"]


def test_props_of_one_and_of_a_router() -> None:
    one = json.loads(servers.props(WARM))
    assert one["default_generation_settings"]["n_ctx"] == 8192
    assert (one["total_slots"], one["model_alias"]) == (2, "warm")
    assert one["modalities"] == {"vision": True, "video": False, "audio": False}
    assert json.loads(servers.props(None))["role"] == "router"


def test_slots_are_there_while_it_is_loaded() -> None:
    slots = json.loads(servers.slots(WARM))
    assert [(slot["id"], slot["n_ctx"], slot["is_processing"]) for slot in slots] == [
        (0, 8192, True),
        (1, 8192, False),
    ]
    assert servers.slots(COLD) == servers.slots(None) == b"[]"
