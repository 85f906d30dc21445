"""Open WebUI: a container, or a program from PyPI; its settings live in a database of its own."""

from __future__ import annotations

import shlex
from typing import Final

from control_api.clients.values import Plan, Wish, unset_for

IMAGE: Final = "ghcr.io/open-webui/open-webui:main"


def docker_line(wish: Wish) -> str:
    """The line that starts it in Docker.

    On Linux a container reaches what listens on loopback only with the host's own network; Docker
    Desktop forwards ``host.docker.internal``.
    """
    words = ["docker", "run", "-d", "--name", "open-webui", "-v", "open-webui:/app/backend/data"]
    if wish.platform == "darwin":
        words += ["-p", "127.0.0.1:3000:8080"]
        base = wish.v1.replace("127.0.0.1", "host.docker.internal")
    else:
        words += ["--network", "host", "-e", "PORT=3000", "-e", "HOST=127.0.0.1"]
        base = wish.v1
    for name, value in {**environment(wish), "OPENAI_API_BASE_URL": base}.items():
        words += ["-e", f"{name}={value}"]
    return shlex.join([*words, IMAGE])


def plan(wish: Wish) -> Plan:
    """The variables for ``open-webui serve``, and the line for Docker as a note."""
    notes = (
        docker_line(wish),
        "It listens on http://127.0.0.1:3000 there. What is changed in its own settings wins over"
        " these variables from its second start on.",
    )
    env = environment(wish)
    return Plan(env=env, unset=unset_for(env), argv=("serve",), notes=notes)


def environment(wish: Wish) -> dict[str, str]:
    """Its variables."""
    return {
        "OPENAI_API_BASE_URL": wish.v1,
        "OPENAI_API_KEY": wish.secret,
        "ENABLE_OLLAMA_API": "false",
        "DEFAULT_MODELS": wish.model.name,
        "TASK_MODEL_EXTERNAL": wish.light,
    }
