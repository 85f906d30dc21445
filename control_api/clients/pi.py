"""pi: a provider in ``models.json`` of its agent folder, chosen in ``settings.json``."""

from __future__ import annotations

import json
from typing import Any

from control_api.clients import jsonc
from control_api.clients.values import PROVIDER, Edit, File, Plan, Wish, unset_for

# What our endpoint takes in pi's own words; without them it guesses by the address.
_COMPAT = {
    "supportsDeveloperRole": False,
    "supportsReasoningEffort": False,
    "supportsStore": False,
    "maxTokensField": "max_tokens",
}


def provider(wish: Wish) -> dict[str, Any]:
    """``providers.modelport`` of ``models.json``."""
    return {
        "baseUrl": wish.v1,
        "api": "openai-completions",
        "apiKey": wish.secret,
        "compat": _COMPAT,
        "models": [
            {
                "id": served.name,
                "name": served.name,
                "reasoning": False,
                "input": ["text", "image"] if served.vision else ["text"],
                "contextWindow": served.window,
                "maxTokens": wish.capped(served),
                "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
            }
            for served in wish.all_models
        ],
    }


def plan(wish: Wish) -> Plan:
    """How it is started. It has no way but files, so without a folder its own must say it all."""
    env = {"PI_OFFLINE": "1", "PI_SKIP_VERSION_CHECK": "1", "PI_TELEMETRY": "0"}
    files: tuple[File, ...] = ()
    notes: tuple[str, ...] = ()
    if wish.folder is not None:
        env["PI_CODING_AGENT_DIR"] = f"{wish.folder}/pi"
        text = json.dumps({"providers": {PROVIDER: provider(wish)}}, indent=2) + "\n"
        files = (File("pi/models.json", text),)
        notes = ("Its sessions of this run are thrown away; --write keeps them.",)
    argv = ("--provider", PROVIDER, "--model", wish.model.name)
    return Plan(env=env, unset=unset_for(env), argv=argv, files=files, notes=notes)


def own(wish: Wish, home: str, environ: dict[str, str]) -> tuple[Edit, ...]:
    """The provider beside the user's others, and the default model."""
    folder = environ.get("PI_CODING_AGENT_DIR") or f"{home}/.pi/agent"

    def models(text: str | None) -> str:
        return jsonc.changed(text, {("providers", PROVIDER): provider(wish)})

    def settings(text: str | None) -> str:
        chosen: dict[jsonc.KeyPath, Any] = {
            ("defaultProvider",): PROVIDER,
            ("defaultModel",): wish.model.name,
        }
        return jsonc.changed(text, chosen)

    return (Edit(f"{folder}/models.json", models), Edit(f"{folder}/settings.json", settings))
