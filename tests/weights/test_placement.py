from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.units import MIB
from daemon.weights.describe import describe
from daemon.weights.facts import Weights
from daemon.weights.footprint import Shape, estimate
from daemon.weights.placement import (
    GPU_OVERHEAD,
    Placement,
    expert_layers,
    place,
)
from tests.models.net import write
from tests.models.zoo import ZOO

EVERY = frozenset(range(200))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Weights]:
    folder = tmp_path_factory.mktemp("zoo")
    found = {}
    for name in ("qwen3-30b-a3b", "gpt-oss-20b", "llama-3.1-8b", "gemma-3-27b", "glm-4.5-air"):
        path = write(ZOO[name][0](), folder / f"{name}.gguf")
        found[name] = describe(path)
        path.unlink()
    return found


# What llama-fit-params said of devices reached over RPC, in MiB: weights, caches, computation.
@pytest.mark.parametrize(
    ("name", "placement", "said"),
    [
        (
            "qwen3-30b-a3b",
            Placement(("a",)),
            {"a": (30308.1, 768.0, 92.0), "ram": (0.6, 0, 16.0)},
        ),
        (
            "qwen3-30b-a3b",
            Placement(("a",), host_experts=EVERY),
            {"a": (932.1, 768.0, 56.0), "ram": (29376.6, 0, 80.0)},
        ),
        (
            "qwen3-30b-a3b",
            Placement(("a",), host_experts=frozenset(range(10))),
            {"a": (24188.1, 768.0, 92.0), "ram": (6120.6, 0, 80.0)},
        ),
        (
            "qwen3-30b-a3b",
            Placement(("a",), gpu_layers=20),
            {"a": (11997.3, 304.0, 100.0), "ram": (18311.4, 464.0, 96.0)},
        ),
        (
            "gpt-oss-20b",
            Placement(("a",), gpu_layers=10),
            {"a": (7515.2, 86.0, 104.4), "ram": (12524.8, 124.0, 101.1)},
        ),
        (
            "llama-3.1-8b",
            Placement(("a", "b"), split=(3, 1)),
            {"a": (5525.8, 800.0, 172.0), "b": (1548.4, 224.0, 204.0), "ram": (1.1, 0, 72.0)},
        ),
        (
            "llama-3.1-8b",
            Placement(("a", "b"), split=(1, 1), gpu_layers=20),
            {
                "a": (2210.3, 320.0, 108.0),
                "b": (1990.4, 288.0, 108.0),
                "ram": (2874.5, 416.0, 124.0),
            },
        ),
        (
            "llama-3.1-8b",
            Placement(("a",), kv_offload=False),
            {"a": (7074.2, 0, 112.0), "ram": (1.1, 1024.0, 24.0)},
        ),
        (
            "gemma-3-27b",
            Placement(("a", "b"), split=(1, 1)),
            {"a": (13390.2, 644.0, 235.1), "b": (12554.8, 620.0, 277.1), "ram": (1.5, 0, 90.6)},
        ),
        (
            "glm-4.5-air",
            Placement(("a", "b"), split=(1, 2)),
            {"a": (35836.6, 512.0, 226.0), "b": (71180.6, 960.0, 258.0), "ram": (1.1, 0, 72.0)},
        ),
    ],
)
def test_each_device_holds_what_the_engine_said(
    model: dict[str, Weights],
    name: str,
    placement: Placement,
    said: dict[str, tuple[float, float, float]],
) -> None:
    parts = place(model[name], Shape(8192), placement)
    assert set(parts) == set(said)
    for pool, (weights, kv, compute) in said.items():
        part = parts[pool]
        assert part.weights / MIB == pytest.approx(weights, abs=0.06)
        assert part.kv / MIB == kv
        ours, theirs = part.weights + part.kv + part.compute, (weights + kv + compute) * MIB
        assert 0.98 <= ours / theirs <= 1.03
        assert part.compute / MIB >= compute * 0.98


def test_without_gpus_all_is_in_one_pool(model: dict[str, Weights]) -> None:
    weights, shape = model["gpt-oss-20b"], Shape(8192, checkpoints=4, prompt_cache=MIB)
    whole = estimate(weights, shape)
    for placement in (Placement(host="unified"), Placement(("gpu0",), "unified", gpu_layers=0)):
        assert place(weights, shape, placement) == {"unified": whole}


