"""THREAT_MODEL.md names tests: each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
TEXT = (TESTS.parent / "THREAT_MODEL.md").read_text("utf-8")


def test_every_test_that_it_names_exists() -> None:
    files = re.findall(r"`((?:[a-z0-9_]+/)?test_[a-z0-9_]+\.py)`", TEXT)
    names = re.findall(r"`(test_[a-z0-9_]+)`", TEXT)
    assert len(files) > 20
    assert [file for file in files if not (TESTS / file).is_file()] == []
    code = "\n".join(path.read_text("utf-8") for path in TESTS.rglob("test_*.py"))
    assert [name for name in names if f"def {name}(" not in code] == []


def test_every_row_of_it_names_one() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 12
    assert [row for row in rows if "test_" not in row.split("|")[5]] == []
