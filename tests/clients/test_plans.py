"""What each client is told: the values, and that every plan keeps to the same rules."""

from __future__ import annotations

import json
import shlex
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_api.clients import aider, claude, codex, open_webui, opencode, pi
from control_api.clients.jsonc import loads
from control_api.clients.registry import CLIENTS, LAUNCHED
from control_api.clients.values import REAL_KEYS, Edit, Plan, Served, Wish

MODEL = Served("qwen3-coder", 65536)
OTHERS = (Served("gemma", 8192, vision=True), MODEL, Served("odd", None))
WISH = Wish(url="http://127.0.0.1:8123", model=MODEL, models=OTHERS)

names = st.sampled_from(["m", "org/Repo-GGUF:Q4_K_M", "a.b@c+d", "claude-local", "9"])
models = st.builds(Served, names, st.none() | st.integers(256, 1 << 22), st.booleans())
wishes = st.builds(
    Wish,
    url=st.sampled_from(["http://127.0.0.1:8123", "http://127.0.0.1:9/", "https://box.lan"]),
    model=models,
    key=st.sampled_from([None, "mp-0123456789abcdef"]),
    models=st.lists(models, max_size=3).map(tuple),
    out_tokens=st.integers(256, 1 << 20),
    folder=st.none() | st.just("/throw/away"),
    caged=st.booleans(),
    platform=st.sampled_from(["linux", "darwin"]),
)


@pytest.mark.parametrize("name", CLIENTS)
@given(wish=wishes)
def test_every_plan_keeps_the_rules(name: str, wish: Wish) -> None:
    plan = CLIENTS[name].plan(wish)
    told = json.dumps([dict(plan.env), plan.argv, [file.text for file in plan.files]])
    assert json.dumps(wish.model.name)[1:-1] in told
    by_files = CLIENTS[name].files_needed and wish.folder is None
    assert by_files or wish.url.rstrip("/") in told
    assert "//v1" not in told
    assert not set(plan.unset) & set(plan.env)
    assert set(REAL_KEYS) <= set(plan.unset) | set(plan.env), "real keys go, or are replaced"
    assert all(not f.path.startswith("/") and ".." not in f.path for f in plan.files)
    if wish.folder is None:
        assert not plan.files
        assert "/throw" not in told
    if wish.key:
        assert by_files or wish.key in told
        assert wish.key not in json.dumps(plan.argv), "others can read a command line"
    for served in (wish.model, *wish.models):
        assert 1 <= wish.capped(served) <= wish.out_tokens


@pytest.mark.parametrize("name", LAUNCHED)
@given(wish=wishes)
def test_writing_twice_changes_nothing(name: str, wish: Wish) -> None:
    own = CLIENTS[name].own
    assert own is not None
    for edit in own(wish, "/home/me", {}):
        once = edit.change(None)
        assert edit.change(once) == once
        assert edit.path.startswith("/home/me/.")


