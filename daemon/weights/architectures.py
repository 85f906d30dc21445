"""What llama.cpp does with an architecture where the file leaves it open. Tables, no logic.

Names and rules are those of llama.cpp (``llama-arch.cpp``, ``src/models/``, commit 0c1e57098).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Window:
    """An architecture's sliding windows where the file leaves them open.

    Of ``period`` layers one sees everything: the last, or the first (``full_first``); period 0: all
    layers are windowed. ``tokens`` is the window without a key; ``only_layers``: the only depth at
    which this architecture has windows.
    """

    period: int | None
    full_first: bool = False
    tokens: int = 0
    only_layers: int | None = None


WINDOWS: Final[dict[str, Window]] = {
    "afmoe": Window(4),
    "cohere2": Window(4),
    "cohere2moe": Window(4, full_first=True),
    "exaone-moe": Window(4, tokens=128),
    "exaone4": Window(4, tokens=4096, only_layers=64),
    "gemma2": Window(2, tokens=4096),
    "gemma3": Window(6),
    "gemma3n": Window(5),
    "gemma4": Window(None),
    "gpt-oss": Window(2),
    "granite_swa": Window(None),
    "laguna": Window(4, full_first=True),
    "lfm2": Window(0),
    "llama4": Window(4, tokens=8192),
    "maple": Window(None),
    "mellum": Window(4),
    "mimo2": Window(None),
    "muse-glimmer": Window(4),
    "olmo2": Window(4),
    "plamo3": Window(8),
    "smallthinker": Window(4, full_first=True),
    "spark2_5": Window(None),
    "step35": Window(None),
}

# Encoders, which keep nothing between calls.
ENCODERS: Final = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
    }
)
# Beside them, diffusion models and decoders of sound keep nothing.
CACHELESS: Final = ENCODERS | {"dream", "llada", "llada-moe", "rnd1", "wavtokenizer-dec"}
EMBEDDERS: Final = ENCODERS | {"llama-embed", "t5encoder"}
# All layers keep a state, none a cache.
RECURRENT: Final = frozenset(
    {
        "arwkv7",
        "mamba",
        "mamba2",
        "rwkv6",
        "rwkv6qwen2",
        "rwkv7",
    }
)
# Hybrids whose layers without attention heads are the recurrent ones.
HEADLESS_RECURRENT: Final = frozenset(
    {
        "bailingmoe3",
        "glm5-next",
        "granitehybrid",
        "jamba",
        "kimi-k3",
        "kimi-linear",
        "lfm2",
        "lfm2moe",
        "plamo2",
    }
)
# Hybrids with one attention layer in so many, unless the file lists its recurrent layers.
INTERVAL: Final = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "qwen4exp": 4, "minimax-01": 8}
DELTA_NETS: Final = frozenset({"qwen3next", "qwen35", "qwen35moe", "qwen4exp"})
# Where no expert's width is written, all that are used share the feed-forward width; elsewhere each
# has all of it.
DIVIDED_EXPERTS: Final = frozenset(
    {
        "glm4moe",
        "grovemoe",
        "llada-moe",
        "mellum",
        "nemotron_h_moe",
        "qwen2moe",
        "qwen35moe",
        "qwen3moe",
        "qwen3next",
        "qwen3vlmoe",
        "qwen4exp",
        "rnd1",
    }
)
# Caches of classes of their own (indexers, compressed blocks): taken as ordinary ones.
INEXACT: Final = frozenset(
    {
        "deepseek32",
        "deepseek4",
        "dots3note",
        "glm-dsa",
        "glm5-next",
        "hy_v4",
        "minimax-m3",
        "qwen4exp",
    }
)
