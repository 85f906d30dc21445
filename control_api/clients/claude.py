"""Claude Code: environment and flags; nothing else is needed.

What each does was recorded from Claude Code 2.1.329: without CLAUDE_CODE_MAX_CONTEXT_TOKENS it
takes a window of a million tokens for granted and never compacts; the attribution header breaks the
reuse of prompts between sessions; the auto-mode classifier asks a model of its own choice.
"""

from __future__ import annotations

import json
from typing import Any, Final

from control_api.clients import jsonc
from control_api.clients.values import Edit, File, Plan, Wish, unset_for

TOOLS: Final = ("Bash", "Read", "Edit", "Write", "Glob", "Grep", "WebSearch", "WebFetch")
_OFFLINE_TOOLS: Final = TOOLS[:6]
_HARMLESS: Final = ("Read", "Glob", "Grep")
PARTS: Final = "Write files of more than about 150 lines in several parts."

_QUIET: Final = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_PROMPT_CACHING": "1",
    "DISABLE_NON_ESSENTIAL_MODEL_CALLS": "1",
    "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
}


def environment(wish: Wish) -> dict[str, str]:
    """The variables, without the place of the configuration."""
    name = wish.model.name
    return {
        "ANTHROPIC_BASE_URL": wish.url.rstrip("/"),
        "ANTHROPIC_AUTH_TOKEN": wish.secret,
        "ANTHROPIC_MODEL": name,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": name,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": name,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": wish.light,
        "ANTHROPIC_SMALL_FAST_MODEL": wish.light,
        "CLAUDE_CODE_SUBAGENT_MODEL": name,
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(wish.model.window),
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(wish.capped(wish.model)),
        "CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY": "1",
        **_QUIET,
    }


def plan(wish: Wish) -> Plan:
    """How it is started."""
    env = environment(wish)
    tools = _OFFLINE_TOOLS if wish.caged else TOOLS
    # What changes files or runs commands is the user's to allow, but in a sandbox.
    allowed = tools if wish.caged else _HARMLESS
    argv = (
        "--strict-mcp-config",
        "--mcp-config",
        '{"mcpServers":{}}',
        "--tools",
        ",".join(tools),
        "--allowedTools",
        ",".join(allowed),
        "--append-system-prompt",
        PARTS,
        "--model",  # last: the options above take as many words as follow
        wish.model.name,
    )
    files: tuple[File, ...] = ()
    notes: tuple[str, ...] = ()
    if wish.folder is not None:
        env["CLAUDE_CONFIG_DIR"] = f"{wish.folder}/claude"
        first = {"hasCompletedOnboarding": True, "autoUpdates": False}
        files = (File("claude/.claude.json", json.dumps(first, indent=2) + "\n"),)
        notes = ("Its settings and sessions of this run are thrown away; --write keeps them.",)
    return Plan(env=env, unset=unset_for(env), argv=argv, files=files, notes=notes)


def own(wish: Wish, home: str, environ: dict[str, str]) -> tuple[Edit, ...]:
    """``settings.json``: the variables, and the model."""
    folder = environ.get("CLAUDE_CONFIG_DIR") or f"{home}/.claude"
    # An empty value takes a real key from its environment away.
    wanted = {**environment(wish), "ANTHROPIC_API_KEY": ""}

    def change(text: str | None) -> str:
        values: dict[jsonc.KeyPath, Any] = {("env", name): one for name, one in wanted.items()}
        return jsonc.changed(text, {**values, ("model",): wish.model.name})

    return (Edit(f"{folder}/settings.json", change),)
