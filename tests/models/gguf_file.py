"""Write a tiny (or sparse and huge) GGUF model that llama.cpp loads and runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType

from tests.models.vocabulary import (
    CHAT_TEMPLATE,
    DEFAULT_REPLY,
    Matrix,
    Vocabulary,
    build_vocabulary,
    chain_weights,
    random_weights,
)

Arch = Literal["llama", "gemma3"]
Fill = Literal["random", "zeros", "sparse"]
Dtype = Literal["f32", "f16", "q8_0"]

TYPES = {
    "f32": GGMLQuantizationType.F32,
    "f16": GGMLQuantizationType.F16,
    "q8_0": GGMLQuantizationType.Q8_0,
}
FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
CHUNK_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Shape:
    """The sizes of a network; ``context`` is the trained context length in tokens."""

    layers: int = 2
    dim: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    feed_forward: int = 128
    context: int = 4096


TINY = Shape()
# Where a size is asked for: proportions of a real model, so that its buffers are in proportion too.
LARGE = Shape(layers=16, dim=1024, heads=16, kv_heads=4, head_dim=64)


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file, by rows and columns as numpy has them."""

    name: str
    shape: tuple[int, ...]
    dtype: GGMLQuantizationType
    data: Matrix | None = None  # None: bulk weights, written by the fill rule
    zero: bool = False  # a bulk tensor that must stay zero for the reply to hold

    @property
    def nbytes(self) -> int:
        block, size = gguf.GGML_QUANT_SIZES[self.dtype]
        return math.prod(self.shape) // block * size


def known(name: str, data: Matrix, dtype: GGMLQuantizationType) -> Tensor:
    """A tensor whose values matter."""
    return Tensor(name, data.shape, dtype, data)


def ones(name: str, size: int) -> Tensor:
    """A norm that changes nothing."""
    return known(name, np.ones(size, dtype=np.float32), GGMLQuantizationType.F32)


def make_gguf(
    path: Path,
    *,
    reply: str = DEFAULT_REPLY,
    loop: bool = False,
    random: bool = False,
    arch: Arch = "llama",
    window: int = 256,
    size: int | None = None,
    fill: Fill = "random",
    dtype: Dtype = "f16",
    layers: int | None = None,
    dim: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    feed_forward: int | None = None,
    context: int | None = None,
    template: bool = True,
    embedding: bool = False,
    name: str = "tiny",
    seed: int = 0,
) -> Shape:
    """Write a model to ``path`` that says ``reply`` whatever it is asked, and return its shape.

    loop: repeat the reply without end (a server stops a slot at ``context``: make it large).
    random: babble bytes instead. size: grow the file to about so many bytes; with ``fill="sparse"``
    nearly all of them are a hole that takes no disk. arch ``gemma3``: five of six layers see only
    ``window`` tokens. embedding: pooled by mean, so that a server answers embeddings with it.
    Raises ValueError for a reply that cannot be spelled, or is too long for ``dim``.
    """
    asked = {
        "layers": layers,
        "dim": dim,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "feed_forward": feed_forward,
        "context": context,
    }
    shape = LARGE if size else TINY
    shape = replace(shape, **{key: value for key, value in asked.items() if value is not None})
    if size:
        shape = replace(shape, feed_forward=feed_forward_for(size, shape, TYPES[dtype]))

    vocab = build_vocabulary(reply)
    if random:
        inner, output = random_weights(vocab, shape.dim, seed)
    else:
        inner, output = chain_weights(vocab, shape.dim, loop=loop, seed=seed)
    tensors = [
        known("token_embd.weight", inner, TYPES[dtype]),
        ones("output_norm.weight", shape.dim),
        known("output.weight", output, TYPES[dtype]),
    ]
    for index in range(shape.layers):
        tensors += layer_tensors(index, shape, TYPES[dtype], arch)

    writer = GGUFWriter(path, arch)
    writer.add_name(name)
    write_shape(writer, shape)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(FILE_TYPES[dtype])
    if arch == "gemma3":
        writer.add_sliding_window(window)
    if embedding:
        writer.add_pooling_type(gguf.PoolingType.MEAN)
    write_vocabulary(writer, vocab)
    if template:
        writer.add_chat_template(CHAT_TEMPLATE)
    write_file(writer, path, tensors, fill=fill, keep_zero=not random, seed=seed)
    return shape


