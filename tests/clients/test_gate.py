"""The way out of the sandbox: inference alone, one request a connection, the key put in."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_api.clients import inside
from control_api.clients.gate import Gate, passed
from tests.ports import free_port


def head(target: str = "/v1/messages", *lines: str, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    "target",
    [
        "/v1/messages?beta=true",
        "/v1/messages/count_tokens?beta=true",
        "/v1/responses",
        "/v1/chat/completions",
        "/v1/models?limit=1000",
        "/v1/models/org/name",
        "/api/hello",
        "/health",
        "/",
    ],
)
def test_what_clients_ask_goes_through(target: str) -> None:
    assert passed(head(target), None) is not None


@pytest.mark.parametrize(
    "target",
    [
        "/control/v1/status",
        "/upstream/m/props",
        "/ui/",
        "/metrics",
        "/v1/messages/../../control/v1/status",
        "/v1/models/../control",
        "//control",
        "/api/delete",
        "/api/pull",
        "/v1/messagesx",
        "http://127.0.0.1/control/v1/status",
        "*",
    ],
)
def test_all_else_is_refused(target: str) -> None:
    assert passed(head(target), None) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"CONNECT x:1 HTTP/1.1\r\n\r\n",
        b"DELETE /v1/models/x HTTP/1.1\r\n\r\n",
        b"POST /v1/messages HTTP/1.0\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\nGET /control HTTP/1.1\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nA: b\nGET /control HTTP/1.1\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\n folded: x\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nA : b\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nno colon\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_heads_that_could_be_read_in_two_ways_are_refused(raw: bytes) -> None:
    assert passed(raw, None) is None


def test_the_key_is_ours_and_the_connection_ends() -> None:
    sent = head("/v1/messages", "authorization: Bearer theirs", "X-Api-Key: z", "Connection: a, b")
    made = passed(sent, "ours")
    assert made is not None
    lines = made.decode().split("\r\n")
    assert lines[:2] == ["POST /v1/messages HTTP/1.1", "Host: x"]
    assert lines[2:] == ["Connection: close", "Authorization: Bearer ours", "", ""]
    without = passed(sent, None) or b""
    assert without.count(b"theirs") == 1, "with none of ours, the client's own goes on"
    assert without.endswith(b"Connection: close\r\n\r\n")


@given(st.binary(max_size=60))
def test_no_bytes_raise_or_lead_elsewhere(raw: bytes) -> None:
    made = passed(raw + b"\r\n\r\n", None)
    assert made is None or made.split(b" ")[1].startswith((b"/v1/", b"/api/", b"/health", b"/"))


class Upstream:
    """Takes one connection after the other, keeps what it is sent, answers and closes."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.seen: list[bytes] = []
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    @property
    def port(self) -> int:
        number: int = self.listener.getsockname()[1]
        return number

    def serve(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            with peer:
                data = b""
                while b"END" not in data and (more := peer.recv(65536)):
                    data += more
                self.seen.append(data)
                peer.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 200_000)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(20)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.close()


def exchange(peer: socket.socket, sent: bytes) -> bytes:
    peer.settimeout(20)
    peer.sendall(sent)
    got = b""
    while more := peer.recv(65536):
        got += more
    return got


def test_a_request_through_the_gate(upstream: Upstream, short_dir: Path) -> None:
    path = short_dir / "s"
    with Gate("127.0.0.1", upstream.port, "k", path), socket.socket(socket.AF_UNIX) as peer:
        assert path.stat().st_mode & 0o777 == 0o600
        peer.connect(str(path))
        got = exchange(peer, head() + b"body END")
    assert got.startswith(b"HTTP/1.1 200")
    assert len(got) > 200_000
    assert upstream.seen[0].endswith(b"Authorization: Bearer k\r\n\r\nbody END")
    assert not path.exists()


def test_what_is_no_inference_never_reaches_the_daemon(upstream: Upstream) -> None:
    with Gate("127.0.0.1", upstream.port, None, None) as gate:
        with socket.create_connection(("127.0.0.1", gate.port)) as peer:
            got = exchange(peer, head("/control/v1/status", method="GET"))
        with socket.create_connection(("127.0.0.1", gate.port)) as peer:
            peer.sendall(b"GET /v1/models")  # and never the rest
    assert got.startswith(b"HTTP/1.1 403 ")
    assert b"x-should-retry: false" in got
    assert upstream.seen == []


def test_the_forwarder_inside(upstream: Upstream, short_dir: Path) -> None:
    """``inside.py`` alone: it listens, carries, runs the command and has its status."""
    path = short_dir / "s"
    port = free_port()
    asks = (
        "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]));"
        "c.request('POST', '/v1/messages', 'body END'); r = c.getresponse();"
        "sys.exit(r.status // 100 + len(r.read()) // 100000)"
    )
    ours, theirs = socket.socketpair()
    with ours, theirs, Gate("127.0.0.1", upstream.port, None, path):
        wire = theirs.fileno()
        command = [sys.executable, "-I", "-c", asks, str(port)]
        argv = [inside.__file__, str(port), str(path), str(wire), "--", *command]
        done = subprocess.run([sys.executable, *argv], pass_fds=[wire], timeout=30, check=False)
    assert done.returncode == 4


def run_inside(short_dir: Path, command: list[str]) -> subprocess.Popen[bytes]:
    port = free_port()
    ours, theirs = socket.socketpair()
    with theirs:
        wire = theirs.fileno()
        argv = [inside.__file__, str(port), str(short_dir / "s"), str(wire), "--", *command]
        child = subprocess.Popen(
            [sys.executable, *argv], pass_fds=[wire], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    child.wires = ours  # type: ignore[attr-defined]
    return child


def test_signals_come_over_the_wire(short_dir: Path) -> None:
    says = "trap 'echo got it; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    child = run_inside(short_dir, ["/bin/sh", "-c", says])
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.wires.send(bytes([15]))  # type: ignore[attr-defined]
    out, _ = child.communicate(timeout=20)
    child.wires.close()  # type: ignore[attr-defined]
    assert (out, child.returncode) == (b"got it\n", 7)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["/bin/sh", "-c", "kill -9 $$"], 137),
        (["/bin/sh", "-c", "kill -STOP $$; exit 3"], 3),  # continued: nobody else could
        (["/nonexistent/client"], 127),
    ],
)
def test_how_the_command_ends(command: list[str], status: int, short_dir: Path) -> None:
    child = run_inside(short_dir, command)
    _, said = child.communicate(timeout=20)
    child.wires.close()  # type: ignore[attr-defined]
    assert child.returncode == status
    assert b"Traceback" not in said
