"""Setting values in JSON that people write: comments, order and blanks stay as they are.

The text is read with the places of its values, and only what is set is written anew. Comments
(``//``, ``/* */``), commas before a closing brace and a BOM are allowed, as clients allow them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

KeyPath = tuple[str, ...]

_DEPTH: Final = 200
_BLANK: Final = re.compile(r"(?:[ \t\r\n\ufeff]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_REST_OF_LINE: Final = re.compile(r"[ \t]*(?://[^\n]*|/\*[^\n]*?\*/[ \t]*(?=\r?\n))")
_STRING: Final = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_PLAIN: Final = re.compile(r"[-+.\w]+")


@dataclass(slots=True)
class _Value:
    """Where a value stands. ``value`` is what it says; an object has ``members`` too."""

    start: int
    end: int
    value: Any = None
    members: dict[str, _Value] | None = None
    last: int = 0  # the end of its last member, or just behind the opening brace
    comma: int | None = None  # just behind the comma that follows the last member


@dataclass(slots=True)
class _Reader:
    text: str
    at: int = 0
    depth: int = field(default=0)

    def document(self) -> _Value:
        self.blank()
        found = self.read()
        self.blank()
        if self.at < len(self.text):
            raise self.wrong("more than one value")
        return found

    def blank(self) -> None:
        match = _BLANK.match(self.text, self.at)
        assert match is not None
        self.at = match.end()

    def read(self) -> _Value:
        self.depth += 1
        if self.depth > _DEPTH:
            raise self.wrong("too many levels")
        try:
            char = self.text[self.at : self.at + 1]
            if char == "{":
                return self.members()
            if char == "[":
                return self.items()
            return self.plain()
        finally:
            self.depth -= 1

    def plain(self) -> _Value:
        start = self.at
        match = (_STRING if self.text[start : start + 1] == '"' else _PLAIN).match(self.text, start)
        if match is None:
            raise self.wrong("no value")
        try:
            value = json.loads(match[0])
        except ValueError:
            raise self.wrong("no value") from None
        self.at = match.end()
        return _Value(start, self.at, value)

    def members(self) -> _Value:
        found = _Value(self.at, self.at, {}, {}, self.at + 1)
        assert found.members is not None
        self.at += 1
        while True:
            self.blank()
            if self.take("}"):
                break
            if found.members and found.comma is None:
                raise self.wrong("no comma")
            if self.text[self.at : self.at + 1] != '"':
                raise self.wrong("no name in quotes")
            key = self.plain().value
            self.blank()
            if not self.take(":"):
                raise self.wrong("no colon")
            self.blank()
            inner = self.read()
            found.members[key] = inner
            found.value[key] = inner.value
            found.last, found.comma = inner.end, None
            self.blank()
            if self.take(","):
                found.comma = self.at
        found.end = self.at
        return found

    def items(self) -> _Value:
        found = _Value(self.at, self.at, [])
        self.at += 1
        comma = True
        while True:
            self.blank()
            if self.take("]"):
                break
            if not comma:
                raise self.wrong("no comma")
            found.value.append(self.read().value)
            self.blank()
            comma = self.take(",")
        found.end = self.at
        return found

    def take(self, char: str) -> bool:
        if self.text[self.at : self.at + 1] != char:
            return False
        self.at += 1
        return True

    def wrong(self, what: str) -> ValueError:
        line = self.text.count("\n", 0, self.at) + 1
        return ValueError(f"line {line}: {what}")


def loads(text: str) -> Any:
    """What the text says. Raises ``ValueError`` with the line."""
    return _Reader(text).document().value


def changed(text: str | None, values: Mapping[KeyPath, Any]) -> str:
    """The text with each value at its place; objects on the way are made.

    Nothing is rewritten that says so already. Raises ``ValueError`` where the text is no JSON
    object, or something else stands where an object is needed.
    """
    if text is None or not text.strip("\ufeff \t\r\n"):
        text = (text or "") + "{}\n"
    for path, value in values.items():
        text = _set(text, path, value)
    return text


def _set(text: str, path: KeyPath, value: Any) -> str:
    place = _Reader(text).document()
    for depth, key in enumerate(path):
        if place.members is None:
            where = ".".join(path[:depth]) or "the whole"
            raise ValueError(f"{where} is no object")
        inner = place.members.get(key)
        if inner is None:
            for missing in reversed(path[depth + 1 :]):
                value = {missing: value}
            return _inserted(text, place, key, value)
        place = inner
    if place.value == value and type(place.value) is type(value):
        return text
    indent = _indent(text, place.start)
    return text[: place.start] + _dumps(value, indent) + text[place.end :]


def _inserted(text: str, place: _Value, key: str, value: Any) -> str:
    name = json.dumps(key, ensure_ascii=False)
    lines = "\n" in text[place.start : place.end]
    if not place.members:
        outer = _indent(text, place.start)
        inner = outer + "  "
        new = f"\n{inner}{name}: {_dumps(value, inner)}"
        tail = "" if lines else f"\n{outer}"
        return text[: place.last] + new + tail + text[place.last :]
    if not lines:
        comma = "" if place.comma else ","
        at = place.comma or place.last
        written = json.dumps(value, ensure_ascii=False)
        return f"{text[:at]}{comma} {name}: {written}{text[at:]}"
    first = next(iter(place.members.values()))
    inner = _indent(text, first.start)
    at = place.comma or place.last
    comma = "" if place.comma else ","
    rest = _REST_OF_LINE.match(text, at)
    remark = rest[0] if rest else ""
    new = f"{comma}{remark}\n{inner}{name}: {_dumps(value, inner)}"
    return text[:at] + new + text[at + len(remark) :]


def _indent(text: str, at: int) -> str:
    """The blanks at the beginning of the line of this place."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _dumps(value: Any, indent: str) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False).replace("\n", "\n" + indent)