def layer_tensors(
    index: int, shape: Shape, dtype: GGMLQuantizationType, arch: Arch
) -> list[Tensor]:
    """One block, whose outputs (attention and feed-forward) are zero."""

    def norm(name: str, size: int = shape.dim) -> Tensor:
        return ones(f"blk.{index}.{name}.weight", size)

    def matrix(name: str, rows: int, columns: int, zero: bool = False) -> Tensor:
        return Tensor(f"blk.{index}.{name}.weight", (rows, columns), dtype, zero=zero)

    query_rows = shape.heads * shape.head_dim
    kv_rows = shape.kv_heads * shape.head_dim
    extra = []
    if arch == "gemma3":
        extra = [
            norm("attn_q_norm", shape.head_dim),
            norm("attn_k_norm", shape.head_dim),
            norm("post_attention_norm"),
            norm("post_ffw_norm"),
        ]
    return [
        *extra,
        norm("attn_norm"),
        matrix("attn_q", query_rows, shape.dim),
        matrix("attn_k", kv_rows, shape.dim),
        matrix("attn_v", kv_rows, shape.dim),
        matrix("attn_output", shape.dim, query_rows, zero=True),
        norm("ffn_norm"),
        matrix("ffn_gate", shape.feed_forward, shape.dim),
        matrix("ffn_up", shape.feed_forward, shape.dim),
        matrix("ffn_down", shape.dim, shape.feed_forward, zero=True),
    ]


def feed_forward_for(size: int, shape: Shape, dtype: GGMLQuantizationType) -> int:
    """The feed-forward width that brings the file to about ``size`` bytes."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[dtype]
    bytes_per_weight = block_bytes / block
    attention = 2 * shape.layers * shape.dim * shape.head_dim * (shape.heads + shape.kv_heads)
    feed_forward = size - attention * bytes_per_weight
    per_unit = 3 * shape.layers * shape.dim * bytes_per_weight
    return max(256, round(feed_forward / per_unit / 256) * 256)


def write_shape(writer: GGUFWriter, shape: Shape) -> None:
    """The metadata keys that describe the network."""
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.dim)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)


def write_vocabulary(writer: GGUFWriter, vocab: Vocabulary) -> None:
    """The metadata keys of a byte-level BPE tokenizer."""
    types = [TokenType.NORMAL] * len(vocab)
    for token_id in vocab.special.values():
        types[token_id] = TokenType.CONTROL
    for token_id in vocab.markup.values():
        types[token_id] = TokenType.USER_DEFINED
    writer.add_vocab_size(len(vocab))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(vocab.tokens)
    writer.add_token_types(types)
    writer.add_token_merges(vocab.merges)
    writer.add_eos_token_id(vocab.end_of_turn)
    writer.add_eot_token_id(vocab.end_of_turn)
    writer.add_pad_token_id(vocab.special["<|endoftext|>"])
    writer.add_add_bos_token(False)


def write_file(
    writer: GGUFWriter,
    path: Path,
    tensors: list[Tensor],
    *,
    fill: Fill,
    keep_zero: bool,
    seed: int,
) -> None:
    """Header, metadata and tensors; the bulk tensors by the fill rule, a piece at a time."""
    for tensor in tensors:
        # numpy has no dtype for the quantised types; with raw_dtype it is not looked at
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=tensor.dtype
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    alignment = writer.data_alignment
    writer.close()

    rng = np.random.default_rng(seed)
    with path.open("r+b") as out:
        out.seek(0, 2)
        for tensor in tensors:
            out.seek(-out.tell() % alignment, 1)
            zeros = fill == "zeros" or (tensor.zero and keep_zero)
            write_tensor(out, tensor, sparse=fill == "sparse", zeros=zeros, rng=rng)
        out.truncate(out.tell() + -out.tell() % alignment)


def write_tensor(
    out: BinaryIO, tensor: Tensor, *, sparse: bool, zeros: bool, rng: np.random.Generator
) -> None:
    """Write one tensor at the current position and leave the file after it."""
    end = out.tell() + tensor.nbytes
    if tensor.data is not None:
        out.write(gguf.quants.quantize(tensor.data, tensor.dtype).tobytes())
    elif not sparse:
        columns = tensor.shape[-1]
        rows_per_chunk = max(1, CHUNK_ELEMENTS // columns)
        for start in range(0, tensor.shape[0], rows_per_chunk):
            rows = min(rows_per_chunk, tensor.shape[0] - start)
            if zeros:
                chunk = np.zeros((rows, columns), dtype=np.float32)
            else:
                chunk = rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.02)
            out.write(gguf.quants.quantize(chunk, tensor.dtype).tobytes())
    out.seek(end)
