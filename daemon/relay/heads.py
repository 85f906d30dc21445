"""Request heads, read strictly: RFC 9112's grammar and nothing beside it.

Two regular expressions hold the whole grammar, and a head is refused before anything acts on any
part of it. Lines are remembered, since a client sends nearly the same ones each time.

llhttp is not used on this side: it cannot stop between pipelined requests from Python, and it is
lenient in places. The tests use it as the second opinion: what passes here means the same to
llhttp. What passes is never sent on as it came; ``wire`` writes a fresh head.
"""

from __future__ import annotations

import re
from functools import lru_cache

from daemon.core.problems import Code, Problem, ProblemError
from daemon.relay.limits import Limits

Fields = list[tuple[bytes, bytes]]
"""Header fields in their order; names in lower case, values without outer blanks."""

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*+"
# Origin-form only, so no "http://" and no "*"; "#" cannot be in a target.
_START = re.compile(rb"([A-Z]{1,20}) (/[\x21\x22\x24-\x7e]*+) HTTP/1\.([01])")
_FIELD = re.compile(rb"(" + TOKEN + rb"):(" + _VALUE + rb")")
_TRAILERS = re.compile(rb"(?:" + TOKEN + rb":" + _VALUE + rb"\r\n)*+\r\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_LENGTH_DIGITS = 18
_SINGLE = (
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"content-type",
    b"content-encoding",
    b"expect",
    b"origin",
    b"sec-fetch-site",
    b"authorization",
    b"x-api-key",
    b"api-key",
    b"upgrade",
)
_FRAMING = (b"content-length", b"transfer-encoding")
_NONE: frozenset[bytes] = frozenset()
END = b"\r\n\r\n"
# One name, perhaps with a version. HTTP itself (h2c, HTTP/2.0, TLS/1.2 and what tunnels) is none.
_PROTOCOL = re.compile(rb"(?!h2|http|tls|connect)" + TOKEN + rb"(?:/" + TOKEN + rb")?")


class Head:
    """A checked request head. ``fields`` keeps all; ``first`` has one value of each name, and
    there is no second one of those names that matter here."""

    __slots__ = (
        "chunked",
        "expects",
        "fields",
        "first",
        "http11",
        "keep_alive",
        "length",
        "listed",
        "method",
        "path",
        "query",
        "sent",
    )

    def __init__(self, method: str, path: str, query: str, http11: bool, fields: Fields) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.http11 = http11
        self.fields = fields
        self.first = dict(fields)
        self.length: int | None = None
        self.chunked = False
        self.expects = False
        self.listed: frozenset[bytes] = _NONE  # in Connection headers, in lower case
        self.keep_alive = http11
        # What of it goes on to a backend, put together by ``wire`` once: the head may come again.
        self.sent: tuple[object, object, str, bytes] | None = None

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.length)

    @property
    def upgrade(self) -> bytes:
        """The one protocol that it asks to switch to, in lower case; empty if none. Never one over
        which further requests would pass unseen."""
        if b"upgrade" not in self.first or not self.http11 or b"upgrade" not in self.listed:
            return b""
        asked = self.first[b"upgrade"].lower()
        return asked if _PROTOCOL.fullmatch(asked) else b""


def bad(message: str, hint: str = "") -> ProblemError:
    """A malformed request, as an error to raise."""
    return ProblemError(Problem(Code.INVALID_REQUEST, message, hint))


def check_start(data: bytes | bytearray, fresh: int, limits: Limits) -> None:
    """Refuse early what cannot become a head, so that nobody waits for its end.

    ``fresh`` is where the newest bytes begin. Raises ProblemError.
    """
    if len(data) > limits.head_bytes:
        raise bad(f"The request head is above {limits.head_bytes} bytes.")
    if not 65 <= data[0] <= 90:
        raise bad(
            "This is not HTTP/1.1: a request begins with a method in capital letters.",
            "Is the client using https? This port speaks plain http.",
        )
    if _BARE_LF.search(data, max(0, fresh - 1)):
        raise bad("Lines of a request head must end in CR LF; found a bare LF.")


