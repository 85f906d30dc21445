"""Write a tiny Hugging Face checkpoint that MLX servers load and run.

The folder holds config.json, model.safetensors, tokenizer.json and tokenizer_config.json, all
written here: only numpy is needed.
"""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.models.gguf_file import TINY, Shape
from tests.models.vocabulary import (
    CHAT_TEMPLATE,
    DEFAULT_REPLY,
    END_OF_TURN,
    Vocabulary,
    build_vocabulary,
    chain_weights,
    random_weights,
)

Half = npt.NDArray[np.float16]


def make_hf(
    folder: Path,
    *,
    reply: str = DEFAULT_REPLY,
    loop: bool = False,
    random: bool = False,
    size: int | None = None,
    context: int = 4096,
    layers: int = 2,
    dim: int = 64,
    template: bool = True,
    seed: int = 0,
) -> Shape:
    """Make ``folder`` a model that says ``reply`` whatever it is asked, and return its shape.

    loop: repeat the reply without end. random: babble bytes. size: grow the weights to about so
    many bytes (really written: 7 s for a GiB). Raises ValueError as ``make_gguf`` does.
    """
    shape = replace(TINY, layers=layers, dim=dim, context=context)
    if size:
        attention = 4 * layers * dim * shape.head_dim * (shape.heads + shape.kv_heads)
        width = round((size - attention) / (6 * layers * dim) / 64) * 64
        shape = replace(shape, feed_forward=max(256, width))
    vocab = build_vocabulary(reply)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {
        "config.json": llama_config(shape, vocab),
        "tokenizer.json": tokenizer_json(vocab),
        "tokenizer_config.json": tokenizer_config(shape, template=template),
    }.items():
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    tensors = weights(shape, vocab, loop=loop, random=random, seed=seed)
    write_safetensors(folder / "model.safetensors", tensors)
    return shape


def llama_config(shape: Shape, vocab: Vocabulary) -> dict[str, object]:
    """config.json of a Llama network."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.dim,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": shape.context,
        "vocab_size": len(vocab),
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float16",
        "bos_token_id": None,
        "eos_token_id": vocab.end_of_turn,
        "pad_token_id": vocab.special["<|endoftext|>"],
    }


def tokenizer_json(vocab: Vocabulary) -> dict[str, object]:
    """tokenizer.json of a byte-level BPE."""

    def added(token: str, token_id: int, *, special: bool) -> dict[str, object]:
        return {
            "id": token_id,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": special,
        }

    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            *(added(token, i, special=True) for token, i in vocab.special.items()),
            *(added(token, i, special=False) for token, i in vocab.markup.items()),
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(vocab.tokens)},
            "merges": [merge.split(" ") for merge in vocab.merges],
        },
    }


def tokenizer_config(shape: Shape, *, template: bool) -> dict[str, object]:
    """tokenizer_config.json, with the chat template or without."""
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": shape.context,
        "eos_token": END_OF_TURN,
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
    }
    if template:
        config["chat_template"] = CHAT_TEMPLATE
    return config


def weights(
    shape: Shape, vocab: Vocabulary, *, loop: bool, random: bool, seed: int
) -> dict[str, Half]:
    """All tensors by name."""
    rng = np.random.default_rng(seed)
    if random:
        embedding, output = random_weights(vocab, shape.dim, seed)
    else:
        embedding, output = chain_weights(vocab, shape.dim, loop=loop, seed=seed)

    def bulk(rows: int, columns: int) -> Half:
        noise = rng.standard_normal((rows, columns), dtype=np.float32)
        return (noise * np.float32(0.02)).astype(np.float16)

    def silent(rows: int, columns: int) -> Half:
        """Zero unless random: what a block adds must not disturb the reply."""
        return bulk(rows, columns) if random else np.zeros((rows, columns), np.float16)

    ones = np.ones(shape.dim, np.float16)
    query, key_value = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    tensors = {
        "model.embed_tokens.weight": embedding.astype(np.float16),
        "model.norm.weight": ones,
        "lm_head.weight": output.astype(np.float16),
    }
    for index in range(shape.layers):
        layer = {
            "input_layernorm": ones,
            "self_attn.q_proj": bulk(query, shape.dim),
            "self_attn.k_proj": bulk(key_value, shape.dim),
            "self_attn.v_proj": bulk(key_value, shape.dim),
            "self_attn.o_proj": silent(shape.dim, query),
            "post_attention_layernorm": ones,
            "mlp.gate_proj": bulk(shape.feed_forward, shape.dim),
            "mlp.up_proj": bulk(shape.feed_forward, shape.dim),
            "mlp.down_proj": silent(shape.dim, shape.feed_forward),
        }
        tensors |= {f"model.layers.{index}.{name}.weight": data for name, data in layer.items()}
    return tensors


def write_safetensors(path: Path, tensors: dict[str, Half]) -> None:
    """A safetensors file: length, JSON header, bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": "F16",
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(text)))
        out.write(text)
        for tensor in tensors.values():
            out.write(tensor.tobytes())
