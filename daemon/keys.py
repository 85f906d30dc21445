"""The keys in force: read when their file changes, whoever has changed it; and when each was used
last, written now and then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from daemon.access.failures import Failures
from daemon.access.keys import NO_KEYS, Key, Ring, Wanted
from daemon.access.store import KeyStore, Stamp
from daemon.config.timing import Timing
from daemon.core.problems import ProblemError
from daemon.relay.records import RequestRecord

log = logging.getLogger("modelport.keys")


@dataclass(slots=True)
class Keys:
    """See the module. ``changed`` is called, in the loop, when ``ring`` is another one.

    ``poll``: seconds between two looks at the file; ``noted``: between two writes of when keys
    were used. ``insecure``: the user lets everyone use models.
    """

    store: KeyStore
    poll: float = 10.0
    noted: float = 60.0
    insecure: bool = False
    ring: Ring = NO_KEYS
    failures: Failures = field(default_factory=Failures)
    changed: Callable[[], None] = lambda: None
    _stamp: Stamp = None
    _uses: dict[str, float] = field(default_factory=dict)  # Unix seconds, not written yet
    _task: asyncio.Task[None] | None = None

    def follow(self, timing: Timing) -> None:
        """As configured from now on."""
        self.poll, self.noted = timing.keys_poll, timing.keys_noted
        self.failures.window = timing.auth_window

    def load(self) -> None:
        """Read the file. Blocks on the disk. What a newer version wrote is no key for us: then
        there are none, which is said."""
        self._stamp = self.store.stamp()
        try:
            self.ring = self.store.read()
        except ProblemError as error:
            log.warning("no key is known: %s", error)
            self.ring = NO_KEYS

    def start(self) -> None:
        """Follow the file from now on."""
        self._task = asyncio.create_task(self._follow(), name="keys")

    async def stop(self) -> None:
        """No longer; what is not written yet is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._note()

    def any_good(self) -> bool:
        """May a port be opened to other machines?"""
        return self.insecure or bool(self.ring.live(self.store.clock()))

    async def any_now(self) -> bool:
        """The same, after a look: ``ctl`` may have made one just before."""
        await self.look()
        return self.any_good()

    def used(self, record: RequestRecord) -> None:
        """A request is over; with which key, and when."""
        if record.key:
            self._uses[record.key] = record.at

    # ------------------------------------------------------------ for the control API

    def listed(self) -> list[Key]:
        """All of them, with when each was used last."""
        return [_with_use(key, self._uses.get(key.name)) for key in self.ring.keys]

    async def add(self, wanted: Wanted) -> tuple[Key, str]:
        """See ``KeyStore.add``; it is in force when this returns."""
        made = await asyncio.to_thread(self.store.add, wanted)
        await self.look()
        return made

    async def remove(self, name: str) -> Key:
        """See ``KeyStore.remove``; it is no longer in force when this returns."""
        gone = await asyncio.to_thread(self.store.remove, name)
        await self.look()
        return gone

    # ------------------------------------------------------------ the file

    async def look(self) -> None:
        """Read it again if it has changed."""
        before = self._stamp
        if await asyncio.to_thread(self.store.stamp) != before:
            await asyncio.to_thread(self.load)
            names = {key.name for key in self.ring.keys}
            self._uses = {name: at for name, at in self._uses.items() if name in names}
            self.changed()

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self.noted
        while True:
            try:
                await self.look()
                if loop.time() >= due:
                    due = loop.time() + self.noted
                    await self._note()
            except Exception:
                log.exception("the keys could not be looked at")
            await asyncio.sleep(self.poll)

    async def _note(self) -> None:
        """Write when keys were used."""
        uses, self._uses = self._uses, {}
        if not uses:
            return
        try:
            await asyncio.to_thread(self.store.used, uses)
        except ProblemError as error:
            self._uses = {**uses, **self._uses}
            log.warning("when keys were used is not kept: %s", error)
        else:
            await self.look()


def _with_use(key: Key, used: float | None) -> Key:
    return key if used is None else replace(key, used=used)
