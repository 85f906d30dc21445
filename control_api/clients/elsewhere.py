"""One line for each client, to be typed on another machine, where there is no ``ctl``.

What keeps a client quiet or tidy (telemetry, a throw-away configuration) is left to ``ctl env``
there; here is what it needs to work.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from control_api.clients import aider, claude, codex, open_webui, opencode
from control_api.clients.values import Wish

CERT: Final = "modelport.pem"
"""What the copy of a self-made certificate is called there."""
_CLAUDE: Final = (
    "ANTHROPIC_BASE_URL",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_MODEL",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "CLAUDE_CODE_MAX_CONTEXT_TOKENS",
    "CLAUDE_CODE_MAX_OUTPUT_TOKENS",
    "CLAUDE_CODE_ATTRIBUTION_HEADER",
)
_CODEX: Final = ("model", "model_provider", "model_context_window", "model_providers")


def lines(wish: Wish, *, trust: bool = False, docker: bool = False) -> dict[str, str]:
    """By the name of the client. ``wish.key`` is the key, or a word in its place; ``trust``: the
    certificate is ours, and lies there as :data:`CERT`; ``docker``: from a container here."""
    alone = replace(wish, models=(), folder=None)
    node = {"NODE_EXTRA_CA_CERTS": CERT} if trust else {}
    python = {"SSL_CERT_FILE": CERT} if trust else {}
    env = claude.environment(alone)
    found = {
        "Claude Code": line({**node, **{name: env[name] for name in _CLAUDE}}, "claude"),
        "Codex": line({**python, codex.KEY_ENV: wish.secret}, "codex", *_codex(alone)),
        "opencode": line({**node, **_opencode(alone)}, "opencode"),
        "aider": line({**python, **_aider(alone)}, "aider", "--model", f"openai/{wish.model.name}"),
        "Open WebUI": _open_webui(alone, trust=trust, docker=docker),
        "OpenAI SDK": line({**python, "OPENAI_BASE_URL": wish.v1, "OPENAI_API_KEY": wish.secret}),
        "curl": shlex.join(
            [
                *("curl", *(("--cacert", CERT) if trust else ())),
                *("-H", f"Authorization: Bearer {wish.secret}", f"{wish.v1}/models"),
            ]
        ),
    }
    if docker:  # the others are not what runs in containers
        found = {name: found[name] for name in ("Open WebUI", "OpenAI SDK", "curl")}
    return found


def line(env: Mapping[str, str], *words: str) -> str:
    """``NAME=value … program words``, for sh; variables alone where there is no program."""
    set_ = [f"{name}={shlex.quote(value)}" for name, value in env.items()]
    return " ".join([*set_, *(shlex.quote(word) for word in words)])


def _codex(wish: Wish) -> list[str]:
    words: list[str] = []
    for keys, value in codex.settings(wish, None).items():
        if keys[0] in _CODEX:
            words += ["-c", f"{'.'.join(keys)}={json.dumps(value)}"]
    return words


def _opencode(wish: Wish) -> dict[str, str]:
    return {"OPENCODE_CONFIG_CONTENT": opencode.plan(wish).env["OPENCODE_CONFIG_CONTENT"]}


def _aider(wish: Wish) -> dict[str, str]:
    return dict(aider.plan(wish).env)


def _open_webui(wish: Wish, *, trust: bool, docker: bool) -> str:
    words = ["docker", "run", "-d", "--name", "open-webui", "-p", "127.0.0.1:3000:8080"]
    words += ["-v", "open-webui:/app/backend/data"]
    if docker:  # on Linux the name is nobody's until it is given
        words += ["--add-host", "host.docker.internal:host-gateway"]
    env = open_webui.environment(wish)
    if trust:
        words += ["-v", f"./{CERT}:/{CERT}:ro"]
        env = {**env, "SSL_CERT_FILE": f"/{CERT}"}
    for name, value in env.items():
        words += ["-e", f"{name}={value}"]
    return shlex.join([*words, open_webui.IMAGE])
