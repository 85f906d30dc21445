"""What is kept on the disk of pulls under way, and of use: by whole files, and never trusted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemon.downloads.unfinished import Unfinished
from daemon.downloads.used import Used

WRONG = [
    b"",
    b"[]",
    b"{}",
    b'{"version":2}',
    b'{"version":1,"names":5,"used":5}',
    b"\xff",
    b"{" * 9,
]


def test_pulls_under_way(tmp_path: Path) -> None:
    record = Unfinished(tmp_path / "pulls.json")
    assert record.names() == []
    record.begin("b")
    record.begin("hf:owner/repo:Q4_K_M")
    record.begin("b")
    assert Unfinished(record.path).names() == ["b", "hf:owner/repo:Q4_K_M"]
    record.end("b")
    record.end("never there")
    assert record.names() == ["hf:owner/repo:Q4_K_M"]


def test_what_was_used(tmp_path: Path) -> None:
    record = Used(tmp_path / "used.json")
    record.note(tmp_path / "a.gguf", 100.4)
    record.note(tmp_path / "b.gguf", 200.0)
    record.note(tmp_path / "a.gguf", 300.0)
    found = Used(record.path).times()
    assert found == {str(tmp_path / "a.gguf"): 300.0, str(tmp_path / "b.gguf"): 200.0}


@pytest.mark.parametrize("raw", WRONG)
def test_a_broken_file_is_no_record(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(raw)
    path.chmod(0o600)
    assert Unfinished(path).names() == []
    assert Used(path).times() == {}
    Unfinished(path).begin("m")
    assert Unfinished(path).names() == ["m"]


def test_strange_times_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "used.json"
    used = {"/a": 5, "/b": "x", "/c": -1, "/d": None, "/e": 1e999}
    path.write_text(json.dumps({"version": 1, "used": used}))
    path.chmod(0o600)
    assert Used(path).times() == {"/a": 5.0}
