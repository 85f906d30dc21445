"""The way in: what it does when there is no room, and when the system has nothing left."""

from __future__ import annotations

import errno
import resource
import select
import socket

import pytest

from daemon.relay.front import Front
from daemon.relay.guard import Guard
from daemon.relay.limits import Limits, room
from daemon.relay.listener import _NOT_SENT, _NOTSENT_LOWAT, bound
from tests.relay.peers import Backend, FakeLeases, both_loops, get, until, world


@pytest.mark.parametrize(
    ("descriptors", "clients"),
    [(resource.RLIM_INFINITY, 4096), (20_000, 4096), (1024, 480), (256, 96), (64, 8), (10, 8)],
)
def test_room_is_left_for_backends(descriptors: int, clients: int) -> None:
    assert room(Limits(), descriptors) == clients
    assert room(Limits(connections=5), descriptors) == 5


class Exhausted:
    """A listening socket whose ``accept`` fails a few times, as without descriptors."""

    def __init__(self, sock: socket.socket, code: int) -> None:
        self._sock = sock
        self.code = code
        self.left = 3

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)

    def accept(self) -> tuple[socket.socket, object]:
        if self.left:
            self.left -= 1
            raise OSError(self.code, "no")
        return self._sock.accept()


@both_loops
async def test_without_descriptors_it_rests_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("daemon.relay.listener._REST", 0.01)
    async with world() as here:
        (listener,) = here.front._listeners
        fake = Exhausted(listener.sock, errno.EMFILE)
        listener.sock = fake  # type: ignore[assignment]
        assert (await here.once(get("/health"))).status == 200
        assert fake.left == 0
    lines = [line for line in caplog.messages if "cannot accept" in line]
    assert lines == ["cannot accept connections: no file descriptors are left"]


@both_loops
async def test_a_closed_listener_rests_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.relay.listener._REST", 0.01)
    async with world() as here:
        (listener,) = here.front._listeners
        fake = Exhausted(listener.sock, errno.ENFILE)
        listener.sock = fake  # type: ignore[assignment]
        await here.client()
        await until(lambda: fake.left < 3)
        here.front.close_listeners()
        here.front.close_listeners()
        assert listener.sock.fileno() == -1


async def test_every_address_of_a_name_is_listened_on() -> None:
    socks = await bound("localhost", 0)
    try:
        assert {sock.getsockname()[0] for sock in socks} <= {"127.0.0.1", "::1"}
    finally:
        for sock in socks:
            sock.close()
    taken = socket.create_server(("127.0.0.1", 0))
    with pytest.raises(OSError, match="in use"):
        await bound("127.0.0.1", taken.getsockname()[1])
    taken.close()


@both_loops
async def test_a_socket_of_a_service_manager_goes_on_listening() -> None:
    """Its own descriptor is closed here; who connects meanwhile waits for the successor."""
    theirs = socket.create_server(("127.0.0.1", 0))
    backend = Backend()
    leases = FakeLeases(await backend.start())
    front = await Front.start("", 0, leases=leases, guard=Guard(), sock=theirs.dup())
    assert await front.drain(1)
    front.abort()
    with socket.create_connection(theirs.getsockname(), 5):
        theirs.settimeout(5)
        conn, _ = theirs.accept()
        conn.close()
    theirs.close()
    await backend.stop()


@both_loops
async def test_who_is_cut_short_on_the_way_in_is_closed() -> None:
    """Also when nothing has been done for it yet, as when the daemon ends at that very moment."""
    async with world() as here:
        (listener,) = here.front._listeners
        with socket.create_connection(listener.sock.getsockname(), 5) as peer:
            select.select([listener.sock], [], [], 5)
            listener._readable()
            (task,) = listener._arriving
            task.cancel()
            await until(lambda: not listener._arriving)
            assert not here.front._plane.coming
            peer.settimeout(5)
            assert peer.recv(1) == b""


@both_loops
async def test_connections_send_at_once_and_little_is_kept_for_them() -> None:
    async with world() as here:
        await here.client()
        await until(lambda: here.front.connections == 1)
        (client,) = here.front._plane.clients
        assert client._transport is not None
        sock = client._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT) == _NOT_SENT
