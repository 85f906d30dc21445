from __future__ import annotations

import struct
import time
import tracemalloc
from pathlib import Path

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.weights import gguf as module
from daemon.weights import reader
from daemon.weights.errors import WeightsError
from daemon.weights.gguf import GGUFHeader, read_header, read_shards, shard_paths
from daemon.weights.reader import Skipped
from tests.weights.files import (
    LLAMA,
    key_value,
    raw_gguf,
    smollm2,
    tensor_info,
    text,
    write_gguf,
)

U32, STRING, ARRAY, U64, U8, BOOL = 4, 8, 9, 10, 0, 7


def test_a_file_of_the_reference_writer(tmp_path: Path) -> None:
    vocabulary = [f"token{i}" for i in range(5000)]
    path = write_gguf(
        tmp_path / "m.gguf",
        keys=LLAMA | {"rope.scaling.finetuned": True},
        plain={
            "tokenizer.ggml.tokens": vocabulary,
            "tokenizer.ggml.scores": [0.5] * 3,
            "tokenizer.chat_template": "{{ messages }}",
        },
        tensors={"token_embd.weight": (64, 32), "blk.0.ffn_up_exps.weight": (64, 8, 4)},
    )
    header = read_header(path)
    assert header.version == 3
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["llama.block_count"] == 2
    assert header.metadata["llama.rope.scaling.finetuned"] is True
    assert header.metadata["tokenizer.ggml.tokens"] == Skipped(5000)
    assert header.metadata["tokenizer.ggml.scores"] == (0.5, 0.5, 0.5)
    assert header.metadata["tokenizer.chat_template"] == "{{ messages }}"
    assert (header.tensor_count, header.tensor_bytes) == (2, 2 * 64 * 32 * 2)
    assert header.expert_bytes == 64 * 8 * 4 * 2
    assert dict(header.type_bytes) == {"F16": header.tensor_bytes}
    assert header.file_size == path.stat().st_size


