from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.units import GIB, KIB, MIB, TIB, format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("18GiB", 18 * GIB),
        ("18GB", 18 * 10**9),
        ("18 gib", 18 * GIB),
        ("18G", 18 * GIB),
        ("1.5GiB", GIB + GIB // 2),
        ("0.1KiB", 102),
        ("512MiB", 512 * MIB),
        ("512mb", 512 * 10**6),
        ("64k", 64 * KIB),
        ("2TiB", 2 * TIB),
        ("1024", 1024),
        ("1024B", 1024),
        (" 7 ", 7),
        ("0", 0),
    ],
)
def test_amounts_as_people_write_them(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "GiB", "-1GiB", "18GIBI", "18 Gi", "1e9", "1,5GiB", "١GiB", "9" * 400, "75%", "nan", "1."],
)
def test_anything_else_is_refused_with_the_allowed_forms(text: str) -> None:
    with pytest.raises(ValueError, match="18GiB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (KIB, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (18 * GIB, "18.0 GiB"),
        (int(17.2 * GIB), "17.2 GiB"),
        (512 * MIB, "512 MiB"),
        (int(99.94 * GIB), "99.9 GiB"),
        (int(99.96 * GIB), "100 GiB"),
        (1023 * MIB, "1023 MiB"),
        (int(1023.7 * MIB), "1.0 GiB"),
        (GIB - 1, "1.0 GiB"),
        (5000 * TIB, "5000 TiB"),
        (-3 * MIB, "-3.0 MiB"),
    ],
)
def test_amounts_as_people_read_them(amount: int, expected: str) -> None:
    assert format_bytes(amount) == expected


@given(st.integers(0, 2**60))
def test_reading_back_what_was_printed_is_within_rounding(amount: int) -> None:
    back = parse_bytes(format_bytes(amount))
    assert abs(back - amount) <= max(1, amount // 10)


@given(st.text(max_size=60))
def test_any_text_is_a_number_or_a_value_error(text: str) -> None:
    try:
        amount = parse_bytes(text)
    except ValueError:
        amount = 0
    assert amount >= 0
