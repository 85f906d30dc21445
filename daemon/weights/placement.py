"""Which memory holds what: the layers on GPUs, the rest in main memory. Pure arithmetic, bytes.

The rules are those of llama.cpp (``llama_model_base::load_tensors``, commit 0c1e57098); the sizes
were compared with ``llama-fit-params`` and one or two remote devices in place of GPUs.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final

from daemon.core.units import MIB
from daemon.weights.facts import LayerBytes, Weights
from daemon.weights.footprint import (
    Breakdown,
    Shape,
    compute_bytes,
    estimate,
    kv_bytes,
    layer_bytes,
    mask_cells,
    weight_bytes,
)

ALL: Final = 1 << 30  # layers: more than any model has
GPU_OVERHEAD: Final = 320 * MIB  # what CUDA takes for a process beside its buffers; not measured
COPIES: Final = 4  # of its inputs, which a pipeline over several GPUs keeps

_NONE: Final = Breakdown(0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Placement:
    """How an engine spreads a model.

    ``devices``: pools of the GPUs that it uses, in its order; none: all in ``host``.
    ``gpu_layers``: ``-ngl``, the head counts as one. ``split``: proportions, ``--tensor-split``;
    none: equal ones (llama.cpp splits by what is free). ``host_experts``: layers from the first on
    whose routed experts stay in main memory. ``kv_offload``: caches lie with their layers.
    ``shared``: the GPU works in ``host`` itself (Apple): weights are mapped once for both, yet each
    has buffers of its own. ``projector_at_home``: the projector runs in main memory.
    """

    devices: tuple[str, ...] = ()
    host: str = "ram"
    gpu_layers: int = ALL
    split: tuple[float, ...] = ()
    host_experts: frozenset[int] | None = None  # None: of no layer
    kv_offload: bool = True
    shared: bool = False
    projector_at_home: bool = False

    def of(self, layer: int, count: int) -> str:
        """The pool of a layer of ``count``; the head is the layer ``count``."""
        if not self.devices:
            return self.host
        first = max(0, count + 1 - self.gpu_layers)
        on_gpu = min(self.gpu_layers, count + 1)
        if layer < first or not on_gpu:
            return self.host
        shares = (self.split or (1.0,) * len(self.devices))[: len(self.devices)]
        total = sum(shares) or 1.0
        ends = [end / total for end in accumulate(shares)]
        index = bisect_right(ends, (layer - first) / on_gpu)
        return self.devices[min(index, len(shares) - 1)]


def place(weights: Weights, shape: Shape, placement: Placement) -> dict[str, Breakdown]:
    """What llama.cpp will take of each pool. Pools of which it takes nothing are left out."""
    whole = estimate(weights, shape)
    count = len(weights.layers)
    pools = [placement.of(index, count) for index in range(count + 1)]
    if set(pools) == {placement.host}:
        return {placement.host: whole}
    parts: dict[str, Breakdown] = dict.fromkeys((*placement.devices, placement.host), _NONE)

    def add(pool: str, part: Breakdown) -> None:
        parts[pool] = parts[pool] + part

    for pool, part in _tensors(weights, shape, placement, pools):
        add(pool, part)
    for index, layer in enumerate(weights.layers):
        pool = pools[index] if placement.kv_offload else placement.host
        add(pool, replace(_NONE, kv=layer_bytes(layer, shape)))
    for pool, amount in _compute(weights, shape, placement, pools).items():
        add(pool, replace(_NONE, compute=amount))
    # A projector and a draft model run whole on the first device.
    first = next(pool for pool in pools if pool != placement.host)
    small = weights.draft.tensor_bytes if weights.draft is not None else 0
    projector = replace(_NONE, weights=weights.extra_bytes - small, compute=weights.extra_compute)
    draft = whole.kv - kv_bytes(weights, shape)
    more = whole.compute - compute_bytes(weights, shape) - weights.extra_compute
    add(first, replace(_NONE, weights=small, kv=draft, compute=more))
    add(placement.host if placement.projector_at_home else first, projector)
    add(placement.host, replace(whole, weights=0, kv=0, compute=0))
    if placement.shared:
        return {placement.host: sum(parts.values(), _NONE)}
    for device in {pool for pool in pools if pool != placement.host}:
        add(device, replace(_NONE, overhead=GPU_OVERHEAD))
    return {pool: part for pool, part in parts.items() if part.total}


def _tensors(
    weights: Weights, shape: Shape, placement: Placement, pools: Sequence[str]
) -> list[tuple[str, Breakdown]]:
    """The tensors of each layer, then of the head; the embedding stays in main memory, and what is
    not known by layer goes the way of the last one. Where only the sum is known, every layer has an
    equal share of it, and the head another."""
    places: list[tuple[str, int]] = []
    experts_at_home = placement.host_experts or frozenset()
    each = LayerBytes(weights.tensor_bytes // len(pools))
    layers = weights.parts.layers or (each,) * (len(pools) - 1)
    for index, layer in enumerate(layers[: len(pools) - 1]):
        if layer.loaded or shape.drafting:
            places.append((pools[index], layer.dense))
            home = index in experts_at_home
            places.append((placement.host if home else pools[index], layer.experts))
    known = sum(amount for _, amount in places)
    embedding = weights.parts.embedding
    places.append((placement.host, embedding))
    head = weight_bytes(weights, shape) - known - embedding
    if not weights.parts.head and pools[-1] != placement.host and not placement.shared:
        head += embedding  # a copy of the shared matrix
    places.append((pools[-1], max(0, head)))
    return [(pool, replace(_NONE, weights=amount)) for pool, amount in places]


def _compute(
    weights: Weights, shape: Shape, placement: Placement, pools: Sequence[str]
) -> dict[str, int]:
    """Buffers of every device that computes; main memory holds at least the inputs."""
    whole = compute_bytes(weights, shape)
    masks = 2 * shape.tokens * sum(mask_cells(weights, shape))
    state = 4 * shape.tokens * weights.n_embd
    devices = {pool for pool in pools if pool != placement.host}
    at_home = placement.host in pools[:-1] or bool(placement.host_experts)
    home = whole if at_home else masks + 2 * state
    if len(devices) > 1 and not at_home and placement.kv_offload:
        # Batches overlap, and the inputs of several are there at once.
        return dict.fromkeys(devices, whole + COPIES * (masks + 3 * state // 2)) | {
            placement.host: (COPIES - 1) * home
        }
    more = state if at_home else 0
    return dict.fromkeys(devices, whole + more) | {placement.host: home}


def expert_layers(pattern: str, count: int) -> frozenset[int]:
    """The layers whose routed experts a pattern of ``--override-tensor`` names; a pattern that is
    no regular expression names none."""
    try:
        compiled = re.compile(pattern)
    except re.error:
        return frozenset()
    names = ("ffn_up_exps", "ffn_down_exps")
    return frozenset(
        index
        for index in range(count)
        if all(compiled.search(f"blk.{index}.{name}.weight") for name in names)
    )
