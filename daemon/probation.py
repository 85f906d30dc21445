"""New versions of engines on trial: what loads with them is counted, and one with which a model
does not load that loaded before is taken back.

Listens to the bus; writes in a thread. The side that decides is :func:`judge`, pure.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from daemon.backends.prepare import Prepared
from daemon.core.messages import ExitClass
from daemon.engines.install.shelf import Shelf, Use, Worked, take_back
from daemon.files import Kept, move_aside
from daemon.telemetry.bus import Bus
from daemon.views import EventView
from daemon.writing import Writer

log = logging.getLogger("modelport.engines")

MAX_FILE: Final = 1 << 20  # bytes of what is known to have worked
MAX_STARTS: Final = 64  # that are remembered until they end
# These say nothing against a build: a port is chance, memory has a remedy of its own.
_NOT_ITS_FAULT: Final = frozenset({ExitClass.CLEAN, ExitClass.PORT, ExitClass.OUT_OF_MEMORY})


@dataclass(frozen=True, slots=True)
class Start:
    """With what a model was started. ``version``: as the program says, and a mark of where it is:
    two builds of one version say the same; ``program``: its words."""

    engine: str
    version: str
    program: tuple[str, ...]

    @classmethod
    def of(cls, item: Prepared) -> Start | None:
        """As it would be started now."""
        if item.installed is None or item.engine_name is None:
            return None
        program = item.installed.program
        mark = hashlib.sha256(os.fsencode("".join(program[:1]))).hexdigest()[:8]
        return cls(item.engine_name, f"{item.installed.version[:80]} #{mark}", program)

    def is_of(self, folder: Path, path: Path | None) -> bool:
        """Whether it is the installation in that folder, whose program may lie elsewhere."""
        words = [Path(word) for word in self.program if word.startswith("/")]
        return any(word.is_relative_to(folder) or word == path for word in words)


Verdict = Literal["nothing", "worked", "take_back"]


def judge(use: Use, mine: bool, loaded: bool, before: str | None, start: Start) -> Verdict:
    """What the end of one start means for the version in use. ``mine``: it was started with that
    version; ``loaded``: it became ready; ``before``: the version with which it last did."""
    if not use.trial or not mine:
        return "nothing"
    if loaded:
        return "worked"
    if before is not None and before != start.version and use.before:
        return "take_back"
    return "nothing"


@dataclass(slots=True)
class Probation:
    """See the module. ``prepared`` gives a model as it is configured; ``again`` reads everything
    again and starts the named models anew."""

    shelf: Shelf
    bus: Bus
    prepared: Callable[[str], Prepared | None]
    again: Callable[[frozenset[str]], Awaitable[object]]
    path: Path | None = None
    worked: Worked = field(default_factory=Worked)
    _starts: dict[tuple[str, int], Start] = field(default_factory=dict)
    _ready: set[tuple[str, int]] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)
    _writer: Writer[bytes] = field(init=False)
    _end: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._writer = Writer("engines", self._text, self._write)

    def load(self) -> None:
        """Read what worked before. Blocks on the disk."""
        kept = Kept(self.path, MAX_FILE) if self.path is not None else None
        data = kept.read() if kept is not None else None
        if data is None or kept is None:
            return
        try:
            self.worked = Worked.read(data)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            move_aside(kept.path, str(error))

    def open(self) -> None:
        """Listen from now on."""
        self._end = self.bus.subscribe(self.hear)

    async def close(self) -> None:
        """Listen no more, and finish what is under way."""
        self._end()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._writer.done()

    def hear(self, event: EventView) -> None:
        """One event of the bus."""
        generation = event.facts.get("generation")
        if not isinstance(generation, int):
            return
        key = (event.model, generation)
        match event.kind:
            case "start":
                item = self.prepared(event.model)
                if item is not None and (start := Start.of(item)) is not None:
                    self._starts[key] = start
                    while len(self._starts) > MAX_STARTS:
                        del self._starts[next(iter(self._starts))]
            case "ready" if key in self._starts:
                self._ready.add(key)
                self._ended(event.model, self._starts[key], loaded=True, why="")
            case "exited":
                self._exited(key, event)
            case _:
                pass

    def _exited(self, key: tuple[str, int], event: EventView) -> None:
        start = self._starts.pop(key, None)
        served = key in self._ready
        self._ready.discard(key)
        if start is None or served or event.facts.get("asked"):
            return
        if event.facts.get("exit_class") not in _NOT_ITS_FAULT:
            self._ended(event.model, start, loaded=False, why=str(event.facts.get("detail", "")))

    def _ended(self, model: str, start: Start, *, loaded: bool, why: str) -> None:
        before = self.worked.get(start.engine, model)
        if loaded and self.worked.put(start.engine, model, start.version):
            self._writer.soon()
        task = asyncio.create_task(
            self._judge(model, start, before, why, loaded=loaded), name="an engine on trial"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _judge(
        self, model: str, start: Start, before: str | None, why: str, *, loaded: bool
    ) -> None:
        try:
            async with self._one:
                use = await asyncio.to_thread(
                    self._settle, model, start, before, why, loaded=loaded
                )
            if use is not None and use.taken_back is not None:
                await self._tell(model, start, use)
        except Exception:
            log.exception("the trial of %s could not be judged", start.engine)

    def _settle(
        self, model: str, start: Start, before: str | None, why: str, *, loaded: bool
    ) -> Use | None:
        """In a thread. The new state where the version was taken back, else None."""
        use = self.shelf.use(start.engine)
        item = self.shelf.item(start.engine, use.version) if use.version else None
        mine = item is not None and start.is_of(item.folder, item.path)
        verdict = judge(use, mine, loaded, before, start)
        if verdict == "nothing":
            return None

        def change(now: Use) -> Use | None:
            if now.version != use.version:
                return None  # changed by hand meanwhile
            if verdict == "worked":
                return replace(now, trial=max(0, now.trial - 1))
            there = self.shelf.there(start.engine)
            return take_back(now, model, why, time.time(), there)

        after = self.shelf.change(start.engine, change)
        return after if verdict == "take_back" else None

    async def _tell(self, model: str, start: Start, use: Use) -> None:
        told = use.taken_back
        assert told is not None
        to = told.to or "the one found on this machine"
        text = (
            f"{start.engine} {told.version} is taken back: {model} did not load with it, and did"
            f" with the version before. {to} is used again (`ctl why {model}`)."
        )
        log.warning("%s", text)
        facts = {"engine": start.engine, "version": told.version, "to": told.to, "why": told.why}
        self.bus.publish("engine_taken_back", model, text, facts)
        await self.again(frozenset({model}))

    def _text(self) -> bytes:
        return self.worked.text()

    def _write(self, data: bytes) -> None:
        if self.path is not None:
            Kept(self.path, MAX_FILE).write(data)