@pytest.mark.parametrize(
    "kind",
    [kind for kind in gguf.GGML_QUANT_SIZES if kind.name != "Q8_1"],  # never stored in files
    ids=lambda kind: kind.name,
)
def test_bytes_of_every_type(tmp_path: Path, kind: gguf.GGMLQuantizationType) -> None:
    path = write_gguf(tmp_path / "m.gguf", tensors={"x.weight": (512, 3)}, kind=kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    assert read_header(path).tensor_bytes == 512 * 3 // block * size


def test_the_real_model_in_its_wheel() -> None:
    header = read_header(smollm2())
    # llama.cpp logs "model buffer size = 92.10 MiB" for it.
    assert round(header.tensor_bytes / (1 << 20), 2) == 92.10
    assert header.metadata["tokenizer.ggml.tokens"] == Skipped(49152)


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    return path


def test_version_2_is_read(tmp_path: Path) -> None:
    data = raw_gguf([key_value("a", U32, struct.pack("<I", 7))], version=2)
    header = read_header(written(tmp_path, data))
    assert (header.version, header.metadata["a"]) == (2, 7)


def test_a_header_without_anything(tmp_path: Path) -> None:
    header = read_header(written(tmp_path, raw_gguf()))
    assert (header.tensor_count, header.tensor_bytes, dict(header.metadata)) == (0, 0, {})


def test_a_type_newer_than_ours_counts_by_the_size_of_the_file(tmp_path: Path) -> None:
    tensors = [tensor_info("a", [8]), tensor_info("b", [64], kind=77, offset=32)]
    header = read_header(written(tmp_path, raw_gguf([], tensors, data=160)))
    assert header.tensor_bytes == 160
    assert "type 77" in header.type_bytes


def test_nested_arrays_are_walked_over(tmp_path: Path) -> None:
    inner = struct.pack("<IQ", U32, 2) + struct.pack("<II", 1, 2)
    outer = struct.pack("<IQ", ARRAY, 2) + inner * 2
    data = raw_gguf([key_value("a", ARRAY, outer), key_value("b", U8, b"\x05")])
    header = read_header(written(tmp_path, data))
    assert header.metadata["a"] == Skipped(2)
    assert header.metadata["b"] == 5


BIG = (1 << 64) - 1
DEEP = struct.pack("<IQ", ARRAY, 1) * 3 + struct.pack("<IQ", U8, 0)
HOSTILE = {
    "empty": (b"", "empty"),
    "short": (b"GG", "not a GGUF file"),
    "magic only": (b"GGUF", "ends within its header"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "zip": (b"PK\x03\x04" + b"\0" * 30, "pickle"),
    "old": (b"tjgg" + b"\0" * 30, "old GGML"),
    "page": (b"<!DOCTYPE html><html></html>", "error page"),
    "version 1": (raw_gguf(version=1), "version 1"),
    "version 9": (raw_gguf(version=9), "version 9"),
    "big-endian": (b"GGUF\0\0\0\x03" + b"\0" * 16, "big-endian"),
    "keys": (raw_gguf(key_count=70_000), "at most 65536"),
    "keys beyond the file": (raw_gguf(key_count=60_000), "ends within its header"),
    "tensors": (raw_gguf(tensor_count=BIG), "at most 1000000"),
    "tensors beyond the file": (raw_gguf(tensor_count=900_000), "ends within its header"),
    "key length": (raw_gguf([struct.pack("<Q", BIG)]), "damaged"),
    "key text": (raw_gguf([text(b"\xff") + struct.pack("<IB", U8, 1)]), "not text"),
    "twice": (raw_gguf([key_value("a", U8, b"\0")] * 2), "appears twice"),
    "value type": (raw_gguf([key_value("a", 13, b"\0" * 8)]), "unknown type 13"),
    "string": (raw_gguf([key_value("a", STRING, struct.pack("<Q", BIG))]), "claims a text"),
    "string beyond": (
        raw_gguf([key_value("a", STRING, struct.pack("<Q", 1000))]),
        "ends within its header",
    ),
    "array": (raw_gguf([key_value("a", ARRAY, struct.pack("<IQ", U32, BIG))]), "are claimed"),
    "array beyond": (
        raw_gguf([key_value("a", ARRAY, struct.pack("<IQ", U32, 1 << 20))]),
        "ends within its header",
    ),
    "array of strings beyond": (
        raw_gguf([key_value("a", ARRAY, struct.pack("<IQ", STRING, 1 << 20))]),
        "ends within its header",
    ),
    "array type": (raw_gguf([key_value("a", ARRAY, struct.pack("<IQ", 99, 1))]), "unknown type"),
    "array depth": (raw_gguf([key_value("a", ARRAY, DEEP)]), "deeper than 3"),
    "alignment": (
        raw_gguf([key_value("general.alignment", U32, struct.pack("<I", 24))]),
        "not a power of two",
    ),
    "alignment 0": (
        raw_gguf([key_value("general.alignment", U32, struct.pack("<I", 0))]),
        "not a power of two",
    ),
    "alignment text": (
        raw_gguf([key_value("general.alignment", STRING, text("x"))]),
        "not a power of two",
    ),
    "dimensions": (raw_gguf([], [tensor_info("a", [1] * 5)]), "at most 4"),
    "product": (raw_gguf([], [tensor_info("a", [1 << 40, 1 << 40])]), "impossible shape"),
    "block": (raw_gguf([], [tensor_info("a", [33], kind=8)]), "not a multiple of 32"),
    "removed type": (raw_gguf([], [tensor_info("a", [32], kind=4)]), "no longer read"),
    "offset": (raw_gguf([], [tensor_info("a", [8], offset=BIG)]), "not within the file"),
    "odd offset": (raw_gguf([], [tensor_info("a", [8], offset=8)], data=64), "not within"),
    "truncated": (raw_gguf([], [tensor_info("a", [16])], data=32), "not downloaded completely"),
    "overlap": (raw_gguf([], [tensor_info("a", [16])] * 9, data=64), "overlap"),
}


@pytest.mark.parametrize(("data", "found"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused_with_a_reason(tmp_path: Path, data: bytes, found: str) -> None:
    with pytest.raises(WeightsError, match=found) as caught:
        read_header(written(tmp_path, data))
    assert str(caught.value).startswith("m.gguf: ")


def sparse(path: Path, head: bytes, size: int) -> Path:
    path.write_bytes(head)
    with path.open("r+b") as file:
        file.truncate(size)
    return path


def test_a_header_of_more_than_256_mib_is_refused(tmp_path: Path) -> None:
    count = 1 << 28
    head = raw_gguf([key_value("a", ARRAY, struct.pack("<IQ", U32, count))])[:-16]
    path = sparse(tmp_path / "m.gguf", head, 5 * count)
    with pytest.raises(WeightsError, match="over 256 MiB"):
        read_header(path)


def test_millions_of_empty_strings_end_by_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_CPU_SECONDS", 0.05)
    array = struct.pack("<IQ", STRING, 30_000_000)
    path = sparse(tmp_path / "m.gguf", raw_gguf([key_value("a", ARRAY, array)]), 1 << 28)
    with pytest.raises(WeightsError, match="took over"):
        read_header(path)


def test_what_is_kept_in_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_CPU_SECONDS", 30)  # tracing makes it slow
    array = struct.pack("<IQ", U8, 4096) + b"\xff" * 4096
    keys = [key_value(f"k{i}", ARRAY, array) for i in range(2000)]
    path = written(tmp_path, raw_gguf(keys))
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match="larger than any model's"):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def sample() -> bytes:
    """A small header with everything in it, as the seed of mutations."""
    keys = [
        key_value("general.architecture", STRING, text("llama")),
        key_value("general.alignment", U32, struct.pack("<I", 32)),
        key_value("llama.block_count", U32, struct.pack("<I", 2)),
        key_value("list", ARRAY, struct.pack("<IQ", U32, 3) + struct.pack("<III", 1, 2, 3)),
        key_value("texts", ARRAY, struct.pack("<IQ", STRING, 2) + text("a") + text("bc")),
        key_value("nested", ARRAY, struct.pack("<IQIQ", ARRAY, 1, U64, 1) + b"\0" * 8),
        key_value("flag", BOOL, b"\1"),
    ]
    tensors = [
        tensor_info("blk.0.attn_q.weight", [32, 4], kind=8),
        tensor_info("output.weight", [8, 2], offset=160),
    ]
    return raw_gguf(keys, tensors, data=256)


def read_or_refuse(path: Path) -> GGUFHeader | None:
    """None for a WeightsError; whatever else is raised fails the test."""
    try:
        return read_header(path)
    except WeightsError:
        return None


SAMPLE = sample()
MUTATIONS = st.lists(
    st.tuples(
        st.integers(0, len(SAMPLE) - 1),
        st.one_of(
            st.integers(0, 255).map(lambda b: bytes([b])),
            st.sampled_from([0, 1, 1 << 31, 1 << 32, 1 << 63, BIG]).map(
                lambda n: struct.pack("<Q", n)
            ),
        ),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MUTATIONS, st.integers(0, len(SAMPLE)))
def test_mutated_headers_are_read_or_refused_quickly(
    tmp_path: Path, changes: list[tuple[int, bytes]], cut: int
) -> None:
    data = bytearray(SAMPLE)
    for at, piece in changes:
        data[at : at + len(piece)] = piece
    path = written(tmp_path, bytes(data[: cut or None]))
    began = time.thread_time()
    header = read_or_refuse(path)
    assert header is None or header.tensor_bytes <= header.file_size
    assert time.thread_time() - began < 1


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_arbitrary_bytes_after_the_magic(tmp_path: Path, data: bytes) -> None:
    header = read_or_refuse(written(tmp_path, b"GGUF\x03\0\0\0" + data))
    assert header is None or header.tensor_bytes <= len(data)


def test_shards_are_found_from_any_of_them(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_gguf(
            tmp_path / f"m-0000{number}-of-00003.gguf",
            plain={"split.count": 3},
            tensors={f"t{number}": (32, number)},
        )
    shards = read_shards(tmp_path / "m-00002-of-00003.gguf")
    assert [path.name[2:7] for path, _ in shards] == ["00001", "00002", "00003"]
    assert sum(header.tensor_bytes for _, header in shards) == 32 * 2 * (1 + 2 + 3)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m-00001-of-00002.gguf")
    with pytest.raises(WeightsError, match=r"1 of 2 parts.*m-00002-of-00002\.gguf"):
        read_shards(path)


def test_a_renamed_shard_is_not_taken_for_the_model(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", plain={"split.count": 4})
    with pytest.raises(WeightsError, match="has 4 parts"):
        read_shards(path)


@pytest.mark.parametrize("name", ["m-00003-of-00002.gguf", "m-00000-of-00002.gguf"])
def test_impossible_shard_names(name: str) -> None:
    with pytest.raises(WeightsError, match="cannot be"):
        shard_paths(Path(name))


def test_the_number_of_shards_is_bounded() -> None:
    assert len(shard_paths(Path(f"m-00001-of-{module.MAX_SHARDS:05}.gguf"))) == module.MAX_SHARDS
    with pytest.raises(WeightsError, match="cannot be"):
        shard_paths(Path("m-00001-of-99999.gguf"))
