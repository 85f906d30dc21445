"""The daemon's middle without its ends: real files, a real reading, and backends that are only
written down. ``Rooms(short_dir, config)``; ``await rooms.open()``.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from daemon.backends.stock import Stock
from daemon.config import presets
from daemon.config.paths import Paths
from daemon.configured import Configured
from daemon.control import Control
from daemon.core.messages import BackendExited, BackendReady, Event, ExitClass, Variant
from daemon.core.page import Page
from daemon.core.scheduler import Scheduler
from daemon.downloads import locate
from daemon.ports import Hold, Progress, Target
from daemon.reading import Reader
from daemon.supervisor import Supervisor
from daemon.telemetry.bus import Bus
from daemon.translate import policy

SECONDS = 20.0  # for anything that has to happen
MIB = 1 << 20


def model(name: str, path: Path | None = None, **more: object) -> str:
    """A model of the engine ``mine`` (see :func:`engine`), which takes any weights."""
    lines = [f"[models.{name}]", 'engine = "mine"']
    lines += [f'path = "{path}"'] if path is not None else []
    lines += [f"{key} = {value}" for key, value in more.items()]
    return "\n".join(lines) + "\n"


def engine(name: str = "mine", footprint: str = "100 MiB", *words: str) -> str:
    """A command engine; its program is never run here."""
    argv = ", ".join(f"'{word}'" for word in (sys.executable, "{port}", "{ctx}", *words))
    return f'[engines.command.{name}]\nargv = [{argv}]\nfootprint = "{footprint}"\n'


@dataclass
class Run:
    """A backend that is only written down."""

    model: str
    generation: int
    variant: Variant
    orders: list[str]
    holding: Hold = field(default_factory=lambda: Hold(Target("127.0.0.1", 1), "m", {}, False))

    def stop(self) -> None:
        self.orders.append(f"stop {self.model}")

    def kill(self) -> None:
        self.orders.append(f"kill {self.model}")


class Rooms:
    """See the module. ``orders``: starts (``start a: context 4096``) and stops, in order."""

    def __init__(
        self, folder: Path, config: str, monkeypatch: pytest.MonkeyPatch, budget: str = "1 GiB"
    ) -> None:
        self.folder, self.budget = folder, budget
        self.paths = Paths(
            config_file=folder / "config.toml",
            state_dir=folder / "state",
            log_dir=folder / "logs",
            cache_dir=folder / "cache",
            runtime_dir=folder / "run",
            config_named=True,
        )
        self.paths.ensure()
        self.hub = folder / "hub"  # the cache of downloads
        self.orders: list[str] = []
        self.write(config)
        monkeypatch.setattr(locate, "default_cache", lambda: self.hub)
        monkeypatch.setattr(presets, "packaged_file", lambda package, file: None)
        monkeypatch.setattr(Stock, "begin", self._begin)

    def write(self, config: str) -> None:
        timing = "[timing]\nlinger_min = 0\nlinger_max = 0\n"
        memory = f'[memory]\nbudget = "{self.budget}"\n'
        self.paths.config_file.write_text(memory + timing + config)

    async def open(self) -> Rooms:
        reader = Reader(self.paths, {"PATH": "/bin", "HOME": str(self.folder)}, {}, "foreground")
        reading = await asyncio.to_thread(reader.again)
        self.bus = Bus()
        core = Scheduler({}, policy(reading.settings))
        self.supervisor = Supervisor(core, self.bus, reading.settings.server.queue_timeout)
        self.configured = Configured(reader, self.supervisor, self.bus, reading.settings)
        self.stopped: list[bool] = []
        self.control = Control(
            self.supervisor,
            self.configured,
            self.bus,
            self.paths,
            "foreground",
            "0.0",
            lambda: self.stopped.append(True),
        )
        self.configured.take(reading, frozenset())
        self.supervisor.open()
        return self

    def _begin(
        self, model: str, generation: int, variant: Variant, tell: Callable[[Event], None]
    ) -> Run:
        item = self.configured.stock.prepared[model]
        assert variant.id in item.ways, "the scheduler and the stock must agree"
        self.orders.append(f"start {model}: {variant.id}")
        return Run(model, generation, variant, self.orders)

    # ------------------------------------------------------------ what backends tell

    def page(self, name: str) -> Page:
        return self.supervisor.scheduler.pages[name]

    def ready(self, name: str) -> None:
        self.supervisor.tell(BackendReady(name, self.page(name).generation))

    def exited(self, name: str, kind: ExitClass = ExitClass.CLEAN) -> None:
        self.supervisor.tell(BackendExited(name, self.page(name).generation, kind, "it ended"))

    def states(self) -> dict[str, str]:
        return self.supervisor.states()

    # ------------------------------------------------------------ waiting

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():  # noqa: ASYNC110 (threads and timers have no event for us)
                await asyncio.sleep(0.002)

    async def loaded(self, name: str, ctx: int | None = None) -> list[Progress]:
        """Load it, with backends that become ready and end as they are told."""
        loading = Loading(self, name, ctx)

        def help_on() -> bool:
            for other, state in self.states().items():
                if state == "stopping":
                    self.exited(other)
            if self.states().get(name) == "starting":
                self.ready(name)
            return loading.over

        await self.until(help_on)
        return await loading.end()


class Loading:
    """A load under way: its steps so far, and its end."""

    def __init__(self, rooms: Rooms, name: str, ctx: int | None = None) -> None:
        self.steps: list[Progress] = []
        self._task = asyncio.create_task(self._watch(rooms, name, ctx))

    async def _watch(self, rooms: Rooms, name: str, ctx: int | None) -> None:
        async for step in rooms.control.load(name, ctx=ctx):
            self.steps.append(step)

    @property
    def over(self) -> bool:
        return self._task.done()

    @property
    def words(self) -> list[str]:
        return [step.step for step in self.steps]

    async def end(self) -> list[Progress]:
        """Its steps; raises what it raised."""
        await asyncio.wait_for(self._task, SECONDS)
        return self.steps
