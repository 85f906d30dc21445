"""Lines for the journal."""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path

import pytest

from daemon.logs.journal import JournalFormatter, is_journal


def record(level: int, text: str) -> logging.LogRecord:
    return logging.LogRecord("modelport", level, "f.py", 1, text, None, None)


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3),
     (logging.CRITICAL, 2), (25, 6)],
)  # fmt: skip
def test_each_level_has_its_priority(level: int, priority: int) -> None:
    assert JournalFormatter().format(record(level, "hello")) == f"<{priority}>hello"


def test_every_line_of_a_traceback_has_it() -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        one = record(logging.ERROR, "it broke")
        one.exc_info = sys.exc_info()
    lines = JournalFormatter().format(one).split("\n")
    assert len(lines) > 3
    assert all(line.startswith("<3>") for line in lines)


def test_nothing_secret_and_nothing_hostile() -> None:
    made = JournalFormatter().format(record(logging.INFO, "key sk-0123456789abcdef0123 \x1b[2J"))
    assert "0123456789" not in made
    assert "\x1b" not in made


def test_the_journal_is_known_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        about = os.fstat(file.fileno())
        assert is_journal({"JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"}, file)
        assert not is_journal({"JOURNAL_STREAM": "1:2"}, file)
        assert not is_journal({}, file)
    assert not is_journal({"JOURNAL_STREAM": "1:2"}, file), "closed"
    assert not is_journal({"JOURNAL_STREAM": "1:2"}, io.StringIO()), "no file at all"
