"""How much memory a model will take, before its first start. Pure arithmetic, bytes throughout.

``footprint = weights + kv + compute + output + prompt cache + overhead`` (+ context checkpoints).
The formulas are those of llama.cpp (``llama-context.cpp``, ``llama-kv-cache*.cpp``,
``llama-memory-recurrent.cpp``, commit 0c1e57098) and equal the sizes that it logs. Which share a
GPU holds is in ``placement``.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import Final

from daemon.core.units import MIB
from daemon.weights.facts import Layer, Weights
from daemon.weights.ggml import CACHE_TYPES

CELL_STEP: Final = 256  # llama.cpp pads every context to this
OVERHEAD: Final = 20 * MIB  # of a llama.cpp process beside its buffers
INPUT_FLOATS: Final = 16  # positions, cells and identities of one token
MLX_OVERHEAD: Final = 128 * MIB  # a Python process with mlx and the tokenizer
MLX_STEP: Final = 256  # tokens by which MLX's caches grow
MLX_PREFILL: Final = 2048  # tokens that mlx-lm reads at once


@dataclass(frozen=True, slots=True)
class Shape:
    """How an engine is asked to run a model.

    ``ctx``: tokens over all slots together (the engine's ``-c``); each slot gets its share, or all
    share all of them (``unified_kv``). ``ubatch``: ``-ub``. ``type_k``, ``type_v``: names of
    ``CACHE_TYPES``. ``prompt_cache``: bytes of ``--cache-ram``. ``checkpoints``: states kept per
    slot for going back in models with windows or recurrent layers (``--ctx-checkpoints``; the
    engine's own default is 32, so it must always be told). ``batch``: ``-b``. ``embedding``: every
    token gives an output, so logits and embeddings of a whole batch are kept. ``all_logits``: an
    engine that reserves for a logit row of every token though it makes one a slot. ``flash``: False
    with ``-fa off``. ``drafting``: with the layers that predict further tokens.
    """

    ctx: int
    slots: int = 1
    ubatch: int = 512
    type_k: str = "f16"
    type_v: str = "f16"
    prompt_cache: int = 0
    unified_kv: bool = False
    swa_full: bool = False
    checkpoints: int = 0
    batch: int = 2048
    embedding: bool = False
    all_logits: bool = False
    flash: bool = True
    drafting: bool = False

    def __post_init__(self) -> None:
        for name in ("ctx", "slots", "ubatch", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, and must be 1 or more")
        for name in ("type_k", "type_v"):
            if getattr(self, name) not in CACHE_TYPES:
                allowed = ", ".join(CACHE_TYPES)
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed are {allowed}")

    @property
    def cells(self) -> int:
        """Cells of a layer that sees everything, in one stream."""
        total = _pad(self.ctx)
        return total if self.unified_kv else _pad(max(1, total // self.slots))

    @property
    def streams(self) -> int:
        """Separate caches: one a slot, or one for all."""
        return 1 if self.unified_kv else self.slots

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch."""
        return min(self.ctx, self.ubatch)

    def window_cells(self, window: int) -> int:
        """Cells of a layer that sees ``window`` tokens, in one stream."""
        if self.swa_full:
            return self.cells
        sharing = self.slots if self.unified_kv else 1
        return _pad(min(self.cells, window * sharing + self.ubatch))


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Where the bytes of a footprint go."""

    weights: int
    kv: int
    compute: int
    prompt_cache: int
    overhead: int
    checkpoints: int = 0
    output: int = 0  # logits and embeddings of one batch

    @property
    def total(self) -> int:
        return sum(astuple(self))

    def __add__(self, other: Breakdown) -> Breakdown:
        return Breakdown(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def estimate(weights: Weights, shape: Shape) -> Breakdown:
    """What llama.cpp will take for ``weights`` run as ``shape``."""
    kv = kv_bytes(weights, shape)
    compute = compute_bytes(weights, shape) + weights.extra_compute
    if weights.draft is not None:
        kv += kv_bytes(weights.draft, shape)
        compute += compute_bytes(weights.draft, shape)
    return Breakdown(
        weights=weight_bytes(weights, shape) + weights.extra_bytes,
        kv=kv,
        compute=compute,
        prompt_cache=shape.prompt_cache,
        overhead=OVERHEAD,
        checkpoints=shape.checkpoints * shape.slots * checkpoint_bytes(weights, shape),
        output=output_bytes(weights, shape),
    )


def weight_bytes(weights: Weights, shape: Shape) -> int:
    """Tensors that are really loaded."""
    return weights.tensor_bytes - (0 if shape.drafting else weights.passed_over)


def kv_bytes(weights: Weights, shape: Shape) -> int:
    """Attention caches and recurrent states of all slots."""
    return sum(layer_bytes(layer, shape) for layer in weights.layers)


def layer_bytes(layer: Layer, shape: Shape) -> int:
    """What one layer remembers of all slots."""
    cells = _cells(layer, shape) * shape.streams
    return cells * _cell_bytes(layer, shape.type_k, shape.type_v) + shape.slots * layer.state_bytes


def compute_bytes(weights: Weights, shape: Shape) -> int:
    """The buffer in which one micro-batch is computed: activations, and a mask per kind of cache.

    The vocabulary enters where many tokens give logits: embeddings made by a decoder, and builds
    from before June 2026, which reserve for all (llama.cpp #23861). Without flash attention the
    scores of all heads over the whole cache are there at once, and masks are of 32 bits.
    """
    tokens, n_embd = shape.tokens, weights.n_embd
    cells = mask_cells(weights, shape)
    # Copies of a state: one a sequence, two where the sequences share the micro-batch.
    states = shape.slots * (1 if shape.slots == 1 else 2) * weights.recurrence.state
    floats = max(
        tokens * weights.graph_width,
        tokens * weights.recurrence.width + states,
    )
    if weights.logits:
        every = shape.embedding or shape.all_logits
        rows = tokens if every else min(tokens, shape.slots)
        floats = max(floats, 5 * tokens * n_embd + rows * weights.n_vocab)
    if not shape.flash:
        floats = max(floats, tokens * (8 * n_embd + weights.heads * max(cells)))
    masks = tokens * sum(cells) * (2 if shape.flash else 4)
    return 4 * (floats + tokens * INPUT_FLOATS) + masks


def mask_cells(weights: Weights, shape: Shape) -> tuple[int, ...]:
    """The cells that a token looks at, by kind of cache: all, and those of a window."""
    masks = {
        layer.window is not None: _cells(layer, shape) for layer in weights.layers if layer.kv_heads
    }
    if masks:
        return tuple(masks.values())
    # Without a cache it attends within its batch, or not at all.
    return (0,) if weights.recurrent else (shape.tokens,)


def output_bytes(weights: Weights, shape: Shape) -> int:
    """What the results of one batch are kept in, in ordinary memory.

    With embeddings that is a row of logits for every token too, also of encoders, which make none
    (seen: 0.2 MB a token of SmolLM2, whose vocabulary is 49,152).
    """
    if shape.embedding:
        return 4 * shape.batch * (weights.n_vocab + weights.n_embd)
    return 4 * shape.slots * weights.n_vocab


def checkpoint_bytes(weights: Weights, shape: Shape) -> int:
    """One checkpoint of one slot: what cannot be rolled back, windows and recurrent states.

    Of a windowed layer the window itself is kept (seen: 20.01 MiB for 10 layers of 1024 tokens at
    2 KiB), up to ``--ctx-checkpoints`` times a slot, in ordinary memory.
    """
    windows = sum(
        min(shape.cells, layer.window) * _cell_bytes(layer, shape.type_k, shape.type_v)
        for layer in weights.layers
        if layer.window is not None and not shape.swa_full
    )
    return windows + sum(layer.state_bytes for layer in weights.layers)


def estimate_mlx(
    weights: Weights,
    ctx: int,
    *,
    slots: int = 1,
    prefill: int = MLX_PREFILL,
    prompt_cache: int = 0,
    overhead: int = MLX_OVERHEAD,
    cache_type: str = "f16",
) -> Breakdown:
    """What an MLX engine will take with ``slots`` conversations of ``ctx`` tokens each.

    Caches grow by 256 tokens, so this is the state at a full context; of ``cache_type``, whose 8
    bits are stored as those of llama.cpp are: with 32 more for each group of 64. A window holds its
    tokens and one prefill step. Activations are 16-bit; the graph's width is llama.cpp's
    (MLX frees and reuses buffers in its own way: a guess until it has been measured).
    """
    tokens = _pad(ctx, MLX_STEP)
    kv = 0
    for layer in weights.layers:
        held = tokens if layer.window is None else min(tokens, layer.window + prefill)
        kv += held * _cell_bytes(layer, cache_type, cache_type) + layer.state_bytes
    return Breakdown(
        weights=weights.tensor_bytes + weights.extra_bytes,
        kv=kv * slots,
        compute=2 * prefill * max(weights.graph_width, weights.recurrence.width)
        + weights.extra_compute,
        prompt_cache=prompt_cache,
        overhead=overhead,
    )


def largest_context(
    weights: Weights, shape: Shape, available_bytes: int, *, floor: int, ceiling: int
) -> int | None:
    """The largest ``ctx`` from ``floor`` to ``ceiling`` whose estimate fits ``available_bytes``.

    None where not even ``floor`` fits. Between the two ends it is a multiple of 256 a slot, which
    is what the engine would round up to.
    """
    ceiling = max(floor, ceiling)

    def fits(ctx: int) -> bool:
        return estimate(weights, replace(shape, ctx=ctx)).total <= available_bytes

    if not fits(floor):
        return None
    if fits(ceiling):
        return ceiling
    step = CELL_STEP * shape.streams
    # Invariant: low fits (or is the floor itself), high does not.
    low, high = floor // step, -(-ceiling // step)
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle * step):
            low = middle
        else:
            high = middle
    return max(floor, low * step)


def _cells(layer: Layer, shape: Shape) -> int:
    return shape.cells if layer.window is None else shape.window_cells(layer.window)


def _cell_bytes(layer: Layer, type_k: str, type_v: str) -> int:
    """Bytes of one token in one layer's cache."""
    keys = _row_bytes(layer.kv_heads * layer.key_length, type_k)
    if layer.mla:
        return keys
    return keys + _row_bytes(layer.kv_heads * layer.value_length, type_v)


def _row_bytes(elements: int, cache_type: str) -> int:
    block, size = CACHE_TYPES[cache_type]
    return -(-elements // block) * size


def _pad(tokens: int, step: int = CELL_STEP) -> int:
    return -(-tokens // step) * step
