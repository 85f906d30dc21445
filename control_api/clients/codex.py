"""Codex: a provider of its own, a catalog with the models' contexts, and few tools.

Recorded from Codex 0.169.0: OPENAI_BASE_URL is ignored and ``wire_api = "chat"`` refused; silence
is forgiven for ``stream_idle_timeout_ms``; without a catalog it does not know the context.
"""

from __future__ import annotations

import json
from typing import Any, Final

from control_api.clients.values import PROVIDER, Edit, File, Plan, Served, Wish, unset_for

KEY_ENV: Final = "MODELPORT_API_KEY"
IDLE_MS: Final = 900_000  # a big model may have to be loaded, then read a long prompt
INSTRUCTIONS: Final = (
    "You are a coding agent in a terminal. Use the tools to read, change and run things in the"
    " user's project; do what was asked, check it, and say briefly what you did. Write files of"
    " more than about 150 lines in several parts."
)
_TOOL_OUTPUT_TOKENS: Final = 10_000


def entry(served: Served, priority: int) -> dict[str, Any]:
    """One model of the catalog: the fewest fields that Codex takes."""
    return {
        "slug": served.name,
        "display_name": served.name,
        "supported_reasoning_levels": [],
        "shell_type": "unified_exec",
        "visibility": "list",
        "supported_in_api": True,
        "priority": priority,
        "support_verbosity": False,
        "truncation_policy": {"mode": "tokens", "limit": _TOOL_OUTPUT_TOKENS},
        "experimental_supported_tools": [],
        "base_instructions": INSTRUCTIONS,
        "context_window": served.window,
        "input_modalities": ["text", "image"] if served.vision else ["text"],
    }


def catalog(wish: Wish) -> str:
    """The file of ``model_catalog_json``."""
    entries = [entry(served, place) for place, served in enumerate(wish.all_models, 1)]
    return json.dumps({"models": entries}, indent=2) + "\n"


def provider(wish: Wish) -> dict[str, Any]:
    """``[model_providers.modelport]``."""
    return {
        "name": PROVIDER,
        "base_url": wish.v1,
        "wire_api": "responses",
        "stream_idle_timeout_ms": IDLE_MS,
        **({"env_key": KEY_ENV} if wish.key else {}),
    }


def settings(wish: Wish, catalog_path: str | None) -> dict[tuple[str, ...], Any]:
    """All that is set, by key path."""
    return {
        ("model",): wish.model.name,
        ("model_provider",): PROVIDER,
        ("model_context_window",): wish.model.window,
        **({("model_catalog_json",): catalog_path} if catalog_path else {}),
        ("web_search",): "disabled",
        ("check_for_update_on_startup",): False,
        ("features", "multi_agent"): False,
        ("features", "goals"): False,
        **{("model_providers", PROVIDER, name): value for name, value in provider(wish).items()},
    }


def plan(wish: Wish) -> Plan:
    """How it is started: ``-c`` overrides, which win over any file."""
    env = {KEY_ENV: wish.key} if wish.key else {}
    files: tuple[File, ...] = ()
    path = None
    if wish.folder is not None:
        env["CODEX_HOME"] = f"{wish.folder}/codex"
        path = f"{wish.folder}/codex/models.json"
        files = (File("codex/models.json", catalog(wish)), File("codex/config.toml", ""))
    argv: list[str] = []
    wanted = settings(wish, path)
    if wish.caged:  # its own sandbox cannot be made inside of ours, and has nothing to add
        wanted[("sandbox_mode",)] = "danger-full-access"
        wanted[("approval_policy",)] = "never"
    for keys, value in wanted.items():
        argv += ["-c", f"{'.'.join(keys)}={json.dumps(value)}"]  # JSON's scalars are TOML's
    return Plan(env=env, unset=unset_for(env), argv=tuple(argv), files=files)


def own(wish: Wish, home: str, environ: dict[str, str]) -> tuple[Edit, ...]:
    """``config.toml``, and the catalog beside it."""
    folder = environ.get("CODEX_HOME") or f"{home}/.codex"
    beside = f"{folder}/modelport-models.json"

    def change(text: str | None) -> str:
        return _edited(text or "", settings(wish, beside))

    return (Edit(beside, lambda _: catalog(wish)), Edit(f"{folder}/config.toml", change))


def _edited(text: str, values: dict[tuple[str, ...], Any]) -> str:
    """The TOML with these values; comments and order stay. Raises ``ValueError``."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        for keys, value in values.items():
            place: Any = document
            for key in keys[:-1]:
                if key not in place:
                    place[key] = tomlkit.table(is_super_table=key == "model_providers")
                place = place[key]
                if not isinstance(place, dict):
                    raise ValueError(f"{'.'.join(keys[:-1])} is no table")
            place[keys[-1]] = value
        return tomlkit.dumps(document)
    except TOMLKitError as error:
        raise ValueError(str(error)) from None
