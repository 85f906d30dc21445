"""Read safetensors headers and the JSON files beside them, all of it from strangers.

A file is an 8-byte length, that many bytes of JSON (tensor name to type, shape and offsets), then
the data. Texts are bounded before they are parsed, and only known fields are built.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import msgspec

from daemon.weights.errors import WeightsError
from daemon.weights.reader import open_regular

_T = TypeVar("_T")

MAX_HEADER: Final = 16 << 20  # bytes of JSON; a shard of the largest models has about one
MAX_INDEX: Final = 32 << 20
MAX_CONFIG: Final = 2 << 20
MAX_TENSORS: Final = 200_000
MAX_FILES: Final = 10_000

BITS: Final = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


class _Tensor(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class _Tokenizer(msgspec.Struct):
    chat_template: str | list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """What one file says. ``type_bytes`` is tensor bytes by type name."""

    tensor_count: int
    tensor_bytes: int
    type_bytes: Mapping[str, int]
    file_size: int


def read_header(path: Path) -> SafetensorsHeader:
    """The header of one safetensors file. Blocks on the disk: call it in a thread.

    Raises WeightsError for everything that is not sound.
    """
    with open_regular(path) as (descriptor, size):
        head = os.pread(descriptor, 8, 0)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or not 2 <= length <= size - 8:
            raise _damaged(path, "the file is shorter than its header says, or is no safetensors")
        if length > MAX_HEADER:
            raise _damaged(path, f"its header claims {length} bytes")
        text = os.pread(descriptor, length, 8)
    if len(text) < length:
        raise _damaged(path, "the file became shorter while it was read")
    # Each tensor is an object: bound their number before anything is built of them.
    if text.count(b"{") > MAX_TENSORS + 2:
        raise _damaged(path, f"it claims over {MAX_TENSORS} tensors")
    entries = decode(text, dict[str, msgspec.Raw], path)
    entries.pop("__metadata__", None)
    return _sum(path, entries, size, room=size - 8 - length)


def _sum(
    path: Path, entries: Mapping[str, msgspec.Raw], size: int, *, room: int
) -> SafetensorsHeader:
    decoder = msgspec.json.Decoder(_Tensor)
    types: dict[str, int] = {}
    for name, raw in entries.items():
        try:
            tensor = decoder.decode(raw)
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise _damaged(path, f"the tensor {name[:80]!r} is not described properly") from None
        begin, end = tensor.data_offsets
        if not 0 <= begin <= end:
            raise _damaged(path, f"the tensor {name[:80]!r} has impossible offsets")
        if end > room:
            raise _damaged(path, f"the data of the tensor {name[:80]!r} is not within the file")
        if _claimed_bytes(tensor) not in (None, end - begin):
            raise _damaged(path, f"the tensor {name[:80]!r} has another size than its shape")
        if tensor.dtype in types or len(types) < 256:
            types[tensor.dtype] = types.get(tensor.dtype, 0) + end - begin
    total = sum(types.values())
    if total > room:
        raise _damaged(path, "its tensors overlap")
    return SafetensorsHeader(len(entries), total, MappingProxyType(types), size)


def _claimed_bytes(tensor: _Tensor) -> int | None:
    """Bytes by type and shape; None where the type is newer than this table."""
    bits = BITS.get(tensor.dtype)
    if bits is None:
        return None
    for size in tensor.shape[:16]:
        if not 0 <= size < 1 << 40:
            return -1
        bits *= size
    return bits // 8 if len(tensor.shape) <= 16 else -1


def read_json(path: Path, limit: int = MAX_CONFIG) -> dict[str, Any]:
    """A JSON object from a file of at most ``limit`` bytes. Raises WeightsError."""
    return decode(read_text(path, limit), dict[str, Any], path)


def read_template(path: Path, limit: int) -> str | list[dict[str, Any]] | None:
    """The ``chat_template`` of a JSON file; nothing else of it is built. Raises WeightsError."""
    return decode(read_text(path, limit), _Tokenizer, path).chat_template


def read_text(path: Path, limit: int) -> bytes:
    """A whole small file. Raises WeightsError where it is over ``limit`` bytes or unreadable."""
    with open_regular(path) as (descriptor, size):
        if size > limit:
            raise _damaged(path, f"it has {size} bytes, at most {limit} are sensible")
        return os.pread(descriptor, limit, 0)


def decode(text: bytes, shape: type[_T], path: Path) -> _T:
    """``text`` as ``shape``. Raises WeightsError where it is not JSON of that shape."""
    try:
        return msgspec.json.decode(text, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(path, f"it is not the JSON that belongs there ({str(error)[:80]})") from None


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a model folder: those of its index, else all that are there.

    Raises WeightsError where there are none, where one is missing, or where the index names
    something outside the folder.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        table = decode(read_text(index, MAX_INDEX), _Index, index)
        names = sorted(set(table.weight_map.values()))
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        raise WeightsError(f"{folder}: has no .safetensors files; fetch the model again")
    if len(names) > MAX_FILES:
        raise _damaged(index, f"it names {len(names)} files")
    for name in names:
        if name != Path(name).name or not name.endswith(".safetensors") or "\0" in name:
            raise _damaged(index, f"it names {name[:80]!r}, which is not a file of this folder")
        if not (folder / name).exists():
            raise WeightsError(f"{folder.name}: {name} is missing; fetch the model again")
    return tuple(folder / name for name in names)


def _damaged(path: Path, found: str) -> WeightsError:
    return WeightsError(f"{path.name}: {found}; fetch the model again")
