"""Gemma 4's own notation of arguments: keys bare, texts between ``<|"|>`` and never escaped."""

from __future__ import annotations

import re

from daemon.dialects.fields import Json, loads

QUOTE = '<|"|>'
_KEY = re.compile(
    r'\s*(?:<\|"\|>(.*?)<\|"\|>|"((?:[^"\\]|\\.)*)"|([^\s:,{}\[\]"]+))\s*:', re.DOTALL
)
_BARE = re.compile(r"[^,{}\[\]]+")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_DEPTH = 32


def gemma_call(text: str, start: int, end: int) -> Json | None:
    """The object from ``start`` (its brace) to ``end``; None if it is none."""
    try:
        value, at = _value(text[:end], start, 0)
    except ValueError:
        return None
    return value if isinstance(value, dict) and not text[at:end].strip() else None


def _value(text: str, at: int, depth: int) -> tuple[object, int]:
    at = _skip(text, at)
    if depth > _DEPTH or at >= len(text):
        raise ValueError
    if text.startswith(QUOTE, at):
        end = text.find(QUOTE, at + len(QUOTE))
        if end < 0:
            raise ValueError
        return text[at + len(QUOTE) : end], end + len(QUOTE)
    if text[at] == "{":
        return _object(text, at + 1, depth)
    if text[at] == "[":
        return _array(text, at + 1, depth)
    if text[at] == '"' and (string := _STRING.match(text, at)) is not None:
        return loads(string[0]), string.end()
    bare = _BARE.match(text, at)
    if bare is None:
        raise ValueError
    word = bare[0].strip()
    value = loads(word)
    return (word if value is None and word != "null" else value), bare.end()


def _object(text: str, at: int, depth: int) -> tuple[object, int]:
    found: Json = {}
    at = _skip(text, at)
    while not text.startswith("}", at):
        key = _KEY.match(text, at)
        if key is None:
            raise ValueError
        name = key[1] or key[2] or key[3] or ""
        found[name], at = _value(text, key.end(), depth + 1)
        at = _next(text, at, "}")
    return found, at + 1


def _array(text: str, at: int, depth: int) -> tuple[object, int]:
    found: list[object] = []
    at = _skip(text, at)
    while not text.startswith("]", at):
        value, at = _value(text, at, depth + 1)
        found.append(value)
        at = _next(text, at, "]")
    return found, at + 1


def _next(text: str, at: int, closer: str) -> int:
    at = _skip(text, at)
    if text.startswith(",", at):
        return _skip(text, at + 1)
    if not text.startswith(closer, at):
        raise ValueError
    return at


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at
