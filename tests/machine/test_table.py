"""What the guides run must load where they run it; what cannot is refused with numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from daemon.core.units import GIB
from daemon.machine.budget import budget, startable
from tests.machine.samples import MACHINES
from tests.machine.table import MIN_CTX, MODELS, Outcome, Row, outcome, render, weights_of

ROOT = Path(__file__).parents[2]
BY_NAME = {model.name: model for model in MODELS}


def on(model: str, machine: str) -> Outcome:
    return outcome(BY_NAME[model], MACHINES[machine].facts())


@pytest.mark.timeout(300)  # much to compute for a slow machine
def test_the_document_is_up_to_date() -> None:
    found = (ROOT / "docs" / "machines.md").read_text("utf-8")
    assert found == render(), "run: python -P scripts/machines.py, and read the difference"


@pytest.mark.timeout(300)
def test_the_script_says_so_too() -> None:
    argv = [sys.executable, "-P", str(ROOT / "scripts" / "machines.py"), "--check"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=250, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "up to date" in done.stdout


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_published_numbers_are_understood(model: Row) -> None:
    weights = weights_of(model)
    assert weights.exact
    assert weights.n_ctx_train >= 2048
    assert weights.tensor_bytes > 0


# (model, machine, smallest context of a conversation): loads as the machine comes.
LOADS = [
    ("gpt-oss-20b (GGUF)", "Mac 24 GB", MIN_CTX),
    ("gpt-oss-20b (GGUF)", "Mac 64 GB", 131072),  # the llama.cpp guide's M1 Max
    ("qwen3-30b (GGUF)", "Mac 64 GB", 131072),
    ("qwen3-coder (GGUF)", "Mac 64 GB", 131072),
    ("qwen3-coder-q8 (GGUF)", "Mac 64 GB", 131072),
    ("qwen3-next (GGUF)", "Mac 64 GB", 98304),
    ("nemotron-3-nano (GGUF)", "Mac 64 GB", 131072),
    ("glm-4.7-flash (GGUF)", "Mac 64 GB", 131072),
    ("glm-4.7-flash (Q8_0)", "Mac 64 GB", 131072),
    ("qwen3-vl (GGUF)", "Mac 64 GB", 32768),
    ("qwen3.6-27b (GGUF)", "Mac 64 GB", 131072),
    ("gemma-4-e4b (MLX)", "Mac 16 GB", MIN_CTX),  # the MLX guide's "16 GB+"
    ("qwen3.5-9b (MLX)", "Mac 16 GB", MIN_CTX),
    ("qwen2.5-coder-7b (MLX)", "Mac 16 GB", MIN_CTX),
    ("gemma-4-26b (MLX)", "Mac 24 GB, newer macOS", MIN_CTX),
    ("glm-4.7-flash (MLX)", "Mac 36 GB", 65536),
    ("qwen3-coder (MLX)", "Mac 36 GB", 65536),
    ("llama3.1-70b (GGUF)", "Mac 128 GB", 32768),
    ("qwen3.6-27b (GGUF)", "RTX 5090, 32 GB", 65536),  # LM Studio shares 200000 among its slots
    *(
        (model, card, MIN_CTX)
        for model in (
            "gpt-oss-20b (GGUF)",
            "qwen3-30b (GGUF)",
            "qwen3-coder (GGUF)",
            "nemotron-3-nano (GGUF)",
            "glm-4.7-flash (GGUF)",
            "qwen3-vl (GGUF)",
            "qwen3.6-27b (GGUF)",
        )
        for card in ("RTX 3090, 24 GB", "RTX 4090, 24 GB", "RX 7900 XTX, 24 GB")
    ),
    ("gpt-oss-20b (GGUF)", "RTX 4080, 16 GB", MIN_CTX),
    ("llama3.1-8b (GGUF)", "RTX 3060, 12 GB", 32768),
    ("qwen2.5-coder-32b (GGUF)", "2 x RTX 3090", 32768),
    ("qwen3-next (GGUF)", "Strix Halo 128 GB", 131072),
    ("llama3.1-70b (GGUF)", "GB10 128 GB", 32768),
]


@pytest.mark.parametrize(("model", "machine", "ctx"), LOADS)
def test_what_the_guides_run_loads(model: str, machine: str, ctx: int) -> None:
    found = on(model, machine)
    assert found.ctx is not None, found
    assert found.ctx >= ctx
    assert found.need <= found.budget


# The guides' "24 GB+" whose weights alone are what Metal gives, or nearly: the line that lets them
# load is named, and the context is then enough for an agent.
RAISED = [
    ("gemma-4-26b (MLX)", "Mac 24 GB"),
    ("glm-4.7-flash (MLX)", "Mac 24 GB"),
    ("qwen3-coder (MLX)", "Mac 24 GB"),
    ("qwen3-coder (MLX)", "Mac 24 GB, newer macOS"),
    ("qwen3-coder (GGUF)", "Mac 24 GB, newer macOS"),
    ("glm-4.7-flash (GGUF)", "Mac 24 GB, newer macOS"),
]


@pytest.mark.parametrize(("model", "machine"), RAISED)
def test_what_the_guides_run_on_24_gb_loads_there_with_a_line_of_advice(
    model: str, machine: str
) -> None:
    found = on(model, machine)
    if found.ctx is not None:  # better arithmetic needs no advice
        assert found.ctx >= MIN_CTX
        return
    assert found.command.startswith("sudo sysctl iogpu.wired_limit_mb=")
    assert found.raised is not None
    assert found.raised >= MIN_CTX


@pytest.mark.parametrize(
    ("model", "machine"),
    [
        ("gemma-4-26b (MLX)", "Mac 16 GB"),
        ("glm-4.7-flash (MLX)", "Mac 16 GB"),
        ("qwen3-coder (MLX)", "Mac 16 GB"),
        ("qwen3-coder (GGUF)", "Mac 16 GB"),
        ("qwen3-coder-q8 (GGUF)", "Mac 24 GB"),
        ("qwen3-coder-q8 (GGUF)", "RTX 4090, 24 GB"),
        ("qwen3-next (GGUF)", "Mac 36 GB"),
        ("qwen3-next (GGUF)", "RX 7900 XTX, 24 GB"),
        ("llama3.1-70b (GGUF)", "Mac 36 GB"),
        ("qwen2.5-coder-32b (GGUF)", "RTX 4080, 16 GB"),
        ("qwen3-30b (GGUF)", "RTX 3060, 12 GB"),
    ],
)
def test_what_is_too_large_is_refused_with_numbers(model: str, machine: str) -> None:
    found = on(model, machine)
    assert (found.ctx, found.raised, found.command) == (None, None, "")
    assert found.need > found.budget > 0


def test_a_15_gb_model_does_not_start_with_9_gb_free() -> None:
    """The guides' first lesson: the budget has room, other programs have taken it."""
    found = on("gemma-4-26b (MLX)", "Mac 36 GB")
    assert found.ctx is not None
    amounts = budget(None, "balanced", MACHINES["Mac 36 GB"].facts())
    assert startable(amounts, {}, {"unified": 9 * GIB})["unified"] < found.need
    assert startable(amounts, {}, {"unified": 30 * GIB})["unified"] >= found.need
