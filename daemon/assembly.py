"""The daemon put together: what is started in which order, and how it ends.

With ``__main__`` the composition root: these two know every other part.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from daemon.access.exposure import exposed, is_local, warning
from daemon.access.principals import Principal
from daemon.access.store import KeyStore
from daemon.adoption import Waits, settle_leftovers
from daemon.awaited import Awaited
from daemon.backends.backend import Backend
from daemon.backends.counters import Counters
from daemon.bounds import count_patience, follow_logs, guard_of, relay_limits, wake_gap
from daemon.config.paths import GROUP, Paths
from daemon.config.settings import Settings
from daemon.configured import Configured
from daemon.control import Control
from daemon.core.messages import Ask, OperatorAsked
from daemon.core.problems import ProblemError
from daemon.core.scheduler import Scheduler
from daemon.downloads import used
from daemon.downloads.used import Used
from daemon.engines.install.shelf import Shelf
from daemon.files import DISK
from daemon.incidents import Recorder
from daemon.keys import Keys
from daemon.listeners import Listeners
from daemon.machine import observe
from daemon.machine.awake import Awake
from daemon.ports import Hold, Target
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
    from aiohttp import web

    from control_api.auth import Auth
    from control_api.operation import Limits as ControlLimits
    from daemon.housekeeping import Housekeeper
    from daemon.network import Network
    from daemon.powering import Powering
    from daemon.timetable import Timetable

log = logging.getLogger("modelport")

CONTROL_CLOSE = 2.0  # seconds for open answers of the control socket: they are told to end first


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
        self._control_apps: list[web.Application] = []
        self._stopping = asyncio.Event()
        self._opened = asyncio.Event()  # the models are known
        self._reloads: set[asyncio.Task[None]] = set()
        self._stops = 0
        self._hurry = asyncio.Event()

    # ------------------------------------------------------------ life

    async def run(self) -> None:
        """Serve until told to stop. Everything started here is ended here."""
        self._signals()
        await asyncio.to_thread(self.keys.load)  # before the first request can come
        front = await self._open_front()
        housekeeper = None
        runners: list[web.AppRunner] = []
        listeners = self.listeners = Listeners(front, keyed=self.keys.any_good, handed=self.handed)
        self.control.listeners = listeners.views
        self.configured.followed = listeners.follow
        try:
            await self.telling.starting()
            await listeners.follow(self.settings)
            listeners.serve_rest()
            # Only now what takes long to import: the port is served already.
            housekeeper = self._housekeeper()
            self.powering = self._powering()
            self.configured.applied = partial(self._apply, front, housekeeper)
            await self._open_models()
            await self._open_control(front, runners)
            self.configured.followed = partial(self._follow, front, listeners)
            self.keys.changed = partial(self._rekey, front)
            self.keys.start()
            self._later(self._beyond(front, self.settings), "network")
            await asyncio.to_thread(self._write_facts, front)  # the disk may be slow
            housekeeper.start()
            self.watcher.start()
            self.powering.start()
            await self._keep_time()
            self.awake.on_wake = self._woke
            self._later(self.control.bringing.take_up(), "pulls")
            self.control.finder.begin(give_back)
            tidy_memory()
            await self.telling.serves(stopping=self._stopping.is_set())
            await self._stopping.wait()
        finally:
            await self._close(front, runners, housekeeper)

    def _noted(self, event: EventView) -> None:
        """Weights are in use: `ctl prune` leaves alone what was, lately."""
        if event.kind in ("ready", "exited"):
            item = self.configured.prepared(event.model)
            if item is not None and item.path is not None:
                work = asyncio.to_thread(self.used.note, item.path, time.time())
                self._later(work, "noting a use")

    def _network(self, front: Front) -> Network:
        from daemon.network import Network

        self.network = network = Network(
            front,
            self.paths.state_dir,
            self.control.version,
            self._any_key,
            keyless=self.keys.insecure,
            kept=self.kept,
        )
        self.control.lan = network.view
        return network

    async def _any_key(self) -> bool:
        """Is there a key that opens something now? ``ctl`` may have made one just before."""
        await self.keys.look()
        return self.keys.any_good()

    async def _follow(self, front: Front, listeners: Listeners, settings: Settings) -> list[str]:
        """Every port but the fixed one, and the schedule, as configured now."""
        await self._keep_time()
        return [*await listeners.follow(settings), *await self._beyond(front, settings)]

    async def _beyond(self, front: Front, settings: Settings) -> list[str]:
        """Other machines. Who lets none in has nothing of it in memory."""
        if self.network is None and not settings.lan.enabled and is_local(settings.server.host):
            self.kept.end_rest()
            return []
        network = self.network or self._network(front)
        return await network.follow(settings)

    def _later(self, work: Coroutine[Any, Any, object], name: str) -> None:
        """Beside all else, until it is done or the daemon ends."""
        task = asyncio.create_task(self._logged(work, name), name=name)
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

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

    def _housekeeper(self) -> Housekeeper:
        from daemon.housekeeping import Housekeeper, Rounds

        return Housekeeper(
            self.supervisor,
            self.configured.promised,
            self.configured.reader.learned,
            self.configured.learnt,
            self.paths.log_dir,
            Rounds.of(self.settings),
            self.awake.attend,
        )

    def _powering(self) -> Powering:
        from daemon.powering import Powering

        powering = Powering(
            self.supervisor,
            self.configured,
            self.bus,
            self.settings,
            self.configured.reader.environ,
        )
        self.control.power = powering.words
        return powering

    async def _keep_time(self) -> None:
        """The schedule. Who has none has nothing of it in memory."""
        if self.timetable is not None or not self.settings.schedule:
            return
        from apscheduler.schedulers.asyncio import AsyncIOScheduler

        from daemon.timetable import Timetable

        timetable = self.timetable = Timetable(
            AsyncIOScheduler(timezone="UTC"),
            self.control,
            self.configured.hold,
            self.bus,
            self.paths.state_dir / "schedule.json",
        )
        self.control.lines = timetable.views
        await asyncio.to_thread(timetable.load)
        if not self._stopping.is_set():
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
        if self._control_apps:
            from control_api.app import set_limits

            for app in self._control_apps:
                set_limits(app, control_limits(changed))
        if changed.logs != self.settings.logs:
            follow_logs(changed)
        self.settings = changed

    async def _open_control(self, front: Front, runners: list[web.AppRunner]) -> None:
        """The private socket, whose file permissions are the password; and the front's own, on
        which it states who asks, under a secret of this start."""
        with no_authorities():
            from control_api.auth import FrontAuth, MembersAuth, OwnerAuth, front_headers

        private = self.paths.control_socket
        auth = MembersAuth(GROUP) if self.paths.shared else OwnerAuth()
        runners.append(await self._serve_control(private, auth))
        if self.paths.shared:  # its group is the daemon's own
            private.chmod(0o660)
        secret = secrets.token_urlsafe(32)
        runners.append(await self._serve_control(self.paths.front_socket, FrontAuth(secret)))
        target = Target("localhost", 0, str(self.paths.front_socket))

        def hold(who: Principal) -> Hold:
            return Hold(target, "", front_headers(secret, who), keep_query=True)

        front.set_control(hold)

    async def _serve_control(self, path: Path, auth: Auth) -> web.AppRunner:
        from aiohttp import web

        from control_api.app import make_app

        path.unlink(missing_ok=True)  # noqa: ASYNC240 - a socket's name, in memory
        limits, hidden = control_limits(self.settings), self.configured.reader.hidden
        app = make_app(self.control, auth=auth, limits=limits, redact=hidden)
        runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,  # a watcher that left is noticed
            shutdown_timeout=CONTROL_CLOSE,
        )
        await runner.setup()
        self._control_apps.append(app)
        before = os.umask(0o177)
        try:
            await web.UnixSite(runner, str(path)).start()
        finally:
            os.umask(before)
        return runner

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
        self._stops += 1
        self._stopping.set()
        if self._stops > 1:
            self._hurry.set()

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

    async def _close(
        self,
        front: Front,
        runners: list[web.AppRunner],
        housekeeper: Housekeeper | None,
    ) -> None:
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
        await self._unless_hurried(front.drain(self.settings.timing.drain_grace))
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
        await self._end_backends()
        await self.recorder.close()
        await self.probation.close()
        await self.configured.written()
        await self.control.proofs.written()
        for runner in runners:
            await runner.cleanup()
        told = (self.paths.daemon_json, self.paths.public_json)
        for path in told:
            DISK.forget(path)
        await asyncio.to_thread(DISK.again)
        for path in (*told, self.paths.control_socket, self.paths.front_socket):
            with suppress(OSError):
                path.unlink()
        self.kept.close()
        await self.telling.stopped()
        log.info("stopped")

    async def _unless_hurried(self, work: Coroutine[Any, Any, bool]) -> None:
        task = asyncio.create_task(work)
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({task, hurry}, return_when=asyncio.FIRST_COMPLETED)
        for other in (task, hurry):
            other.cancel()
        await asyncio.gather(task, hurry, return_exceptions=True)

    async def _end_backends(self) -> None:
        """In the foreground nothing outlives us; as a service the keepers wait for a successor."""
        runs = [run for run in self.supervisor.backends.values() if isinstance(run, Backend)]
        if self.mode == "service" and self.settings.service.keep_backends:
            await asyncio.gather(*(run.detach() for run in runs))
            return
        self.supervisor.tell(OperatorAsked(Ask.UNLOAD, force=True))
        timing = self.settings.timing
        ladder = timing.stop_grace + timing.kill_grace + timing.reap_timeout
        await self._unless_hurried(self.supervisor.all_gone(ladder))
        if self.supervisor.backends:
            for run in runs:
                run.kill()
            await self.supervisor.all_gone(timing.reap_timeout)
        await asyncio.gather(*(run.closed() for run in runs), return_exceptions=True)

    def _write_facts(self, front: Front) -> None:
        """For a ``ctl`` that does not know our runtime directory (cron, su)."""
        facts = {
            "pid": os.getpid(),
            "socket": str(self.paths.control_socket),
            "url": self.control.url,
            "port": front.port,
            "mode": self.mode,
            "started_at": time.time(),
        }
        DISK.write(self.paths.daemon_json, (json.dumps(facts) + "\n").encode())
        if self.paths.shared:
            told = {"url": self.control.url, "group": GROUP}
            DISK.write(self.paths.public_json, (json.dumps(told) + "\n").encode())
            with suppress(OSError):
                self.paths.public_json.chmod(0o644)


@contextmanager
def no_authorities() -> Iterator[None]:
    """While aiohttp is imported for the first time: it reads the system's certificate authorities
    then, for requests of its own over TLS, and holds 2 MB of them. This process makes none, it only
    answers on sockets of its own; such a request would be refused.

    ``SSL_CERT_FILE`` is where OpenSSL looks for them (``SSL_CTX_set_default_verify_paths(3)``).
    """
    name, before = "SSL_CERT_FILE", os.environ.get("SSL_CERT_FILE")
    os.environ[name] = os.devnull
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def tidy_memory() -> None:
    """What was imported stays for good: no later collection looks at it, and what starting up
    left free goes back to the system (glibc keeps it otherwise)."""
    gc.collect()
    gc.freeze()
    give_back()


def give_back() -> None:
    """Memory that is free goes back to the system. Any thread."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def control_limits(settings: Settings) -> ControlLimits:
    """The control API's limits as configured."""
    from control_api.operation import Limits as ControlLimits

    timing = settings.timing
    return ControlLimits(
        heartbeat_seconds=timing.event_keepalive, retry_after_max=timing.retry_after_max
    )
