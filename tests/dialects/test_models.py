from __future__ import annotations

import json

from daemon.dialects.models import listing, single
from daemon.ports import ModelCard

CARDS = [
    ModelCard("qwen3-coder", ("coder",), 1700000000, 65536, 8192, "ready", "llama-server"),
    ModelCard("embed", kind="embedding"),
    ModelCard("claude-local", facts={"bytes": 7}),
]


def test_the_list_is_openais_anthropics_and_codexs() -> None:
    shape = json.loads(listing(CARDS))
    assert shape["object"] == "list"
    assert [model["id"] for model in shape["data"]] == ["qwen3-coder", "embed", "claude-local"]
    assert (shape["first_id"], shape["last_id"]) == ("qwen3-coder", "claude-local")
    assert shape["has_more"] is False
    first = shape["data"][0]
    assert first["object"] == first["type"] == "model"
    assert first["display_name"] == "qwen3-coder"
    assert (first["created"], first["created_at"]) == (1700000000, "2023-11-14T22:13:20Z")
    assert first["owned_by"]
    assert first["max_input_tokens"] == 65536
    assert first["max_tokens"] == 8192
    assert "context_length" not in shape["data"][1]
    assert shape["data"][2]["meta"] == {"bytes": 7}


def test_codex_finds_every_field_that_it_needs() -> None:
    models = json.loads(listing(CARDS))["models"]
    assert [model["slug"] for model in models] == ["qwen3-coder", "claude-local"]
    assert set(models[0]) == {
        "slug",
        "display_name",
        "supported_reasoning_levels",
        "shell_type",
        "visibility",
        "supported_in_api",
        "priority",
        "support_verbosity",
        "truncation_policy",
        "experimental_supported_tools",
        "base_instructions",
        "context_window",
        "input_modalities",
    }
    assert [model["priority"] for model in models] == [1, 2]


def test_claude_codes_picker_sees_all_text_models() -> None:
    ids = [model["id"] for model in json.loads(listing(CARDS, discovery=True))["data"]]
    assert ids == ["qwen3-coder", "embed", "claude-local", "anthropic/qwen3-coder"]


def test_a_codex_entry_is_the_recorded_one() -> None:
    """The body that Codex 0.169 took as its catalog, recorded."""
    card = ModelCard("qwen3-coder", context=65536)
    (made,) = json.loads(listing([card]))["models"]
    assert made == {
        "slug": "qwen3-coder",
        "display_name": "qwen3-coder",
        "supported_reasoning_levels": [],
        "shell_type": "unified_exec",
        "visibility": "list",
        "supported_in_api": True,
        "priority": 1,
        "support_verbosity": False,
        "truncation_policy": {"mode": "tokens", "limit": 10000},
        "experimental_supported_tools": [],
        "base_instructions": "You are a coding agent.",
        "context_window": 65536,
        "input_modalities": ["text"],
    }


def test_the_official_clients_types_take_every_entry() -> None:
    import anthropic.types
    import openai.types

    for entry in json.loads(listing(CARDS, discovery=True))["data"]:
        assert openai.types.Model.model_validate(entry, strict=True).id == entry["id"]
        made = anthropic.types.ModelInfo.model_validate(entry)
        assert (made.type, made.lifecycle) == ("model", "active")


def test_a_routers_list_says_what_is_loaded() -> None:
    data = json.loads(listing(CARDS, routed=True))["data"]
    assert [model["status"]["value"] for model in data] == ["loaded", "unloaded", "unloaded"]


def test_an_empty_list_is_a_list() -> None:
    shape = json.loads(listing([]))
    assert (shape["data"], shape["models"]) == ([], [])
    assert shape["first_id"] is None


def test_one_model() -> None:
    assert json.loads(single(CARDS[0]))["id"] == "qwen3-coder"
