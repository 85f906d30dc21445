"""The daemon put together: what is started in which order, and how it ends.

With ``__main__`` the composition root: these two know every other part.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from daemon import parts
from daemon.access.exposure import exposed, is_local, warning
from daemon.access.store import KeyStore
from daemon.adoption import Waits, settle_leftovers
from daemon.awaited import Awaited
from daemon.backends.counters import Counters
from daemon.bounds import count_patience, follow_logs, guard_of, relay_limits, wake_gap
from daemon.config.paths import Paths
from daemon.config.settings import Settings
from daemon.configured import Configured
from daemon.control import Control
from daemon.core.problems import ProblemError
from daemon.core.scheduler import Scheduler
from daemon.downloads import used
from daemon.downloads.used import Used
from daemon.ending import Ending, end_backends
from daemon.engines.install.shelf import Shelf
from daemon.incidents import Recorder
from daemon.keys import Keys
from daemon.listeners import Listeners
from daemon.machine import observe
from daemon.machine.awake import Awake
from daemon.memory import give_back, tidy_memory
from daemon.private import Private
from daemon.probation import Probation
from daemon.reading import Reader
from daemon.relay.front import Front
from daemon.relay.records import RequestRecord
from daemon.requests import Requests
from daemon.service.handed import Handed
from daemon.service.kept import Kept, split
from daemon.service.ports import url
from daemon.service.telling import Telling
from daemon.supervisor import Supervisor
from daemon.telemetry.bus import Bus
from daemon.translate import policy
from daemon.verdicts import Verdicts
from daemon.views import EventView
from daemon.watching import Patience, Watcher

if TYPE_CHECKING:
    from daemon.housekeeping import Housekeeper
    from daemon.network import Network
    from daemon.powering import Powering
    from daemon.timetable import Timetable

log = logging.getLogger("modelport")


class Daemon:
    """One life of the daemon, from a bound socket to the last reaped process."""

    def __init__(
        self,
        settings: Settings,
        paths: Paths,
        sock: socket.socket,
        *,
        environ: Mapping[str, str],
        flags: Mapping[str, object],
        mode: Literal["foreground", "service"],
        version: str,
        insecure: bool = False,
        handed: Sequence[Handed] = (),
    ) -> None:
        """``insecure``: everyone who reaches us may use models (``--insecure-no-auth``)."""
        self.settings, self.paths, self.sock, self.mode = settings, paths, sock, mode
        self.bus = Bus()
        self.handed, kept = split(handed)
        self.awake = Awake(wake_gap(settings))
        self.supervisor = Supervisor(
            Scheduler({}, policy(settings)),
            self.bus,
            settings.server.queue_timeout,
            clock=self.awake,
            free=observe.free,
        )
        self.supervisor.accidents.poison.window = settings.timing.poison_window
        self.requests = Requests()
        self.watcher = Watcher(self.supervisor, Patience.of(settings))
        self.configured = Configured(
            Reader(paths, environ, flags, mode), self.supervisor, self.bus, settings
        )
        self.keys = Keys(KeyStore(paths.keys_file), insecure=insecure)
        self.keys.follow(settings.timing)
        self.used = Used(paths.state_dir / used.FILE)
        self.control = Control(
            self.supervisor,
            self.configured,
            self.bus,
            paths,
            mode,
            version,
            self.stop,
            self.requests,
        )
        self.bus.subscribe(self._noted)
        self.awaited = Awaited(self.supervisor, self.control.bringing)
        self.supervisor.absent = self.awaited.absent
        self.supervisor.fetching = self.awaited.words
        self.supervisor.seek = self.control.finder.seek
        self.supervisor.listed = self.control.finder.listed
        self.counters = Counters(count_patience(settings), environ)  # of tokens
        self.supervisor.counter = self.counters.count
        self.telling = Telling(
            self.supervisor, self.bus, lambda: self.control.url, environ, mode == "service"
        )
        self.kept = Kept(self.telling.notifier, kept)
        self.recorder = Recorder.at(self.supervisor, self.bus, paths.state_dir)
        self.control.record = self.recorder.book
        self.listeners: Listeners | None = None  # beside the fixed port
        self.powering: Powering | None = None
        self.timetable: Timetable | None = None
        self.network: Network | None = None  # of other machines, once they are let in
        self.control.proofs = Verdicts(paths.state_dir / "tests.json")
        self.control.key_ring = self.keys
        self.probation = Probation(
            Shelf(paths.engines_dir),
            self.bus,
            self.configured.prepared,
            self.configured.reload,
            paths.state_dir / "worked.json",
        )
        self.private = Private(self.control, paths)
        self.ending = Ending()
        self._opened = asyncio.Event()  # the models are known
        self._reloads: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------ life

    async def run(self) -> None:
        """Serve until told to stop. Everything started here is ended here."""
        self._signals()
        await asyncio.to_thread(self.keys.load)  # before the first request can come
        front = await self._open_front()
        housekeeper = None
        listeners = self.listeners = Listeners(front, keyed=self.keys.any_good, handed=self.handed)
        self.control.listeners = listeners.views
        self.configured.followed = listeners.follow
        try:
            await self.telling.starting()
            await listeners.follow(self.settings)
            listeners.serve_rest()
            # Only now what takes long to import: the port is served already.
            housekeeper = parts.housekeeper(self.configured, self.awake)
            self.powering = parts.powering(self.configured)
            self.control.power = self.powering.words
            self.configured.applied = partial(self._apply, front, housekeeper)
            await self._open_models()
            front.set_control(await self.private.open(self.settings))
            self.configured.followed = partial(self._follow, front, listeners)
            self.keys.changed = partial(self._rekey, front)
            self.keys.start()
            self._later(self._beyond(front, self.settings), "network")
            await asyncio.to_thread(self.private.write_facts, front.port)  # the disk may be slow
            housekeeper.start()
            self.watcher.start()
            self.powering.start()
            await self._keep_time()
            self.awake.on_wake = self._woke
            self._later(self.control.bringing.take_up(), "pulls")
            self.control.finder.begin(give_back)
            tidy_memory()
            await self.telling.serves(stopping=self.ending.told.is_set())
            await self.ending.told.wait()
        finally:
            await self._close(front, housekeeper)

    def _noted(self, event: EventView) -> None:
        """Weights are in use: `ctl prune` leaves alone what was, lately."""
        if event.kind in ("ready", "exited"):
            item = self.configured.prepared(event.model)
            if item is not None and item.path is not None:
                work = asyncio.to_thread(self.used.note, item.path, time.time())
                self._later(work, "noting a use")

    async def _follow(self, front: Front, listeners: Listeners, settings: Settings) -> list[str]:
        """Every port but the fixed one, and the schedule, as configured now."""
        await self._keep_time()
        return [*await listeners.follow(settings), *await self._beyond(front, settings)]

    async def _beyond(self, front: Front, settings: Settings) -> list[str]:
        """Other machines. Who lets none in has nothing of it in memory."""
        if self.network is None and not settings.lan.enabled and is_local(settings.server.host):
            self.kept.end_rest()
            return []
        if self.network is None:
            self.network = parts.network(front, self.control, self.keys, self.kept)
            self.control.lan = self.network.view
        return await self.network.follow(settings)

    def _later(self, work: Coroutine[Any, Any, object], name: str) -> None:
        """Beside all else, until it is done or the daemon ends."""
        task = asyncio.create_task(self._logged(work, name), name=name)
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)
        task.add_done_callback(lambda _: work.close())  # cancelled before it began

    @staticmethod
    async def _logged(work: Coroutine[Any, Any, object], name: str) -> None:
        try:
            await work
        except Exception:
            log.exception("%s failed", name)

    def _woke(self, seconds: float) -> None:
        """Seen in the middle of reading a clock: what follows from it waits for its own turn."""
        loop = asyncio.get_running_loop()
        loop.call_soon(self.watcher.slept, seconds)
        if self.powering is not None:
            loop.call_soon(self.powering.slept)
        if self.timetable is not None:
            loop.call_soon(self.timetable.slept)

    async def _open_front(self) -> Front:
        """Accept first: requests that come before the models are known wait for them."""
        settings = self.settings
        front = await Front.start(
            settings.server.host,
            settings.server.port,
            leases=self.supervisor,
            guard=guard_of(settings, self.keys),
            limits=relay_limits(settings),
            sock=self.sock,
            on_done=self._done,
        )
        self.supervisor.close_connections = front.forget
        self.control.url = url(*front.addresses[0][:2])
        log.info("listening on %s", self.control.url)
        reached = [*exposed(settings).values(), *(a for a, _ in front.addresses if not is_local(a))]
        if reached:
            names = [key.name for key in self.keys.ring.live(time.time())]
            log.warning("%s", warning(reached, names, self.keys.insecure))
        return front

    def _rekey(self, front: Front) -> None:
        """The keys are others now."""
        front.set_guard(guard_of(self.settings, self.keys))
        front.keep_meters(frozenset(key.name for key in self.keys.ring.keys))
        if self.network is not None:
            self._later(self.network.look(), "network")

    def _done(self, record: RequestRecord) -> None:
        self.requests.add(record)
        self.keys.used(record)

    async def _keep_time(self) -> None:
        """The schedule. Who has none has nothing of it in memory."""
        if self.timetable is not None or not self.settings.schedule:
            return
        timetable = self.timetable = parts.timetable(self.control)
        self.control.lines = timetable.views
        await asyncio.to_thread(timetable.load)
        if not self.ending.told.is_set():
            timetable.calendar.start()
            timetable.start(self.settings)

    def _apply(self, front: Front, housekeeper: Housekeeper, changed: Settings) -> None:
        """What was read again counts from now on, apart from what is bound once."""
        front.set_guard(guard_of(changed, self.keys))
        front.set_limits(relay_limits(changed))
        self.supervisor.shutdown_retry = changed.timing.shutdown_retry
        self.supervisor.accidents.poison.window = changed.timing.poison_window
        self.watcher.patience = Patience.of(changed)
        self.awake.gap = wake_gap(changed)
        housekeeper.follow(changed)
        if self.powering is not None:
            self.powering.follow(changed)
        if self.timetable is not None:
            self.timetable.follow(changed)
        self.keys.follow(changed.timing)
        self.counters.follow(count_patience(changed))
        self.private.follow(changed)
        if changed.logs != self.settings.logs:
            follow_logs(changed)
        self.settings = changed

    async def _open_models(self) -> None:
        """Read what is configured, see what an earlier daemon left, then serve."""
        await self.recorder.open()  # before anything can die
        await asyncio.to_thread(self.control.proofs.load)
        if self.powering is not None:
            await self.powering.look_first()
        await asyncio.to_thread(self.probation.load)
        self.probation.open()
        reading = await asyncio.to_thread(self.configured.reader.read, self.settings)
        self.configured.take(reading, frozenset(), pins=False)
        await settle_leftovers(
            self.paths.backends_dir,
            self.mode,
            reading.stock,
            self.supervisor,
            Waits.of(self.settings),
            self.recorder.missed,
            self.watcher.doubt,
        )
        self.configured.take(reading, frozenset())  # now the pins, where none was taken over
        self.supervisor.open()
        self._opened.set()
        names = ", ".join(sorted(reading.stock.prepared)) or "none yet (ctl add)"
        log.info("models: %s", names)

    # ------------------------------------------------------------ being told

    def _signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._hangup)

    def stop(self) -> None:
        """Stop in good order; the second time at once."""
        self.ending.stop()

    def _hangup(self) -> None:
        task = asyncio.create_task(self._reload_notified(), name="reload")
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload_notified(self) -> None:
        await self._opened.wait()
        self.telling.reloading()
        try:
            await self.configured.reload()
        except ProblemError as error:
            log.warning("not read again: %s", error)
        except Exception:
            log.exception("reading the configuration again failed")
        self.telling.ready()

    # ------------------------------------------------------------ end

    async def _close(self, front: Front, housekeeper: Housekeeper | None) -> None:
        log.info("stopping")
        await self.telling.stopping()
        self.supervisor.leave()
        self.awaited.leave()
        if self.listeners is not None:
            self.listeners.leave()
        network = self.network
        if network is not None:
            network.leave()
        for reload in self._reloads:
            reload.cancel()
        goodbye = asyncio.create_task(network.close()) if network is not None else None
        await self.ending.unless_hurried(front.drain(self.settings.timing.drain_grace))
        front.abort()
        if self.timetable is not None:
            await self.timetable.stop()
            if self.timetable.calendar.running:
                self.timetable.calendar.shutdown(wait=False)
        if housekeeper is not None:
            housekeeper.stop()
        if self.powering is not None:
            await self.powering.stop()
        await self.watcher.stop()
        await self.keys.stop()
        if goodbye is not None:
            await asyncio.gather(goodbye, return_exceptions=True)
        await self.control.finder.stop()
        await self.configured.pulls.close()
        await self.counters.close()
        await end_backends(self.supervisor, self.settings, self.mode, self.ending)
        await self.recorder.close()
        await self.probation.close()
        await self.configured.written()
        await self.control.proofs.written()
        await self.private.close()
        self.kept.close()
        await self.telling.stopped()
        log.info("stopped")
