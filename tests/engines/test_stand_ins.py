"""Launches on the stand-ins: their command lines are checked as strictly as the real ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daemon.core.messages import ExitClass
from daemon.engines.base import Engine
from daemon.engines.llama_server import LlamaServer
from daemon.engines.vllm import Vllm
from daemon.engines.vllm_mlx import VllmMlx
from tests.fakes.start import Program, install
from tests.real.starting import make_plan, started


@pytest.mark.parametrize(
    ("engine", "program"),
    [(LlamaServer(), "engine"), (Vllm(), "vllm"), (VllmMlx(), "vllm_mlx")],
    ids=["llama-server", "vllm", "vllm-mlx"],
)
def test_a_stand_in_takes_the_launch(
    engine: Engine, program: Program, tiny_gguf: Path, tiny_hf: Path, tmp_path: Path
) -> None:
    path = install(tmp_path, program, engine.name)
    installed = engine.find({"path": str(path)}, os.environ)
    weights = tiny_gguf if engine.weights == "gguf" else tiny_hf
    with started(engine, installed, make_plan(tmp_path, weights), tmp_path) as server:
        assert server.until_ready().status == 200, server.log()
        server.stop()
        assert server.verdict(ready=True, asked=True).exit_class is ExitClass.CLEAN
