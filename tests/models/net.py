"""A network of any architecture in the making, and its file, whose weights are a hole."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

from tests.models.gguf_file import TYPES, Dtype, write_vocabulary
from tests.models.vocabulary import DEFAULT_REPLY, build_vocabulary


@dataclass
class Net:
    """One network in the making: keys without the architecture's prefix, tensors in ggml's order
    of dimensions."""

    arch: str
    layers: int
    dim: int
    keys: dict[str, Any] = field(default_factory=dict)
    tensors: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    head: bool = True  # a decoder has a final norm
    tied: bool = True  # no output matrix of its own

    def add(self, layer: int, name: str, *shape: int) -> None:
        end = "" if name.endswith((".bias", "ssm_a", "ssm_d", ".scale")) else ".weight"
        self.tensors.append((f"blk.{layer}.{name}{end}", shape))

    def norms(self, layer: int, *names: str, size: int = 0) -> None:
        for name in names:
            self.add(layer, name, size or self.dim)

    def attend(
        self, layer: int, heads: int, kv: int, head: int, *,
        bias: bool = False, norms: bool = False, gated: bool = False, fused: bool = False,
    ) -> None:  # fmt: skip
        """Queries, keys, values and output; ``gated``: queries are twice as wide."""
        rows = heads * head * (2 if gated else 1)
        if fused:
            self.add(layer, "attn_qkv", self.dim, rows + 2 * kv * head)
        else:
            for name, width in (("q", rows), ("k", kv * head), ("v", kv * head)):
                self.add(layer, f"attn_{name}", self.dim, width)
                if bias:
                    self.add(layer, f"attn_{name}.bias", width)
        self.add(layer, "attn_output", heads * head, self.dim)
        if norms:
            self.norms(layer, "attn_q_norm", "attn_k_norm", size=head)

    def feed(self, layer: int, width: int, *, suffix: str = "", gate: bool = True) -> None:
        for name in ("gate", "up") if gate else ("up",):
            self.add(layer, f"ffn_{name}{suffix}", self.dim, width)
        self.add(layer, f"ffn_down{suffix}", width, self.dim)

    def route(self, layer: int, width: int, experts: int, *, gate: bool = True) -> None:
        self.add(layer, "ffn_gate_inp", self.dim, experts)
        for name in ("gate", "up") if gate else ("up",):
            self.add(layer, f"ffn_{name}_exps", self.dim, width, experts)
        self.add(layer, "ffn_down_exps", width, self.dim, experts)

    def mamba2(self, layer: int, inner: int, state: int, ranks: int, groups: int) -> None:
        channels = inner + 2 * groups * state
        self.add(layer, "ssm_in", self.dim, inner + channels + ranks)
        self.add(layer, "ssm_conv1d", 4, channels)
        self.add(layer, "ssm_conv1d.bias", channels)
        self.add(layer, "ssm_dt.bias", ranks)
        self.add(layer, "ssm_a", 1, ranks)
        self.add(layer, "ssm_d", 1, ranks)
        self.add(layer, "ssm_norm", inner // groups, groups)
        self.add(layer, "ssm_out", inner, self.dim)

    def mamba1(self, layer: int, inner: int, state: int, rank: int) -> None:
        self.add(layer, "ssm_in", self.dim, 2 * inner)
        self.add(layer, "ssm_conv1d", 4, inner)
        self.add(layer, "ssm_conv1d.bias", inner)
        self.add(layer, "ssm_x", inner, rank + 2 * state)
        self.add(layer, "ssm_dt", rank, inner)
        self.add(layer, "ssm_dt.bias", inner)
        self.add(layer, "ssm_a", state, inner)
        self.add(layer, "ssm_d", inner)
        self.add(layer, "ssm_out", inner, self.dim)


def write(net: Net, path: Path, *, dtype: Dtype = "q8_0", context: int = 131072) -> Path:
    """The file of ``net``: matrices of ``dtype``, all data a hole."""
    vocab = build_vocabulary(DEFAULT_REPLY)
    ends: list[tuple[str, tuple[int, ...]]] = [("token_embd.weight", (net.dim, len(vocab)))]
    if net.head:
        ends.append(("token_embd_norm.weight" if net.arch == "lfm2" else "output_norm.weight",
                     (net.dim,)))  # fmt: skip
    else:
        ends += [("token_embd_norm.weight", (net.dim,)), ("token_embd_norm.bias", (net.dim,))]
        if net.arch == "bert":
            ends.append(("position_embd.weight", (net.dim, context)))
    if not net.tied:
        ends.append(("output.weight", (net.dim, len(vocab))))
    writer = GGUFWriter(path, net.arch)
    writer.add_name(path.stem)
    writer.add_context_length(context)
    writer.add_embedding_length(net.dim)
    writer.add_block_count(net.layers)
    for key, value in net.keys.items():
        _add_key(writer, f"{net.arch}.{key}", value)
    if not net.head:
        writer.add_token_type_count(2)
    write_vocabulary(writer, vocab)
    total = 0
    for name, shape in (*ends, *net.tensors):
        small = len(shape) == 1 or "ssm_a" in name or "ssm_d" in name or "conv" in name
        odd = shape[0] % 32 or ".bias" in name or "ssm_norm" in name
        exact = (small and "_proj" not in name) or odd
        kind = GGMLQuantizationType.F32 if exact else TYPES[dtype]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        amount = math.prod(shape) // block * size
        writer.add_tensor_info(name, shape[::-1], np.dtype(np.float32), amount, raw_dtype=kind)
        total += -(-amount // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        file.truncate(end + -end % 32 + total)
    return path


def _add_key(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_array(key, list(value))
