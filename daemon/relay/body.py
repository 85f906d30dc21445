"""Request bodies: read to their end within limits, and the model's name found and replaced.

Nothing is decoded that need not be: msgspec skips over everything but ``model`` and ``stream``
(about 1 ms per 300 KB of conversation, 0.25 ms per MB of base64; a thread would not help, as it
holds the interpreter's lock). A name is replaced by cutting the bytes, so that a body reaches the
backend as the client wrote it.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from itertools import product
from typing import Any

import msgspec

from daemon.core.problems import Code, Problem, ProblemError
from daemon.dialects.halves import mended
from daemon.dialects.manner import Outline
from daemon.relay.heads import END, Head, bad, check_trailers
from daemon.relay.limits import MIB, Limits

Body = bytes | bytearray
Parts = tuple[Body | memoryview, ...]
"""A body in the pieces that it is put together from: it is never copied for a change."""
NAME_LIMIT = 256
"""Characters of a model's name."""


class Peek(msgspec.Struct, gc=False, frozen=True):
    """What routing needs of a body. ``model`` is empty where the field is missing or null,
    ``stream`` None where it says nothing of the kind."""

    model: str
    stream: bool | None


# ---------------------------------------------------------------- reading

_CHUNK_LINE_LIMIT = 256
# A size, and perhaps an extension, which is ignored. No blanks: they are where parsers disagree.
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e]*)?")


def too_large(limits: Limits) -> ProblemError:
    limit = f"{limits.body_bytes / MIB:g} MiB ({limits.body_bytes} bytes)"
    return ProblemError(
        Problem(Code.BODY_TOO_LARGE, f"The body is larger than {limit}.", "Send smaller images.")
    )


def check_body_head(head: Head, limits: Limits) -> None:
    """Refuse on the head alone what would be refused after reading. Raises ProblemError."""
    coding = head.first.get(b"content-encoding")
    if coding is not None and coding.lower() != b"identity":
        text = f"Content-Encoding {coding[:40].decode('latin-1')} is not taken; send it plain."
        raise ProblemError(Problem(Code.UNSUPPORTED_ENCODING, text))
    if head.length is not None and head.length > limits.body_bytes:
        raise too_large(limits)


class _Step(Enum):
    """What a chunked body's next bytes are."""

    LINE = auto()
    CHUNK = auto()
    TRAILER = auto()


class BodyReader:
    """Collects one body that did not come whole with its head."""

    __slots__ = ("_chunked", "_chunks", "_left", "_limits", "_raw", "_step", "data", "received")

    def __init__(self, length: int | None, limits: Limits) -> None:
        """``length`` as declared, or None for a chunked body."""
        self.data = bytearray()
        self.received = 0  # bytes from the wire
        self._limits = limits
        self._left = length or 0
        self._chunked = length is None
        self._raw = bytearray()  # of a chunked body, not yet taken apart
        self._step = _Step.LINE
        self._chunks = 0

    def feed(self, data: bytes) -> bytes | None:
        """Take ``data``; once the body is whole, the bytes behind it (else None).

        Raises ProblemError on a malformed or too large chunked body.
        """
        self.received += len(data)
        if self._chunked:
            self._raw += data
            while self._step is not _Step.TRAILER:
                if not (self._line() if self._step is _Step.LINE else self._chunk()):
                    return None
            return self._trailer()
        left = self._left
        self.data += data[:left]
        self._left = max(0, left - len(data))
        return data[left:] if len(data) >= left else None

    def _line(self) -> bool:
        """Take a chunk's size line; False if it is not there yet."""
        end = self._raw.find(b"\r\n", 0, _CHUNK_LINE_LIMIT)
        if end < 0:
            if len(self._raw) >= _CHUNK_LINE_LIMIT or b"\n" in self._raw:
                raise bad("A chunk's size line is malformed or too long.")
            return False
        match = _CHUNK_LINE.fullmatch(self._raw, 0, end)
        if match is None:
            raise bad("A chunk's size line is malformed.")
        self._left = int(match[1], 16)
        del match  # it holds the buffer, which is cut below
        self._chunks += 1
        if len(self.data) + self._left > self._limits.body_bytes:
            raise too_large(self._limits)
        if self._chunks > self._limits.body_chunks:
            raise bad(f"The body has more than {self._limits.body_chunks} chunks.")
        # The line of the last chunk is kept: its CR LF begins the END of an empty trailer.
        del self._raw[: end + 2 if self._left else end]
        self._step = _Step.CHUNK if self._left else _Step.TRAILER
        return True

    def _chunk(self) -> bool:
        """Take what is there of a chunk and its CR LF; False if there is more to come."""
        taken = min(self._left, len(self._raw))
        self.data += self._raw[:taken]
        del self._raw[:taken]
        self._left -= taken
        if self._left or len(self._raw) < 2:
            return False
        if self._raw[:2] != b"\r\n":
            raise bad("A chunk is longer than its size says.")
        del self._raw[:2]
        self._step = _Step.LINE
        return True

    def _trailer(self) -> bytes | None:
        end = self._raw.find(END)
        if (len(self._raw) if end < 0 else end) > self._limits.trailer_bytes:
            raise bad("The trailer of the chunked body is too long.")
        if end < 0:
            return None
        check_trailers(bytes(self._raw[2 : end + len(END)]))
        return bytes(self._raw[end + len(END) :])


