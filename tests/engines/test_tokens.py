"""By what tokens are counted without an engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from daemon.engines import tokens
from daemon.engines.base import Installed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "model"
    found.mkdir()
    (found / "tokenizer.json").write_text("{}")
    return found


def engine(name: str, *program: str) -> Installed:
    return Installed(name, program, "1")


PYTHON = engine("mlx-lm", "/opt/mlx/bin/python3.12", "-P", "-m", "mlx_lm", "server")


def test_by_the_python_of_the_engine(folder: Path) -> None:
    found = tokens.recipe(PYTHON, folder, None)
    assert found is not None
    program = str(tokens.PROGRAM)
    assert found.argv == ("/opt/mlx/bin/python3.12", "-P", program, str(folder))
    assert Path(program).is_file()
    own = tokens.recipe(PYTHON, folder, folder / "own.jinja")
    assert own is not None
    assert own.argv[-1] == str(folder / "own.jinja")


def test_by_the_python_beside_a_console_script(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "vllm"
    script.touch()
    assert tokens.recipe(engine("vllm", str(script)), folder, None) is None, "none is beside it"
    python = tmp_path / "python"
    python.touch(0o755)
    found = tokens.recipe(engine("vllm", str(script)), folder, None)
    assert found is not None
    assert found.python == str(python)


def test_not_without_a_tokenizer_that_its_library_reads(folder: Path) -> None:
    assert tokens.recipe(replace(PYTHON, engine="xllamacpp"), folder, None) is None
    assert tokens.recipe(PYTHON, None, None) is None
    (folder / "tokenizer.json").unlink()
    assert tokens.recipe(PYTHON, folder, None) is None


def test_changed_files_are_another_recipe(folder: Path) -> None:
    before = tokens.recipe(PYTHON, folder, None)
    assert before == tokens.recipe(PYTHON, folder, None)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert tokens.recipe(PYTHON, folder, None) != before


def test_its_process_sees_no_secrets() -> None:
    env = tokens.environment({"PATH": "/bin", "HF_TOKEN": "secret", "ANTHROPIC_API_KEY": "secret"})
    assert env["PATH"] == "/bin"
    assert env["HF_HUB_OFFLINE"] == "1"
    assert "secret" not in env.values()
