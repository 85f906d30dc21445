"""Sockets in the keep of systemd, whose place a datagram socket takes here."""

from __future__ import annotations

import array
import socket
from collections.abc import Iterator

import pytest

from daemon.service.handed import Handed
from daemon.service.kept import Kept, name_of, split
from daemon.service.notify import Notifier
from tests.ports import free_port


@pytest.fixture
def notifier(systemd: socket.socket) -> Iterator[Notifier]:
    made = Notifier()
    yield made
    made.close()


def received(systemd: socket.socket) -> tuple[str, list[socket.socket]]:
    data, parts, _, _ = systemd.recvmsg(4096, 1024)
    found = array.array("i")
    for level, kind, held in parts:
        assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        found.frombytes(held)
    return data.decode("ascii"), [socket.socket(fileno=one) for one in found]


def test_names_have_no_colon() -> None:
    assert name_of(("192.168.1.5", 8123)) == "lan-192.168.1.5-8123"
    assert name_of(("fd00::5", 8123)) == "lan-fd00..5-8123"


def test_one_outlives_us_and_comes_back(systemd: socket.socket, notifier: Notifier) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    address: tuple[str, int] = sock.getsockname()
    Kept(notifier).keep(sock, address)
    told, (held,) = received(systemd)
    assert told == f"FDSTORE=1\nFDNAME=lan-127.0.0.1-{address[1]}"
    sock.close()
    with socket.create_connection(address, 5):  # while there is none of us
        unit = Handed(socket.socket(), "modelport", ("127.0.0.1", 1))
        units, back = split([unit, Handed(held, name_of(address), address)])
        assert [one.name for one in units] == ["modelport"]
        unit.sock.close()
        again = Kept(notifier, back)
        taken = again.take(address)
        assert taken is not None
        peer, _ = taken.accept()
        peer.close()
        taken.close()
        assert again.take(address) is None


def test_what_is_not_wanted_stops_to_listen_though_it_is_still_kept(
    systemd: socket.socket, notifier: Notifier
) -> None:
    address = ("127.0.0.1", free_port())
    sock = socket.create_server(address)
    kept = sock.dup()
    rest = Kept(notifier, [Handed(sock, name_of(address), address)])
    rest.end_rest()
    assert (sock.fileno(), rest.handed) == (-1, [])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 5)
    assert received(systemd)[0] == f"FDSTOREREMOVE=1\nFDNAME=lan-127.0.0.1-{address[1]}"
    socket.create_server(address).close()  # its port is free
    kept.close()


def test_where_nobody_keeps_anything_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        for kept in (Kept(), Kept(notifier)):
            kept.keep(sock, ("127.0.0.1", 1))
            kept.let_go(sock, ("127.0.0.1", 1))
        socket.create_connection(sock.getsockname(), 5).close()
    notifier.close()


def test_the_end_of_the_process_lets_nothing_go(notifier: Notifier) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    address: tuple[str, int] = sock.getsockname()
    with sock.dup():
        Kept(notifier, [Handed(sock, name_of(address), address)]).close()
        socket.create_connection(address, 5).close()