# ---------------------------------------------------------------- JSON


class _Name:
    """The type of the ``model`` field: decoding it calls :func:`_met`, once for each such key,
    however it is spelled. So one pass finds the name and counts it."""

    __slots__ = ()


class _Odd:
    """The type of a field that is ``model`` but for the case of its letters."""

    __slots__ = ()


class _Fields(msgspec.Struct, gc=False):
    model: _Name = _Name()
    stream: Any = None


class _Outlined(Outline, gc=False):
    model: _Name = _Name()
    stream: Any = None


_NAME, _ODD = _Name(), _Odd()
_SPELLINGS = ["".join(letters) for letters in product(*zip("model", "MODEL", strict=True))][1:]
_names: list[object] = []  # met in the body that is being read; peek never yields in between


def _met(kind: type, value: object) -> _Name | _Odd:
    if kind is _Odd:
        _names.append(_ODD)
        return _ODD
    _names.append(value)
    return _NAME


def _in_any_case(fields: type[msgspec.Struct]) -> type[Any]:
    """``fields`` and all other spellings of ``model``, which one pass meets then, too: readers that
    ignore case (Go's) would take ``Model`` for it, and so another model than we do."""
    odd = [
        (f"odd_{at}", _Odd, msgspec.field(default=_ODD, name=spelling))
        for at, spelling in enumerate(_SPELLINGS)
    ]
    return msgspec.defstruct(f"{fields.__name__}InAnyCase", odd, bases=(fields,), gc=False)


_decoder = msgspec.json.Decoder(_in_any_case(_Fields), dec_hook=_met)
_outliner = msgspec.json.Decoder(_in_any_case(_Outlined), dec_hook=_met)
_WRONG = "The field `model` must be a string with a model's name; found "
_KINDS = {bool: "a boolean", dict: "an object", list: "an array"}


def outlined(body: Body) -> tuple[Peek, Outline | None]:
    """What :func:`peek` finds (the model need not be named), and in the same pass the outline; None
    where it has none that can be read: whoever serves the request says what is wrong with that."""
    try:
        fields = _outliner.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        _names.clear()
        return peek(body, required=False), None
    found = _names.copy()
    _names.clear()
    return _checked(found, fields.stream, required=False), fields


def outline_of(body: Body) -> Outline | None:
    """The outline alone, where no name is looked for; None: it has none that can be read. Raises
    ProblemError if the body is no JSON."""
    try:
        found: Outline = _outliner.decode(body)
        return found
    except msgspec.ValidationError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _explain(body, error) from error
    finally:
        _names.clear()


def readable(body: Body, error: ProblemError) -> Body:
    """``body``, which was refused with ``error``, so that it can be read: half characters are
    replaced, which programs in JavaScript send where they cut a text. Raises ``error`` again where
    that is not it."""
    found = mended(body) if error.problem.code is Code.INVALID_JSON else None
    if found is None:
        raise error
    return found


