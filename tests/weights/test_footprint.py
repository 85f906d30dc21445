from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.weights.describe import describe
from daemon.weights.facts import Layer, Weights
from daemon.weights.footprint import (
    CELL_STEP,
    OVERHEAD,
    Shape,
    checkpoint_bytes,
    compute_bytes,
    estimate,
    estimate_mlx,
    kv_bytes,
    largest_context,
)
from tests.weights.files import MIB, smollm2

FULL = Layer(kv_heads=4, key_length=128, value_length=128)
WINDOWED = replace(FULL, window=1024)


def model(*layers: Layer, width: int = 1000, tensor_bytes: int = 100 * MIB) -> Weights:
    return Weights(
        format="gguf",
        files=(Path("m.gguf"),),
        tensor_bytes=tensor_bytes,
        architecture="x",
        n_ctx_train=131072,
        n_embd=512,
        n_ff=2048,
        graph_width=width,
        layers=layers,
        kind="chat",
        template=None,
        quantisation="F16",
        name="m",
        disk_bytes=tensor_bytes,
    )


GEMMA = model(*([WINDOWED] * 5 + [FULL]) * 2)  # 12 layers, 2 of them see everything


# What the engine logged for such files as "KV buffer size", in MiB.
@pytest.mark.parametrize(
    ("shape", "logged"),
    [
        (Shape(32768), 128.0 + 30.0),
        (Shape(32768, slots=4, unified_kv=True), 128.0 + 90.0),
        (Shape(32768, slots=4), 128.0 + 120.0),
        (Shape(32768, type_k="q8_0", type_v="q8_0"), 68.0 + 15.9375),
        (Shape(32768, swa_full=True), 128.0 + 640.0),
        (Shape(32768, ubatch=2048), 128.0 + 60.0),
    ],
)
def test_windows_cost_what_the_engine_logged(shape: Shape, logged: float) -> None:
    assert kv_bytes(GEMMA, shape) == logged * MIB


@pytest.mark.parametrize(
    ("weights", "shape", "logged"),
    [
        # a 40 GiB Llama: 32 layers, 8 heads of 128
        (model(*[Layer(8, 128, 128)] * 32), Shape(4096), 512),
        (model(*[Layer(8, 128, 128)] * 32), Shape(32768, type_k="q8_0", type_v="q8_0"), 2176),
        # Qwen3, two layers: three slots are padded each, a small context is padded once
        (model(*[Layer(8, 128, 128)] * 2), Shape(8192, slots=3), 66),
        (model(*[Layer(8, 128, 128)] * 2), Shape(1000), 8),
        # GLM 4.7 Flash, three layers
        (model(*[Layer(1, 576, 512, mla=True)] * 3), Shape(8192), 27),
        # gpt-oss, four layers
        (model(*[Layer(8, 64, 64, window=128), Layer(8, 64, 64)] * 2), Shape(8192), 32 + 3),
    ],
)
def test_caches_cost_what_the_engine_logged(weights: Weights, shape: Shape, logged: int) -> None:
    assert kv_bytes(weights, shape) == logged * MIB


def test_recurrent_states_count_by_slots_and_not_by_context() -> None:
    state = 4 * (3 * 8192 + 128 * 4096)
    weights = model(*[Layer(state_bytes=state)] * 3)
    assert kv_bytes(weights, Shape(8192)) == kv_bytes(weights, Shape(131072)) == 3 * state
    assert round(kv_bytes(weights, Shape(8192)) / MIB, 2) == 6.28
    assert round(kv_bytes(weights, Shape(8192, slots=4)) / MIB, 2) == 25.12
    assert weights.recurrent
    assert not GEMMA.recurrent


@pytest.mark.parametrize(
    ("weights", "shape", "logged"),
    [
        # gpt-oss with its experts: 17 × 2880 floats a token
        (model(Layer(8, 64, 64, 128), Layer(8, 64, 64), width=48960), Shape(8192), 104.40),
        (
            model(Layer(8, 64, 64, 128), Layer(8, 64, 64), width=48960),
            Shape(8192, slots=4, unified_kv=True),
            104.65,
        ),
        (
            model(Layer(8, 64, 64, 128), Layer(8, 64, 64), width=48960),
            Shape(8192, ubatch=2048),
            423.60,
        ),
        (model(Layer(8, 128, 128), width=28672), Shape(8192, slots=4), 58.02),
        (model(Layer(8, 128, 128), width=28672), Shape(8192, slots=3), 58.88),
        (model(Layer(), width=13056), Shape(2048, ubatch=2048), 110.05),  # an encoder
    ],
)
def test_compute_buffers_are_what_the_engine_logged(
    weights: Weights, shape: Shape, logged: float
) -> None:
    assert compute_bytes(weights, shape) / MIB == pytest.approx(logged, rel=0.003)


