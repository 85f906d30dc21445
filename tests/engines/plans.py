"""Plans of starts for the tests of engines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from daemon.engines.base import Installed, LaunchPlan, Running

ENVIRON = {"PATH": "/bin", "HOME": "/home/u", "HF_TOKEN": "hf_canary", "LLAMA_ARG_CTX_SIZE": "9"}
MIB = 1 << 20

PLAN = LaunchPlan(
    model="qwen",
    path=Path("/models/qwen.gguf"),
    running=Running("full", ctx=4096, slots=1),
    kind="chat",
    port=40001,
    secret="canary",
    secret_file=Path("/run/key"),
)


def plan(running: Running | None = None, **changes: Any) -> LaunchPlan:
    """:data:`PLAN` with other fields."""
    return replace(PLAN, running=running or PLAN.running, **changes)


def running(ctx: int = 4096, slots: int = 1, **changes: Any) -> Running:
    return Running("way", ctx, slots, **changes)


def installed(engine: str, *program: str, flags: str = "", **changes: Any) -> Installed:
    return Installed(
        engine, program or (f"/bin/{engine}",), "1.0", frozenset(flags.split()), **changes
    )
