"""The daemon's own log: private, rotated, one line per record, never in the way."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.logs.files import Form, RotatingHandler, open_log, rotate


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "modelport.log"


@pytest.fixture
def handler(path: Path) -> Iterator[RotatingHandler]:
    made = open_log(path, 1 << 20, 2)
    yield made
    made.close()


def say(handler: RotatingHandler, message: str, *args: object) -> None:
    record = logging.LogRecord("modelport.x", logging.INFO, "f.py", 1, message, args, None)
    handler.handle(record)


def names(path: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in path.parent.iterdir()}


def test_a_line_says_when_what_and_who(handler: RotatingHandler, path: Path) -> None:
    say(handler, "loading %s", "qwen")
    line = path.read_text()
    assert line.endswith("Z INFO modelport.x: loading qwen\n")
    assert line[:4].isdigit()
    assert "T" in line[:12]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_traceback_is_one_line_without_secrets(handler: RotatingHandler, path: Path) -> None:
    try:
        raise ValueError("api_key=abc\x1b[31m")
    except ValueError:
        text = "failed\nwith \u202eforged line"
        handler.handle(logging.LogRecord("y", logging.ERROR, "f.py", 1, text, (), sys.exc_info()))
    [line] = path.read_text().splitlines()
    assert r"failed\nwith \u202eforged line\nTraceback (most recent call last):\n" in line
    assert line.endswith(r"ValueError: api_key=***\x1b[31m")


@pytest.mark.parametrize("form", ["text", "json"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(messages=st.lists(st.text(st.characters(codec=None), max_size=30), max_size=5))
def test_n_records_are_n_lines(
    handler: RotatingHandler, path: Path, form: Form, messages: list[str]
) -> None:
    handler.form = form
    before = path.read_bytes().count(b"\n")
    for message in messages:
        say(handler, "%s", message)
    data = path.read_bytes()
    assert data.count(b"\n") - before == len(messages)
    assert not [byte for byte in data if byte < 0x20 and byte != 0x0A]


def test_a_line_of_json_says_the_same(path: Path) -> None:
    handler = open_log(path, 1 << 20, 2, form="json")
    say(handler, "loading %s", 'a "b" 漢字\n\x9b')
    try:
        raise ValueError("api_key=abc")
    except ValueError:
        record = logging.LogRecord("y", logging.ERROR, "f.py", 1, "hf_" + "a" * 20, (), None)
        record.exc_info = sys.exc_info()
        handler.handle(record)
    handler.close()
    text = path.read_text()
    assert "漢字\\n\\u009b" in text
    first, second = map(json.loads, text.splitlines())
    assert list(first) == ["time", "level", "logger", "message"]
    assert (first["level"], first["logger"]) == ("INFO", "modelport.x")
    assert first["message"] == 'loading a "b" 漢字\n\x9b'
    assert datetime.fromisoformat(first["time"]).utcoffset() == timedelta(0)
    assert (second["level"], second["message"]) == ("ERROR", "hf_***")
    assert second["traceback"].startswith("Traceback (most recent call last):\n")
    assert second["traceback"].endswith("ValueError: api_key=***")


def test_a_long_line_of_json_is_cut_and_still_json(handler: RotatingHandler, path: Path) -> None:
    handler.form = "json"
    for text in ("x" * 100_000, '"' * 100_000, "\u202e" * 100_000):
        say(handler, text)
    for line in path.read_bytes().splitlines():
        assert len(line) <= 8192
        assert json.loads(line)["message"].endswith("bytes]")


def test_lost_lines_are_told_in_json_too(tmp_path: Path) -> None:
    handler = open_log(tmp_path / "no" / "modelport.log", 1000, 1, form="json")
    say(handler, "lost")
    (tmp_path / "no").mkdir()
    say(handler, "found")
    handler.close()
    lines = (tmp_path / "no" / "modelport.log").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert first["message"] == "1 log lines before this one could not be written"
    assert second["message"] == "found"


def test_a_long_line_is_cut(handler: RotatingHandler, path: Path) -> None:
    say(handler, "x" * 100_000)
    [line] = path.read_bytes().splitlines()
    assert len(line) == 8192
    assert line.endswith(b"bytes]")


def test_it_rotates_at_the_start_and_by_size(path: Path) -> None:
    for life in ("first", "second", "third", "fourth"):
        handler = open_log(path, 1000, 2)
        say(handler, life)
        handler.close()
    assert [names(path)[n].split()[-1] for n in sorted(names(path))] == [
        "fourth",
        "third",
        "second",
    ]
    handler = open_log(path, 200, 2)
    for number in range(20):
        say(handler, "line %d", number)
    handler.close()
    assert set(names(path)) == {"modelport.log", "modelport.log.1", "modelport.log.2"}
    assert all(len(text) <= 200 for text in names(path).values())
    assert names(path)["modelport.log"].endswith("line 19\n")
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in path.parent.iterdir())


def test_an_empty_file_pushes_nothing_out(path: Path) -> None:
    rotate(path, 2)
    path.write_text("x")
    rotate(path, 2)
    path.touch()
    rotate(path, 2)
    assert names(path) == {"modelport.log": "", "modelport.log.1": "x"}
    path.write_text("y")
    rotate(path, 0)
    assert names(path) == {"modelport.log.1": "x"}


def test_a_planted_link_is_never_followed(path: Path) -> None:
    target = path.with_name("precious")
    target.write_text("precious")
    path.symlink_to(target)
    handler = open_log(path, 1000, 1)
    say(handler, "x")
    handler.close()
    assert target.read_text() == "precious"
    assert not path.is_symlink()


def test_a_missing_folder_or_one_that_is_no_folder_only_counts(tmp_path: Path) -> None:
    handler = open_log(tmp_path / "no" / "modelport.log", 1000, 1)
    say(handler, "lost")
    assert handler.dropped == 1
    (tmp_path / "no").mkdir()
    say(handler, "found")
    handler.close()
    [first, second] = (tmp_path / "no" / "modelport.log").read_text().splitlines()
    assert first == "(1 log lines before this one could not be written)"
    assert second.endswith("found")


def test_a_full_disk_costs_lines_and_nothing_else(
    handler: RotatingHandler, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, room = os.write, 10

    def full(fd: int, data: bytes) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = write(fd, data[:room])
        room -= count
        return count

    monkeypatch.setattr(os, "write", full)
    for _ in range(3):
        say(handler, "lost")
    assert handler.dropped == 3
    room = 10_000
    say(handler, "back")
    say(handler, "again")
    torn, told, back, again = path.read_text().splitlines()
    assert len(torn) == 10
    assert told == "(3 log lines before this one could not be written)"
    assert back.endswith("back")
    assert again.endswith("again")
    assert handler.dropped == 3


def test_a_file_that_cannot_be_moved_does_not_grow_for_ever(
    handler: RotatingHandler, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler.max_bytes = 100

    def refuse(self: Path, target: object) -> Path:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "replace", refuse)
    for _ in range(50):
        say(handler, "line")
    assert path.stat().st_size < 200
    assert handler.dropped > 40


def test_a_log_call_with_wrong_arguments_is_said_and_harmless(
    handler: RotatingHandler, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say(handler, "%d", "x")
    say(handler, "good")
    assert "--- Logging error ---" in capsys.readouterr().err
    assert path.read_text().count("\n") == 1
