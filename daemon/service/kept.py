"""Listening sockets of our own that systemd keeps while we restart (sd_notify(3), FDSTORE): who
connects meanwhile waits in the kernel, and is served.

For addresses that come and go, as those of the LAN do, and so stand in no unit. A restart hands
them back, a stop of the service lets go of them. launchd has nothing of the kind.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from daemon.service.handed import Address, Handed, pick
from daemon.service.notify import Notifier

PREFIX: Final = "lan-"


def name_of(address: Address) -> str:
    """What systemd calls it; a colon would end the name (LISTEN_FDNAMES)."""
    host, port = address
    return f"{PREFIX}{host.replace(':', '.')}-{port}"


def split(handed: Sequence[Handed]) -> tuple[list[Handed], list[Handed]]:
    """What units have opened, and what was kept for us."""
    units = [one for one in handed if not one.name.startswith(PREFIX)]
    return units, [one for one in handed if one.name.startswith(PREFIX)]


@dataclass(slots=True)
class Kept:
    """See the module. ``handed``: those that came back, and are not asked for yet."""

    notifier: Notifier | None = None
    handed: list[Handed] = field(default_factory=list)

    def take(self, address: Address) -> socket.socket | None:
        """The one of this address, which is the caller's from now on."""
        one = pick(self.handed, address)
        return one.sock if one is not None else None

    def keep(self, sock: socket.socket, address: Address) -> None:
        """Let it outlive this process; a second time changes nothing."""
        if self.notifier is not None:
            self.notifier.store(sock, name_of(address))

    def again(self, sock: socket.socket, address: Address) -> None:
        """It is about to be closed, and asked for again at once."""
        self.handed.append(Handed(sock.dup(), name_of(address), address))

    def let_go(self, sock: socket.socket, address: Address) -> None:
        """Nobody is to come that way any more, although systemd still has it: so it stops to
        listen here and now, and its port is free."""
        if self.notifier is None or not self.notifier.heard:
            return
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        self.notifier.forget(name_of(address))

    def end_rest(self) -> None:
        """What came back and is not wanted any more."""
        for one in self.handed:
            self.let_go(one.sock, one.address)
        self.close()

    def close(self) -> None:
        """This process ends; what is kept stays so."""
        for one in self.handed:
            one.sock.close()
        self.handed.clear()
