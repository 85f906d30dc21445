"""Looks at backends that have work, and tells the scheduler of those that do none of it.

What is seen is judged by ``daemon.backends.liveness``; here it is only gathered. While no request
is in flight nothing here runs: an idle daemon is not woken, and no idle backend is asked anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from dataclasses import dataclass, field

from daemon.backends import probing
from daemon.backends.backend import Backend
from daemon.backends.liveness import Glance, Pulse, Step
from daemon.backends.progress import signs_of_life
from daemon.config.settings import Settings
from daemon.core.lifecycle import State
from daemon.core.messages import BackendUnhealthy, ExitClass
from daemon.leases import Held
from daemon.machine import observe
from daemon.machine.process import descendants
from daemon.supervisor import Supervisor

log = logging.getLogger("modelport.watching")

Key = tuple[str, int]  # model, generation
QUIET = 0.25  # of the patience; after it a silent engine is asked for its slots, and a GPU seen to
AGAIN = 0.25  # seconds between two attempts to have a probe answered; no wait: its deadline is one


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: between two looks, without progress until it is asked, for its answer, for a look at
    its slots."""

    interval: float
    stall: float
    probe: float
    slots: float

    @classmethod
    def of(cls, settings: Settings) -> Patience:
        """As configured."""
        timing = settings.timing
        return cls(
            timing.liveness_interval,
            timing.answer_stall,
            timing.probe_timeout,
            timing.health_timeout,
        )


