"""Write a tiny encoder-only model: it answers embeddings and completes nothing.

A BERT-like network of noise with a WordPiece tokenizer of single letters. Equal texts get equal
vectors, different texts different ones; what they are is of no interest.
"""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType

from tests.models.gguf_file import Shape, Tensor, known, ones, write_file
from tests.models.vocabulary import Matrix

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# llama.cpp writes the start of a word as U+2581 where BERT's own files mark the rest with "##".
LETTERS = string.ascii_lowercase + string.digits
TOKENS = [*SPECIAL, *(f"\u2581{letter}" for letter in LETTERS), *LETTERS]

SMALL = Shape(layers=2, dim=32, heads=4, kv_heads=4, head_dim=8, feed_forward=64, context=512)


def make_embedding_gguf(
    path: Path, *, context: int = 512, rerank: bool = False, name: str = "tiny-embed", seed: int = 0
) -> Shape:
    """Write an encoder to ``path`` and return its shape (``dim`` is the length of its vectors).

    rerank: with a classifier head of one output, as rerankers have, instead of mean pooling.
    """
    shape = replace(SMALL, context=context)
    rng = np.random.default_rng(seed)

    def noise(*size: int) -> Matrix:
        return rng.standard_normal(size, dtype=np.float32) * np.float32(0.3)

    def weight(name: str, rows: int, columns: int) -> list[Tensor]:
        f32 = GGMLQuantizationType.F32
        return [
            known(f"{name}.weight", noise(rows, columns), f32),
            known(f"{name}.bias", noise(rows), f32),
        ]

    def norm(name: str) -> list[Tensor]:
        zeros = np.zeros(shape.dim, dtype=np.float32)
        return [ones(f"{name}.weight", shape.dim), known(f"{name}.bias", zeros, f32)]

    f32 = GGMLQuantizationType.F32
    tensors = [
        known("token_embd.weight", noise(len(TOKENS), shape.dim), f32),
        known("token_types.weight", noise(2, shape.dim), f32),
        known("position_embd.weight", noise(context, shape.dim), f32),
        *norm("token_embd_norm"),
    ]
    for index in range(shape.layers):
        block = f"blk.{index}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors += weight(f"{block}.{part}", shape.dim, shape.dim)
        tensors += norm(f"{block}.attn_output_norm")
        tensors += weight(f"{block}.ffn_up", shape.feed_forward, shape.dim)
        tensors += weight(f"{block}.ffn_down", shape.dim, shape.feed_forward)
        tensors += norm(f"{block}.layer_output_norm")
    if rerank:
        tensors += weight("cls", shape.dim, shape.dim)
        tensors += weight("cls.output", 1, shape.dim)

    writer = GGUFWriter(path, "bert")
    writer.add_name(name)
    write_metadata(writer, shape, rerank=rerank)
    write_file(writer, path, tensors, fill="zeros", keep_zero=True, seed=seed)
    return shape


def write_metadata(writer: GGUFWriter, shape: Shape, *, rerank: bool) -> None:
    """The keys of an encoder and its tokenizer."""
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.dim)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK if rerank else gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(len(TOKENS))
    writer.add_token_type_count(2)
    types = [TokenType.CONTROL] * len(SPECIAL)
    types += [TokenType.NORMAL] * (len(TOKENS) - len(SPECIAL))
    writer.add_tokenizer_model("bert")
    writer.add_token_list(TOKENS)
    writer.add_token_types(types)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_eos_token_id(3)
    writer.add_mask_token_id(4)
