"""Being reached from other machines (``[lan]``, ``[tls]``), as configured and as things are.

The fixed port is opened on each address of this machine, one socket each, beside the loopback one:
the wildcard address cannot be had on Linux while loopback is taken, and would mix what is
encrypted with what is not. Addresses come and go, so they are looked at again and again. Without a
key nothing is opened, nor with a certificate that does not work: never less safe than asked for.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from daemon.access.exposure import NO_KEY, exposed
from daemon.config.settings import Settings
from daemon.core.problems import ProblemError
from daemon.housekeeping import Round
from daemon.lan import addresses as places
from daemon.lan.announce import Announcement, Told
from daemon.lan.tls import Safe, given, self_made
from daemon.relay.doors import MAIN
from daemon.relay.front import Front
from daemon.relay.listener import Listener
from daemon.service.kept import Kept
from daemon.service.ports import bind, bind_aside, url
from daemon.views import LanView

log = logging.getLogger("modelport.lan")


@dataclass(slots=True)
class Network:
    """See the module. ``keys``: is there one that opens anything? ``keyless``: the user has said in
    so many words that none is needed."""

    front: Front
    state_dir: Path
    version: str
    keys: Callable[[], Awaitable[bool]]
    keyless: bool = False
    settings: Settings = field(default_factory=Settings)
    kept: Kept = field(default_factory=Kept)
    bind: Callable[[str, int], socket.socket] = bind
    scan: Callable[[], Mapping[str, list[str]]] = places.scan
    hostname: Callable[[], str] = socket.gethostname
    clock: Callable[[], float] = time.time
    _announcement: Announcement = field(default_factory=Announcement)
    _open: dict[str, Listener] = field(default_factory=dict)
    _covered: list[str] = field(default_factory=list)  # open already, by ``server.host``
    _safe: Safe | None = None
    _problems: list[str] = field(default_factory=list)
    _round: Round = field(init=False)
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _closed: bool = False

    def __post_init__(self) -> None:
        self._round = Round(self.look, self.settings.timing.address_poll)

    # ------------------------------------------------------------ life

    async def follow(self, settings: Settings) -> list[str]:
        """As configured from now on. Returns what could not be done, in sentences."""
        async with self._changing:
            self.settings = settings
            self._round.every(settings.timing.address_poll)
            await self._see(fresh=True)
            if settings.lan.enabled and not self._closed:
                self._round.begin()
            else:
                self._round.end()
        return list(self._problems)

    async def look(self) -> None:
        """Once more: addresses, keys and the certificate's time may have changed."""
        async with self._changing:
            await self._see(fresh=False)

    def leave(self) -> None:
        """The daemon stops: nothing is opened any more. What is open is the front's to close."""
        self._closed = True
        self._round.end()

    async def close(self) -> None:
        """Say goodbye to the network."""
        self.leave()
        async with self._changing:
            await self._announcement.end(self.settings.timing.announce)

    def view(self) -> LanView:
        """What there is to know about it."""
        tls = self.settings.tls.enabled
        safe = self._safe if tls else None
        open_ = list(self._open)
        return LanView(
            enabled=self.settings.lan.enabled,
            urls=self._urls(open_) + [url(address, self.front.port) for address in self._covered],
            public=self._urls(places.public([*open_, *self._covered])),
            tls=tls,
            self_made=safe is not None and safe.self_made,
            fingerprint=safe.fingerprint if safe else "",
            certificate=safe.cert if safe else "",
            expires=safe.expires if safe else None,
            announced=self._announcement.name,
            keyless=self.keyless,
            problems=list(self._problems),
        )

    def _urls(self, addresses: list[str]) -> list[str]:
        scheme = "https" if self.settings.tls.enabled else "http"
        return [url(address, self.front.port, scheme) for address in addresses]

    # ------------------------------------------------------------ looking

    async def _see(self, *, fresh: bool) -> None:
        """``fresh``: what is configured may have changed, and files may have."""
        problems = list(self._bare())
        self._covered = []
        wanted = await self._wanted(problems) if self.settings.lan.enabled else []
        safe = None
        if wanted and self.settings.tls.enabled:
            safe = await self._certificate(fresh, problems)
            wanted = wanted if safe is not None else []
        self._close_but(wanted, safe)
        for address in wanted:
            await self._begin(address, safe, problems)
        if not self._closed:
            self.kept.end_rest()
        self._open = {address: self._open[address] for address in wanted if address in self._open}
        before, self._problems = self._problems, problems
        await self._tell(safe, problems)  # which may take seconds
        for problem in problems:
            if problem not in before:
                log.warning("%s", problem)

    def _bare(self) -> Iterator[str]:
        """What is open to other machines beside ``[lan]``, while encryption is asked for."""
        for key, host in exposed(self.settings).items() if self.settings.tls.enabled else ():
            yield (
                f"{key} = {host} is open to other machines without encryption: [tls] is for [lan], "
                "which opens the fixed port on every address; leave the others at 127.0.0.1."
            )

    async def _wanted(self, problems: list[str]) -> list[str]:
        """The addresses to be open now."""
        settings = self.settings
        if not self.keyless and not await self.keys():
            problems.append(NO_KEY)
            return []
        try:
            found = places.chosen(await asyncio.to_thread(self.scan), settings.lan.host)
        except OSError as error:
            problems.append(f"The addresses of this machine cannot be read: {error}.")
            return list(self._open)
        if not found and settings.lan.host not in (places.EVERY, places.EVERY_4):
            problems.append(
                f"lan.host: found {settings.lan.host}, which is no interface with an address, and "
                "no address of its own; allowed: such a one, :: or 0.0.0.0."
            )
        fixed = settings.server.host
        self._covered = [address for address in found if places.covers(fixed, address)]
        return [address for address in found if address not in self._covered]

    async def _certificate(self, fresh: bool, problems: list[str]) -> Safe | None:
        """The one to serve; the last good one if the newest will not do."""
        tls, timing = self.settings.tls, self.settings.timing
        old, now = self._safe, self.clock()
        own = tls.cert is not None and tls.key is not None
        late = (
            old is None
            or old.self_made is own
            or (not own and (old.expires or now) - now < timing.certificate_renewal)
        )
        if fresh or late:
            try:
                self._safe = await self._made_or_given(now)
            except ProblemError as error:
                problems.append(error.problem.text)
                if old is not None and old.self_made is own:
                    self._safe = None  # of the other sort: not what was asked for
        safe = self._safe
        if safe is not None and safe.doubt:
            problems.append(safe.doubt)
        if safe is not None and safe.expires is not None and safe.expires < now:
            problems.append(f"The certificate {safe.cert} has expired.")
        return safe

    async def _made_or_given(self, now: float) -> Safe:
        settings, timing = self.settings, self.settings.timing
        tls, wait = settings.tls, timing.certificate_make
        if tls.cert is not None and tls.key is not None:
            return await given(tls.cert, tls.key, seconds=wait)
        found = places.chosen(await asyncio.to_thread(self.scan), settings.lan.host)
        return await self_made(
            self.state_dir / "tls",
            places.names(self.hostname(), found, settings.server.hosts),
            life=timing.certificate_life,
            renewal=timing.certificate_renewal,
            now=now,
            seconds=wait,
        )

    # ------------------------------------------------------------ sockets

    def _close_but(self, wanted: list[str], safe: Safe | None) -> None:
        """What is wanted no more goes, and what changes between plain and encrypted; who comes by
        HTTPS gets the certificate that is good now."""
        for address, listener in list(self._open.items()):
            if address in wanted and (listener.tls is None) is (safe is None):
                listener.tls = safe.context if safe is not None else None
                continue
            del self._open[address]
            scheme, place = "http" if listener.tls is None else "https", (address, self.front.port)
            if address in wanted:
                self.kept.again(listener.sock, place)
            else:
                self.kept.let_go(listener.sock, place)
            self.front.close(listener)
            log.info("no longer listening on %s", url(address, self.front.port, scheme))

    async def _begin(self, address: str, safe: Safe | None, problems: list[str]) -> None:
        if address in self._open or self._closed:
            return
        place = (address, self.front.port)
        sock = self.kept.take(place)
        if sock is None:
            try:
                sock = await bind_aside(self.bind, *place)
            except ProblemError as error:
                problems.append(error.problem.message)
                return
            if self._closed:  # while we waited
                sock.close()
                return
            self.kept.keep(sock, place)
        context = safe.context if safe is not None else None
        self._open[address] = self.front.open(sock, MAIN, context)
        (found,) = self._urls([address])
        how = "" if context is not None else ", without encryption: keys and texts can be read on"
        log.info("listening on %s%s", found, f"{how} the way" if how else "")

    async def _tell(self, safe: Safe | None, problems: list[str]) -> None:
        """Announced only where a key is needed: what needs none is not to be found by all."""
        settings, wait = self.settings, self.settings.timing.announce
        announcement = self._announcement
        told = None
        if self._open and settings.lan.mdns and not self.keyless and not self._closed:
            told = Told(
                name=settings.lan.name or self.hostname().partition(".")[0],
                addresses=tuple(self._open),
                port=self.front.port,
                version=self.version,
                fingerprint=safe.fingerprint if safe is not None else "",
            )
        if told == announcement.told:
            return
        if told is None:
            await announcement.end(wait)
            return
        try:
            await announcement.tell(told, wait)
        except (OSError, TimeoutError, ImportError) as error:
            problems.append(f"It cannot be announced on the network: {reason(error)}.")


def reason(error: Exception) -> str:
    """In words, also for those that have none."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
