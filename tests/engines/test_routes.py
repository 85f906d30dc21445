"""Engines speak of routes in plain words: they must be the words of the port above them."""

from __future__ import annotations

import pytest

from daemon.engines.base import Engine
from daemon.engines.command import Command, Template
from daemon.engines.llama_server import LlamaServer
from daemon.engines.mlx_lm import MlxLm
from daemon.engines.vllm import Vllm
from daemon.engines.vllm_mlx import VllmMlx
from daemon.engines.xllamacpp import Xllamacpp
from daemon.ports import Route

TEMPLATE = Template("x", ("x", "{port}"), dialects=("chat", "messages", "responses", "ollama"))
ENGINES: list[Engine] = [
    LlamaServer(), Xllamacpp(), MlxLm(), VllmMlx(), Vllm(), Command(TEMPLATE)
]  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize("kind", ["chat", "completion", "embedding", "rerank", "audio", "other"])
def test_routes_are_routes(engine: Engine, kind: str) -> None:
    assert engine.routes(kind) <= {route.value for route in Route}


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_every_engine_keeps_the_same_words_of_the_dying(engine: Engine) -> None:
    verdict = engine.classify(-9, [], ready=True, asked=False)
    assert verdict.exit_class.value == "out_of_memory"
    assert "cudaMalloc failed" in engine.pattern
