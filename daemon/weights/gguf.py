"""Read the header of a GGUF file that nobody vouches for.

Every count is checked against the bytes that are left before anything is allocated; long arrays
(vocabularies) are walked over, not built. Nothing after the header is read. The format: magic,
version, counts, typed key-values, tensor infos, then aligned tensor data (GGUF 2 and 3).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from daemon.weights.errors import WeightsError
from daemon.weights.ggml import REMOVED_TYPES, TENSOR_TYPES
from daemon.weights.parts import Tally
from daemon.weights.reader import MAX_HEADER, Reader, Skipped, open_regular

MAX_KEYS: Final = 65_536
MAX_TENSORS: Final = 1_000_000
MAX_NESTING: Final = 3
MAX_SHARDS: Final = 10_000
KEEP_ELEMENTS: Final = 4096  # longer arrays (vocabularies) are remembered by length only

_STRING, _ARRAY = 8, 9
_SCALARS: Final = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_SHARD: Final = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.DOTALL)


Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...] | Skipped


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """What one GGUF file says. Sizes in bytes; ``type_bytes`` is tensor bytes by type name."""

    version: int
    metadata: Mapping[str, Value]
    tensor_count: int
    tensor_bytes: int
    expert_bytes: int  # the part of tensor_bytes that belongs to routed experts
    type_bytes: Mapping[str, int]
    classifier: bool  # has the head of a sequence classifier (a reranker)
    data_offset: int
    file_size: int
    tally: Tally  # which bytes lie where


def read_header(path: Path) -> GGUFHeader:
    """The header of one GGUF file (one shard, where a model is split).

    Blocks for a tenth of a second at a large vocabulary: call it in a thread.
    Raises WeightsError for everything that is not a sound GGUF 2 or 3 file.
    """
    with open_regular(path) as (descriptor, size):
        reader = Reader(descriptor, size, path.name)
        version = _read_preamble(reader)
        tensors = reader.count(24, MAX_TENSORS, "tensors")
        keys = reader.count(13, MAX_KEYS, "metadata keys")
        metadata = _read_metadata(reader, keys)
        alignment = _alignment(reader, metadata)
        table = _TensorTable(reader, alignment)
        for index in range(tensors):
            if not index & 0xFF:
                reader.check_time()
            table.read_one()
        return table.finish(version, metadata, tensors)


def _read_preamble(reader: Reader) -> int:
    head = reader.take(min(8, reader.size), "magic")
    if head[:4] != b"GGUF":
        raise reader.fail(f"is not a GGUF file ({_guess(head)})")
    if len(head) < 8:
        reader.need(1, "version")
    version = int(_SCALARS[4].unpack(head[4:8])[0])
    if version and not version & 0xFFFF:
        raise reader.fail("is a GGUF file for big-endian machines; fetch the ordinary one")
    if version == 1:
        raise reader.fail("is of GGUF version 1, which engines no longer read; fetch a newer one")
    if version not in (2, 3):
        raise reader.fail(f"is of GGUF version {version}; versions 2 and 3 are known")
    return version


def _guess(head: bytes) -> str:
    if head.startswith(b"version "):
        return "a Git LFS pointer: the weights themselves were not downloaded"
    if head.startswith(b"PK"):
        return "a zip or PyTorch file: pickles are never loaded"
    if head[:4] in (b"lmgg", b"fmgg", b"tjgg"):
        return "the old GGML format, which engines no longer read"
    if head.startswith((b"<!", b"<h", b"{")):
        return "text, perhaps an error page that was saved as the model"
    return "empty" if not head else f"it begins with {head[:4]!r}"


def _read_metadata(reader: Reader, keys: int) -> Mapping[str, Value]:
    metadata: dict[str, Value] = {}
    for _ in range(keys):
        reader.check_time()
        key = reader.name("metadata key")
        if key in metadata:
            raise reader.fail(f"the key {key[:80]!r} appears twice; the file is damaged")
        reader.keep(len(key) + 128)
        metadata[key] = _read_value(reader, repr(key[:80]))
    return MappingProxyType(metadata)


def _read_value(reader: Reader, what: str) -> Value:
    kind = reader.u32(what)
    if kind == _STRING:
        return reader.string(what)
    if kind == _ARRAY:
        return _read_array(reader, what, depth=1, keep=True)
    layout = _scalar(reader, kind, what)
    value: Scalar = layout.unpack(reader.take(layout.size, what))[0]
    return value


def _scalar(reader: Reader, kind: int, what: str) -> struct.Struct:
    layout = _SCALARS.get(kind)
    if layout is None:
        raise reader.fail(f"{what} has the unknown type {kind}; the file is damaged or too new")
    return layout


def _read_array(reader: Reader, what: str, *, depth: int, keep: bool) -> Value:
    if depth > MAX_NESTING:
        raise reader.fail(f"{what} nests arrays deeper than {MAX_NESTING}; the file is damaged")
    kind = reader.u32(what)
    if kind == _ARRAY:
        number = reader.count(12, MAX_HEADER, f"elements of {what}")
        for _ in range(number):
            reader.check_time()
            _read_array(reader, what, depth=depth + 1, keep=False)
        return Skipped(number)
    if kind == _STRING:
        number = reader.count(8, MAX_HEADER, f"elements of {what}")
        if not keep or number > KEEP_ELEMENTS:
            reader.skip_strings(number, what)
            return Skipped(number)
        texts = [reader.string(what) for _ in range(number)]
        return tuple(text for text in texts if isinstance(text, str))
    layout = _scalar(reader, kind, what)
    number = reader.count(layout.size, MAX_HEADER, f"elements of {what}")
    if not keep or number > KEEP_ELEMENTS:
        reader.skip(number * layout.size, what)
        return Skipped(number)
    reader.keep(number * 40)
    data = reader.take(number * layout.size, what)
    return tuple(item[0] for item in layout.iter_unpack(data))


def _alignment(reader: Reader, metadata: Mapping[str, Value]) -> int:
    alignment = metadata.get("general.alignment", 32)
    if (
        not isinstance(alignment, int)
        or not 1 <= alignment <= 1 << 20
        or alignment & (alignment - 1)
    ):
        raise reader.fail(f"its alignment {alignment!r:.40} is not a power of two")
    return alignment


class _TensorTable:
    """Sums over the tensor infos, and the checks that need the whole table."""

    def __init__(self, reader: Reader, alignment: int) -> None:
        self._reader = reader
        self._alignment = alignment
        self._type_bytes: dict[str, int] = {}
        self._expert_bytes = 0
        self._end = 0  # of the furthest tensor, in the data
        self._classifier = False
        self._unknown = False
        self._tally = Tally()

    def read_one(self) -> None:
        reader = self._reader
        name = reader.name("tensor name")
        rank = reader.u32("tensor shape")
        if rank > 4:
            raise reader.fail(f"the tensor {name[:80]!r} has {rank} dimensions, at most 4 exist")
        shape = struct.unpack(f"<{rank}Q", reader.take(8 * rank, "tensor shape"))
        kind = reader.u32("tensor type")
        offset = reader.u64("tensor offset")
        amount = self._amount(name, shape, kind)
        if offset % self._alignment or offset + amount > reader.size:
            raise self._out_of_bounds(name)
        self._end = max(self._end, offset + amount)
        label = TENSOR_TYPES[kind][0] if kind in TENSOR_TYPES else f"type {kind}"
        # Unknown types are labels too: hostile files may not grow this table without bound.
        if label in self._type_bytes or len(self._type_bytes) < 256:
            self._type_bytes[label] = self._type_bytes.get(label, 0) + amount
        if "_exps." in name:
            self._expert_bytes += amount
        self._classifier = self._classifier or name.startswith("cls.")
        self._tally.add(name, shape, amount)

    def _amount(self, name: str, shape: tuple[int, ...], kind: int) -> int:
        """Bytes of a tensor; 0 for a type newer than this table."""
        if kind in REMOVED_TYPES:
            raise self._reader.fail(
                f"the tensor {name[:80]!r} is stored in a form that engines no longer read "
                f"(type {kind}); fetch a newer file"
            )
        elements = 1
        for size in shape:
            elements *= size
            if elements >= 1 << 63:
                raise self._reader.fail(f"the tensor {name[:80]!r} claims an impossible shape")
        if kind not in TENSOR_TYPES:
            self._unknown = True
            return 0
        _, block, size = TENSOR_TYPES[kind]
        row = shape[0] if shape else 1
        if row % block:
            raise self._reader.fail(
                f"the tensor {name[:80]!r} has rows of {row}, not a multiple of {block}"
            )
        return elements // block * size

    def finish(self, version: int, metadata: Mapping[str, Value], tensors: int) -> GGUFHeader:
        reader = self._reader
        data_offset = -(-reader.position // self._alignment) * self._alignment
        room = max(0, reader.size - data_offset)
        total = sum(self._type_bytes.values())
        if self._end > room:
            raise reader.fail(
                f"its tensors need {data_offset + self._end} bytes and the file has {reader.size}: "
                "it was not downloaded completely; fetch it again"
            )
        if total > room:
            raise reader.fail("its tensors overlap; the file is damaged")
        return GGUFHeader(
            version=version,
            metadata=metadata,
            tensor_count=tensors,
            # What a type that we do not know takes, only the size of the data can tell.
            tensor_bytes=room if self._unknown else total,
            expert_bytes=self._expert_bytes,
            type_bytes=MappingProxyType(self._type_bytes),
            classifier=self._classifier,
            data_offset=data_offset,
            file_size=reader.size,
            tally=self._tally,
        )

    def _out_of_bounds(self, name: str) -> WeightsError:
        return self._reader.fail(
            f"the data of the tensor {name[:80]!r} is not within the file: it is damaged or was "
            "not downloaded completely; fetch it again"
        )


def shard_paths(path: Path) -> tuple[Path, ...]:
    """All files of a model, the first one first, from the name of any of them.

    ``name-00002-of-00003.gguf`` has three; any other name stands for itself alone.
    Raises WeightsError for names that cannot be.
    """
    match = _SHARD.fullmatch(path.name)
    if match is None:
        return (path,)
    number, total = int(match[2]), int(match[3])
    if not 1 <= number <= total <= MAX_SHARDS:
        raise WeightsError(f"{path.name}: part {number} of {total} cannot be")
    stem = match[1]
    return tuple(path.with_name(f"{stem}-{i:05}-of-{total:05}.gguf") for i in range(1, total + 1))


def read_shards(path: Path) -> tuple[tuple[Path, GGUFHeader], ...]:
    """Path and header of every file of the model that ``path`` belongs to, the first one first.

    Raises WeightsError where a file is missing or unsound, or where the parts do not belong
    together.
    """
    paths = shard_paths(path)
    if len(paths) > 1:
        missing = [shard.name for shard in paths if not shard.exists()]
        if missing:
            raise WeightsError(
                f"{path.name}: {len(missing)} of {len(paths)} parts are missing, first of all "
                f"{missing[0]}; fetch the model again"
            )
    headers = tuple((shard, read_header(shard)) for shard in paths)
    claimed = headers[0][1].metadata.get("split.count", len(paths))
    if isinstance(claimed, int) and claimed not in (0, len(paths)):
        raise WeightsError(
            f"{path.name}: the file says that the model has {claimed} parts, its name says "
            f"{len(paths)}; keep the parts' original names"
        )
    return headers
