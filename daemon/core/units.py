"""Amounts of memory as people write and read them.

Decimal units (``GB``) are powers of 1000; binary units (``GiB``) are powers of 1024. A bare letter
(``18G``) is binary, as memory sizes usually are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40

_UNITS: Final = {
    "": 1,
    "b": 1,
    "k": KIB,
    "kib": KIB,
    "kb": 10**3,
    "m": MIB,
    "mib": MIB,
    "mb": 10**6,
    "g": GIB,
    "gib": GIB,
    "gb": 10**9,
    "t": TIB,
    "tib": TIB,
    "tb": 10**12,
}
# Digits are bounded so that a hostile text costs nothing and its number stays printable.
_AMOUNT: Final = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]{0,3})\s*", re.ASCII)


def parse_bytes(text: str) -> int:
    """Bytes meant by ``text``: ``"18GiB"``, ``"18 GB"``, ``"512M"``, ``"1.5GiB"``, ``"1048576"``.

    Raises ValueError with a sentence for people that names what is allowed.
    """
    match = _AMOUNT.fullmatch(text)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(
            f"{text[:40]!r} is not an amount of memory; write a number and a unit, "
            "such as 18GiB, 18GB or 512MiB"
        )
    whole, _, fraction = match[1].partition(".")
    # Integers throughout: 18 digits and a unit do not fit a float exactly.
    bytes_ = int(whole) * unit
    if fraction:
        bytes_ += int(fraction) * unit // 10 ** len(fraction)
    return bytes_


def format_bytes(amount: int) -> str:
    """``amount`` bytes for people, in binary units: ``"17.2 GiB"``, ``"512 B"``.

    Three digits at the most (up to 1023), so that columns line up.
    """
    if abs(amount) < KIB:
        return f"{amount} B"
    value = float(amount)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        digits = 1 if abs(round(value, 1)) < 100 else 0
        # Compared as it will be printed, so that 1023.7 MiB becomes 1.0 GiB and not 1024 MiB.
        if abs(round(value, digits)) < 1024 or unit == "TiB":
            return f"{value:.{digits}f} {unit}"
    raise AssertionError("the loop above always returns")


def format_amounts(amounts: Mapping[str, int]) -> str:
    """Bytes per pool for people: ``"17.2 GiB"``, with several pools ``"17.2 GiB gpu0 + …"``."""
    if len(amounts) == 1:
        return format_bytes(next(iter(amounts.values())))
    return " + ".join(f"{format_bytes(n)} {pool}" for pool, n in sorted(amounts.items()))