def parse_head(raw: bytes, limits: Limits) -> Head:
    """The head in ``raw``, which ends in an empty line. Raises ProblemError."""
    if len(raw) > limits.head_bytes:
        raise bad(f"The request head is above {limits.head_bytes} bytes.")
    lines = raw.split(b"\r\n")
    match = _START.fullmatch(lines[0])
    if match is None or not raw.endswith(END):
        raise _explain(raw)
    if len(lines) > limits.head_fields + 3:  # the request line, and two empty ones at the end
        raise bad(f"The request has more than {limits.head_fields} header fields.")
    fields: Fields = []
    for line in lines[1:-2]:
        field = _known.get(line) or _field(line)
        if field is None:
            raise _explain(raw)
        fields.append(field)
    method, target, minor = match.groups()
    path, _, query = target.decode("ascii").partition("?")
    head = Head(method.decode("ascii"), path, query, minor == b"1", fields)
    if len(head.first) != len(fields):
        _refuse_repeats(fields)
    _framing(head)
    return head


_known: dict[bytes, tuple[bytes, bytes]] = {}
_KNOWN_LINES = 1024
_KNOWN_LENGTH = 128  # bytes; what is longer hardly comes again


def _field(line: bytes) -> tuple[bytes, bytes] | None:
    """Name and value of a header line; None if it is malformed."""
    match = _FIELD.fullmatch(line)
    if match is None:
        return None
    name, value = match.groups()
    field = (name.lower(), value.strip(b" \t"))
    if b"\t" in value and field[0] in _FRAMING:
        return None  # allowed by the grammar, sent by nobody, and read differently by some
    if len(line) <= _KNOWN_LENGTH:
        if len(_known) >= _KNOWN_LINES:
            _known.clear()
        _known[line] = field
    return field


def _refuse_repeats(fields: Fields) -> None:
    names = [name for name, _ in fields]
    for name in _SINGLE:
        if names.count(name) > 1:
            raise bad(f"The header {name.decode('ascii')} was sent {names.count(name)} times.")


def _framing(head: Head) -> None:
    """Where the body ends, and whether the connection goes on. Raises ProblemError."""
    first = head.first
    if head.http11 and b"host" not in first:
        raise bad("The Host header is missing.")
    length = first.get(b"content-length")
    coding = first.get(b"transfer-encoding")
    if length is not None:
        if coding is not None:
            raise bad("Content-Length and Transfer-Encoding cannot be sent together.")
        if not length.isdigit() or len(length) > _LENGTH_DIGITS:
            raise bad("Content-Length must be one decimal number.")
        head.length = int(length)
    elif coding is not None:
        if not head.http11:
            raise bad("Transfer-Encoding cannot be used with HTTP/1.0.")
        if coding.lower() != b"chunked":
            raise bad("The only transfer encoding taken is chunked.")
        head.chunked = True
    expect = first.get(b"expect")
    if expect is not None:
        if expect.lower() != b"100-continue":
            raise bad("The only expectation taken is 100-continue.")
        head.expects = head.http11
    if b"connection" in first:
        head.listed = (
            listed(head.fields) if len(first) != len(head.fields) else _words(first[b"connection"])
        )
        if b"close" in head.listed:
            head.keep_alive = False


def listed(fields: Fields) -> frozenset[bytes]:
    """What the Connection headers list, in lower case."""
    values = [value for name, value in fields if name == b"connection"]
    return _words(values[0] if len(values) == 1 else b",".join(values))


@lru_cache(maxsize=128)
def _words(value: bytes) -> frozenset[bytes]:
    return frozenset(part.strip(b" \t").lower() for part in value.split(b","))


def check_trailers(raw: bytes) -> None:
    """Trailers are dropped, but only well-formed ones. Raises ProblemError."""
    if not _TRAILERS.fullmatch(raw):
        raise bad("The trailer of the chunked body is malformed.")


def _explain(raw: bytes) -> ProblemError:
    """Say which rule was broken; order: from the usual mistakes to the odd ones."""
    line, _, rest = raw.partition(b"\r\n")
    parts = line.split(b" ")
    if len(parts) != 3 or not parts[2].startswith(b"HTTP/"):
        return bad("The request line must be: METHOD /path HTTP/1.1.")
    if parts[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        return bad("Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    if not parts[1].startswith(b"/"):
        return bad(
            "The request target must be a path that begins with /.",
            "Do not use this port as an HTTP proxy.",
        )
    if not re.fullmatch(rb"[A-Z]{1,20} /[\x21\x22\x24-\x7e]* HTTP/1\.[01]", line):
        return bad("The request line has a character that is not allowed.")
    if re.search(rb"(?:^|\r\n)[ \t]", rest):
        return bad("A header line begins with a blank: folded headers are not taken.")
    if re.search(rb"\r(?!\n)|(?<!\r)\n|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", rest):
        return bad("A header has a control character, or a CR or LF that does not end its line.")
    return bad("A header line must be: Name: value, without blanks in or after the name.")
