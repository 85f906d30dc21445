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
    for argv in ([], ["serve"], ["serve", "{port}", "{prot}"]):
        with pytest.raises(ValidationError):
            CommandEntry.model_validate({"argv": argv})


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://", "http://a b", "http://u:p@x", "http://x?q=1"]
)
def test_addresses_hold_no_secrets_and_no_queries(url: str) -> None:
    with pytest.raises(ValidationError):
        EngineEntry.model_validate({"url": url})
    assert EngineEntry.model_validate({"url": "http://nas:11434/v1"}).url == "http://nas:11434/v1"
