"""Attacks from outside on a front that is a process of its own: it stays reachable throughout."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUICK = {"head_timeout": 1.0, "body_silence": 1.0, "write_stall": 1.0, "tick": 0.1}
pytestmark = pytest.mark.processes


class Standing:
    """See ``tests.relay.standing``."""

    def __init__(self, loop: str, limits: dict[str, float], *more: str) -> None:
        words = [sys.executable, "-P", "-m", "tests.relay.standing", loop, json.dumps(limits)]
        self.process = subprocess.Popen(
            [*words, *more],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    @property
    def clients(self) -> int:
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGUSR1)
        return int(self.process.stdout.readline())

    def healthy(self, seconds: float = 10.0) -> None:
        """A request is answered, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        with contextlib.closing(connection):
            connection.request("GET", "/health")
            assert connection.getresponse().read() == b'{"status":"ok"}'

    def end(self) -> str:
        """What it had logged."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=20)[1]


@contextlib.contextmanager
def standing(loop: str, limits: dict[str, float], *more: str) -> Iterator[Standing]:
    there = Standing(loop, limits, *more)
    try:
        yield there
        assert there.end() == ""
    finally:
        if there.process.poll() is None:
            there.process.kill()
            there.process.communicate(timeout=10)


ATTACKS = {
    "slow heads": ("-H", "/health", 15.0, ()),
    "slow bodies": ("-B", "/v1/chat/completions", 30.0, ("-f", "application/json")),
    "slow readers": ("-X", "/upstream/m/x", 60.0, ("-n", "1", "-z", "5", "-w", "1", "-y", "512")),
}


@pytest.mark.parametrize(
    ("count", "limits"),
    [(60, QUICK), pytest.param(1000, {}, marks=[pytest.mark.slow, pytest.mark.timeout(300)])],
)
@pytest.mark.parametrize("name", ATTACKS)
def test_slow_clients_are_closed_in_time_and_harm_nobody(
    name: str, count: int, limits: dict[str, float]
) -> None:
    tool = shutil.which("slowhttptest")
    if tool is None:
        pytest.skip("no slowhttptest here: apt install slowhttptest")
    kind, path, bound, more = ATTACKS[name]
    seconds = 1.0 if limits else bound
    length = 4 if limits else int(2.2 * seconds + 5)
    with standing("uvloop", {**limits, "connections_per_peer": 5000}) as there:
        words = [tool, kind, "-u", f"http://127.0.0.1:{there.port}{path}", "-c", str(count)]
        words += [
            "-r",
            str(count if limits else count // 2),
            "-i",
            "1",
            "-p",
            "10",
            "-l",
            str(length),
        ]
        with subprocess.Popen([*words, *more], stdout=subprocess.PIPE, text=True) as attack:
            try:
                peak, began = 0, time.monotonic()
                while peak < count * (0.5 if limits else 0.9):
                    assert time.monotonic() - began < 30, f"only {peak} attackers came"
                    peak = max(peak, there.clients)
                full = time.monotonic()
                while there.clients:
                    # Two windows: one in which the kernel still took something, one in which not.
                    assert time.monotonic() - full < 2.2 * seconds + 15, "they are still there"
                    there.healthy()
                    time.sleep(0.1)
            finally:
                try:  # stopped by a signal it would keep what it saw to itself
                    said, _ = attack.communicate(timeout=length + 20)
                except subprocess.TimeoutExpired:
                    attack.kill()
                    raise
        plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", said)
        available = re.findall(r"service available: +(YES|NO)", plain)
        assert available
        assert set(available) == {"YES"}


def raised(wanted: int) -> int:
    """How many descriptors we may have ourselves, after asking for ``wanted``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("count", [800, pytest.param(5000, marks=pytest.mark.slow)])
def test_a_flood_of_connections_finds_no_end_of_descriptors(loop: str, count: int) -> None:
    count = min(count, raised(count + 500) - 200)
    with standing(loop, {}, "256") as there, contextlib.ExitStack() as stack:
        for number in range(count):
            sock = stack.enter_context(socket.socket())
            sock.settimeout(10)
            sock.connect(("127.0.0.1", there.port))
            if number % 3 == 0:
                sock.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: ")
            if number % (count // 8) == 0:
                there.healthy()
        for _ in range(5):
            there.healthy()
        assert there.clients <= 96


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_where_all_are_at_work_the_rest_is_told(loop: str) -> None:
    """Bodies under way are no idle connections: they stay, newcomers hear of it, nothing breaks."""
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: 100\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    with standing(loop, {}, "128") as there, contextlib.ExitStack() as stack:
        for _ in range(32):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", there.port), 10))
            sock.sendall(head)
            assert sock.recv(4096).startswith(b"HTTP/1.1 100 "), "its head has been read"
        told = 0
        for _ in range(300):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", there.port), 10))
            with contextlib.suppress(ConnectionError):
                told += sock.recv(65536).startswith(b"HTTP/1.1 503 ")
        assert told == 300
        assert there.clients == 32
