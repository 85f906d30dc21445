from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from daemon.config.entry import ENGINES, CommandEntry, EngineEntry, Engines, ModelEntry

FULL: dict[str, Any] = {
    "preset": "qwen3-coder",
    "engine": "llama-server",
    "path": "/m.gguf",
    "file": "x.gguf",
    "mmproj": "mmproj.gguf",
    "draft": "hf:a/b/c.gguf",
    "template": "embedded",
    "kind": "chat",
    "ctx": "64k",
    "min_ctx": 32768,
    "slots": 2,
    "args": ["-ub", "512", ""],
    "env": {"A": "b"},
    "aliases": ["claude-*"],
    "keep_alive": -1,
    "pin": True,
    "priority": -3,
    "pool": "gpu0",
    "fit": "ask",
    "params": {"default": {"temperature": 0.7, "stop": ["a"]}, "force": {}, "with_tools": {}},
    "thinking": "off",
    "tools": False,
    "dialects": ["chat", "messages"],
    "rescue_tools": True,
    "loading_text": True,
    "allow_tools": ["Bash", "mcp__*"],
    "tell_cut_calls": True,
    "min_output": 4096,
    "max_output": "16k",
    "auto_pull": True,
    "conversations": False,
    "hf": "owner/repo:Q4_K_M",
}


def test_every_key_of_a_model_is_read() -> None:
    entry = ModelEntry.model_validate(FULL)
    assert set(FULL) == set(ModelEntry.model_fields)
    assert entry.ctx == 65536
    assert entry.keep_alive == -1.0
    assert entry.thinking is False
    assert entry.rescue_tools == "on"
    assert entry.params.default["stop"] == ["a"]


@pytest.mark.parametrize(
    "values",
    [
        {"slots": 0},
        {"slots": True},
        {"priority": 1000},
        {"priority": 1.5},
        {"pool": "disk"},
        {"fit": "squeeze"},
        {"dialects": ["grpc"]},
        {"aliases": "claude-*"},
        {"aliases": ["*"]},
        {"args": ["a\x00b"]},
        {"args": [1]},
        {"env": {"A B": "x"}},
        {"env": {"A": 1}},
        {"env": {"A": "x\ny"}},
        {"path": "a\x00b"},
        {"hf": "nothing"},
        {"file": "../x"},
        {"pin": 1},
        {"thinking": "loudly"},
        {"rescue_tools": "maybe"},
        {"params": {"defaults": {}}},
        {"kind": "poem"},
        {"ctx": 0},
        {"port": 1},
    ],
)
def test_what_a_model_refuses(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ModelEntry.model_validate(values)


@pytest.mark.parametrize("key", ["mmproj", "draft", "template"])
@pytest.mark.parametrize(
    "value",
    [
        *("hf:", "hf:a", "hf:a/b", "hf:a/b:Q4_K_M", "hf:a/b/", "hf:a//c", "hf:a/b/../c"),
        *("hf:a/b/-c", "hf://a/b/c", "https://x/y.gguf", ""),
    ],
)
def test_half_a_name_of_a_file_is_refused(key: str, value: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ModelEntry.model_validate({key: value})
    (details,) = caught.value.errors()
    assert details["loc"] == (key,)
    if value:
        assert "hf:OWNER/REPO/FILE" in details["ctx"]["allowed"]
        assert details["ctx"]["hint"]
        assert ("embedded" in details["ctx"]["allowed"]) == (key == "template")


@pytest.mark.parametrize("key", ["mmproj", "draft", "template"])
@pytest.mark.parametrize(
    "value", ["hf:a/b/c.gguf", "hf:a/b/sub/c d.gguf", "/x", "~/x", "x", "../x"]
)
def test_files_beside_the_weights(key: str, value: str) -> None:
    assert getattr(ModelEntry.model_validate({key: value}), key) == value


def test_every_engine_has_its_table() -> None:
    engines = Engines.model_validate({"llama-server": {"path": "/x"}, "mlx-lm": {"args": ["-v"]}})
    assert engines.entry("llama-server").path == "/x"
    assert engines.entry("mlx-lm").args == ("-v",)
    for engine in ENGINES:
        assert isinstance(engines.entry(engine), EngineEntry)
    assert engines.entry("unknown") == EngineEntry()
    with pytest.raises(ValidationError):
        Engines.model_validate({"llama_server": {}})


def test_a_command_has_placeholders_that_exist_and_a_port() -> None:
    command = CommandEntry.model_validate({"argv": ["serve", "--port={port}", "{path}", "{}"]})
    assert (command.ready, command.kind, command.dialects) == ("/health", "chat", ("chat",))
    assert CommandEntry.model_validate({"argv": ["x", "{port}", '{"a": 1}']}).argv[2] == '{"a": 1}'
    assert CommandEntry.model_validate({"argv": ["x", "--uds", "{socket}"]}).argv[2] == "{socket}"
    for argv in ([], ["serve"], ["serve", "{port}", "{prot}"], ["serve", "{port}", "{socket}"]):
        with pytest.raises(ValidationError):
            CommandEntry.model_validate({"argv": argv})


def test_a_commands_environment_has_placeholders_that_exist() -> None:
    env = {"LISTEN": "{host}:{port}", "JSON": '{"a": 1}', "PLAIN": "x"}
    assert CommandEntry.model_validate({"argv": ["serve"], "env": env}).env == env
    with pytest.raises(ValidationError) as caught:
        CommandEntry.model_validate({"argv": ["serve", "{port}"], "env": {"LISTEN": "{prot}"}})
    (mistake,) = caught.value.errors()
    assert mistake["loc"] == ("env",)
    assert "{port}" in mistake["ctx"]["allowed"]
    assert mistake["ctx"]["hint"] == "There is no {prot} (LISTEN)."


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://", "http://a b", "http://u:p@x", "http://x?q=1"]
)
def test_addresses_hold_no_secrets_and_no_queries(url: str) -> None:
    with pytest.raises(ValidationError):
        EngineEntry.model_validate({"url": url})
    assert EngineEntry.model_validate({"url": "http://nas:11434/v1"}).url == "http://nas:11434/v1"
