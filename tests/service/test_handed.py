"""Sockets that a service manager holds for us."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import closing

import pytest

from daemon.service.handed import Handed, activate_launchd, handed_over, pick, same


def freed(handed: list[Handed]) -> None:
    for one in handed:
        one.sock.close()


@pytest.mark.parametrize(
    "environ",
    [{}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
     {"LISTEN_PID": "77", "LISTEN_FDS": "0"}, {"LISTEN_PID": "77", "LISTEN_FDS": "x"},
     {"LISTEN_PID": "77"}],
    ids=str,
)  # fmt: skip
def test_nothing_was_handed_over(environ: dict[str, str]) -> None:
    assert handed_over(environ, 77) == []


def in_a_row(count: int) -> tuple[int, list[socket.socket]]:
    """Listening sockets at descriptors in a row: the first of them, and who has to be closed."""
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    first = 700
    for at, sock in enumerate(made):
        os.dup2(sock.fileno(), first + at)
    return first, made


def test_each_has_its_name_and_address() -> None:
    first, made = in_a_row(2)
    environ = {"LISTEN_PID": "77", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "modelport:also-11434"}
    handed = handed_over(environ, 77, first=first)
    try:
        assert [one.name for one in handed] == ["modelport", "also-11434"]
        assert [one.address for one in handed] == [sock.getsockname() for sock in made]
        assert not any(one.sock.getblocking() or one.sock.get_inheritable() for one in handed)
        knock = threading.Thread(
            target=lambda: socket.create_connection(made[1].getsockname(), 2).close()
        )
        knock.start()
        knock.join(5)
        peer, _ = handed[1].sock.accept()
        peer.close()
        address = handed[1].address
        taken = pick(handed, address)
        assert taken is not None
        assert (taken.name, pick(handed, address), len(handed)) == ("also-11434", None, 1)
        taken.sock.close()
    finally:
        freed(handed)
        for sock in made:
            sock.close()


def test_what_does_not_listen_is_left_alone() -> None:
    """A pipe, and a socket that is connected: neither is closed, neither is served."""
    reading, writing = os.pipe()
    one, other = socket.socketpair()
    os.dup2(reading, 700)
    os.dup2(one.fileno(), 701)
    environ = {"LISTEN_PID": "77", "LISTEN_FDS": "9999"}
    with one, other:
        assert handed_over(environ, 77, first=700) == []
        os.write(writing, b"x")
        assert os.read(700, 1) == b"x"
    for descriptor in (reading, writing, 700, 701):
        os.close(descriptor)


def test_launchd_is_asked_by_name() -> None:
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def activate(name: str) -> list[int]:
            asked.append(name)
            return [os.dup(server.fileno())] if name == "modelport" else []

        handed = handed_over({}, 1, names=["modelport", "also-1234"], activate=activate)
        assert asked == ["modelport", "also-1234"]
        assert [(one.name, one.address) for one in handed] == [("modelport", server.getsockname())]
        freed(handed)


def test_where_there_is_no_launchd_nothing_is_had() -> None:
    assert activate_launchd("modelport") == []


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [("127.0.0.1", "localhost", True), ("::1", "[::1]", True), ("::1", "0:0::1", True),
     ("127.0.0.1", "0.0.0.0", False), ("nas.local", "nas.local", True)],
)  # fmt: skip
def test_addresses_are_compared_as_numbers(one: str, other: str, equal: bool) -> None:
    assert same((one, 1), (other, 1)) is equal
    assert not same((one, 1), (other, 2))


def test_a_socket_is_ours_to_close() -> None:
    first, made = in_a_row(1)
    (handed,) = handed_over({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, 7, first=first)
    made[0].close()
    with closing(handed.sock), pytest.raises(BlockingIOError):
        handed.sock.accept()
