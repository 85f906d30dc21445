from __future__ import annotations

import pytest

from daemon.access.principals import LOCAL
from daemon.core.problems import Code, Problem
from daemon.relay.guard import Guard, Peer, check_content_type
from daemon.relay.heads import parse_head
from daemon.relay.limits import Limits
from daemon.relay.routes import listed

HERE = Peer.of(("127.0.0.1", 50000), ("127.0.0.1", 8123))
LAN = Peer.of(("192.168.1.7", 50000), ("192.168.1.2", 8123))
SSH = Peer.of(("::1", 50000, 0, 0), ("::1", 8123, 0, 0))
MAPPED = Peer.of(("::ffff:127.0.0.1", 5, 0, 0), ("::ffff:127.0.0.1", 8123, 0, 0))


def decide(
    path: str = "/health",
    host: str | None = "127.0.0.1",
    *fields: str,
    peer: Peer = HERE,
    guard: Guard | None = None,
    method: str = "GET",
) -> object:
    lines = [f"{method} {path} HTTP/1.1", *([f"Host: {host}"] if host is not None else []), *fields]
    if host is None:
        lines[0] = f"{method} {path} HTTP/1.0"
    head = parse_head(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"), Limits())
    verdict = (guard or Guard()).decide(head, peer)
    return verdict.code if isinstance(verdict, Problem) else verdict


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:8123",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.0.0.2",
        "[::1]",
        "[::1]:8123",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "host.docker.internal:8123",
        "host.containers.internal",
    ],
)
def test_hosts_that_are_ours(host: str) -> None:
    assert decide(host=host) is LOCAL


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.nip.io",
        "localhost.evil.example",
        "localhost@evil.example",
        "evil.example@localhost",
        "localhost.",
        "localhost:",
        "localhost:99999999",
        "localhost:80:80",
        "localhost evil",
        "localhost/evil",
        "localhost#",
        "localhost,evil",
        "evil.local",
        "sub.localhost",
        "192.168.1.2",
        "8.8.8.8",
        "0.0.0.0",
        "[::]",
        "[::2]",
        "::1",
        "[::1",
        "[127.0.0.1]",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "127.0.0.1%00",
        "[::1%25eth0]",
        "",
        "xn--lcalhost-54a",
        "lоcalhost".encode().decode("latin-1"),
    ],
)
def test_hosts_that_are_not(host: str) -> None:
    assert decide(host=host) is Code.MISDIRECTED


def test_a_host_stays_refused_after_good_ones_were_seen() -> None:
    guard = Guard()
    for number in range(200):
        assert decide(host=f"127.0.0.1:{number}", guard=guard) is LOCAL
        assert decide(host=f"evil:{number}", guard=guard) is Code.MISDIRECTED


def test_what_one_listener_allows_is_not_remembered_for_another() -> None:
    guard = Guard()
    assert decide(host="192.168.1.2", peer=LAN, guard=guard) is Code.UNAUTHORIZED
    assert decide(host="192.168.1.2", guard=guard) is Code.MISDIRECTED


def test_further_names_are_configured() -> None:
    guard = Guard(hosts=["Studio.local"])
    assert decide(host="studio.local:8123", guard=guard) is LOCAL
    assert decide(host="other.local", guard=guard) is Code.MISDIRECTED


def test_http_1_0_may_be_without_a_host() -> None:
    assert decide(host=None) is LOCAL


@pytest.mark.parametrize("peer", [HERE, SSH, MAPPED])
def test_loopback_is_the_local_principal(peer: Peer) -> None:
    assert decide(host="localhost", peer=peer) is LOCAL


@pytest.mark.parametrize(
    "peer",
    [
        LAN,
        Peer.of(("", 0), ("", 0)),
        Peer.of("", None),
        Peer.of(None, None),
        Peer.of(("fe80::1%eth0", 1, 0, 2), ("::1", 1, 0, 0)),
    ],
)
def test_strangers_need_a_key(peer: Peer) -> None:
    assert decide(host="localhost", peer=peer) is Code.UNAUTHORIZED


@pytest.mark.parametrize("path", ["/control/v1/status", "/control", "/ui", "/ui/x", "/metrics"])
def test_the_control_plane_is_closed(path: str) -> None:
    assert decide(path) is Code.UNAUTHORIZED
    assert decide(path, "evil") is Code.MISDIRECTED


FOREIGN = [
    ("Origin: https://evil.example",),
    ("Origin: null",),
    ("Origin:",),
    ("Origin: http://localhost:8123.evil.example",),
    ("Origin: http://127.0.0.1:3000",),
    ("Origin: https://127.0.0.1",),
    ("Sec-Fetch-Site: cross-site",),
    ("Sec-Fetch-Site: same-site",),
    ("Sec-Fetch-Site: what",),
    ("Sec-Fetch-Site:",),
    ("Origin: http://127.0.0.1", "Sec-Fetch-Site: cross-site"),
]


@pytest.mark.parametrize("fields", FOREIGN)
def test_foreign_pages_are_refused_on_every_path(fields: tuple[str, ...]) -> None:
    paths = [*listed(), ("GET", "/v1/models/x"), ("POST", "/upstream/m/x"), ("GET", "/nothing")]
    paths += [("OPTIONS", path) for _, path in listed()]
    for method, path in paths:
        assert decide(path, "127.0.0.1", *fields, method=method) is Code.FORBIDDEN


def test_our_own_pages_and_the_address_bar_are_not_foreign() -> None:
    own = ("Origin: http://127.0.0.1:8123", "Sec-Fetch-Site: same-origin")
    assert decide("/health", "127.0.0.1:8123", *own) is LOCAL
    assert decide("/health", "127.0.0.1", "Sec-Fetch-Site: none") is LOCAL


def test_origins_are_allowed_by_exact_name() -> None:
    guard = Guard(cors_origins=["https://app.example"])
    allowed = ("Origin: https://app.example", "Sec-Fetch-Site: cross-site")
    assert decide("/health", "127.0.0.1", *allowed, guard=guard) is LOCAL
    for other in ("https://app.example:444", "http://app.example", "https://APP.example", "null"):
        verdict = decide("/health", "127.0.0.1", f"Origin: {other}", guard=guard)
        assert verdict is Code.FORBIDDEN
    assert decide("/metrics", "127.0.0.1", *allowed, guard=guard) is Code.UNAUTHORIZED


@pytest.mark.parametrize(
    ("fields", "passes"),
    [
        ("Content-Type: text/plain", True),
        ("X: y", True),
        ("Content-Type: application/json; charset=utf-8\r\nSec-Fetch-Site: same-origin", True),
        ("Content-Type: text/plain\r\nSec-Fetch-Site: same-origin", False),
        ("Content-Type: text/plain\r\nOrigin: http://127.0.0.1", False),
        ("Content-Type: multipart/form-data; boundary=x\r\nSec-Fetch-Site: none", False),
        ("Content-Type: application/x-www-form-urlencoded\r\nOrigin: null", False),
        ("Content-Type: application/jsonp\r\nOrigin: null", False),
        ("Origin: http://127.0.0.1", False),
    ],
)
def test_browsers_must_send_json(fields: str, passes: bool) -> None:
    raw = f"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n\r\n".encode()
    assert (check_content_type(parse_head(raw, Limits())) is None) is passes
