"""Heads as we write them: to a backend, and to a client. Bytes out, no I/O.

Nothing is passed on as it came. A head is put together from parsed fields, without those that
belong to one connection, to the client's identity, or to the backend's. Since names and values
were checked by a parser, none can hold a line break.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache
from http import HTTPStatus

from daemon.ports import Target, Waits
from daemon.relay.heads import Fields, Head

LAST_CHUNK = b"0\r\n\r\n"
CLOSE = b"connection: close\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
_HOP = frozenset(
    {
        b"connection",
        b"content-length",
        b"http2-settings",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Of a request: whose it is, where it came from, and what we say ourselves.
_REQUEST_DROP = _HOP | {
    b"accept-encoding",
    b"api-key",
    b"authorization",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"origin",
    b"referer",
    b"via",
    b"x-api-key",
    b"x-real-ip",
    b"x-request-id",
}
# x-modelport-: what the front tells the control plane of who asks.
_REQUEST_DROP_PREFIXES = (b"access-control-", b"proxy-", b"sec-", b"x-forwarded-", b"x-modelport-")
# Of an answer: backends allow every web page (CORS with credentials) and name themselves.
_ANSWER_DROP = _HOP | {b"alt-svc", b"server", b"set-cookie", b"set-cookie2", b"x-request-id"}
_ANSWER_DROP_PREFIXES = (b"access-control-", b"proxy-", b"strict-transport-")
_UPGRADE_FIELDS = b"sec-websocket-"
_PLAIN = frozenset({b"close", b"keep-alive"})  # of a Connection header: no names of fields
_REMEMBERED = 1024
_REMEMBERED_LENGTH = 128  # bytes of a value; what is longer hardly comes again


class _Sieve:
    """Which fields go through; remembers lines, since peers send the same ones for ever."""

    def __init__(self, drop: frozenset[bytes], prefixes: tuple[bytes, ...]) -> None:
        self._drop = drop
        self._prefixes = prefixes
        self._known: dict[tuple[bytes, bytes], bytes] = {}

    def passes(self, fields: Fields) -> bytes:
        """The lines of the fields that go through."""
        known = self._known
        lines = []
        for field in fields:
            line = known.get(field)
            lines.append(self._judge(field) if line is None else line)
        return b"".join(lines)

    def _judge(self, field: tuple[bytes, bytes]) -> bytes:
        name, value = field
        if name in self._drop or name.startswith(self._prefixes):
            return b""
        line = b"%b: %b\r\n" % field
        if len(value) <= _REMEMBERED_LENGTH:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[field] = line
        return line


_request_sieve = _Sieve(_REQUEST_DROP, _REQUEST_DROP_PREFIXES)
_answer_sieve = _Sieve(_ANSWER_DROP, _ANSWER_DROP_PREFIXES)


@lru_cache(maxsize=256)
def _host(target: Target) -> str:
    if target.uds is not None:
        return "localhost"
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"{host}:{target.port}"


@lru_cache(maxsize=64)
def _replaced(names: tuple[str, ...]) -> frozenset[bytes]:
    """Which of the client's fields the lease's own replace, beyond those dropped anyway."""
    return frozenset(name.lower().encode("latin-1") for name in names) - _REQUEST_DROP


def _without(fields: Fields, names: AbstractSet[bytes]) -> Fields:
    return [field for field in fields if field[0] not in names] if names else fields


def request_head(
    head: Head,
    path: str,
    target: Target,
    *,
    length: int,
    headers: Mapping[str, str],
    request_id: str,
    upgrade: bytes = b"",
) -> bytes:
    """The head of a leased request. ``path`` has its query; ``headers`` are the lease's own."""
    ready = head.sent
    if ready is None or ready[0] is not target or ready[1] is not headers or ready[2] != path:
        ready = head.sent = (target, headers, path, _request_start(head, path, target, headers))
    end = b"x-request-id: %b\r\n" % request_id.encode("latin-1")
    if length or head.method not in ("GET", "HEAD"):
        end += b"content-length: %d\r\n" % length
    if upgrade:
        lines = b"".join(_upgrade_lines(head.fields))
        return b"%b%b%bconnection: upgrade\r\nupgrade: %b\r\n\r\n" % (ready[3], lines, end, upgrade)
    return b"%b%bconnection: keep-alive\r\n\r\n" % (ready[3], end)


