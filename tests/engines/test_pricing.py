"""What a command line costs, and in which memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.core.units import GIB, MIB
from daemon.engines.base import Running
from daemon.engines.llama import EVERY, placement_settings
from daemon.engines.pricing import (
    MAX_PROMPT_CACHE,
    OWN_BYTES,
    Site,
    price,
    prompt_cache,
    reserves_all_logits,
    shape,
    site,
)
from daemon.weights.describe import describe
from daemon.weights.facts import Weights
from daemon.weights.footprint import Shape, estimate, estimate_mlx
from tests.models.net import write
from tests.models.zoo import ZOO

WAY = Running("way", 8192, 1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    path = tmp_path_factory.mktemp("zoo") / "m.gguf"
    return describe(write(ZOO["qwen3-30b-a3b"][0](), path))


def test_the_processor_has_it_all(weights: Weights) -> None:
    bare = estimate(weights, Shape(8192, checkpoints=4))
    assert price(weights, WAY, Site("llama-server")) == {"ram": bare}
    (part,) = price(weights, WAY, Site("xllamacpp", host="unified")).values()
    assert part.total == bare.total + OWN_BYTES["xllamacpp"]


def test_other_engines_are_priced_whole(weights: Weights) -> None:
    bare = estimate_mlx(weights, 8192)
    assert price(weights, WAY, Site("mlx-lm", host="unified")) == {"unified": bare}
    ((pool, part),) = price(weights, WAY, Site("vllm", devices=("gpu1",))).items()
    assert (pool, part.total) == ("gpu1", bare.total + OWN_BYTES["vllm"])


def test_experts_in_main_memory(weights: Weights) -> None:
    def of(*args: str) -> dict[str, int]:
        parts = price(weights, WAY, Site("llama-server", args=args, devices=("gpu0",)))
        return {pool: part.weights >> 20 for pool, part in parts.items()}

    assert of() == {"gpu0": 30308, "ram": 0}
    assert of("--cpu-moe") == of("-ot", "exps=CPU") == {"gpu0": 932, "ram": 29376}
    assert of("-ncmoe", "10") == {"gpu0": 24188, "ram": 6120}
    assert of("-ot", r"blk\.[0-9]\.ffn_.*_exps=CPU") == {"gpu0": 24188, "ram": 6120}
    assert of("-ngl", "20") == {"gpu0": 11997, "ram": 18311}
    assert of("-ngl", "0")["ram"] == 30308
    assert of("-ot", "exps=CUDA1,(=CPU") == of()  # another card; no expression


def test_two_cards(weights: Weights) -> None:
    site = Site("llama-server", args=("-ts", "3,1"), devices=("gpu0", "gpu1"))
    parts = price(weights, WAY, site)
    assert parts["gpu0"].weights > 2.5 * parts["gpu1"].weights
    assert parts["gpu0"].kv * 11 == parts["gpu1"].kv * 37  # of 48 layers; the head is on gpu1


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), (None, (), 0, (), True)),
        (("-ngl", "7", "-nkvo"), (7, (), 0, (), False)),
        (("-ngl", "all", "-ts", "1,x"), (None, (), 0, (), True)),
        (("--tensor-split", "1/2.5", "-cmoe"), (None, (1.0, 2.5), EVERY, (), True)),
        (("-ot", "a=CPU,b=CUDA0,c=d=CPU"), (None, (), 0, ("a", "c=d"), True)),
    ],
)
def test_where_args_put_the_layers(args: tuple[str, ...], expected: tuple[object, ...]) -> None:
    found = placement_settings(args)
    parts = (found.gpu_layers, found.split, found.host_experts, found.host_patterns)
    assert (*parts, found.kv_offload) == expected


def test_the_shape_follows_the_args(weights: Weights) -> None:
    def of(*args: str, kind: str = "chat", version: str = "") -> Shape:
        return shape(weights, WAY, Site("llama-server", version, kind, args))

    assert of() == Shape(8192, checkpoints=4)
    assert not of("-fa", "off").flash
    assert of("-fa", "on").flash
    assert of("--spec-type", "draft-mtp").drafting
    assert of(kind="embedding").embedding
    assert of(kind="rerank").batch == of(kind="rerank").ubatch == 8192
    assert of(version="8123 (abc)").all_logits
    with pytest.raises(ValueError, match="type_k"):
        of("-ctk", "nope")


@pytest.mark.parametrize(
    ("version", "all_logits"),
    [("8123 (abc)", True), ("b9272", True), ("9999 (x)", False), ("0.5.0-dev (0c1e57098)", False),
     ("2026.10.11549", False), ("", False)],
)  # fmt: skip
def test_builds_that_reserve_logits_for_every_token(version: str, all_logits: bool) -> None:
    assert reserves_all_logits(version) is all_logits


def test_a_prompt_cache_takes_a_part_of_what_is_left(weights: Weights) -> None:
    site = Site("llama-server")
    conversation = 768 * MIB  # 8192 tokens of this model
    assert prompt_cache(weights, WAY, site, 64 * GIB) == 8 * conversation
    assert prompt_cache(weights, WAY, site, 8 * GIB) == 2 * GIB
    assert prompt_cache(weights, WAY, site, 3 * GIB) == conversation
    assert prompt_cache(weights, WAY, site, 2 * GIB) == 0  # not one conversation would fit
    assert prompt_cache(weights, WAY, site, -GIB) == 0
    long = Running("long", 131072, 1)
    assert prompt_cache(weights, long, site, 128 * GIB) == 0  # 12 GiB each, over the most
    assert prompt_cache(weights, Running("x", 65536, 1), site, 99 * GIB) == MAX_PROMPT_CACHE


@pytest.mark.parametrize(
    "site",
    [
        Site("mlx-lm"),
        Site("llama-server", kind="embedding"),
        Site("xllamacpp", args=("-cram", "0")),
    ],
)
def test_where_there_is_no_prompt_cache_of_ours(weights: Weights, site: Site) -> None:
    assert prompt_cache(weights, WAY, site, 64 * GIB) == 0


def test_an_encoders_results_are_as_wide_as_its_vocabulary(tmp_path: Path) -> None:
    encoder = describe(write(ZOO["bge-m3"][1](), tmp_path / "e.gguf", context=512))
    parts = price(encoder, WAY, Site("llama-server", kind="embedding"))["ram"]
    assert parts.output == 4 * 8192 * (encoder.n_vocab + 256)
    assert parts.kv == 0


def test_where_a_model_runs() -> None:
    two = ("gpu0", "gpu1", "ram")
    at = site("llama-server", "chat", (), two, accelerated=True)
    assert (at.devices, at.host, at.main, at.unified_gpu) == (("gpu0",), "ram", "gpu0", False)
    assert site("llama-server", "chat", (), two).main == "ram"  # it cannot use them
    assert site("llama-server", "chat", (), two, accelerated=True, pool="gpu1").main == "gpu1"
    assert site("llama-server", "chat", (), two, accelerated=True, pool="ram").devices == ()
    spread = site("llama-server", "chat", ("-ts", "1,1"), two, accelerated=True)
    assert spread.devices == ("gpu0", "gpu1")
    mac = site("mlx-lm", "chat", (), ("unified",), accelerated=True)
    assert (mac.devices, mac.host, mac.unified_gpu) == ((), "unified", True)