def peek(body: Body, *, required: bool = True) -> Peek:
    """``model`` and ``stream`` of a JSON body.

    Raises ProblemError if the body is no JSON object, names ``model`` twice or not as a string,
    or (``required``) not at all.
    """
    try:
        fields = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _explain(body, error) from error
    finally:
        found = _names.copy()
        _names.clear()
    return _checked(found, fields.stream, required=required)


def odd_case() -> ProblemError:
    """Of a body with a field that some readers would take for ``model``, and we do not."""
    text = "The body has the field `model` in other letters, such as `Model`."
    return bad(text, "Write it `model`, and once.")


def _checked(found: list[object], stream: object, *, required: bool) -> Peek:
    if _ODD in found:
        raise odd_case()
    if len(found) > 1:
        # Two readers of such a body could see two models.
        raise bad(f"The field `model` is in the body {len(found)} times.", "Send it once.")
    name = found[0] if found else None
    if isinstance(name, str):
        if not name:
            raise bad(f"{_WRONG}an empty one.")
        if len(name) > NAME_LIMIT:
            raise bad(f"{_WRONG}{len(name)} characters, allowed are {NAME_LIMIT}.")
        if not name.isprintable():
            raise bad(f"{_WRONG}one with control characters.")
    elif name is not None:
        raise bad(f"{_WRONG}{_KINDS.get(type(name), 'a number')}.")
    elif required:
        text = "The field `model` is missing."
        hint = "Name one of the models that GET /v1/models lists."
        raise ProblemError(Problem(Code.MODEL_MISSING, text, hint))
    return Peek(name or "", stream if isinstance(stream, bool) else None)


def _explain(body: Body, error: Exception) -> ProblemError:
    """Why the body could not be read: no JSON, or no object."""
    hint = "Send a JSON object with the field `model`."
    if isinstance(error, RecursionError):
        text = "The body's JSON is nested too deeply."
    elif isinstance(error, msgspec.ValidationError):
        first = bytes(body[:64]).lstrip()[:1]
        if first == b"{":
            return bad(f"{_WRONG}a number out of range.")
        found = {b"[": "an array", b'"': "a string", b"n": "null"}.get(first, "a bare value")
        text = f"The body must be a JSON object; found {found}."
    else:
        text = f"The body is not valid JSON: {_plain(error)}." if body else "The body is empty."
    return ProblemError(Problem(Code.INVALID_JSON, text, hint))


def _plain(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "a string is not valid UTF-8"
    return str(error).removeprefix("JSON is malformed: ").lower().rstrip(".")


# ---------------------------------------------------------------- replacing the name

_KEY = b'"model"'
_ESCAPED_LETTER = b"\\u006"  # all of m, o, d, e, l are U+0064 to U+006F
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_AT_START = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"model"[ \t\r\n]*:[ \t\r\n]*(' + _STRING + rb")")
_ANYWHERE = re.compile(rb'"model"[ \t\r\n]*:[ \t\r\n]*(' + _STRING + rb")")
_TOKENS = re.compile(rb"(" + _STRING + rb")([ \t\r\n]*:[ \t\r\n]*)?|[{}\[\]]", re.DOTALL)


def with_model(body: Body, model: str) -> Parts:
    """``body``, in which :func:`peek` found a name, with ``model`` in its place."""
    start, end = _span(body)
    view = memoryview(body)
    return view[:start], msgspec.json.encode(model), view[end:]


def _span(body: Body) -> tuple[int, int]:
    """Where the top-level ``model`` value is. Most clients write it first."""
    match = _AT_START.match(body)
    if match is None and body.count(_KEY) == 1 and _ESCAPED_LETTER not in body:
        match = _ANYWHERE.search(body)
    return match.span(1) if match is not None else _scan(body)


def _scan(body: Body) -> tuple[int, int]:
    depth = 0
    tokens = _TOKENS.finditer(body)
    for token in tokens:
        text = token[0]
        if text in (b"{", b"["):
            depth += 1
        elif text in (b"}", b"]"):
            depth -= 1
        elif depth == 1 and token[2] is not None and msgspec.json.decode(token[1]) == "model":
            return next(tokens).span(1)
    raise AssertionError("a body without a model was to be changed")
