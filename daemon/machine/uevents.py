"""The kernel's word that a charger came or went, without asking again and again (Linux).

A netlink socket of kind KOBJECT_UEVENT: any user may listen to group 1, which is the kernel itself
(netlink(7), ``udevadm monitor --kernel``). Containers may hear nothing; whoever listens looks at
long intervals as well.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Final

_KOBJECT_UEVENT: Final = 15  # NETLINK_KOBJECT_UEVENT of <linux/netlink.h>
_KERNEL: Final = 1  # its group
_LARGEST: Final = 1 << 13  # a message has at most 2 KiB of variables


def listen() -> socket.socket | None:
    """A socket that gets every device's news; None where there is none such."""
    family = getattr(socket, "AF_NETLINK", None)
    if family is None:
        return None
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM, _KOBJECT_UEVENT)
    except OSError:
        return None
    try:
        sock.setblocking(False)
        sock.bind((0, _KERNEL))
    except OSError:
        sock.close()
        return None
    return sock


def of_power(message: bytes) -> bool:
    """Whether a message is about a power supply: ``ACTION@path``, then ``NAME=value``, each ended
    by a zero byte."""
    return b"SUBSYSTEM=power_supply" in message.split(b"\0")


def heard(sock: socket.socket) -> bool:
    """Read all that is waiting; whether any of it is about a power supply."""
    found = False
    with suppress(BlockingIOError):
        while True:
            try:
                found |= of_power(sock.recv(_LARGEST))
            except BlockingIOError:
                raise
            except OSError:  # ENOBUFS: some were lost, perhaps ours
                return True
    return found
