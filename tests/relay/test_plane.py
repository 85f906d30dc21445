from __future__ import annotations

import asyncio
from typing import Any

from daemon.ports import Target
from daemon.relay.client import ClientConnection
from daemon.relay.guard import Guard, Peer
from daemon.relay.limits import Limits
from daemon.relay.plane import Plane
from tests.relay.peers import FakeLeases


def plane(**limits: Any) -> Plane:
    return Plane(
        asyncio.get_running_loop(),
        leases=FakeLeases(Target("", 0)),
        guard=Guard(),
        limits=Limits(**limits),
        on_done=None,
    )


async def test_one_stranger_cannot_take_all_connections() -> None:
    here = plane(connections=10, connections_per_peer=2)
    stranger = Peer("192.168.1.7", "192.168.1.2", False)
    other = Peer("192.168.1.8", "192.168.1.2", False)
    local = Peer("127.0.0.1", "127.0.0.1", True)
    clients = [ClientConnection(here) for _ in range(8)]
    assert here.admit(clients[0], stranger)
    assert here.admit(clients[1], stranger)
    assert not here.admit(clients[2], stranger)
    assert here.admit(clients[3], other)
    assert [here.admit(client, local) for client in clients[4:]] == [True] * 4
    here.dismiss(clients[0], stranger)
    here.dismiss(clients[0], stranger)  # told twice, counted once
    here.dismiss(clients[2], stranger)  # never came in
    assert here.admit(clients[2], stranger)
    assert not here.admit(clients[0], stranger)
    for client, peer in zip(clients, [stranger] * 3 + [other] + [local] * 4, strict=True):
        here.dismiss(client, peer)
    assert here.empty.is_set()
    assert here._strangers == {}
    here.close()


async def test_strangers_push_out_nobody_of_this_machine() -> None:
    here = plane(connections=2)
    stranger = Peer("192.168.1.7", "192.168.1.2", False)
    local = Peer("127.0.0.1", "127.0.0.1", True)
    clients = [ClientConnection(here) for _ in range(4)]
    for client in clients[:2]:
        client.peer = local
        assert here.admit(client, local)
    assert not here.admit(clients[2], stranger)
    assert here.admit(clients[3], local)
    assert here.clients == {clients[1], clients[3]}, "the oldest went"
    for client in list(here.clients):
        here.dismiss(client, local)
    assert here._strangers == {}
    here.close()


async def test_the_sweep_rests_when_there_is_nothing_to_watch() -> None:
    here = plane(tick=0.001)
    peer = Peer("127.0.0.1", "127.0.0.1", True)
    client = ClientConnection(here)
    assert here._timer is None
    here.admit(client, peer)
    assert here._timer is not None
    here.dismiss(client, peer)
    async with asyncio.timeout(5):
        while here._timer is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    here.close()


async def test_request_ids_differ() -> None:
    here = plane()
    assert len({here.request_id(None) for _ in range(1000)}) == 1000
    here.close()
