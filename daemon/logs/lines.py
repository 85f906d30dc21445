"""One log line as text that is safe to print: no control characters, one line, a bounded length."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

LINE_CAP = 8192  # bytes of UTF-8
SHORTEST = 32  # bytes that a text in a line of JSON keeps in any case

# C0, DEL, C1 (0x9b opens terminal commands too), line and paragraph separators, everything that
# turns the direction of text, and lone surrogates, which no file takes
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return _SHORT.get(found[0]) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def _json_spelled(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"  # what is below a blank, JSON itself has escaped


def escape(text: str) -> str:
    """``text`` with everything that could break or forge a line spelled out. Idempotent."""
    return _UNSAFE.sub(_spelled, text)


def json_line(fields: Mapping[str, str], limit: int = LINE_CAP) -> str:
    """``fields`` as one line of JSON of at most ``limit`` bytes of UTF-8: texts are cut until it
    fits. Nothing in it can break or forge a line."""
    longest = limit
    while True:
        cut = {name: clip(text, longest) for name, text in fields.items()}
        line = _UNSAFE.sub(_json_spelled, json.dumps(cut, ensure_ascii=False))
        if len(line.encode()) <= limit or longest < SHORTEST:
            return line
        longest //= 2


def clip(text: str, limit: int = LINE_CAP) -> str:
    """``text`` in at most ``limit`` bytes of UTF-8; what is cut off is said at the end."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return text
    end = f"… [{len(data)} bytes]"
    head = data[: max(0, limit - len(end.encode()))]
    return head.decode("utf-8", "ignore") + end
