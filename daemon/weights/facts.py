"""What is known of a model from its files: plain values, the input of every estimate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

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
class LayerBytes:
    """Tensor bytes of one layer, its routed experts apart. ``loaded`` False: a layer that predicts
    further tokens, which llama.cpp passes over unless it drafts with it."""

    dense: int = 0
    experts: int = 0
    loaded: bool = True

    @property
    def total(self) -> int:
        return self.dense + self.experts


@dataclass(frozen=True, slots=True)
class Parts:
    """Tensor bytes by place: what comes before the layers, each layer, the head behind them.

    ``head`` 0: it shares the embedding's matrix, of which a GPU then gets a copy.
    """

    layers: tuple[LayerBytes, ...] = ()
    embedding: int = 0
    head: int = 0


@dataclass(frozen=True, slots=True)
class Recurrent:
    """What the widest recurrent layer computes in: floats per token, and per sequence."""

    width: int = 0
    state: int = 0


NO_PARTS: Final = Parts()
NO_RECURRENCE: Final = Recurrent()


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
    n_vocab: int = 0  # 0 where the files do not say
    heads: int = 0  # of attention, the most of any layer
    logits: bool = True  # False: an encoder, whose graph ends in embeddings
    recurrence: Recurrent = NO_RECURRENCE
    parts: Parts = NO_PARTS  # empty where only the sum is known
    parameters: int = 0  # numbers that it was trained to; 0 where the files do not say

    @property
    def recurrent(self) -> bool:
        """Whether a part of its memory cannot be rolled back token by token."""
        return any(layer.state_bytes for layer in self.layers)

    @property
    def passed_over(self) -> int:
        """Bytes of layers that are not loaded unless the engine drafts with them."""
        return sum(layer.total for layer in self.parts.layers if not layer.loaded)


def graph_width(
    *,
    n_embd: int,
    n_ff: int,
    heads: int = 0,
    head_length: int = 0,
    expert_ff: int = 0,
    experts_used: int = 0,
    mla_length: int = 0,
    gated: bool = True,
    encoder: bool = False,
) -> int:
    """Floats per token that the widest step of a llama.cpp graph needs at the same time.

    Measured, not derived: two builds of llama.cpp (0c1e57098, and the one in xllamacpp
    2026.10.11549) on the CPU with flash attention, the wider of the two, with one dimension changed
    at a time. The newer one often does with one ``n_embd`` less. ``tests/bench/bench_footprint.py``
    measures it again. ``gated``: the feed-forward layers have a gate. ``mla_length`` is the
    decompressed key length of compressed attention.
    """
    if encoder:
        return max((3 * n_ff + 5 * n_embd) if gated else (2 * n_ff + n_embd), 17 * n_embd // 2)
    widths = [
        # Compressed attention keeps some of its inputs while the layer is computed.
        3 * n_ff + 5 * n_embd + (n_embd // 2 if mla_length else 0),
        5 * n_embd + heads * (2 * head_length + mla_length),
    ]
    if experts_used:
        routed = expert_ff * experts_used
        # Each expert's output is as wide as the model. It takes the place of the hidden state
        # where that is wide enough, else it comes on top.
        outputs = n_embd * experts_used if 2 * expert_ff < n_embd else 0
        widths.append(3 * routed + 5 * n_embd + outputs)
    return max(widths)


def mamba(*, n_embd: int, inner: int, state: int, groups: int, heads: int) -> Recurrent:
    """A Mamba layer (the first kind has no groups), measured as ``graph_width`` was."""
    if not groups:
        return Recurrent(5 * n_embd + 5 * inner, state * inner)
    projected = 2 * inner + 2 * groups * state + heads
    return Recurrent(5 * n_embd + 26 * projected // 10, state * inner)


def delta_net(*, n_embd: int, inner: int, key: int, state: int) -> Recurrent:
    """A gated delta net: ``inner`` is the width of its values, ``key`` that of its keys."""
    return Recurrent(5 * n_embd + max(9 * inner // 2 + 2 * key, 8 * key), state * inner)
