"""Taking the fixed port."""

from __future__ import annotations

import errno
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from daemon.core.problems import Code, Problem, ProblemError
from daemon.service import ports
from daemon.service.ports import _owner, bind, holder, offered
from tests.ports import free_port


def refused(host: str, port: int) -> Problem:
    with pytest.raises(ProblemError) as caught:
        bind(host, port)
    assert caught.value.problem.code is Code.CONFIG_INVALID
    return caught.value.problem


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which this process listens. Its neighbours are offered in its place, so it is none
    of those that the system hands out: other tests run beside this one."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        yield port


def test_it_listens_at_once_and_never_blocks() -> None:
    with closing(bind("127.0.0.1", 0)) as sock:
        assert not sock.getblocking()
        assert not sock.get_inheritable()
        with socket.create_connection(sock.getsockname(), 2):
            pass


def test_the_port_is_the_one_asked_for() -> None:
    port = free_port()
    with closing(bind("127.0.0.1", port)) as sock:
        assert sock.getsockname() == ("127.0.0.1", port)


def test_connections_of_the_past_do_not_keep_it() -> None:
    """TIME_WAIT after a restart."""
    port = free_port()
    with closing(bind("127.0.0.1", port)) as sock:
        client = socket.create_connection(("127.0.0.1", port), 2)
        sock.setblocking(True)
        peer, _ = sock.accept()
        peer.close()
        client.close()
    bind("127.0.0.1", port).close()


def test_who_has_it_is_named_and_another_offered(taken: int) -> None:
    problem = refused("127.0.0.1", taken)
    assert f"Port {taken} on 127.0.0.1 is taken by " in problem.message
    assert f"(pid {os.getpid()})" in problem.message
    offer = problem.facts["offer"]
    assert isinstance(offer, int)
    assert offer > taken
    assert f"ctl serve --port {offer}" in problem.hint
    assert "server.port" in problem.hint
    bind("127.0.0.1", offer).close()


def test_another_process_is_named() -> None:
    code = (
        "import socket, sys\ns = socket.create_server(('127.0.0.1', 0))\n"
        "print(s.getsockname()[1], flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        said = holder(port)
        assert f"(pid {child.pid}), started as: {sys.executable} -I -S -c import socket" in said
        assert "\n" not in said
        assert "python" in said
        child.kill()


def test_a_secret_in_a_command_line_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    words = ["server", "--api-key", "sk-0123456789abcdef", "x" * 1000]
    monkeypatch.setattr(psutil.Process, "cmdline", lambda _: words)
    said = holder(taken)
    assert "server --api-key ***" in said
    assert len(said) < 300


def test_one_that_nobody_may_see(
    monkeypatch: pytest.MonkeyPatch, taken: int, tmp_path: Path
) -> None:
    """The kernel tells everybody at least whose it is."""

    def denied(kind: str) -> list[object]:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", denied)
    told = refused("127.0.0.1", taken).message
    if sys.platform == "linux":
        assert f"a program of user {pwd.getpwuid(os.getuid()).pw_name}" in told
    table = tmp_path / "tcp"
    line = f"0: 0100007F:{taken:04X} 00000000:0000 0A 0:0 00:0 0  4123456 0 1 1 0 100 0 0 10 0"
    table.write_text(f"sl local\n{line.replace(' 0A ', ' 01 ')}\nodd\n{line}\n")
    assert _owner(taken, [table]) == ""
    table.write_text(f"sl local\n{line.replace(' 0A ', ' 01 ')}\n{line}\n")
    assert _owner(taken, [tmp_path / "none", table]) == "user 4123456"
    monkeypatch.setattr(ports, "_owner", lambda port: "")
    assert "another program" in refused("127.0.0.1", taken).message


def test_without_a_free_port_nearby_there_is_no_offer(
    monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    monkeypatch.setattr(ports, "TRIES", 1)
    problem = refused("127.0.0.1", taken)
    assert problem.facts["offer"] is None
    assert problem.hint == "Free it first."


def test_offers_stay_in_range() -> None:
    assert offered("127.0.0.1", 65535) is None


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours(host: str) -> None:
    problem = refused(host, 8123)
    assert f"{host}:8123 cannot be used" in problem.message
    assert "server.host" in problem.hint


def test_a_machine_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*args: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", unsupported)
    assert "not supported" in refused("::1", 8123).message


def ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not ipv6(), reason="no IPv6 here")
def test_ipv6_alone() -> None:
    with closing(bind("::1", 0)) as sock:
        port = sock.getsockname()[1]
        assert sock.family == socket.AF_INET6
        assert f"Port {port} on ::1 is taken" in refused("::1", port).message
        with socket.create_connection(("::1", port), 2):
            pass
    with socket.create_server(("127.0.0.1", free_port())) as other:
        port = other.getsockname()[1]
        bind("::", port).close()  # every IPv6 address is no IPv4 address