def _request_start(head: Head, path: str, target: Target, headers: Mapping[str, str]) -> bytes:
    """All that is the same whenever this head goes to this backend."""
    dropped = (head.listed - _PLAIN) | _replaced(tuple(headers))
    start = f"{head.method} {path} HTTP/1.1\r\nhost: {_host(target)}\r\n"
    end = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    end += "accept-encoding: identity\r\n"
    lines = _request_sieve.passes(_without(head.fields, dropped))
    return start.encode("ascii") + lines + end.encode("latin-1")


def _upgrade_lines(fields: Fields) -> list[bytes]:
    return [
        b"%b: %b\r\n" % (name, value) for name, value in fields if name.startswith(_UPGRADE_FIELDS)
    ]


@lru_cache(maxsize=512)
def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Overloaded" if status == 529 else "Unknown"
    return f"HTTP/1.1 {status} {phrase}\r\n".encode("ascii")


def answer_start(status: int, fields: Fields, named: AbstractSet[bytes]) -> bytes:
    """The status line of a backend's answer and those of its fields that go to the client; not the
    empty line. ``named``: what its Connection header lists, to be dropped."""
    return _status_line(status) + _answer_sieve.passes(_without(fields, named - _PLAIN))


def stream_head(media: bytes, own: bytes) -> bytes:
    """The head of a stream that we write ourselves. ``own`` are ready lines."""
    return b"%bcontent-type: %b\r\ncache-control: no-cache\r\n%b\r\n" % (
        _status_line(200),
        media,
        own,
    )


def switching_head(start: bytes, upgrade: bytes, own: bytes) -> bytes:
    """The head of a 101: from here on, bytes are tunnelled. ``start`` is an answer's."""
    return b"%bconnection: upgrade\r\nupgrade: %b\r\n%b\r\n" % (start, upgrade, own)


def plain_answer(
    status: int, headers: Iterable[tuple[str, str]], body: bytes, own: bytes, *, head_only: bool
) -> bytes:
    """An answer of our own. ``own`` are ready lines (connection, CORS)."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    length = b"" if status == 204 else b"content-length: %d\r\n" % len(body)
    head = b"%b%b%b%b\r\n" % (_status_line(status), lines.encode("latin-1"), length, own)
    return head if head_only else head + body


_NO_TIME = 0.00005  # seconds; what is less is written as 0.0 ms
_NO_WAIT = b"server-timing: queue;dur=0.0\r\n"


def server_timing(waits: Waits) -> bytes:
    """Where the time went before the backend was asked, in milliseconds (W3C Server Timing)."""
    if waits.queue < _NO_TIME and not waits.evict and not waits.load:
        return _NO_WAIT  # nearly always, and a number is slow to write
    line = f"server-timing: queue;dur={waits.queue * 1e3:.1f}"
    if waits.evict:
        line += f", evict;dur={waits.evict * 1e3:.1f}"
    if waits.load:
        line += f", load;dur={waits.load * 1e3:.1f}"
    return line.encode("ascii") + b"\r\n"


def chunk(data: bytes) -> bytes:
    """``data`` as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def cors_lines(origin: bytes) -> bytes:
    """For an origin that was allowed by name, and only for it."""
    return (
        b"access-control-allow-origin: %b\r\n"
        b"access-control-expose-headers: x-request-id, server-timing\r\n"
        b"vary: Origin\r\n" % origin
    )


def preflight_lines(asked: bytes) -> bytes:
    """The rest of the answer to a preflight; ``asked`` are the headers that the page will send."""
    return (
        b"access-control-allow-methods: GET, POST, OPTIONS\r\n"
        b"access-control-allow-headers: %b\r\naccess-control-max-age: 600\r\n" % asked
    )
