"""The clients by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from control_api.clients import aider, claude, codex, open_webui, opencode, pi
from control_api.clients.values import Edit, Plan, Wish

Own = Callable[[Wish, str, dict[str, str]], tuple[Edit, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientProgram:
    """A client: the program, the line that installs it, and what it needs.

    ``own`` is None where its configuration is no file that can be edited; ``files_needed``: it has
    no way but files; ``launched``: ``ctl launch`` starts it.
    """

    title: str
    program: str
    install: str
    plan: Callable[[Wish], Plan]
    own: Own | None = None
    files_needed: bool = False
    launched: bool = True


CLIENTS: Final[dict[str, ClientProgram]] = {
    "claude": ClientProgram(
        title="Claude Code",
        program="claude",
        install="npm install -g @anthropic-ai/claude-code",
        plan=claude.plan,
        own=claude.own,
    ),
    "codex": ClientProgram(
        title="Codex",
        program="codex",
        install="npm install -g @openai/codex",
        plan=codex.plan,
        own=codex.own,
    ),
    "opencode": ClientProgram(
        title="opencode",
        program="opencode",
        install="npm install -g opencode-ai",
        plan=opencode.plan,
        own=opencode.own,
    ),
    "pi": ClientProgram(
        title="pi",
        program="pi",
        install="npm install -g @earendil-works/pi-coding-agent",
        plan=pi.plan,
        own=pi.own,
        files_needed=True,
    ),
    "aider": ClientProgram(
        title="aider",
        program="aider",
        install="uv tool install aider-chat",
        plan=aider.plan,
        own=aider.own,
    ),
    "open-webui": ClientProgram(
        title="Open WebUI",
        program="open-webui",
        install="uv tool install open-webui",
        plan=open_webui.plan,
        launched=False,
    ),
}
LAUNCHED: Final = tuple(name for name, client in CLIENTS.items() if client.launched)
