"""What we say that a model takes, beside what real engines say that they allot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daemon.engines.base import Engine, Installed, Running
from daemon.engines.llama_server import LlamaServer
from daemon.engines.memory_log import allotted
from daemon.engines.pricing import Site, price
from daemon.engines.xllamacpp import Xllamacpp
from daemon.machine.process import footprint
from daemon.weights.describe import describe
from tests.models.zoo import ZOO
from tests.real.footprints import published, tiny
from tests.real.starting import make_plan, started
from tests.weights.files import smollm2

pytestmark = pytest.mark.real

Found = tuple[Engine, Installed]
# One of each kind of cache; the others come with the full counts.
SAMPLE = ("gemma-3-27b", "glm-4.7-flash", "nemotron-3-nano", "qwen3-next-80b")
TINY = [pytest.param(n, marks=() if n in SAMPLE else pytest.mark.slow) for n in ZOO]


@pytest.fixture(
    scope="module",
    params=["xllamacpp", pytest.param("llama-server", marks=pytest.mark.llama_server)],
)
def llama(request: pytest.FixtureRequest) -> Found:
    engine: Engine
    if request.param == "xllamacpp":
        pytest.importorskip("xllamacpp")
        engine = Xllamacpp()
        return engine, engine.find({}, os.environ)
    engine = LlamaServer()
    path = request.getfixturevalue("llama_server")
    return engine, engine.find({"path": str(path)}, os.environ)


@pytest.mark.llama_server
@pytest.mark.parametrize("name", ZOO)
def test_published_sizes(name: str, llama_server: Path, tmp_path: Path) -> None:
    program = llama_server.with_name("llama-fit-params")
    if not program.exists():
        pytest.skip("no llama-fit-params beside the llama-server")
    row = published(program, tmp_path, name)
    assert row.good, row


@pytest.mark.parametrize("name", TINY)
def test_tiny_ones_as_the_engine_logs_them(name: str, llama: Found, tmp_path: Path) -> None:
    row = tiny(*llama, name, tmp_path)
    assert row.good, row


WAYS = {
    "slots": (Running("way", 2048, 3), ()),
    "shared": (Running("way", 2048, 3), ("-kvu",)),
    "batch": (Running("way", 4096, 1, ubatch=1024), ()),
    "types": (Running("way", 4096, 1, type_k="q8_0", type_v="q4_0"), ()),
    "whole windows": (Running("way", 4096, 1), ("--swa-full",)),
    "no flash attention": (Running("way", 4096, 1), ("-fa", "off")),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "name", ["gemma-3-27b", pytest.param("falcon-h1-7b", marks=pytest.mark.slow)]
)
def test_every_way_to_run_one(name: str, way: str, llama: Found, tmp_path: Path) -> None:
    running, args = WAYS[way]
    row = tiny(*llama, name, tmp_path, running, *args)
    assert row.good, row


def test_an_embedders_results_are_charged(llama: Found, tmp_path: Path) -> None:
    """Rows of logits as wide as the vocabulary are kept for every token of a batch."""
    path = smollm2()
    weights = describe(path)
    way = Running("way", 512, 1)
    plan = make_plan(
        tmp_path, path, running=way, kind="embedding", args=("-t", "2", "--pooling", "mean")
    )
    with started(*llama, plan, tmp_path) as server:
        assert server.until_ready().status == 200
        told = allotted(server.log().splitlines())
        before = footprint(server.process.pid) or 0
        body = {"model": "tiny", "input": "hello " * 450}
        assert server.ask("POST", "/v1/embeddings", body).status == 200
        after = footprint(server.process.pid) or 0
    engine, installed = llama
    site = Site(engine.name, installed.version, "embedding", plan.args)
    (ours,) = price(weights, way, site).values()
    assert ours.compute == pytest.approx(told.of("compute"), rel=0.05)
    assert ours.output == 4 * 512 * (49152 + 576)
    assert after - before > 4 * 450 * 49152
    assert after <= ours.total * 1.02
