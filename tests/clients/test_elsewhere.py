"""The lines for other machines."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from control_api.clients.elsewhere import lines
from control_api.clients.values import Served, Wish

WISH = Wish(
    url="https://10.0.0.1:8123",
    model=Served("qwen 3", 65536),
    small="tiny",
    key="mp-secret",
    models=(Served("other"),),
)


def parsed(line: str) -> tuple[dict[str, str], list[str]]:
    """What a shell makes of it."""
    words = shlex.split(line)
    count = next((i for i, word in enumerate(words) if "=" not in word), len(words))
    return dict(word.split("=", 1) for word in words[:count]), words[count:]


def test_each_has_the_address_the_key_and_the_model() -> None:
    found = lines(WISH)
    env, words = parsed(found["Claude Code"])
    assert env["ANTHROPIC_BASE_URL"] == "https://10.0.0.1:8123"
    assert (env["ANTHROPIC_AUTH_TOKEN"], env["ANTHROPIC_MODEL"]) == ("mp-secret", "qwen 3")
    assert (env["CLAUDE_CODE_MAX_CONTEXT_TOKENS"], words) == ("65536", ["claude"])
    env, words = parsed(found["Codex"])
    assert (env, words[0]) == ({"MODELPORT_API_KEY": "mp-secret"}, "codex")
    assert 'model_providers.modelport.base_url="https://10.0.0.1:8123/v1"' in words
    assert 'model="qwen 3"' in words
    env, words = parsed(found["opencode"])
    document: Any = json.loads(env["OPENCODE_CONFIG_CONTENT"])
    assert list(document["provider"]["modelport"]["models"]) == ["qwen 3"]
    assert document["provider"]["modelport"]["options"]["apiKey"] == "mp-secret"
    env, words = parsed(found["aider"])
    assert (env["OPENAI_API_BASE"], words) == (
        "https://10.0.0.1:8123/v1",
        ["aider", "--model", "openai/qwen 3"],
    )
    env, words = parsed(found["OpenAI SDK"])
    assert (env["OPENAI_BASE_URL"], words) == ("https://10.0.0.1:8123/v1", [])
    _, words = parsed(found["curl"])
    assert words[-1] == "https://10.0.0.1:8123/v1/models"
    assert "OPENAI_API_KEY=mp-secret" in parsed(found["Open WebUI"])[1]


@pytest.mark.parametrize("trust", [True, False])
def test_a_self_made_certificate_is_named(trust: bool) -> None:
    for name, text in lines(WISH, trust=trust).items():
        assert ("modelport.pem" in text) is trust, name


def test_containers_get_what_runs_in_containers() -> None:
    found = lines(WISH, docker=True)
    assert set(found) == {"Open WebUI", "OpenAI SDK", "curl"}
    assert "host.docker.internal:host-gateway" in found["Open WebUI"]
