"""opencode: one JSON document, given in the environment so that it wins over a project's own."""

from __future__ import annotations

import json
from typing import Any

from control_api.clients import jsonc
from control_api.clients.values import PROVIDER, Edit, Plan, Wish, unset_for


def provider(wish: Wish) -> dict[str, Any]:
    """The provider and its models, as opencode writes them."""
    models = {
        served.name: {
            "name": served.name,
            "limit": {"context": served.window, "output": wish.capped(served)},
            "tool_call": True,
            **({"attachment": True} if served.vision else {}),
        }
        for served in wish.all_models
    }
    return {
        "npm": "@ai-sdk/openai-compatible",
        "name": PROVIDER,
        "options": {"baseURL": wish.v1, "apiKey": wish.secret, "timeout": False},
        "models": models,
    }


def settings(wish: Wish) -> dict[tuple[str, ...], Any]:
    """All that is set, by key path."""
    return {
        ("model",): f"{PROVIDER}/{wish.model.name}",
        ("small_model",): f"{PROVIDER}/{wish.light}",
        ("provider", PROVIDER): provider(wish),
    }


def plan(wish: Wish) -> Plan:
    """How it is started. Other providers are off for this run; sessions are kept as ever."""
    document = {
        "$schema": "https://opencode.ai/config.json",
        "model": f"{PROVIDER}/{wish.model.name}",
        "small_model": f"{PROVIDER}/{wish.light}",
        "provider": {PROVIDER: provider(wish)},
        "enabled_providers": [PROVIDER],
        "share": "disabled",
        "autoupdate": False,
    }
    env = {
        "OPENCODE_CONFIG_CONTENT": json.dumps(document),
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    }
    return Plan(env=env, unset=unset_for(env))


def own(wish: Wish, home: str, environ: dict[str, str]) -> tuple[Edit, ...]:
    """``opencode.json`` of the user (``opencode.jsonc`` where there is one: it would win)."""
    base = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"

    def change(text: str | None) -> str:
        return jsonc.changed(text, settings(wish))

    place = f"{base}/opencode/opencode.json"
    return (Edit(place, change, instead=place + "c"),)
