"""Keeping a record of what died, why, and what came of it: the small shell around it.

Listens to the supervisor and to the bus, looks at the scene, and writes in a thread. Nothing here
is needed for serving: what fails is logged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from daemon.backends.backend import Backend
from daemon.backends.dying import words
from daemon.backends.keeping import Exited
from daemon.core.messages import BackendExited
from daemon.core.page import Page
from daemon.engines.signatures import classify
from daemon.machine.kills import kernel_kills
from daemon.supervisor import Supervisor
from daemon.telemetry.bus import Bus
from daemon.telemetry.incident_file import IncidentFile
from daemon.telemetry.incidents import MAX_TEXT, Answer, Book, Scene
from daemon.views import BesideView, EventView, HeldView, IncidentView
from daemon.writing import Writer

log = logging.getLogger("modelport.incidents")

TOLD_LINES = 5  # in the event of an incident; `ctl why` has all of them


@dataclass(slots=True)
class Recorder:
    """See the module. ``open`` before anything is started, ``close`` when all is over."""

    supervisor: Supervisor
    bus: Bus
    file: IncidentFile
    kills: Callable[[], int | None] = kernel_kills
    book: Book = field(default_factory=Book)
    _scene: Scene | None = None
    _killed: int | None = None  # the kernel's count, as last looked
    _writer: Writer[list[IncidentView]] = field(init=False)
    _counting: set[asyncio.Task[None]] = field(default_factory=set)
    _end: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._writer = Writer("incidents", lambda: list(self.book.kept), self.file.save)

    @classmethod
    def at(cls, supervisor: Supervisor, bus: Bus, state_dir: Path) -> Recorder:
        """The record in this state directory."""
        return cls(supervisor, bus, IncidentFile(state_dir / "incidents.jsonl"))

    async def open(self) -> None:
        """Read what earlier daemons kept, and listen from now on."""
        self.book.kept = await asyncio.to_thread(self.file.load, time.time())
        self._killed = await asyncio.to_thread(self.kills)
        self.supervisor.witness = self.witness
        self._end = self.bus.subscribe(self.hear)

    async def close(self) -> None:
        """Listen no more, and write what is not written."""
        self._end()
        self.supervisor.witness = lambda _: None
        await asyncio.gather(*self._counting, return_exceptions=True)
        await self._writer.done()

    # ------------------------------------------------------------ what is seen

    def witness(self, event: BackendExited) -> None:
        """A backend's exit is about to be told: look before the books forget it."""
        page = self.supervisor.scheduler.pages.get(event.model)
        alive = page is not None and page.generation == event.generation and page.state.resident
        self._scene = self._look(page, event) if page is not None and alive else None

    def _look(self, page: Page, event: BackendExited) -> Scene:
        run = self.supervisor.backends.get(page.name)
        ledger = self.supervisor.scheduler.ledger
        own = ledger.charged(page.name)
        variant = page.variant.id if page.variant else ""
        scene = Scene(
            model=page.name,
            generation=event.generation,
            variant=variant,
            # their connections break a moment before the exit is known
            leases=len(self.supervisor.in_flight(page.name, event.generation))
            + self.supervisor.broken.get(page.name, 0),
            queue=len(page.queue),
            memory=[
                HeldView(
                    name=pool.name,
                    budget=pool.budget,
                    charged=pool.committed,
                    free=pool.free,
                    own=own.get(pool.name, 0),
                    own_measured=page.measured.get(pool.name),
                )
                for pool in self.supervisor.scheduler.explain(self.supervisor.clock()).pools
            ],
            beside=[
                BesideView(
                    model=name,
                    state=other.state.label,
                    leases=len(other.leases),
                    bytes=dict(ledger.charged(name)),
                )
                for name, other in sorted(self.supervisor.scheduler.residents.items())
                if name != page.name
            ],
        )
        if isinstance(run, Backend) and run.generation == event.generation:
            return _with_run(scene, run)
        return scene

    # ------------------------------------------------------------ what is told

    def hear(self, event: EventView) -> None:
        """One event of the bus."""
        model, generation = event.model, event.facts.get("generation")
        before = self.book.changed
        match event.kind:
            case "exited":
                self._exited(event)
            case "backoff" | "failed" if isinstance(generation, int):
                if (one := self.book.answer(model, generation, self._answer(event))) is not None:
                    asyncio.get_running_loop().call_soon(self._tell, one)
            case "ready":
                self.book.follow(model, "ready", event.at)
            case "reset":
                self.book.follow(model, "reset", event.at)
            case "engine_taken_back":
                self.book.follow(model, "taken_back", event.at)
            case _:
                pass
        if self.book.changed != before:
            self._writer.soon()

    def _exited(self, event: EventView) -> None:
        scene, self._scene = self._scene, None
        mine = scene is not None and scene.model == event.model
        if event.facts.get("asked") or self.supervisor.draining or not mine:
            return
        assert scene is not None
        one = self.book.add(_sane(scene.at, event.at), scene, event.facts)
        if scene.unattended:
            return  # what the kernel killed meanwhile is not known
        task = asyncio.create_task(self._count(one.id), name="kernel's kills")
        self._counting.add(task)
        task.add_done_callback(self._counting.discard)

    def missed(self, model: str, generation: int, facts: Mapping[str, Any], end: Exited) -> None:
        """A backend ended by itself while no daemon was there, and nothing is to be done for it any
        more. ``facts``: those of its start, as its keeper kept them."""
        told = {key: str(facts.get(key, "")) for key in ("engine", "version", "variant", "secret")}
        verdict = classify(end.status, end.lines, ready=True, asked=False)
        began, now = facts.get("started_at"), time.time()
        at = _sane(end.time, now)
        scene = Scene(
            model=model,
            generation=generation,
            engine=told["engine"][:MAX_TEXT],
            version=told["version"],
            status=end.status,
            serving=True,
            age=round(max(0.0, at - began), 3) if isinstance(began, float) else None,
            lines=end.lines,
            advice=verdict.advice,
            variant=told["variant"],
            unattended=True,
            secrets=(told["secret"],),
        )
        detail = words(verdict, end.status, (told["secret"],))
        known = {"exit_class": verdict.exit_class.value, "detail": detail}
        one = self.book.add(at, scene, known)
        log.warning("%s ended while modelport was not running: %s", model, one.detail)
        self._writer.soon()
        self._tell(one)

    def _answer(self, event: EventView) -> Answer:
        page = self.supervisor.scheduler.pages.get(event.model)
        if page is None:
            return Answer("gave_up")
        allowed = page.allowed()
        variant = allowed[0].id if allowed else ""
        if page.alone:
            variant += ", no other model beside its start"
        if event.kind == "backoff":  # by now it may be starting again
            return Answer("backoff", float(event.facts.get("seconds", 0.0)), variant)
        if page.half_open is None:
            return Answer("gave_up")
        wait = max(0.0, page.half_open - self.supervisor.clock())
        return Answer("half_open", round(wait, 3), variant)

    def _tell(self, one: IncidentView) -> None:
        """An event with the dying lines. Later than those that it is about: listeners are called
        in turn, and ids must grow for each of them."""
        if not one.lines:
            return
        said = " / ".join(line.strip() for line in one.lines[-TOLD_LINES:])
        self.bus.publish(
            "incident",
            one.model,
            f"{one.model} said before it died: {said} (ctl why {one.model})",
            {"incident": one.id, "exit_class": one.exit_class, "status": one.status,
             "lines": list(one.lines)},
        )  # fmt: skip

    async def _count(self, number: int) -> None:
        """Whether the system has killed somebody for want of memory since it was last looked."""
        try:
            before, self._killed = self._killed, await asyncio.to_thread(self.kills)
        except Exception:
            log.exception("the kernel's count of kills could not be read")
            return
        if before is not None and self._killed is not None:
            self.book.kills(number, max(0, self._killed - before))
            self._writer.soon()


def _sane(at: float | None, now: float) -> float:
    """When it ended, in Unix seconds: by a clock that may have jumped since."""
    return at if at is not None and 0 <= at <= now else now


def _with_run(scene: Scene, run: Backend) -> Scene:
    now = time.time()
    ended = _sane(run.ended_at, now) if run.unattended else now
    steps = run.timeline
    if steps.ordered and not run.unattended:  # by the clock that nobody sets
        age = time.monotonic() - (steps.ready or steps.spawned or steps.ordered)
    else:
        age = ended - (run.started_at if run.ready_at is None else run.ready_at)
    return replace(
        scene,
        engine=run.engine.name,
        version=run.installed.version,
        status=run.status,
        serving=run.ready_at is not None,
        age=round(max(0.0, age), 3),
        lines=tuple(run.lines),
        advice=run.failure.advice if run.failure is not None else "",
        variant=run.variant.id,
        context=run.plan.running.ctx,
        slots=run.plan.running.slots,
        near_budget=run.near_budget,
        at=ended,
        unattended=run.unattended,
        secrets=(run.plan.secret,),
    )
