"""What leaves as one line is one line, and shows what it is."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.logs.lines import LINE_CAP, clip, escape

ANY_TEXT = st.text(st.characters(codec=None), max_size=200)


@given(ANY_TEXT)
def test_escaped_text_is_one_printable_line(text: str) -> None:
    safe = escape(text)
    assert len(safe.splitlines()) <= 1
    for letter in safe:
        assert unicodedata.category(letter) not in ("Cc", "Cs", "Zl", "Zp")
        bidi = unicodedata.bidirectional(letter)
        assert bidi not in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    assert safe.encode().decode() == safe == escape(safe)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain é 漢字 🙂", "plain é 漢字 🙂"),
        ("a\nb\r\nc\td", "a\\nb\\r\\nc\\td"),
        ("\x1b[31mred\x9b0m\x7f\x00", "\\x1b[31mred\\x9b0m\\x7f\\x00"),
        ("\u2028\u2029\u202e\u2066\u061c\u200f", "\\u2028\\u2029\\u202e\\u2066\\u061c\\u200f"),
        ("\udcff", "\\udcff"),
    ],
)
def test_escapes(text: str, safe: str) -> None:
    assert escape(text) == safe


@given(ANY_TEXT, st.integers(40, 120))
def test_clipped_text_fits_and_keeps_its_beginning(text: str, limit: int) -> None:
    clipped = clip(escape(text), limit)
    assert len(clipped.encode()) <= limit
    if clipped != escape(text):
        head, _, end = clipped.rpartition("… [")
        assert escape(text).startswith(head)
        assert end == f"{len(escape(text).encode())} bytes]"


def test_lines_are_cut_at_8_kib() -> None:
    assert clip("x" * LINE_CAP) == "x" * LINE_CAP
    assert len(clip("é" * LINE_CAP).encode()) in (LINE_CAP, LINE_CAP - 1)
