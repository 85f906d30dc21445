"""Which engine runs a model that names none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from daemon.config.settings import Settings
from daemon.core.problems import Code, Problem, ProblemError
from daemon.engines.environment import Platform
from daemon.engines.registry import Registry, choose
from tests.engines.test_llama_server import script

MAC = Platform("Darwin", "arm64")
LINUX = Platform("Linux", "x86_64")
GPU = Platform("Linux", "x86_64", ("nvidia",))
OLD_MAC = Platform("Darwin", "x86_64")

ALL = {"llama-server", "xllamacpp", "mlx-lm", "vllm-mlx", "vllm"}


@pytest.mark.parametrize(
    ("form", "platform", "found", "kind", "expected"),
    [
        ("gguf", LINUX, ALL, "chat", "llama-server"),
        ("gguf", MAC, ALL, "chat", "llama-server"),
        ("gguf", LINUX, {"xllamacpp", "vllm"}, "chat", "xllamacpp"),
        ("gguf", MAC, {"xllamacpp", "mlx-lm"}, "embedding", "xllamacpp"),
        ("mlx", MAC, ALL, "chat", "mlx-lm"),
        ("mlx", MAC, {"vllm-mlx", "llama-server"}, "chat", "vllm-mlx"),
        ("mlx", LINUX, ALL, "chat", "mlx-lm"),
        ("safetensors", MAC, ALL, "chat", "mlx-lm"),
        ("safetensors", GPU, ALL, "chat", "vllm"),
        ("safetensors", LINUX, {"mlx-lm"}, "chat", "mlx-lm"),
        ("safetensors", GPU, ALL, "embedding", "vllm"),
        ("safetensors", OLD_MAC, {"mlx-lm"}, "completion", "mlx-lm"),
    ],
)
def test_choice(form: str, platform: Platform, found: set[str], kind: str, expected: str) -> None:
    assert choose(form, platform, found.__contains__, kind) == expected


@pytest.mark.parametrize(
    ("form", "platform", "kind", "hint"),
    [
        ("gguf", LINUX, "chat", "ctl engine install xllamacpp"),
        ("mlx", MAC, "chat", "ctl engine install mlx-lm"),
        ("safetensors", GPU, "chat", "ctl engine install vllm"),
        ("mlx", MAC, "embedding", "GGUF"),
        ("onnx", LINUX, "chat", "GGUF"),
    ],
)
def test_no_engine_names_the_line_that_helps(
    form: str, platform: Platform, kind: str, hint: str
) -> None:
    problem = choose(form, platform, lambda name: False, kind)
    assert isinstance(problem, Problem)
    assert problem.code is Code.ENGINE_MISSING
    assert hint in problem.hint


def test_engines_are_looked_for_in_order_and_no_further() -> None:
    looked: list[str] = []

    def found(name: str) -> bool:
        looked.append(name)
        return True

    choose("gguf", LINUX, found)
    assert looked == ["llama-server"]


def registry(tmp_path: Path, engines: dict[str, Any], path: str = "/nowhere") -> Registry:
    settings = Settings.model_validate({"engines": engines})
    return Registry(settings, {"PATH": f"{path}:/bin"}, tmp_path / "cache.json", LINUX)


COMMAND = {"argv": ["sh", "{port}"], "dialects": ["messages"], "footprint": "2GiB"}


def test_names(tmp_path: Path) -> None:
    engines = registry(tmp_path, {"command": {"mine": COMMAND}})
    assert set(engines.names()) == {*ALL, "command.mine"}
    for name in engines.names():
        assert engines.get(name).name == name
    assert engines.get("mine").name == "command.mine"
    assert engines.get("mine").routes("chat") == {"messages", "count_tokens", "upstream"}
    assert engines.find("mine").program == ("/bin/sh",)


def test_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="'llama'") as caught:
        registry(tmp_path, {}).get("llama")
    assert caught.value.problem.code is Code.CONFIG_INVALID
    assert "llama-server" in caught.value.problem.hint


def test_a_program_has_its_time_to_answer(tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    entry = {"llama-server": {"path": str(program)}}
    settings = Settings.model_validate({"engines": entry, "timing": {"engine_probe": 0.05}})
    with pytest.raises(ProblemError, match="does not answer --help"):
        Registry(settings, {"PATH": "/bin"}, None, LINUX).find("llama-server")


def test_settings_reach_the_finder(tmp_path: Path) -> None:
    program = script(tmp_path, name="mine")
    found = registry(tmp_path, {"llama-server": {"path": str(program)}}).find("llama-server")
    assert found.program == (str(program),)
    assert registry(tmp_path, {"llama-server": {"path": "/no/such"}}).found("llama-server") is False


def test_a_named_engine_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProblemError) as caught:
        registry(tmp_path, {}).find("vllm")
    assert caught.value.problem.code is Code.ENGINE_MISSING
    assert "[engines.vllm]" in caught.value.problem.hint


@pytest.mark.parametrize("version", ["8123", "b8123"])
def test_a_version_that_is_insisted_on(tmp_path: Path, version: str) -> None:
    script(tmp_path)
    engines = registry(tmp_path, {"llama-server": {"version": version}}, str(tmp_path))
    assert engines.find("llama-server").version == "8123 (abc)"


def test_another_version_than_the_one_insisted_on(tmp_path: Path) -> None:
    script(tmp_path)
    engines = registry(tmp_path, {"llama-server": {"version": "b9000"}}, str(tmp_path))
    with pytest.raises(ProblemError, match=r"8123 \(abc\) here, not b9000") as caught:
        engines.find("llama-server")
    assert caught.value.problem.code is Code.ENGINE_MISSING


def test_this_machines_choice(tmp_path: Path) -> None:
    script(tmp_path)
    assert registry(tmp_path, {}, str(tmp_path)).choose("gguf") == "llama-server"
    assert registry(tmp_path, {}).choose("gguf") == "xllamacpp"
