"""What is known of a model from its files: plain values, the input of every estimate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Format = Literal["gguf", "safetensors"]
Kind = Literal["chat", "completion", "embedding", "rerank"]


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer remembers of a conversation.

    ``kv_heads`` 0: no attention cache. ``window`` is in tokens, None for the whole context.
    ``state_bytes`` is a recurrent state's size per sequence, whatever the context.
    ``mla``: only the (compressed) keys are cached.
    """

    kv_heads: int = 0
    key_length: int = 0
    value_length: int = 0
    window: int | None = None
    state_bytes: int = 0
    mla: bool = False


@dataclass(frozen=True, slots=True)
class Weights:
    """A model as its files describe it. All sizes in bytes, all lengths in tokens or elements."""

    format: Format
    files: tuple[Path, ...]  # the first is the one that an engine is given (or the folder's config)
    tensor_bytes: int
    architecture: str
    n_ctx_train: int  # 0 where the files do not say
    n_embd: int
    n_ff: int  # the widest dense feed-forward layer
    graph_width: int  # floats per token that one layer's computation needs at its worst
    layers: tuple[Layer, ...]
    kind: Kind
    template: str | None
    quantisation: str
    name: str
    disk_bytes: int
    extra_bytes: int = 0  # tensors of the projector and of the draft model
    extra_compute: int = 0  # what the projector computes in
    expert_bytes: int = 0  # the part of tensor_bytes that belongs to routed experts
    vision: bool = False
    draft: Weights | None = None
    exact: bool = True  # False: its cache has a shape that this package only approximates

    @property
    def recurrent(self) -> bool:
        """Whether a part of its memory cannot be rolled back token by token."""
        return any(layer.state_bytes for layer in self.layers)


def graph_width(
    *,
    n_embd: int,
    n_ff: int,
    heads: int = 0,
    head_length: int = 0,
    expert_ff: int = 0,
    experts_used: int = 0,
    mla_length: int = 0,
    delta_width: int = 0,
    mamba_width: int = 0,
) -> int:
    """Floats per token that the widest step of a llama.cpp graph needs at the same time.

    Measured, not derived: llama.cpp 0c1e57098 on the CPU with flash attention, some 50 models with
    one dimension changed at a time. The dense rule holds within 0.3%, attention within 0.1%; the
    others are bounds from above (experts, compressed attention, Mamba: up to 25% high).
    ``delta_width`` is a gated delta net's convolution, ``mamba_width`` that of a Mamba layer,
    ``mla_length`` the decompressed key length of compressed attention.
    """
    widths = [
        3 * n_ff + 5 * n_embd,
        5 * n_embd + heads * (2 * head_length + mla_length),
    ]
    if experts_used:
        routed = expert_ff * experts_used
        # Each expert's output is as wide as the model. It takes the place of the hidden state
        # where that is wide enough, else it comes on top.
        outputs = n_embd * experts_used if 2 * expert_ff < n_embd else 0
        widths.append(3 * routed + 5 * n_embd + outputs)
    if delta_width:
        widths.append((9 * delta_width + 18 * n_embd) // 4)
    if mamba_width:
        widths.append(53 * (mamba_width + n_embd) // 10)
    return max(widths)
