from __future__ import annotations

import random
import re

import httptools
import pytest

from daemon.core.problems import Code, ProblemError
from daemon.relay.heads import END, Head, check_start, parse_head
from daemon.relay.limits import Limits
from tests.relay.corpus import PASSED, REFUSED

LIMITS = Limits()


def head_of(data: bytes) -> bytes:
    data = data.removeprefix(b"\r\n")
    return data[: data.index(END) + len(END)]


def parse(data: bytes) -> Head:
    return parse_head(head_of(data), LIMITS)


def test_takes_a_head_apart() -> None:
    head = parse(
        b"POST /v1/messages?beta=true&x=%20 HTTP/1.1\r\nHost: A\r\nX-Y:  b c \r\n"
        b"Content-Length: 3\r\nConnection: Keep-Alive, X-Y\r\n\r\n"
    )
    assert (head.method, head.path, head.query) == ("POST", "/v1/messages", "beta=true&x=%20")
    assert head.fields[:2] == [(b"host", b"A"), (b"x-y", b"b c")]
    assert (head.length, head.chunked, head.has_body, head.keep_alive) == (3, False, True, True)
    assert head.listed == {b"keep-alive", b"x-y"}


def test_connections_end_as_the_client_says() -> None:
    assert not parse(b"GET / HTTP/1.0\r\n\r\n").keep_alive
    assert not parse(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, Close\r\n\r\n").keep_alive
    twice = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: foo\r\nConnection: close\r\n\r\n"
    assert parse(twice).listed == {b"foo", b"close"}


@pytest.mark.parametrize(
    ("lines", "asked"),
    [
        (b"Connection: Upgrade\r\nUpgrade: WebSocket\r\n", b"websocket"),
        (b"Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\n", b"websocket"),
        (b"Connection: upgrade\r\nUpgrade: mcp/1.0\r\n", b"mcp/1.0"),
        (b"Upgrade: websocket\r\n", b""),
        (b"Connection: upgrade\r\nUpgrade: h2c\r\n", b""),
        (b"Connection: upgrade\r\nUpgrade: H2C\r\n", b""),
        (b"Connection: upgrade\r\nUpgrade: h2\r\n", b""),
        (b"Connection: upgrade\r\nUpgrade: HTTP/2.0\r\n", b""),
        (b"Connection: upgrade\r\nUpgrade: TLS/1.2\r\n", b""),
        (b"Connection: upgrade\r\nUpgrade: connect-udp\r\n", b""),
        (b"Connection: upgrade\r\nUpgrade: websocket, h2c\r\n", b""),
        (b"Connection: upgrade\r\nUpgrade: a/b/c\r\n", b""),
        (b"Connection: upgrade\r\nUpgrade:\r\n", b""),
    ],
)
def test_one_protocol_may_be_asked_for_but_never_http_itself(lines: bytes, asked: bytes) -> None:
    assert parse(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n").upgrade == asked
    old = parse(b"GET / HTTP/1.0\r\nHost: a\r\n" + lines + b"\r\n")
    assert old.upgrade == b""


HEAD_REFUSED = {
    name: data
    for name, data in REFUSED.items()
    if END in data and not name.startswith(("chunk", "trailer", "gzip", "two empty"))
}


@pytest.mark.parametrize("name", HEAD_REFUSED)
def test_refuses_with_a_sentence(name: str) -> None:
    with pytest.raises(ProblemError) as caught:
        parse(HEAD_REFUSED[name])
    assert caught.value.problem.code is Code.INVALID_REQUEST
    assert caught.value.problem.message.endswith(".")
    assert caught.value.problem.message.isascii()


@pytest.mark.parametrize("name", PASSED)
def test_passes(name: str) -> None:
    assert parse(PASSED[name]).method == "POST"


def test_says_what_is_wrong() -> None:
    def text(data: bytes) -> str:
        with pytest.raises(ProblemError) as caught:
            parse(data)
        return caught.value.problem.text

    assert "proxy" in text(REFUSED["absolute-form"])
    assert "HTTP/1.1" in text(REFUSED["http/2.0"])
    assert "folded" in text(REFUSED["obs-fold"])
    assert "control character" in text(REFUSED["bare cr"])
    assert "host was sent 2 times" in text(REFUSED["host twice"])


@pytest.mark.parametrize(
    ("data", "fresh"), [(b"\x16\x03\x01", 0), (b"GET / HT\nX", 0), (b"GET /\n", 5), (b"g", 0)]
)
def test_what_cannot_become_a_head_is_refused_early(data: bytes, fresh: int) -> None:
    with pytest.raises(ProblemError):
        check_start(data, fresh, LIMITS)


def test_what_may_become_a_head_is_waited_for() -> None:
    check_start(b"GET / HTTP/1.1\r", 3, LIMITS)
    check_start(b"GET / HTTP/1.1\r\n", 15, LIMITS)
    check_start(bytearray(b"GET / HTTP/1.1\r\nHost"), 16, LIMITS)
    with pytest.raises(ProblemError):
        check_start(b"G" * (LIMITS.head_bytes + 1), 0, LIMITS)


def test_remembered_lines_do_not_leak_into_others() -> None:
    for number in range(3000):
        head = parse(
            b"GET / HTTP/1.1\r\nHost: a\r\nX-N: %d\r\nX-Long: %b\r\n\r\n" % (number, b"x" * 200)
        )
        assert head.first[b"x-n"] == b"%d" % number


# ---------------------------------------------------------------- llhttp, the second opinion


class Witness:
    """What llhttp makes of a head."""

    def __init__(self) -> None:
        self.url = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


def witness(raw: bytes) -> tuple[Witness, str] | None:
    seen = Witness()
    parser = httptools.HttpRequestParser(seen)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        return None
    return (seen, parser.get_method().decode()) if seen.complete else None


def agrees(raw: bytes, head: Head) -> bool:
    told = witness(raw)
    if told is None:
        return False
    seen, method = told
    target = f"{head.path}?{head.query}" if b"?" in seen.url else head.path
    return (method, seen.url.decode()) == (head.method, target) and seen.fields == head.fields


@pytest.mark.parametrize("name", PASSED)
def test_llhttp_reads_the_same(name: str) -> None:
    raw = head_of(PASSED[name])
    assert agrees(raw, parse_head(raw, LIMITS))


BYTES = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\x0b",
    b"\x7f",
    b"\xff",
    b"A",
]
LINES = [b"Host: b\r\n", b"Content-Length: 4\r\n", b"Transfer-Encoding: chunked\r\n", b" x\r\n"]


def mutate(raw: bytes, luck: random.Random) -> bytes:
    at = luck.randrange(len(raw))
    what = luck.randrange(5)
    if what == 0:
        return raw[:at] + raw[at + 1 :]
    if what == 1:
        return raw[:at] + luck.choice(BYTES) + raw[at:]
    if what == 2:
        return raw[:at] + luck.choice(BYTES) + raw[at + 1 :]
    lines = raw.splitlines(keepends=True)
    place = luck.randrange(1, len(lines))
    new = luck.choice(LINES if what == 3 else lines[1:])
    return b"".join([*lines[:place], new, *lines[place:]])


def test_what_passes_means_the_same_to_llhttp() -> None:
    """Mutations of good heads: refused by us, or read alike by both."""
    luck = random.Random(20260821)
    seeds = [head_of(data) for data in PASSED.values()]
    passed = 0
    for _ in range(10_000):
        raw = luck.choice(seeds)
        for _ in range(luck.choice((1, 1, 2, 3))):
            raw = mutate(raw, luck)
        end = raw.find(END)
        raw = raw[: end + len(END)] if end >= 0 else raw
        try:
            head = parse_head(raw, LIMITS)
        except ProblemError:
            continue
        if head.method not in ("GET", "POST") or re.search(rb"(?i)\r\nupgrade:", raw):
            continue  # llhttp knows its own list of methods, and stops at upgrades
        passed += 1
        assert agrees(raw, head), raw
        assert raw.count(b"\n") == raw.count(b"\r\n") == raw.count(b"\r")
    assert passed > 500