@dataclass(slots=True)
class _Patient:
    """What is kept of one backend."""

    run: Backend
    pulse: Pulse
    relayed: int = 0  # by requests that are over
    heard: int = 0  # of its log, as far as it was judged
    failed: bool = False  # a request got a 5xx since it last answered well
    probe: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Watcher:
    """See the module. Tell it of leases (:meth:`wake`, :meth:`ended`) and of sleep."""

    supervisor: Supervisor
    patience: Patience
    _patients: dict[Key, _Patient] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None
    _now: asyncio.Event = field(default_factory=asyncio.Event)
    _stopped: bool = False

    def start(self) -> None:
        self.supervisor.on_lease = self.wake
        self.supervisor.on_end = self.ended

    async def stop(self) -> None:
        """No more looks, and no probe that is still under way."""
        self._stopped = True
        self.supervisor.on_lease = lambda: None
        self.supervisor.on_end = lambda _: None
        tasks = [p.probe for p in self._patients.values() if p.probe is not None]
        tasks += [self._task] if self._task is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------ being told

    def wake(self) -> None:
        """A request was given to a backend: look at it until none is left."""
        if self._task is None and not self._stopped:
            self._task = asyncio.create_task(self._watch(), name="liveness")

    def ended(self, lease: Held) -> None:
        """A request is over; three failures in a row are looked into at once."""
        key = (lease.model, lease.generation)
        patient = self._patients.get(key)
        if patient is None and lease.status >= 500:
            patient = self._patient(key)
        if patient is None:
            return
        patient.relayed += _sent(lease)
        patient.failed = lease.status >= 500 or (patient.failed and not lease.status)
        doubt = patient.pulse.status(lease.status)
        if doubt or (lease.status >= 500 and patient.run.heard > patient.heard):
            self._hurry()

    def slept(self, seconds: float) -> None:
        """The machine slept: connections may be dead, and what runs may not answer any more."""
        count = len(self.supervisor.backends)
        text = f"the machine slept for {seconds:.0f} s"
        text += ": each model is asked whether it serves" if count else ""
        facts = {"seconds": round(seconds), "asked": count}
        self.supervisor.bus.publish("slept", "", text, facts)
        for model, run in list(self.supervisor.backends.items()):
            key = (model, run.generation)
            if (patient := self._patient(key)) is not None:
                self.supervisor.close_connections(run.holding.target)
                patient.pulse.doubt = "the machine slept"
        self._hurry()

    def doubt(self, model: str, generation: int, why: str) -> None:
        """Have one asked at once whether it serves, with or without work."""
        patient = self._patient((model, generation))
        if patient is not None:
            patient.pulse.doubt = patient.pulse.doubt or why
            self._hurry()

    def _hurry(self) -> None:
        self._now.set()
        self.wake()

    def _patient(self, key: Key) -> _Patient | None:
        """Of a backend that serves; None if there is none such any more."""
        run = self.supervisor.backends.get(key[0])
        page = self.supervisor.scheduler.pages.get(key[0])
        serves = page is not None and page.state in (State.READY, State.DRAINING)
        if not isinstance(run, Backend) or run.generation != key[1] or not serves:
            return None
        if key not in self._patients:
            pulse = Pulse(self.patience.stall, self.patience.probe)
            self._patients[key] = _Patient(run, pulse, heard=run.heard_loading)
        return self._patients[key]

    # ------------------------------------------------------------ looking

    async def _watch(self) -> None:
        """Look every ``interval`` seconds, or at once when there is reason to."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.patience.interval):
                        await self._now.wait()
                self._now.clear()
                if not await self._round():
                    return
        except Exception:
            log.exception("looking after backends failed")
        finally:
            self._task = None
            if self._now.is_set() and not self._stopped:
                self.wake()

    async def _round(self) -> bool:
        """Look at all that have work; False if there is nothing to look at again."""
        busy = False
        for model, run in list(self.supervisor.backends.items()):
            key = (model, run.generation)
            leases = self.supervisor.in_flight(*key)
            if not leases and key not in self._patients:
                continue
            patient = self._patient(key)
            if patient is not None and await self._look(key, patient):
                busy = True
        for key, patient in list(self._patients.items()):
            current = self.supervisor.backends.get(key[0])
            if (current is None or current.generation != key[1]) and patient.probe is None:
                del self._patients[key]
        return busy

    async def _look(self, key: Key, patient: _Patient) -> bool:
        """One look at one backend; False if it is at rest."""
        run, pulse = patient.run, patient.pulse
        if run.heard > patient.heard:
            await self._read(key, patient)
        leases = self.supervisor.in_flight(*key)
        seen = await self._glance(patient, leases)
        step = pulse.look(seen, self.supervisor.clock())
        if step is Step.PROBE:
            why = pulse.doubt or f"no sign of progress for {pulse.stall:g} s"
            log.info("%s is asked whether it serves: %s", run.model, why)
            patient.probe = asyncio.create_task(
                self._probe(key, patient, why), name=f"liveness of {run.model}"
            )
        elif step is Step.GIVE_UP:
            if patient.probe is not None:
                patient.probe.cancel()
            count = len(leases)
            text = f"no sign of progress for {pulse.silent(self.supervisor.clock()):.0f} s"
            text += f" with {count} request{'s' if count != 1 else ''} in flight, and no answer"
            await self._unhealthy(key, patient, f"{text} to one of our own")
        return step is not Step.REST

    async def _glance(self, patient: _Patient, leases: list[Held]) -> Glance:
        relayed = self._relayed(patient, leases)
        run, pulse = patient.run, patient.pulse
        if pulse.relayed != relayed or not (leases or patient.probe is not None):
            return Glance(len(leases), relayed, pulse.signs)  # no need to look closer
        quiet = pulse.silent(self.supervisor.clock()) >= QUIET * pulse.stall
        signs = await asyncio.to_thread(signs_of_life, run.places.log, run.pid)
        slots = await self._slots(run) if quiet and leases else ""
        computing = quiet and await asyncio.to_thread(_computing, run.pid)
        return Glance(len(leases), relayed, signs, slots, computing)

    @staticmethod
    def _relayed(patient: _Patient, leases: list[Held]) -> int:
        return patient.relayed + sum(map(_sent, leases))

    async def _slots(self, run: Backend) -> str:
        """What the engine says of its slots, as a digest; "" if it does not."""
        path = run.engine.probe(run.plan).slots
        if path is None:
            return ""
        answer = await probing.ask(
            run.plan.target, "GET", path, headers=run.launch.headers, deadline=self.patience.slots
        )
        if answer.status != 200:
            return ""
        return hashlib.blake2b(answer.body, digest_size=8).hexdigest()

    async def _read(self, key: Key, patient: _Patient) -> None:
        """What it said in its log: some words mean that it will not serve again."""
        run = patient.run
        lines = await run.said_serving()
        patient.heard = run.heard
        if not lines:
            return
        verdict = run.engine.classify(None, lines, ready=True, asked=False)
        if verdict.exit_class is ExitClass.HANG:
            return  # no word decides
        if verdict.exit_class is ExitClass.OUT_OF_MEMORY and patient.failed:
            await self._unhealthy(key, patient, verdict.detail)
        elif not patient.pulse.doubt:
            patient.pulse.doubt = verdict.detail

    # ------------------------------------------------------------ asking

    async def _probe(self, key: Key, patient: _Patient, why: str) -> None:
        run = patient.run
        probe, headers = run.engine.probe(run.plan), run.launch.headers
        try:
            while True:
                # No deadline of its own: the looks go on meanwhile, and end it.
                answer = await probing.answers(run.plan.target, probe, headers, deadline=None)
                if answer.status not in (0, 429, 503):
                    break
                await asyncio.sleep(AGAIN)
            good = 200 <= answer.status < 300
            relayed = self._relayed(patient, self.supervisor.in_flight(*key))
            step = patient.pulse.answered(good, relayed, self.supervisor.clock())
            if step is Step.GIVE_UP:
                said = " ".join(answer.body[:300].decode("utf-8", "replace").split())
                text = f"{why}, and its answer to one of our own was {answer.status}: {said}"
                await self._unhealthy(key, patient, text)
            else:
                patient.failed = False
        except Exception:
            log.exception("asking %s failed", run.model)
        finally:
            patient.probe = None

    async def _unhealthy(self, key: Key, patient: _Patient, reason: str) -> None:
        """Given up. Its log may tell why better than we can."""
        run = patient.run
        lines = await run.said_serving()
        verdict = run.engine.classify(None, [*lines, reason], ready=True, asked=False)
        told = verdict.exit_class is not ExitClass.HANG
        log.warning("%s does not serve: %s", run.model, verdict.detail if told else reason)
        self._patients.pop(key, None)
        self.supervisor.tell(
            BackendUnhealthy(*key, verdict.detail if told else reason, verdict.exit_class)
        )


def _sent(lease: Held) -> int:
    return lease.sent() if lease.sent is not None else 0


def _computing(pid: int | None) -> bool:
    """Whether a GPU works for the process or for one that it started. For a thread."""
    return pid is not None and observe.computing({pid, *descendants(pid)})