def test_what_is_no_layers_stays_at_home(model: dict[str, Weights]) -> None:
    shape = Shape(8192, slots=2, checkpoints=4, prompt_cache=MIB)
    parts = place(model["gpt-oss-20b"], shape, Placement(("gpu0",)))
    whole = estimate(model["gpt-oss-20b"], shape)
    for name in ("checkpoints", "prompt_cache", "output"):
        assert getattr(parts["ram"], name) == getattr(whole, name)
        assert getattr(parts["gpu0"], name) == 0
    assert parts["gpu0"].overhead == GPU_OVERHEAD
    assert parts["ram"].overhead == whole.overhead


def test_a_gpu_in_the_same_memory_has_buffers_of_its_own(model: dict[str, Weights]) -> None:
    """Masks of a long context with a large batch lie there twice; weights once."""
    weights, shape = model["gpt-oss-20b"], Shape(262144, slots=2, ubatch=2048, batch=32768)
    alone = estimate(weights, shape)
    ((pool, both),) = place(weights, shape, Placement(("g",), "unified", shared=True)).items()
    assert pool == "unified"
    inputs = 2 * 2048 * (131072 + 2304) + 2 * 4 * 2048 * weights.n_embd
    assert both.compute == alone.compute + inputs
    assert (both.weights, both.kv, both.total) == (
        alone.weights, alone.kv, alone.total + inputs
    )  # fmt: skip
    assert place(weights, shape, Placement((), "unified", shared=True)) == {"unified": alone}


placements = st.builds(
    Placement,
    devices=st.sampled_from([("a",), ("a", "b"), ("a", "b", "c")]),
    gpu_layers=st.integers(0, 60),
    split=st.lists(st.floats(0, 9), max_size=4).map(tuple),
    host_experts=st.none() | st.frozensets(st.integers(0, 60)),
    kv_offload=st.booleans(),
)


@given(placements, st.sampled_from(["qwen3-30b-a3b", "glm-4.5-air", "gemma-3-27b"]))
def test_nothing_is_lost_between_the_pools(
    model: dict[str, Weights], placement: Placement, name: str
) -> None:
    weights, shape = model[name], Shape(8192)
    whole, parts = estimate(weights, shape), place(weights, shape, placement)
    total = sum(part.weights for part in parts.values())
    copied = total - whole.weights  # of a matrix that embedding and head share
    assert copied in (0, weights.parts.embedding)
    assert sum(part.kv for part in parts.values()) == whole.kv
    assert sum(part.compute for part in parts.values()) >= whole.compute
    assert all(part.total > 0 for part in parts.values())


def test_a_draft_model_goes_to_the_first_device(model: dict[str, Weights]) -> None:
    from dataclasses import replace

    small = model["llama-3.1-8b"]
    both = replace(model["gemma-3-27b"], draft=small, extra_bytes=small.tensor_bytes)
    alone = place(model["gemma-3-27b"], Shape(8192), Placement(("a",)))
    with_draft = place(both, Shape(8192), Placement(("a",)))
    assert with_draft["a"].weights - alone["a"].weights == small.tensor_bytes
    assert with_draft["a"].kv - alone["a"].kv == 1024 * MIB
    assert with_draft["ram"] == alone["ram"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("exps", range(4)),
        (r"\.ffn_.*_exps\.", range(4)),
        (r"blk\.[01]\.ffn_(up|down|gate)_exps", range(2)),
        ("ffn_up_exps", ()),  # only one of the two that are there
        ("attn", ()),
        ("(", ()),
    ],
)
def test_patterns_that_name_experts(pattern: str, found: range) -> None:
    assert expert_layers(pattern, 4) == frozenset(found)


def test_layers_for_further_tokens_are_loaded_only_to_draft(tmp_path: Path) -> None:
    weights = describe(write(ZOO["glm-4.5-air"][1](), tmp_path / "m.gguf"))
    last = weights.parts.layers[-1]
    assert [layer.loaded for layer in weights.parts.layers] == [True, True, True, False]
    assert weights.passed_over == last.total > 0
    assert estimate(weights, Shape(512)).weights == weights.tensor_bytes - last.total
    assert estimate(weights, Shape(512, drafting=True)).weights == weights.tensor_bytes
