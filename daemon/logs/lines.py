"""One log line as text that is safe to print: no control characters, one line, a bounded length."""

from __future__ import annotations

import json
from collections.abc import Mapping

LINE_CAP = 8192  # bytes of UTF-8
SHORTEST = 32  # bytes that a text in a line of JSON keeps in any case

# C0, DEL, C1 (0x9b opens terminal commands too), line and paragraph separators, everything that
# turns the direction of text, and lone surrogates, which no file takes
_UNSAFE = (
    *range(0x20),
    *range(0x7F, 0xA0),
    0x061C,
    *(0x200E, 0x200F, 0x2028, 0x2029),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000),
)
_ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _UNSAFE}
# the same as JSON writes them; what is below a blank JSON itself escapes
_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in _UNSAFE if code >= 0x20}
_ESCAPES |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}


def escape(text: str) -> str:
    """``text`` with everything that could break or forge a line spelled out. Idempotent."""
    return text.translate(_ESCAPES)


def json_line(fields: Mapping[str, str], limit: int = LINE_CAP) -> str:
    """``fields`` as one line of JSON of at most ``limit`` bytes of UTF-8: texts are cut until it
    fits. Nothing in it can break or forge a line."""
    longest = limit
    while True:
        cut = {name: clip(text, longest) for name, text in fields.items()}
        line = json.dumps(cut, ensure_ascii=False).translate(_JSON_ESCAPES)
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
