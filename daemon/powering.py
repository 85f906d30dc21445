"""Sleep and power: no idle sleep while there is work, models out of the way of a suspend, thrift on
the battery.

What follows from what is decided in ``machine.wakeful``, ``machine.supplies`` and
``config.powered``; here it is only seen and done. An idle daemon on a machine that is plugged in
runs nothing of this, and reads no module that it does not need.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from daemon.config.settings import Settings
from daemon.configured import Configured
from daemon.core.messages import Ask, OperatorAsked
from daemon.housekeeping import Round
from daemon.machine.base import GPU_PREFIX
from daemon.machine.wakeful import Lock, Spell, delay_lock, idle_lock
from daemon.supervisor import Supervisor
from daemon.telemetry.bus import Bus

if TYPE_CHECKING:
    from daemon.machine.supplies import Source

log = logging.getLogger("modelport.power")

# No settings: they bound what goes wrong, or follow from logind's own limit of 5 s for a delay.
AGAIN = 600.0  # seconds until a lock that was refused is asked for again
UNLOAD = 3.0  # seconds for engines to end by themselves before a sleep
KILLED = 1.0  # and once they were killed
ENDING = 5.0  # at the end, for what is under way
PAUSED = 120.0  # seconds awake; a pause for a sleep that never came ends by itself
SOON = 1.0  # seconds; a charger that is plugged in tells of itself several times


@dataclass(slots=True)
class Powering:
    """See the module. Tell it of wakes (:meth:`slept`) and of other settings (:meth:`follow`)."""

    supervisor: Supervisor
    configured: Configured
    bus: Bus
    settings: Settings
    environ: Mapping[str, str]
    idle: Lock = field(init=False)
    delay: Lock = field(init=False)
    source: Source | None = None  # as last seen; nobody looks unless it matters
    _spell: Spell = field(default_factory=Spell)
    _busy: bool = False
    _ended: float | None = None  # when work ended that is not in the spell yet
    _timer: asyncio.TimerHandle | None = None
    _wanted: bool = False
    _quiet_until: float = 0.0  # a lock was refused: not asked for again before
    _paused: bool = False  # by us, for a sleep
    _looking: Round = field(init=False)
    _soon: asyncio.TimerHandle | None = None
    _ears: socket.socket | None = None
    _listener: asyncio.Task[None] | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _runs: bool = False

    def __post_init__(self) -> None:
        self.idle = Lock(idle_lock(), self.environ)
        self.delay = Lock(delay_lock(), self.environ)
        self._looking = Round(self.look, self.settings.timing.power_poll)

    # ------------------------------------------------------------ life

    async def look_first(self) -> None:
        """Before anything is read: on which power we begin."""
        if self.settings.power.on_battery is not None:
            self.source = source = await _source()
            self.configured.reader.on_battery = source.battery
            if source.battery:
                self._tell_source()

    def start(self) -> None:
        """The models are known, and the clock goes."""
        self._runs = True
        self.supervisor.on_news = self.configured.pulls.changed = self.work
        self.follow(self.settings)
        self.work()

    def follow(self, settings: Settings) -> None:
        """As configured from now on."""
        self.settings = settings
        if not self._runs:
            return
        self._looking.every(settings.timing.power_poll)
        if settings.power.on_battery is not None:
            self._looking.begin()
            self._hear()
            self._do(self.look())
        else:
            self._looking.end()
            self._hear_no_more()
        if self._unloads():
            if self._listener is None:
                self._listener = asyncio.create_task(self._listen(), name="sleep of the machine")
        elif self._listener is not None:
            self._listener.cancel()
            self._listener = None
        self._plan()

    async def stop(self) -> None:
        """No lock and no child is left."""
        self._runs = self._wanted = False
        self.supervisor.on_news = self.configured.pulls.changed = lambda: None
        self._looking.end()
        self._hear_no_more()
        for timer in (self._timer, self._soon):
            if timer is not None:
                timer.cancel()
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        if self._tasks:  # what starts a child is not cut short: nobody would own it
            _, late = await asyncio.wait(self._tasks, timeout=ENDING)
            for task in late:
                task.cancel()
        await self.idle.release()
        await self.delay.release()

    def words(self) -> str:
        """What there is to say of it, for ``ctl status``; "" for nothing."""
        parts = []
        source = self.source.value if self.source is not None else "unknown"
        if self.settings.power.on_battery is not None and source != "unknown":
            thrift = self._thrift() if self.configured.reader.on_battery else ""
            parts.append(f"on {source}" + (f": {thrift}" if thrift else ""))
        if self.idle.held:
            parts.append("idle sleep is held off")
        return "; ".join(parts)

    def slept(self) -> None:
        """The machine has woken: the charger may be another one."""
        if self._runs and self.settings.power.on_battery is not None:
            self._do(self.look())

    # ------------------------------------------------------------ idle sleep

    def work(self) -> None:
        """Work may have come or gone. Called at each decision, so that little is done here: what
        begins and ends while it is known when to look again is looked at then."""
        busy = self.supervisor.at_work or self.configured.pulls.busy
        if busy is self._busy or not self._runs:
            return
        self._busy = busy
        if not busy:
            self._ended = self.supervisor.clock()
        if self._timer is None and self.settings.power.inhibit_sleep:
            self._plan()

    def _seen(self, now: float) -> Spell:
        """The spell with all that came and went since it was looked at last."""
        spell, release = self._spell, self.settings.timing.sleep_release
        if self._ended is not None:  # a piece of work, however short
            spell = spell.told(True, self._ended, release).told(False, self._ended, release)
            self._ended = None
        return spell.told(self._busy, now, release)

    def _plan(self) -> None:
        """Hold idle sleep off or not, and look again when that may change."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now, timing = self.supervisor.clock(), self.settings.timing
        self._spell = self._seen(now)
        wanted = self.settings.power.inhibit_sleep and now >= self._quiet_until
        self._wanted = wanted and self._spell.holds(now, timing.sleep_hold, timing.sleep_release)
        if self._wanted != self.idle.held:
            self._do(self._hold())
        at = self._spell.next(now, timing.sleep_hold, timing.sleep_release)
        if at is not None and self.settings.power.inhibit_sleep:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, at - now) + 0.001, self._plan)

    async def _hold(self) -> None:
        """Make the lock what is wanted; the lock itself lets one in at a time."""
        if self._wanted and not self.idle.held:
            refused = await self.idle.take()
            if refused:
                if self._quiet_until == 0.0:  # once: it will be the same the next time
                    text = f"idle sleep cannot be held off: {refused}"
                    self.bus.publish("sleep_lock_refused", "", text)
                self._quiet_until = self.supervisor.clock() + AGAIN
            elif self._wanted:
                self.bus.publish("sleep_held", "", "idle sleep is held off while there is work")
        if not self._wanted and self.idle.held:
            await self.idle.release()
            self.bus.publish("sleep_let", "", "the machine may sleep when idle")

    # ------------------------------------------------------------ before a sleep

    def _unloads(self) -> bool:
        mode = self.settings.power.unload_before_sleep
        if mode != "discrete":
            return mode == "always"
        pools = self.configured.reader.facts.pools
        return any(pool.name.startswith(GPU_PREFIX) for pool in pools)

    async def _listen(self) -> None:
        """Hear of sleeps for as long as that is wanted, over a restart of the bus too."""
        last = ""
        try:
            while True:
                try:
                    from daemon.machine import logind

                    await logind.listen(self._sleeps, self._take_delay)
                except (OSError, EOFError, ImportError, ValueError, RuntimeError) as error:
                    why = str(error) or type(error).__name__
                if why != last:
                    text = f"models are not unloaded before a sleep: no word from logind ({why})"
                    self.bus.publish("sleep_unheard", "", text)
                    last = why
                self._do(self.delay.release())
                await asyncio.sleep(AGAIN)
        finally:
            self._listener = None if asyncio.current_task() is self._listener else self._listener
            if self._runs:
                self._do(self.delay.release())

    def _take_delay(self) -> None:
        self._do(self._delayed())

    async def _delayed(self) -> None:
        refused = await self.delay.take()
        if refused:
            log.warning("sleep is not delayed while models are unloaded: %s", refused)

    async def _sleeps(self, begins: bool) -> None:
        """The machine is about to sleep, or has woken (or stayed awake after all)."""
        if not begins:
            self.supervisor.clock()  # sees how long it was
            if self._paused:
                self._paused = False
                self.supervisor.tell(OperatorAsked(Ask.RESUME))
            self._take_delay()
            return
        count = len(self.supervisor.backends)
        text = "the machine is about to sleep"
        text += ": all models are unloaded" if count else ""
        self.bus.publish("sleep", "", text, {"models": count})
        if self.supervisor.scheduler.paused is None:
            self._paused = True
            self.supervisor.tell(OperatorAsked(Ask.PAUSE, None, True, PAUSED, True))
        else:
            self.supervisor.tell(OperatorAsked(Ask.UNLOAD, None, True))
        if not await self.supervisor.all_gone(UNLOAD):
            for run in list(self.supervisor.backends.values()):
                run.kill()
            await self.supervisor.all_gone(KILLED)
        self._do(self.delay.release())

    # ------------------------------------------------------------ battery

    async def look(self) -> None:
        """Where the power comes from now, and what follows."""
        source = await _source()
        wanted = self.settings.power.on_battery is not None and source.battery
        self.source = source
        if await self.configured.powered(wanted):
            self._tell_source()

    def _tell_source(self) -> None:
        assert self.source is not None, "it has just been looked at"
        battery = self.source.battery
        words = self._thrift() if battery else "as configured otherwise"
        where = "on battery" if battery else "plugged in"
        facts = {"source": self.source.value}
        self.bus.publish("power", "", f"{where}: {words}" if words else where, facts)

    def _thrift(self) -> str:
        from daemon.config.powered import told

        return told(self.settings)

    def _hear(self) -> None:
        if self._ears is None:
            from daemon.machine import uevents

            self._ears = uevents.listen()
            if self._ears is not None:
                asyncio.get_running_loop().add_reader(self._ears, self._heard)

    def _hear_no_more(self) -> None:
        if self._ears is not None:
            asyncio.get_running_loop().remove_reader(self._ears)
            self._ears.close()
            self._ears = None

    def _heard(self) -> None:
        from daemon.machine import uevents

        if self._ears is not None and uevents.heard(self._ears) and self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(SOON, self._look_soon)

    def _look_soon(self) -> None:
        self._soon = None
        self._do(self.look())

    # ------------------------------------------------------------ tasks

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guarded(work), name="power")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # cancelled before it began

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            log.exception("a matter of power failed")


async def _source() -> Source:
    from daemon.machine import supplies

    return await asyncio.to_thread(supplies.source)
