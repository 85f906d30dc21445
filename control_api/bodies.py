"""Bodies of requests: read as their type, or refused with the field, what was found in it and what
is allowed there.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import inspect

from control_api.operation import bad_request
from control_api.schemas import Body
from daemon.core.problems import Code, ProblemError

_SHOWN: Final = 40  # characters of what was found


def decode_body(kind: type[Body], raw: bytes) -> Body:
    """The body as its type; no body means ``{}``. Raises ``ProblemError`` naming the field."""
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except msgspec.ValidationError as error:
        return _once_more(kind, raw, error)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise bad_request(
            f"The body is not valid JSON: {error}.", code=Code.INVALID_JSON
        ) from error


def _once_more(kind: type[Body], raw: bytes, error: msgspec.ValidationError) -> Body:
    """Valid JSON so far, but not of this type, unless for how a number is written."""
    try:
        values = _whole(msgspec.json.decode(raw))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise bad_request(f"{error}.", _fields(kind)) from error  # and broken further on
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError:
        raise _fault(kind, values) or bad_request(f"{error}.", _fields(kind)) from error


def _whole(value: Any) -> Any:
    """JSON has one kind of numbers, so 4096.0 is a whole one: some programs write it so."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_whole(one) for one in value]
        case dict():
            return {name: _whole(one) for name, one in value.items()}
        case _:
            return value


def _fields(kind: type[msgspec.Struct]) -> str:
    return f"Allowed fields: {', '.join(kind.__struct_fields__) or 'none'}."


def _fault(kind: type[msgspec.Struct], values: Any, where: str = "") -> ProblemError | None:
    """What is wrong with values of a type; ``where`` they are, with a dot, inside of the body."""
    place = where.rstrip(".") or "The body"
    if not isinstance(values, dict):
        text = f"{place} is {_shown(values)}; a JSON object is allowed."
        return bad_request(text, _fields(kind))
    known = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for name, value in values.items():
        if name not in known:
            text = f"{place} has the unknown field {name[:_SHOWN]!r}."
            return bad_request(text, _fields(kind))
        try:
            msgspec.convert(value, known[name])
        except msgspec.ValidationError:
            found = inspect.type_info(known[name])
            return _inside(found, value, where + name) or bad_request(
                f"{where}{name} is {_shown(value)}; {_allowed(found)} is allowed."
            )
    missing = [name for name in kind.__struct_fields__ if name not in values]
    needed = [f.name for f in msgspec.structs.fields(kind) if f.required and f.name in missing]
    if needed:
        return bad_request(f"{where}{needed[0]} is missing.", _fields(kind))
    return None


def _inside(found: inspect.Type, value: Any, where: str) -> ProblemError | None:
    """The fault of one of a list of objects."""
    if not isinstance(found, inspect.ListType) or not isinstance(value, list):
        return None
    if not isinstance(found.item_type, inspect.StructType):
        return None
    faults = (_fault(found.item_type.cls, one, f"{where}[{i}].") for i, one in enumerate(value))
    return next((fault for fault in faults if fault is not None), None)


def _shown(value: Any) -> str:
    """As JSON, cut where it is long: what was found."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _allowed(kind: inspect.Type) -> str:
    """What a field takes, in words."""
    match kind:
        case inspect.Metadata(type=inner):  # more is said of it in the document
            return _allowed(inner)
        case inspect.UnionType(types):
            return " or ".join(_allowed(one) for one in types)
        case inspect.IntType(ge=low, le=high) if low is not None and high is not None:
            return f"a whole number from {low} to {high}"
        case inspect.FloatType(gt=low, le=high) if low is not None and high is not None:
            return f"a number above {low:g} and up to {high:g}"
        case inspect.IntType():
            return "a whole number"
        case inspect.LiteralType(values):
            return " or ".join(sorted(msgspec.json.encode(value).decode() for value in values))
        case inspect.BoolType():
            return "true or false"
        case inspect.NoneType():
            return "null"
        case inspect.StrType(max_length=most):
            return f"text of up to {most} characters" if most else "text"
        case inspect.FloatType(ge=low, le=high) if low is not None and high is not None:
            return f"a number from {low:g} to {high:g}"
        case inspect.ListType(max_length=high):
            return f"a list of up to {high} objects"
        case _:
            raise AssertionError(f"a body with a field of {kind}: say here what that takes")
