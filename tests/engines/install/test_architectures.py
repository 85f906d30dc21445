"""Whether an engine knows a model, by its files; and what is said where it does not."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from daemon.config.settings import Settings
from daemon.core.problems import Code
from daemon.engines.base import Installed
from daemon.engines.environment import Platform
from daemon.engines.install.architectures import files_of, knows
from daemon.engines.registry import Registry

TABLE = b"\0".join([b"", b"llama", b"starcoder2", b"gemma2", b"gemma3", b"qwen3next", b""])


def program(folder: Path, text: bytes = TABLE) -> Path:
    file = folder / "llama-server"
    file.write_bytes(b"\x7fELF" + text)
    file.chmod(0o755)
    return file


def test_llama_cpp_by_its_table(tmp_path: Path) -> None:
    file = program(tmp_path)
    assert files_of("llama-server", (str(file),)) == (file,)
    assert knows("llama-server", file, "qwen3next") is True
    assert knows("llama-server", file, "qwen9") is False
    assert knows("llama-server", file, "../etc") is None


def test_the_table_may_be_in_a_library(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib").mkdir()
    file = program(tmp_path / "bin", b"\0llama\0")
    library = tmp_path / "lib" / "libllama.so"
    library.write_bytes(TABLE)
    (tmp_path / "link").symlink_to(file)
    assert files_of("llama-server", (str(tmp_path / "link"),)) == (library, file)
    assert knows("llama-server", file, "qwen9") is None, "nothing is said of what is not seen"
    assert knows("llama-server", library, "qwen9") is False


def test_the_real_wheel() -> None:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("no xllamacpp here")
    (file,) = files_of("xllamacpp", (sys.executable, "-P", "/runner.py"))
    assert knows("xllamacpp", file, "qwen3") is True
    assert knows("xllamacpp", file, "nosuchthing") is False


def test_mlx_lm_by_its_modules(tmp_path: Path) -> None:
    models = tmp_path / "lib" / "python3.11" / "site-packages" / "mlx_lm" / "models"
    models.mkdir(parents=True)
    (models / "llama.py").touch()
    (models.parent / "utils.py").write_text('MODEL_REMAPPING = {"mistral": "llama"}\n')
    (packages,) = files_of("mlx-lm", (str(tmp_path / "bin" / "python"), "-m", "mlx_lm"))
    assert knows("mlx-lm", packages, "llama") is True
    assert knows("mlx-lm", packages, "mistral") is True
    assert knows("mlx-lm", packages, "qwen9") is False
    assert knows("vllm-mlx", packages, "qwen9") is None
    (packages / "mlx_vlm" / "models" / "qwen9").mkdir(parents=True)
    assert knows("vllm-mlx", packages, "qwen9") is True
    assert knows("vllm-mlx", packages, "qwen8") is False
    assert files_of("vllm", ("/usr/bin/vllm",)) == ()


def registry(cache: Path | None = None) -> Registry:
    return Registry(Settings(), os.environ, cache, Platform("Linux", "x86_64"))


def test_an_engine_too_old_is_told_with_the_command_that_updates_it(tmp_path: Path) -> None:
    installed = Installed("llama-server", (str(program(tmp_path)),), "7000 (abc)")
    old = registry().unfit(installed, {"llama.cpp": "b7186"}, "gemma3")
    assert old is not None
    assert old.code is Code.ENGINE_MISSING
    assert "b7186 is the oldest" in old.message
    assert "ctl engine update llama-server" in old.hint
    assert registry().unfit(installed, {"mlx-lm": "0.30.4"}, "gemma3") is None
    assert registry().unfit(installed, {"llama.cpp": "b7000"}, "") is None
    unknown = registry().unfit(installed, {}, "qwen9")
    assert unknown is not None
    assert "does not know its architecture (qwen9)" in unknown.message


def test_it_is_asked_once_per_version_of_the_file(tmp_path: Path) -> None:
    file, cache = program(tmp_path), tmp_path / "cache.json"
    installed = Installed("llama-server", (str(file),), "9000 (abc)")
    assert registry(cache).unfit(installed, {}, "qwen9") is not None
    assert "qwen9 in " in cache.read_text()
    file.write_bytes(TABLE + b"qwen9\0")
    assert registry(cache).unfit(installed, {}, "qwen9") is None
