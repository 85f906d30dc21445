"""What we say that a model takes, beside what real engines say that they allot."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from daemon.core.units import MIB
from daemon.engines.base import Engine, Installed, Running
from daemon.engines.llama_server import LlamaServer
from daemon.engines.memory_log import allotted
from daemon.engines.pricing import Site, price
from daemon.engines.xllamacpp import Xllamacpp
from daemon.machine.process import footprint
from daemon.weights.describe import describe
from daemon.weights.footprint import Shape, checkpoint_bytes
from tests.models.net import write
from tests.models.zoo import ZOO
from tests.real.footprints import Row, counted, published, tiny
from tests.real.starting import make_plan, started
from tests.weights.files import smollm2

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

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


@pytest.mark.parametrize("name", ["gemma-3-27b", "nemotron-3-nano"])
def test_a_checkpoint_is_as_large_as_we_say(name: str, llama: Found, tmp_path: Path) -> None:
    path = write(ZOO[name][1](), tmp_path / "m.gguf", dtype="f16", context=8192)
    plan = make_plan(tmp_path, path, running=Running("way", 4096, 1), args=("-t", "1", "-lv", "5"))
    with started(*llama, plan, tmp_path) as server:
        assert server.until_ready().status == 200
        for prompt in ([5] * 2500, [5] * 2200 + [6] * 100):
            body = {"model": "tiny", "prompt": prompt, "max_tokens": 2}
            assert server.ask("POST", "/v1/completions", body).status == 200
        said = re.findall(r"created context checkpoint .*size = ([\d.]+) MiB", server.log())
    assert said
    ours = checkpoint_bytes(describe(path), Shape(4096))
    assert ours / MIB == pytest.approx(max(map(float, said)), rel=0.02)


@pytest.mark.llama_server
def test_a_draft_model_is_priced_too(llama_server: Path, tmp_path: Path) -> None:
    engine = LlamaServer()
    installed = engine.find({"path": str(llama_server)}, os.environ)
    path = write(ZOO["qwen3-14b"][1](), tmp_path / "m.gguf", dtype="f16", context=8192)
    draft = write(ZOO["llama-3.1-8b"][1](), tmp_path / "d.gguf", dtype="f16", context=8192)
    way = Running("way", 2048, 3)
    plan = make_plan(tmp_path, path, running=way, draft=draft, args=("-t", "1"))
    with started(engine, installed, plan, tmp_path) as server:
        assert server.until_ready().status == 200
        told = allotted(server.log().splitlines())
    weights = describe(path, draft=draft)
    (ours,) = price(weights, way, Site(engine.name, installed.version, "chat", plan.args)).values()
    assert ours.kv == told.of("KV")
    assert ours.weights == pytest.approx(told.of("model"), rel=0.01)
    row = Row("with a draft", engine.name, counted(ours), told.of("model", "KV", "compute"))
    assert row.good, row
