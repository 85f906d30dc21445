"""Reading a request's fields: what is missing or of a wrong kind is said by its path."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from daemon.core.problems import Code, Problem, ProblemError

Json = dict[str, Any]

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder().decode

_KINDS: dict[type, str] = {
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def bad(text: str, hint: str = "") -> ProblemError:
    """The request is at fault."""
    return ProblemError(Problem(Code.INVALID_REQUEST, text, hint))


def kind(value: object) -> str:
    """What ``value`` is, in JSON's words."""
    return _KINDS.get(type(value), "something else")


def wrong(path: str, value: object, allowed: str) -> ProblemError:
    """``path`` holds something else than what is allowed there."""
    return bad(f"{path}: found {kind(value)}, allowed is {allowed}.")


def an_object(value: object, path: str) -> Json:
    """``value`` if it is an object. Raises ProblemError."""
    if not isinstance(value, dict):
        raise wrong(path, value, "an object")
    return value


def an_array(value: object, path: str) -> list[Any]:
    """``value`` if it is an array. Raises ProblemError."""
    if not isinstance(value, list):
        raise wrong(path, value, "an array")
    return value


def a_string(value: object, path: str) -> str:
    """``value`` if it is a string. Raises ProblemError."""
    if not isinstance(value, str):
        raise wrong(path, value, "a string")
    return value


def number(body: Json, name: str) -> float | None:
    """A number that may be missing. Raises ProblemError for anything else."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong(name, value, "a number")
    return value


def whole(body: Json, name: str) -> int | None:
    """A whole number that may be missing. Raises ProblemError for anything else."""
    value = number(body, name)
    if value is not None and (not math.isfinite(value) or value != int(value)):
        raise wrong(name, value, "a whole number")
    return None if value is None else int(value)


def read(body: bytes | bytearray) -> Json:
    """A request's body. Raises ProblemError (INVALID_JSON) if it is no JSON object."""
    try:
        value = decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = f"The body is not valid JSON: {error}."
        raise ProblemError(Problem(Code.INVALID_JSON, text)) from error
    if not isinstance(value, dict):
        text = f"The body must be a JSON object; found {kind(value)}."
        raise ProblemError(Problem(Code.INVALID_JSON, text))
    return value


def loads(text: str | bytes) -> Any:
    """A JSON value, or None where ``text`` is none."""
    try:
        return decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def dumps(value: object) -> str:
    """JSON without blanks."""
    return encode(value).decode()
