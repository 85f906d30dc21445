"""Printing: plain aligned text for people, JSON for programs, colour only on a terminal."""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Final, TextIO

_COLOURS: Final = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "dim": 2, "bold": 1}
_COLOUR: Final = re.compile(r"\x1b\[([0-9]+)m", re.ASCII)
_OURS: Final = frozenset({"0", *map(str, _COLOURS.values())})
_STATES: Final = {
    "ready": "green",
    "starting": "yellow",
    "draining": "yellow",
    "stopping": "yellow",
    "backoff": "red",
    "failed": "red",
    "stopped": "dim",
}
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


class Out:
    """Where a command prints. ``json``: the user wants JSON, and nothing else, on stdout."""

    def __init__(
        self, *, as_json: bool = False, out: TextIO | None = None, err: TextIO | None = None
    ) -> None:
        self.json = as_json
        self.out = out or sys.stdout
        self.err = err or sys.stderr

    @property
    def tty(self) -> bool:
        """Whether a person reads stdout."""
        return self.out.isatty()

    def line(self, text: str = "") -> None:
        print(clean(text), file=self.out, flush=True)

    def note(self, text: str) -> None:
        """For people only: on stderr, so that pipes get the answer alone."""
        print(clean(text), file=self.err, flush=True)

    def value(self, value: Any) -> None:
        """One JSON document on stdout."""
        print(self._dumps(value, 2), file=self.out)

    def value_line(self, value: Any) -> None:
        """One JSON document as one line: for streams."""
        print(self._dumps(value, None), file=self.out, flush=True)

    def _dumps(self, value: Any, indent: int | None) -> str:
        # a terminal gets escapes: JSON leaves some characters as they are that turn text around
        return json.dumps(value, indent=indent, ensure_ascii=self.tty, default=str)

    def paint(self, text: str, colour: str) -> str:
        """The text in a colour, on a terminal that wants colours."""
        return paint(text, colour, self.out)

    def state(self, state: str) -> str:
        return self.paint(state, _STATES.get(state, "bold"))

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Columns as wide as they must be; numbers' columns are not aligned right: names first."""
        widths = [width(header) for header in headers]
        for row in rows:
            widths = [max(w, width(clean(cell))) for w, cell in zip(widths, row, strict=True)]
        head = "  ".join(pad(h, w) for h, w in zip(headers, widths, strict=True)).rstrip()
        print(self.paint(head, "bold"), file=self.out)
        for row in rows:
            cells = [pad(clean(cell), w) for cell, w in zip(row, widths, strict=True)]
            print("  ".join(cells).rstrip(), file=self.out)

    def facts(self, pairs: Sequence[tuple[str, str]]) -> None:
        """``name  value`` lines; pairs without a value are left out."""
        shown = [(name, value) for name, value in pairs if value]
        wide = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            print(f"{self.paint(name.ljust(wide), 'dim')}  {clean(value)}", file=self.out)


def paint(text: str, colour: str, stream: TextIO) -> str:
    """The text in a colour, if the stream is a terminal and NO_COLOR is not set."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def clean(text: str, *, colours: bool = True) -> str:
    """The text without control characters but (``colours``) our own colours: names, log lines and
    answers of engines may carry some that move the cursor or change the terminal."""
    if text.isprintable():
        return text
    kept = []
    for index, char in enumerate(text):
        if char in "\n\t" or not _hostile(char) or (colours and _is_colour(text, index)):
            kept.append(char)
        else:
            kept.append(f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}")
    return "".join(kept)


def _is_colour(text: str, index: int) -> bool:
    found = _COLOUR.match(text, index)
    return found is not None and found[1] in _OURS


def _hostile(char: str) -> bool:
    # Cc: controls; Cf: bidi overrides and the like; Zl, Zp: line separators
    return unicodedata.category(char) in {"Cc", "Cf", "Zl", "Zp"}


def width(text: str) -> int:
    """Columns that the text takes on a terminal, colours not counted."""
    columns, skip = 0, False
    for char in text:
        if char == "\x1b":
            skip = True
        elif skip:
            skip = char != "m"
        else:
            columns += 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1
    return columns


def pad(text: str, wide: int) -> str:
    return text + " " * (wide - width(text))


def size(count: int | None) -> str:
    """Bytes as people read them: ``17.2 GiB``; "" for None."""
    if count is None:
        return ""
    value, unit = float(count), 0
    while abs(value) >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def pools(footprint: Mapping[str, int]) -> str:
    """Bytes per pool, in one cell; the pool is named only where there are several."""
    if len(footprint) == 1:
        return size(next(iter(footprint.values())))
    return " + ".join(f"{size(count)} {pool}" for pool, count in sorted(footprint.items()))


def duration(seconds: float | None) -> str:
    """``11.4 s``, ``4m 10s``, ``3h 5m``, ``2d 4h``; "" for None."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 20 else f"{seconds:.0f} s"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60}s"
    if whole < 86_400:
        return f"{whole // 3600}h {whole % 3600 // 60}m"
    return f"{whole // 86_400}d {whole % 86_400 // 3600}h"