def test_claude() -> None:
    plan = claude.plan(WISH)
    assert plan.env["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8123"
    assert plan.env["ANTHROPIC_AUTH_TOKEN"] == "modelport"
    assert "ANTHROPIC_API_KEY" in plan.unset
    tiers = [name for name in plan.env if name.endswith("_MODEL")]
    assert len(tiers) == 6
    assert {plan.env[name] for name in tiers} == {"qwen3-coder"}
    assert plan.env["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "65536"
    assert plan.env["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "8192"
    assert plan.env["CLAUDE_CODE_ATTRIBUTION_HEADER"] == "0"
    assert plan.env["CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY"] == "1"
    assert plan.argv[-2:] == ("--model", "qwen3-coder"), "no option may swallow the user's words"
    assert plan.argv[:3] == ("--strict-mcp-config", "--mcp-config", '{"mcpServers":{}}')


def test_claude_may_do_more_in_a_sandbox() -> None:
    def option(plan: Plan, name: str) -> str:
        return plan.argv[plan.argv.index(name) + 1]

    outside = claude.plan(WISH)
    caged = claude.plan(Wish(url="http://h", model=MODEL, caged=True, folder="/f"))
    assert option(outside, "--allowedTools") == "Read,Glob,Grep"
    assert option(caged, "--allowedTools") == option(caged, "--tools")
    assert "Bash" in option(caged, "--tools")
    assert "WebFetch" not in option(caged, "--tools")
    assert caged.env["CLAUDE_CONFIG_DIR"] == "/f/claude"


def test_small_calls_and_a_small_context() -> None:
    wish = Wish(url="http://h:1", model=Served("m", 4096), small="tiny", out_tokens=8192)
    env = claude.plan(wish).env
    assert env["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == env["ANTHROPIC_SMALL_FAST_MODEL"] == "tiny"
    assert env["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "2048", "half of what it holds"


def overrides(plan: Plan) -> dict[str, Any]:
    """The ``-c`` of Codex, as it reads them."""
    lines = [word for flag, word in zip(plan.argv, plan.argv[1:], strict=False) if flag == "-c"]
    return tomllib.loads("\n".join(lines))


def test_codex() -> None:
    plan = codex.plan(Wish(url="http://h:1", model=MODEL, models=OTHERS, folder="/f", key="k"))
    found = overrides(plan)
    assert found["model_providers"]["modelport"] == {
        "name": "modelport",
        "base_url": "http://h:1/v1",
        "wire_api": "responses",
        "stream_idle_timeout_ms": codex.IDLE_MS,
        "env_key": "MODELPORT_API_KEY",
    }
    assert found["features"] == {"multi_agent": False, "goals": False}
    assert (found["model"], found["model_provider"]) == ("qwen3-coder", "modelport")
    assert found["web_search"] == "disabled"
    assert found["model_catalog_json"] == "/f/codex/models.json"
    assert plan.env == {"MODELPORT_API_KEY": "k", "CODEX_HOME": "/f/codex"}
    listed = json.loads(plan.files[0].text)["models"]
    assert [(one["slug"], one["context_window"]) for one in listed] == [
        ("qwen3-coder", 65536),
        ("gemma", 8192),
        ("odd", 32768),
    ]
    assert listed[1]["input_modalities"] == ["text", "image"]


def test_codex_own_file_keeps_comments() -> None:
    old = '# mine\nmodel = "gpt-5"  # the best\n\n[features]\nx = true\n\n[projects."/p"]\nt = 1\n'
    beside, config = codex.own(WISH, "/home/me", {})
    new = config.change(old)
    assert "# mine" in new
    assert "# the best" in new
    read = tomllib.loads(new)
    assert read["features"] == {"x": True, "multi_agent": False, "goals": False}
    assert read["projects"] == {"/p": {"t": 1}}
    assert read["model"] == "qwen3-coder"
    assert read["model_catalog_json"] == beside.path == "/home/me/.codex/modelport-models.json"
    with pytest.raises(ValueError, match="features is no table"):
        config.change("features = 1\n")
    with pytest.raises(ValueError, match="line"):
        config.change("x = \n")


def test_opencode() -> None:
    plan = opencode.plan(WISH)
    found = json.loads(plan.env["OPENCODE_CONFIG_CONTENT"])
    assert found["model"] == found["small_model"] == "modelport/qwen3-coder"
    assert found["enabled_providers"] == ["modelport"]
    provider = found["provider"]["modelport"]
    assert provider["npm"] == "@ai-sdk/openai-compatible"
    assert provider["options"]["baseURL"] == "http://127.0.0.1:8123/v1"
    assert provider["models"]["qwen3-coder"]["limit"] == {"context": 65536, "output": 8192}
    assert provider["models"]["gemma"]["limit"] == {"context": 8192, "output": 4096}


def test_pi() -> None:
    plan = pi.plan(Wish(url="http://h:1", model=MODEL, folder="/f"))
    provider = json.loads(plan.files[0].text)["providers"]["modelport"]
    assert (provider["api"], provider["baseUrl"]) == ("openai-completions", "http://h:1/v1")
    assert provider["models"][0]["contextWindow"] == 65536
    assert plan.argv == ("--provider", "modelport", "--model", "qwen3-coder")
    assert plan.env["PI_CODING_AGENT_DIR"] == "/f/pi"


def test_aider() -> None:
    plan = aider.plan(Wish(url="http://h:1", model=MODEL, folder="/f"))
    assert plan.env == {"OPENAI_API_BASE": "http://h:1/v1", "OPENAI_API_KEY": "modelport"}
    assert plan.argv[:2] == ("--model", "openai/qwen3-coder")
    assert "--no-check-update" in plan.argv
    about = json.loads(plan.files[0].text)["openai/qwen3-coder"]
    assert (about["max_input_tokens"], about["max_output_tokens"]) == (65536, 8192)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", 'model: "m"\n'),
        ("# mine\nx: 1", '# mine\nx: 1\nmodel: "m"\n'),
        ("model: sonnet # best\nx: 1\n", 'model: "m" # best\nx: 1\n'),
        ("model:\nx: 1\n", 'model: "m"\nx: 1\n'),
        ("  model: inner\n", '  model: inner\nmodel: "m"\n'),
        ("#model: xxx\n", '#model: xxx\nmodel: "m"\n'),
    ],
)
def test_yaml_of_plain_values(old: str, new: str) -> None:
    assert aider.yaml_set(old, {"model": "m"}) == new


@pytest.mark.parametrize(
    "old", ["model:\n  - a\n", "model: |\n  a\n", "model: [a]\n", "model: &x\n"]
)
def test_yaml_that_is_more_than_that_is_refused(old: str) -> None:
    with pytest.raises(ValueError, match="no plain value"):
        aider.yaml_set(old, {"model": "m"})


def test_open_webui_reaches_the_host() -> None:
    words = shlex.split(open_webui.docker_line(WISH))
    assert words[:3] == ["docker", "run", "-d"]
    assert words[words.index("--network") + 1] == "host"
    assert "OPENAI_API_BASE_URL=http://127.0.0.1:8123/v1" in words
    mac = shlex.split(open_webui.docker_line(Wish(url=WISH.url, model=MODEL, platform="darwin")))
    assert "OPENAI_API_BASE_URL=http://host.docker.internal:8123/v1" in mac
    assert "--network" not in mac


def test_own_places_follow_the_environment() -> None:
    def paths(name: str, environ: dict[str, str]) -> list[str]:
        own = CLIENTS[name].own
        assert own is not None
        edits: tuple[Edit, ...] = own(WISH, "/home/me", environ)
        return [edit.path for edit in edits]

    assert paths("claude", {"CLAUDE_CONFIG_DIR": "/c"}) == ["/c/settings.json"]
    assert paths("codex", {"CODEX_HOME": "/c"})[1] == "/c/config.toml"
    assert paths("opencode", {"XDG_CONFIG_HOME": "/c"}) == ["/c/opencode/opencode.json"]
    assert paths("pi", {"PI_CODING_AGENT_DIR": "/c"}) == ["/c/models.json", "/c/settings.json"]


def test_claudes_own_settings_take_a_real_key_away() -> None:
    (edit,) = claude.own(WISH, "/home/me", {})
    found = loads(edit.change('{"theme": "dark", "env": {"MINE": "1"}}'))
    assert found["theme"] == "dark"
    assert found["env"]["MINE"] == "1"
    assert found["env"]["ANTHROPIC_API_KEY"] == ""
    assert found["model"] == "qwen3-coder"
