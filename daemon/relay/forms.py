"""Multipart bodies (audio, image edits): the ``model`` field found and replaced, strictly.

Only the parts' borders and their Content-Disposition are read; files are never copied.
"""

from __future__ import annotations

import re
from typing import NamedTuple, overload

from daemon.core.problems import Code, Problem, ProblemError
from daemon.relay.body import NAME_LIMIT, Body, Parts
from daemon.relay.heads import END, bad

_BOUNDARY = re.compile(
    rb"multipart/form-data;(?:[^\"]*;)?[ \t]*boundary="
    rb"(?:\"([0-9A-Za-z'()+_,./:=? -]{1,70})\"|([0-9A-Za-z'()+_,./:=?-]{1,70}))[ \t]*(?:;.*)?",
    re.IGNORECASE,
)
_DISPOSITION = re.compile(
    rb"(?:^|\r\n)content-disposition:[ \t]*form-data([^\r\n]*)", re.IGNORECASE
)
_NAME = re.compile(rb";[ \t]*name=(?:\"([^\"\\]*)\"|([^\s;\"]+))", re.IGNORECASE)
_PART_HEAD_LIMIT = 8192
_PARTS_LIMIT = 256


class Field(NamedTuple):
    """The model's name and where it stands in the body."""

    model: str
    start: int
    end: int


def is_form(content_type: bytes) -> bool:
    return content_type[:19].lower() == b"multipart/form-data"


@overload
def find_model(body: Body, content_type: bytes) -> Field: ...
@overload
def find_model(body: Body, content_type: bytes, *, required: bool) -> Field | None: ...
def find_model(body: Body, content_type: bytes, *, required: bool = True) -> Field | None:
    """The ``model`` field. Raises ProblemError if the form is malformed, or the field missing (and
    ``required``; else None), there twice, or not a short line of text."""
    delimiter = _delimiter(content_type)
    found: list[tuple[int, int]] = []
    for start, end in _parts(body, delimiter):
        head_end = body.find(END, start, min(end, start + _PART_HEAD_LIMIT))
        if head_end < 0:
            raise bad("A part of the form has no end of its headers, or too long ones.")
        if _part_name(bytes(body[start:head_end])) == b"model":
            found.append((head_end + len(END), end))
    if not found and not required:
        return None
    if not found:
        text = "The form has no field `model`."
        hint = "Name one of the models that GET /v1/models lists."
        raise ProblemError(Problem(Code.MODEL_MISSING, text, hint))
    if len(found) > 1:
        raise bad(f"The field `model` is in the form {len(found)} times.", "Send it once.")
    start, end = found[0]
    return Field(_text(bytes(body[start : min(end, start + 4 * NAME_LIMIT + 1)])), start, end)


def with_model(body: Body, field: Field, model: str) -> Parts:
    """The form with another value in its ``model`` field."""
    view = memoryview(body)
    return view[: field.start], model.encode(), view[field.end :]


def with_new_model(body: Body, content_type: bytes, model: str) -> Parts:
    """A form that :func:`find_model` found no model in, with one."""
    delimiter = _delimiter(content_type)
    at = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter) + 2
    head = b'\r\nContent-Disposition: form-data; name="model"\r\n\r\n'
    view = memoryview(body)
    return view[:at], delimiter + head + model.encode() + b"\r\n", view[at:]


def _delimiter(content_type: bytes) -> bytes:
    match = _BOUNDARY.fullmatch(content_type)
    if match is None:
        raise bad("The Content-Type multipart/form-data needs a well-formed boundary.")
    return b"--" + (match[1] or match[2])


def _parts(body: Body, delimiter: bytes) -> list[tuple[int, int]]:
    """Start and end of each part (headers and value)."""
    at = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter) + 2
    if at == 1:
        raise bad("The form's boundary is not in the body.")
    parts: list[tuple[int, int]] = []
    while True:
        after = at + len(delimiter)
        if body[after : after + 2] == b"--":
            return parts
        if body[after : after + 2] != b"\r\n" or len(parts) >= _PARTS_LIMIT:
            raise bad("The form is malformed behind a boundary, or has too many parts.")
        end = body.find(b"\r\n" + delimiter, after)
        if end < 0:
            raise bad("The form has no closing boundary.")
        parts.append((after + 2, end))
        at = end + 2


def _part_name(head: bytes) -> bytes:
    dispositions = _DISPOSITION.findall(head)
    if len(dispositions) != 1:
        raise bad("Each part of the form needs one Content-Disposition: form-data.")
    names = _NAME.findall(dispositions[0])
    if len(names) != 1:
        raise bad("Each part of the form needs one name.")
    return names[0][0] or names[0][1]  # type: ignore[no-any-return]


def _text(value: bytes) -> str:
    try:
        name = value.decode()
    except UnicodeDecodeError:
        raise bad("The field `model` must be text; found bytes that are not UTF-8.") from None
    if not name or len(name) > NAME_LIMIT or not name.isprintable():
        raise bad(f"The field `model` must be a name of 1 to {NAME_LIMIT} printable characters.")
    return name
