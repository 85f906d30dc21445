from __future__ import annotations

import pytest

from daemon.weights.facts import Recurrent, delta_net, graph_width, mamba

MIB = 1 << 20


def compute_mib(width: int) -> float:
    """Without its masks, at 512 tokens."""
    return 4 * 512 * width / MIB


# What llama.cpp 0c1e57098 logged as "compute buffer size", less the masks (8 MiB at 8192 cells).
MEASURED = {
    "Qwen3 1.7B": ({"n_embd": 2048, "n_ff": 6144, "heads": 32, "head_length": 128}, 56.0),
    "Qwen3 32B": ({"n_embd": 5120, "n_ff": 25600, "heads": 64, "head_length": 128}, 200.0),
    "wide attention": ({"n_embd": 2048, "n_ff": 1024, "heads": 64, "head_length": 128}, 52.0),
    "Qwen3 30B A3B": (
        {
            "n_embd": 2048,
            "n_ff": 6144,
            "heads": 32,
            "head_length": 128,
            "expert_ff": 768,
            "experts_used": 8,
        },
        88.0,
    ),
    "gpt-oss 20B": (
        {
            "n_embd": 2880,
            "n_ff": 2880,
            "heads": 64,
            "head_length": 64,
            "expert_ff": 2880,
            "experts_used": 4,
        },
        95.625,
    ),
    "GLM 4.7 Flash": (
        {
            "n_embd": 2048,
            "n_ff": 10240,
            "heads": 20,
            "head_length": 576,
            "mla_length": 256,
            "expert_ff": 1536,
            "experts_used": 4,
        },
        80.0,
    ),
    "compressed attention": (
        {"n_embd": 2048, "n_ff": 1024, "heads": 128, "head_length": 576, "mla_length": 256},
        372.0,
    ),
    "Qwen3.5 35B A3B": (
        {
            "n_embd": 2048,
            "n_ff": 512,
            "heads": 16,
            "head_length": 256,
            "expert_ff": 512,
            "experts_used": 8,
        },
        76.0,
    ),
    "BGE M3": (
        {
            "n_embd": 1024,
            "n_ff": 4096,
            "heads": 16,
            "head_length": 64,
            "gated": False,
            "encoder": True,
        },
        18.01,
    ),
    "nomic-embed": ({"n_embd": 768, "n_ff": 3072, "heads": 12, "head_length": 64}, 25.5),
}


@pytest.mark.parametrize(("shape", "measured"), MEASURED.values(), ids=MEASURED.keys())
def test_the_graph_is_as_wide_as_the_engine_said(shape: dict[str, int], measured: float) -> None:
    assert compute_mib(graph_width(**shape)) == pytest.approx(measured, rel=0.03)


# Floats per token that the wider of two builds took, less the state of one sequence at 512 tokens.
@pytest.mark.parametrize(
    ("recurrence", "measured"),
    [
        (mamba(n_embd=2560, inner=5120, state=16, groups=0, heads=160), 38150),
        (mamba(n_embd=2560, inner=5120, state=128, groups=1, heads=80), 39030),
        (mamba(n_embd=2688, inner=4096, state=128, groups=8, heads=64), 40192),
        (delta_net(n_embd=1024, inner=2048, key=1024, state=128), 16394),
        (delta_net(n_embd=1024, inner=4096, key=1024, state=128), 24841),
    ],
)
def test_recurrent_layers_are_as_wide_as_the_engine_said(
    recurrence: Recurrent, measured: int
) -> None:
    assert measured * 0.99 <= recurrence.width <= measured * 1.05
