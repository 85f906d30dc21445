"""Incidents on the disk: kept, bounded, and never in the way."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.telemetry import incident_file
from daemon.telemetry.incident_file import IncidentFile, decode, encode
from daemon.telemetry.incidents import Book
from daemon.views import IncidentView
from tests.control_api.fake import incident_view

ONE = incident_view()
TWO = incident_view(id=8, model="qwen", status=None, followed="", lines=[])


def asides(path: Path) -> list[Path]:
    return sorted(path.parent.glob("incidents.jsonl.corrupt-*"))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = IncidentFile(tmp_path / "state" / "incidents.jsonl")
    assert file.load(0.0) == []
    assert file.save([ONE, TWO])
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert file.load(0.0) == [ONE, TWO]
    assert [path.name for path in file.path.parent.iterdir()] == ["incidents.jsonl"]


def test_the_oldest_give_way() -> None:
    many = [incident_view(id=n, lines=["x" * 1000]) for n in range(1, 50)]
    found, wrong = decode(encode(many, 10_000))
    assert wrong == ""
    assert 3 < len(found) < 10
    assert found[-1].id == 49


BROKEN = {
    "text": b"hello\n",
    "binary": b"\xff\x00\xfe",
    "json of another kind": b"[1, 2]\n",
    "another version": b'{"incidents":2}\n' + encode([ONE]).split(b"\n", 1)[1],
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_not_ours_is_moved_aside(data: bytes, tmp_path: Path) -> None:
    file = IncidentFile(tmp_path / "incidents.jsonl")
    file.path.write_bytes(data)
    assert file.load(123.0) == []
    assert not file.path.exists()
    (aside,) = asides(file.path)
    assert aside.name == "incidents.jsonl.corrupt-123"
    assert aside.read_bytes() == data
    assert file.save([ONE])


WRONG_LINES = {
    "torn": encode([TWO])[:-40].split(b"\n", 1)[1],
    "a field is missing": b'{"id": 9}\n',
    "a type is wrong": json.dumps({"id": "nine"}).encode() + b"\n",
    "a text is endless": encode([incident_view(id=9, detail="x" * 9000)]).split(b"\n", 1)[1],
    "too many lines": encode([incident_view(id=9, lines=["x" * 900] * 20)]).split(b"\n", 1)[1],
    "too many neighbours": encode([incident_view(id=9, memory=ONE.memory * 99)]).split(b"\n", 1)[1],
    "no number": encode([incident_view(id=0)]).split(b"\n", 1)[1],
    "no time": encode([incident_view(id=9, at=1e300)]).split(b"\n", 1)[1],
}


@pytest.mark.parametrize("line", WRONG_LINES.values(), ids=WRONG_LINES.keys())
def test_what_can_be_read_of_a_broken_one_is_kept(line: bytes, tmp_path: Path) -> None:
    file = IncidentFile(tmp_path / "incidents.jsonl")
    file.path.write_bytes(encode([ONE]) + line)
    assert file.load(5.0) == [ONE]
    assert len(asides(file.path)) == 1


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda data: encode([ONE]) + data))
def test_no_bytes_are_too_strange(data: bytes) -> None:
    found, wrong = decode(data)
    assert found == [] or found[0] == ONE
    assert isinstance(wrong, str)


@pytest.mark.parametrize("kind", ["fifo", "folder", "link", "large"])
def test_no_other_thing_is_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = IncidentFile(tmp_path / "incidents.jsonl")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(encode([ONE]))
    if kind == "fifo":
        os.mkfifo(file.path)
    elif kind == "folder":
        file.path.mkdir()
    elif kind == "link":
        file.path.symlink_to(elsewhere)
    else:
        monkeypatch.setattr(incident_file, "MAX_FILE", 10)
        file.path.write_bytes(encode([ONE]))
    assert file.load(1.0) == []
    assert file.save([TWO])
    monkeypatch.undo()
    assert file.load(2.0) == [TWO]
    assert elsewhere.read_bytes() == encode([ONE])


def test_few_are_kept_aside(tmp_path: Path) -> None:
    file = IncidentFile(tmp_path / "incidents.jsonl")
    for turn in range(10, 16):
        file.path.write_text("no")
        file.load(float(turn))
    assert [path.name[-2:] for path in asides(file.path)] == ["13", "14", "15"]


def test_a_disk_that_refuses_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = IncidentFile(tmp_path / "incidents.jsonl")
    assert file.save([ONE])
    before = file.path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert not file.save([ONE, TWO])
    assert not file.save([ONE, TWO])
    assert file.path.read_bytes() == before, "the old one stays whole"
    assert [path.name for path in tmp_path.iterdir()] == ["incidents.jsonl"]
    assert len([r for r in caplog.records if "kept in memory" in r.getMessage()]) == 1
    monkeypatch.undo()
    assert file.save([ONE, TWO])


def test_all_that_a_book_holds_can_be_written() -> None:
    book = Book()
    kept: list[IncidentView] = [incident_view(id=n) for n in range(1, 600)]
    book.kept = kept
    found, wrong = decode(encode(book.kept))
    assert (len(found), wrong) == (500, "")
