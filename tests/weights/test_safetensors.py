from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.weights import safetensors as module
from daemon.weights.errors import WeightsError
from daemon.weights.safetensors import (
    SafetensorsHeader,
    read_header,
    read_json,
    read_template,
    weight_files,
)
from tests.weights.files import write_safetensors


def raw(header: Any, data: int = 0, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + b"\0" * data


def tensor(dtype: str = "F16", shape: Any = (2, 2), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"t": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def test_a_sound_file(tmp_path: Path) -> None:
    path = write_safetensors(
        tmp_path / "m.safetensors", {"a": ("F16", (4, 4)), "b": ("U32", (8,)), "c": ("F16", (1,))}
    )
    header = read_header(path)
    assert (header.tensor_count, header.tensor_bytes) == (3, 32 + 32 + 2)
    assert dict(header.type_bytes) == {"F16": 34, "U32": 32}
    assert header.file_size == path.stat().st_size


def test_a_type_newer_than_ours_counts_by_its_offsets(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(raw(tensor("F2_NEW", (64,), (0, 16)), data=16))
    assert read_header(tmp_path / "m").tensor_bytes == 16


HOSTILE = {
    "empty": (b"", "shorter than its header"),
    "short": (b"\1\2\3", "shorter than its header"),
    "length": (struct.pack("<Q", (1 << 64) - 1) + b"{}", "shorter than its header"),
    "no object": (raw(b"[]"), "JSON"),
    "no JSON": (raw(b"{{{{"), "JSON"),
    "deep": (raw(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "m"),
    "no tensor": (raw({"t": 1}), "not described properly"),
    "shape": (raw(tensor(shape="x")), "not described properly"),
    "offsets": (raw(tensor(offsets=[0])), "not described properly"),
    "backwards": (raw(tensor(offsets=[8, 0]), 8), "impossible offsets"),
    "negative": (raw(tensor(offsets=[-8, 0]), 8), "impossible offsets"),
    "outside": (raw(tensor(), 4), "not within the file"),
    "huge": (raw(tensor(offsets=[0, 1 << 62]), 8), "not within the file"),
    "size": (raw(tensor(shape=[3, 3]), 8), "another size"),
    "negative shape": (raw(tensor(shape=[-2, -2]), 8), "another size"),
    "many dimensions": (raw(tensor(shape=[1] * 20), 8), "another size"),
    "overlap": (raw({str(i): tensor()["t"] for i in range(9)}, 8), "overlap"),
}


@pytest.mark.parametrize(("data", "found"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused(tmp_path: Path, data: bytes, found: str) -> None:
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(WeightsError, match=found):
        read_header(tmp_path / "m")


def test_headers_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m"
    path.write_bytes(raw(b"{" + b" " * 2000 + b"}"))
    monkeypatch.setattr(module, "MAX_HEADER", 1000)
    with pytest.raises(WeightsError, match="claims 2002 bytes"):
        read_header(path)
    path.write_bytes(raw(b"[" + b"{}," * 300 + b"]"))
    monkeypatch.setattr(module, "MAX_TENSORS", 100)
    with pytest.raises(WeightsError, match="over 100 tensors"):
        read_header(path)


SAMPLE = raw({"__metadata__": {"format": "pt"}} | tensor() | {"u": tensor()["t"]}, data=16)


def read_or_refuse(path: Path) -> SafetensorsHeader | None:
    """None for a WeightsError; whatever else is raised fails the test."""
    try:
        return read_header(path)
    except WeightsError:
        return None


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.binary(min_size=1, max_size=3))),
    st.integers(0, len(SAMPLE)),
)
def test_mutated_files_are_read_or_refused(
    tmp_path: Path, changes: list[tuple[int, bytes]], cut: int
) -> None:
    data = bytearray(SAMPLE)
    for at, piece in changes:
        data[at : at + len(piece)] = piece
    (tmp_path / "m").write_bytes(bytes(data[: cut or None]))
    header = read_or_refuse(tmp_path / "m")
    assert header is None or header.tensor_bytes <= header.file_size


def test_an_index_says_which_files_belong(tmp_path: Path) -> None:
    for name in ("model-1.safetensors", "model-2.safetensors", "consolidated.safetensors"):
        (tmp_path / name).touch()
    assert len(weight_files(tmp_path)) == 3
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps(
            {
                "metadata": {"total_size": 7},
                "weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors"},
            }
        )
    )
    assert [path.name for path in weight_files(tmp_path)] == [
        "model-1.safetensors",
        "model-2.safetensors",
    ]


@pytest.mark.parametrize(
    ("index", "found"),
    [
        ({"weight_map": {"a": "../../etc/passwd"}}, "not a file of this folder"),
        ({"weight_map": {"a": "/etc/passwd"}}, "not a file of this folder"),
        ({"weight_map": {"a": "x.bin"}}, "not a file of this folder"),
        ({"weight_map": {"a": "nul\0.safetensors"}}, "not a file of this folder"),
        ({"weight_map": {"a": "gone.safetensors"}}, "gone.safetensors is missing"),
        ({"weight_map": {"a": 7}}, "JSON"),
        ({}, "JSON"),
        ({"weight_map": {}}, "no .safetensors files"),
    ],
)
def test_a_hostile_index_is_refused(tmp_path: Path, index: Any, found: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=found):
        weight_files(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no \.safetensors files"):
        weight_files(tmp_path)


def test_json_files_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}
    with pytest.raises(WeightsError, match="at most 4"):
        read_json(path, limit=4)
    path.write_text("[1]")
    with pytest.raises(WeightsError, match="JSON"):
        read_json(path)


def test_of_a_tokenizer_only_the_template_is_built(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer_config.json"
    path.write_text('{"added_tokens": {"1": {"a": []}}, "chat_template": "{{ x }}"}')
    assert read_template(path, 1000) == "{{ x }}"
    path.write_text('{"chat_template": 7}')
    with pytest.raises(WeightsError, match="JSON"):
        read_template(path, 1000)