def test_a_checkpoint_holds_the_windows_and_the_states() -> None:
    # The engine logged 20.012 MiB for ten windowed layers.
    assert checkpoint_bytes(GEMMA, Shape(32768)) == 20 * MIB
    assert checkpoint_bytes(GEMMA, Shape(512)) == 10 * MIB
    assert checkpoint_bytes(GEMMA, Shape(32768, swa_full=True)) == 0
    assert checkpoint_bytes(model(FULL, Layer(state_bytes=77)), Shape(512)) == 77
    kept = estimate(GEMMA, Shape(32768, slots=2, checkpoints=8))
    assert kept.checkpoints == 2 * 8 * 20 * MIB


def test_the_parts_add_up() -> None:
    draft = model(FULL, tensor_bytes=7)
    weights = replace(GEMMA, extra_bytes=11 * MIB, extra_compute=13 * MIB, draft=draft)
    shape = Shape(4096, prompt_cache=17 * MIB, checkpoints=1)
    parts = estimate(weights, shape)
    assert parts.weights == 111 * MIB
    assert parts.kv == kv_bytes(GEMMA, shape) + kv_bytes(draft, shape)
    assert parts.compute == 13 * MIB + compute_bytes(GEMMA, shape) + compute_bytes(draft, shape)
    assert (parts.prompt_cache, parts.overhead) == (17 * MIB, OVERHEAD)
    assert parts.total == (
        parts.weights + parts.kv + parts.compute + 17 * MIB + OVERHEAD + parts.checkpoints
    )


@pytest.mark.parametrize(
    "change", [{"ctx": 0}, {"slots": 0}, {"ubatch": -1}, {"type_k": "q3_k"}, {"type_v": "x"}]
)
def test_impossible_shapes_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(Shape(4096), **change)


shapes = st.builds(
    Shape,
    ctx=st.integers(1, 200_000),
    slots=st.integers(1, 5),
    ubatch=st.sampled_from([64, 512, 2048]),
    type_k=st.sampled_from(["f16", "q8_0", "q4_0"]),
    unified_kv=st.booleans(),
    checkpoints=st.integers(0, 3),
)


@settings(max_examples=200)
@given(shapes, st.integers(1, 400_000), st.integers(1, 4096), st.integers(0, 200_000))
def test_the_largest_context_fits_and_the_next_does_not(
    shape: Shape, available_mib: int, floor: int, more: int
) -> None:
    available, ceiling = available_mib * MIB // 100, floor + more
    found = largest_context(GEMMA, shape, available, floor=floor, ceiling=ceiling)

    def total(ctx: int) -> int:
        return estimate(GEMMA, replace(shape, ctx=ctx)).total

    if found is None:
        assert total(floor) > available
        return
    assert floor <= found <= ceiling
    assert total(found) <= available
    if found < ceiling:
        assert total(min(ceiling, found + CELL_STEP * shape.streams)) > available


def test_the_largest_context_of_a_real_size() -> None:
    weights = model(*[Layer(8, 128, 128)] * 32, width=32768, tensor_bytes=8 << 30)
    found = largest_context(weights, Shape(1), 16 << 30, floor=4096, ceiling=131072)
    assert found is not None
    assert found % CELL_STEP == 0
    assert 60_000 < found < 66_000  # 128 KiB a token


def test_mlx_counts_what_a_full_context_holds() -> None:
    parts = estimate_mlx(GEMMA, 32768)
    per_token = 4 * 256 * 2
    assert parts.kv == per_token * (2 * 32768 + 10 * (1024 + 2048))
    assert estimate_mlx(GEMMA, 32768, slots=3).kv == 3 * parts.kv
    assert estimate_mlx(GEMMA, 100).kv == per_token * 12 * 256
    assert parts.weights == 100 * MIB
    assert parts.total > parts.kv + parts.weights
    assert estimate_mlx(GEMMA, 100, prompt_cache=5 * MIB).prompt_cache == 5 * MIB


RUNNER = """
import os, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel = sys.argv[1], 2048, 1
params.hostnames, params.port = ["127.0.0.1"], 0
params.cache_ram_mib, params.n_gpu_layers, params.verbosity = 0, 0, 4
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.real
def test_the_engine_agrees_on_a_real_model() -> None:
    path = smollm2()
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed")
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(path)],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    log = done.stdout + done.stderr

    def logged(what: str) -> float:
        found = re.findall(rf"{what} buffer size = +([\d.]+) MiB", log)
        assert found, log[-2000:]
        return float(found[-1])

    parts = estimate(describe(path), Shape(2048))
    assert parts.weights / MIB == pytest.approx(logged("model"), abs=0.01)
    assert parts.kv / MIB == logged("KV")
    assert parts.compute / MIB == pytest.approx(logged("compute"), rel=0.003)
