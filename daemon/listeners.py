"""The ports beside the fixed one (``server.also``): opened, changed and closed as configured.

A port that cannot be had is a trouble that is told, with who holds it, and no reason to stop; it is
tried again at each reload.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from daemon.access.exposure import is_local, refuse_open
from daemon.config.sections import Listener as Wanted
from daemon.config.settings import Settings
from daemon.core.problems import ProblemError
from daemon.relay.doors import MAIN, Door, Face
from daemon.relay.front import Front
from daemon.relay.listener import Listener
from daemon.service.handed import Handed, pick
from daemon.service.ports import Bind, bind, bind_aside, url
from daemon.views import ListenerView

log = logging.getLogger("modelport.ports")

Address = tuple[str, int]
AGAIN = "`ctl service install` writes its files anew"


@dataclass(slots=True)
class Listeners:
    """See the module. The front owns the sockets, and closes all of them at its end."""

    front: Front
    bind: Bind = bind
    keyed: Callable[[], bool] = lambda: True  # there is a key, or everyone is let in by the user
    handed: list[Handed] = field(default_factory=list)  # by the service manager, not yet served
    _wanted: dict[Address, Door] = field(default_factory=dict)
    _open: dict[Address, Listener] = field(default_factory=dict)
    _problems: dict[Address, str] = field(default_factory=dict)
    _closed: bool = False
    _held: set[Address] = field(default_factory=set)

    async def follow(self, settings: Settings) -> list[str]:
        """As configured from now on. What did not change is not touched; returns what could not
        be done, in sentences."""
        self._wanted = doors(settings.server.also, settings.server.host)
        for address in self._open.keys() - self._wanted.keys():
            self.front.close(self._open.pop(address))
            log.info("no longer listening on %s", url(*address))
            if address in self._held:
                log.warning("the service manager still holds %s: %s", url(*address), AGAIN)
        before, self._problems = self._problems, {}
        for address, door in self._wanted.items():
            listener = self._open.get(address)
            if listener is None:
                await self._begin(address, door)
            else:
                listener.entry.door = door
        for address, problem in self._problems.items():
            if before.get(address) != problem:
                log.warning("%s", problem)
        return list(self._problems.values())

    def serve_rest(self) -> None:
        """What the service manager holds and nobody has asked for: who connects there would wait
        for ever, so it is served as the fixed port is."""
        for one in self.handed:
            self.front.open(one.sock, MAIN)
            where = url(*one.address)
            log.warning("%s is not configured, but the service manager holds it: %s", where, AGAIN)
        self.handed.clear()

    async def _begin(self, address: Address, door: Door) -> None:
        if (held := pick(self.handed, address)) is not None:
            self._held.add(address)
            self._open[address] = self.front.open(held.sock, door)
            log.info("listening on %s, %s", url(*address), meaning(door))
            return
        try:
            refuse_open([] if is_local(address[0]) else [address[0]], self.keyed(), False)
            sock = await bind_aside(self.bind, *address)
        except ProblemError as error:
            self._problems[address] = error.problem.message
            return
        if self._closed:  # while we waited
            sock.close()
            return
        self._open[address] = self.front.open(sock, door)
        log.info("listening on %s, %s", url(*address), meaning(door))

    def leave(self) -> None:
        """The daemon stops: nothing is opened any more."""
        self._closed = True

    def views(self) -> list[ListenerView]:
        """Each port beside the fixed one, whether it is open or not."""
        return [
            ListenerView(
                url=url(*address),
                port=address[1],
                model=door.model,
                speaks="" if door.model else door.face.value,
                open=address in self._open,
                problem=self._problems.get(address, ""),
            )
            for address, door in self._wanted.items()
        ]


def doors(also: Iterable[Wanted], host: str) -> dict[Address, Door]:
    """What is configured, by address; ``host`` is for those that name none."""
    return {
        (one.host or host, one.port): Door(Face(one.as_ or Face.OPENAI), one.model or "")
        for one in also
    }


def meaning(door: Door) -> str:
    """What this port is for, in words."""
    return f"all requests for {door.model}" if door.model else f"as {door.face.value}"
