from __future__ import annotations

import socket

import pytest

from daemon.machine import uevents

CHARGER = (
    b"change@/devices/pci0000:00/power_supply/AC\0ACTION=change\0SUBSYSTEM=power_supply\0"
    b"POWER_SUPPLY_NAME=AC\0POWER_SUPPLY_ONLINE=0\0SEQNUM=4711\0"
)
STICK = b"add@/devices/usb1\0ACTION=add\0SUBSYSTEM=usb\0NAME=SUBSYSTEM=power_supply\0"


def test_of_power() -> None:
    assert uevents.of_power(CHARGER)
    assert not uevents.of_power(STICK)
    assert not uevents.of_power(b"")


def test_all_that_waits_is_read_at_once() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.setblocking(False)
        assert not uevents.heard(ours)
        theirs.send(STICK)
        assert not uevents.heard(ours)
        for message in (STICK, CHARGER, STICK):
            theirs.send(message)
        assert uevents.heard(ours)
        assert not uevents.heard(ours)


@pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="Linux alone has netlink")
def test_the_kernels_own_socket() -> None:
    sock = uevents.listen()
    if sock is None:
        pytest.skip("no netlink in this container")
    with sock:
        assert not sock.getblocking()
        assert uevents.heard(sock) in (True, False)


def test_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_NETLINK", raising=False)
    assert uevents.listen() is None
