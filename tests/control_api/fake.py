"""A control port that keeps a small world in memory, and ways to serve it on a unix socket."""

from __future__ import annotations

import asyncio
import copy
import itertools
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from control_api.app import make_app
from control_api.auth import Auth, OwnerAuth
from control_api.operation import Limits
from daemon.access.keys import Wanted, make
from daemon.core.problems import Code, Problem, ProblemError
from daemon.engines.signatures import SMALLER
from daemon.ports import ControlPort, LoadFit, Progress
from daemon.proving.verdict import verdict
from daemon.telemetry.stories import stories
from daemon.views import (
    BackendView,
    BenchView,
    BesideView,
    EventView,
    FigureView,
    FindingView,
    FitView,
    HeldView,
    IncidentView,
    KeyView,
    MeasuredView,
    ModelView,
    PoolView,
    PullView,
    ReloadView,
    RequestView,
    ScheduleView,
    StatusView,
    StoryView,
    VerdictView,
)

GIB = 2**30
READY = (
    Progress("evict", "gemma leaves"),
    Progress("start", "llama-server, 32768 tokens"),
    Progress("ready", "ready", facts={"footprint": {"gpu0": 17 * GIB}, "model": "qwen3-coder"}),
)


def model_view(name: str, **changes: Any) -> ModelView:
    values: dict[str, Any] = {
        "name": name,
        "aliases": [],
        "state": "stopped",
        "engine": "llama-server",
        "source": f"/models/{name}.gguf",
        "kind": "chat",
        "size": 3 * GIB,
        "quantisation": "Q4_K_M",
        "context": 32768,
        "context_max": 131072,
        "slots": 1,
        "pinned": False,
        "keep_alive": 900.0,
        "routes": ["chat", "messages"],
        "estimate": {"gpu0": 4 * GIB},
        "breakdown": {"weights": 3 * GIB, "cache": GIB},
        "variants": ["32768x1"],
    }
    return ModelView(**{**values, **changes})


def pull_view(name: str, **changes: Any) -> PullView:
    """Half of it is here."""
    values: dict[str, Any] = {
        "name": name,
        "source": "hf:owner/name:Q4_K_M",
        "state": "running",
        "done": 2 * GIB,
        "total": 4 * GIB,
        "rate": 32.0 * 2**20,
        "left": 64.0,
        "file": "m-Q4_K_M.gguf",
        "note": "pulling m-Q4_K_M.gguf",
        "began": 1e9,
        "watchers": 1,
    }
    return PullView(**{**values, **changes})


def backend_view(model: str, **changes: Any) -> BackendView:
    values: dict[str, Any] = {
        "model": model,
        "engine": "llama-server",
        "generation": 4,
        "state": "ready",
        "pid": 4711,
        "keeper_pid": 4710,
        "address": "127.0.0.1:40001",
        "where": "100% gpu0",
        "variant": "32768x1",
        "context": 32768,
        "slots": 1,
        "leases": 0,
        "queue": 0,
        "footprint": {"gpu0": 4 * GIB},
        "footprint_source": "measured",
        "measured": 4 * GIB,
        "keep_alive_left": 600.0,
        "pinned": False,
        "started_at": time.time() - 100,
        "ready_at": time.time() - 90,
        "log": "/logs/gemma.log",
    }
    return BackendView(**{**values, **changes})


def fit_view(**changes: Any) -> FitView:
    """It fits; with changes it does not."""
    values: dict[str, Any] = {
        "model": "qwen3-coder",
        "verdict": "fits",
        "text": "qwen3-coder needs 17.0 GiB with a context of 65536: it fits.",
        "setting": "shrink",
        "wanted_context": 65536,
        "wanted": {"gpu0": 17 * GIB},
        "context": 65536,
        "need": {"gpu0": 17 * GIB},
        "budget": {"gpu0": 24 * GIB},
        "evicts": [],
        "pinned": [],
        "choices": [],
    }
    return FitView(**{**values, **changes})


def incident_view(**changes: Any) -> IncidentView:
    """gemma ran out of a Mac's memory while it served."""
    values: dict[str, Any] = {
        "id": 7,
        "at": 1e9,
        "model": "gemma",
        "engine": "llama-server",
        "version": "b9000",
        "generation": 4,
        "exit_class": "out_of_memory",
        "detail": "killed by SIGABRT: error: Insufficient Memory",
        "status": -6,
        "serving": True,
        "age": 240.0,
        "lines": ["error: Insufficient Memory", "llama_decode: failed to decode, ret = -3"],
        "advice": SMALLER,
        "variant": "context 65536",
        "context": 65536,
        "slots": 1,
        "leases": 2,
        "queue": 0,
        "memory": [
            HeldView(
                name="unified",
                budget=18 * GIB,
                charged=17 * GIB,
                free=GIB,
                own=12 * GIB,
                own_measured=13 * GIB,
            )
        ],
        "beside": [BesideView(model="embed", state="ready", leases=0, bytes={"unified": GIB})],
        "near_budget": False,
        "kernel_kills": None,
        "done": "backoff",
        "done_seconds": 1.0,
        "next_variant": "context 32768",
        "followed": "ready",
        "followed_seconds": 12.0,
    }
    return IncidentView(**{**values, **changes})


def verdict_view(**changes: Any) -> VerdictView:
    """gemma works."""
    values: dict[str, Any] = {
        "model": "gemma",
        "engine": "llama-server",
        "version": "b9000",
        "source": "/models/gemma.gguf",
        "verdict": "works",
        "text": "",
        "at": 1e9,
        "modelport": "0.1.0",
        "current": True,
        "findings": [FindingView(step="stream", outcome="works", text="10 pieces", seconds=1.0)],
    }
    return VerdictView(**{**values, **changes})


def measured_view(**changes: Any) -> MeasuredView:
    """40 tokens a second, three times."""
    values: dict[str, Any] = {
        "prompt": 512,
        "generate": 128,
        "runs": 3,
        "tokens_in": 512,
        "tokens_out": 128,
        "cached": 0,
        "timed_by": "engine",
        "cold": True,
        "disturbed": "",
        "figures": [
            FigureView(name=name, unit=unit, median=m, low=m * 0.95, high=m * 1.05, count=3)
            for name, unit, m in (
                ("load", "s", 2.0),
                ("first_token", "s", 0.5),
                ("prefill", "tokens/s", 1000.0),
                ("generation", "tokens/s", 40.0),
            )
        ],
    }
    return MeasuredView(**{**values, **changes})


def bench_view(**changes: Any) -> BenchView:
    values: dict[str, Any] = {
        "id": 1,
        "at": 1e9,
        "model": "gemma",
        "kind": "chat",
        "engine": "llama-server",
        "version": "b9000",
        "quant": "Q4_K_M",
        "source": "/models/gemma.gguf",
        "context": 32768,
        "slots": 1,
        "footprint": {"gpu0": 4 * GIB},
        "taken": 3 * GIB,
        "modelport": "0.1.0",
        "measured": measured_view(),
    }
    return BenchView(**{**values, **changes})


def request_view(request_id: str, **changes: Any) -> RequestView:
    values: dict[str, Any] = {
        "id": request_id,
        "model": "gemma",
        "client": "127.0.0.1 curl/8",
        "method": "POST",
        "path": "/v1/chat/completions",
        "arrived": time.time() - 30,
        "status": 200,
        "outcome": "ok",
        "queue_ms": 12.0,
        "evict_ms": 400.0,
        "load_ms": 8300.0,
        "evicted": ["qwen3-coder"],
        "first_byte_ms": 9100.0,
        "total_ms": 11100.0,
        "tokens_in": 900,
        "tokens_out": 120,
        "tokens_per_second": 60.0,
        "retried": False,
    }
    return RequestView(**{**values, **changes})


class FakeControl:
    """Implements ``ControlPort``. ``calls`` are the changes that were asked for."""

    def __init__(self) -> None:
        self.catalog: dict[str, ModelView] = {
            "gemma": model_view("gemma", aliases=["g"], state="ready"),
            "qwen3-coder": model_view("qwen3-coder"),
            "org/repo:Q4": model_view("org/repo:Q4"),
        }
        self.found: list[ModelView] = []  # on the disk
        self.decided = 0  # times that all presets were asked for
        self.looked: list[str] = []  # names for which the disk was looked at; "": for all
        self.running: list[BackendView] = [backend_view("gemma")]
        self.calls: list[tuple[Any, ...]] = []
        self.steps: tuple[Progress | ProblemError | BaseException | asyncio.Event, ...] = READY
        self.pulling_now = {"gemma": pull_view("gemma")}
        self.ended: list[str] = []  # loads and pulls that came to their end
        self.logs: dict[str | None, str] = {}
        self.reload_view = ReloadView(
            ok=True,
            added=["new"],
            removed=[],
            changed=["gemma"],
            relabelled=[],
            settings=[],
            needs_restart=["server.port"],
        )
        self.fits = fit_view()
        self.died: list[IncidentView] = [incident_view()]
        self.lines: list[ScheduleView] = []
        self.benches: list[BenchView] = []  # newest first
        self.changes: dict[str, Any] = {}  # of the status
        self.requests = {"req_1": request_view("req_1")}
        self.ring: dict[str, KeyView] = {}
        self.kept: list[EventView] = []
        self.subscribers: list[Callable[[EventView], None]] = []
        self.subscribed = 0  # how often, in all
        self.url = "http://127.0.0.1:8123"
        self.config = "/etc/modelport/config.toml"
        self.version = "0.1.0"
        self.log_paths_asked = 0
        self.on_shutdown: Callable[[], None] = lambda: None
        self.broken: BaseException | None = None
        self._ids = itertools.count(1)

    def state(self) -> Any:
        """All that a request could have changed."""
        return copy.deepcopy((self.catalog, self.running, self.calls, self.ring))

    async def keys(self) -> list[KeyView]:
        return list(self.ring.values())

    async def add_key(self, wanted: Wanted) -> tuple[KeyView, str]:
        if wanted.name in self.ring:
            raise ProblemError(Problem(Code.KEY_EXISTS, f"There is a key named {wanted.name}."))
        key, text = make(wanted, 1e9)
        self.ring[wanted.name] = key.view(1e9)
        self.calls.append(("add_key", wanted))
        return self.ring[wanted.name], text

    async def remove_key(self, name: str) -> None:
        if self.ring.pop(name, None) is None:
            raise ProblemError(Problem(Code.KEY_UNKNOWN, f"There is no key named {name!r}."))
        self.calls.append(("remove_key", name))

    def emit(self, kind: str, model: str = "gemma", text: str = "", **facts: Any) -> EventView:
        event = EventView(
            id=next(self._ids), at=1e9, kind=kind, model=model, text=text, facts=facts
        )
        self.kept.append(event)
        for subscriber in list(self.subscribers):
            subscriber(event)
        return event

    def status(self) -> StatusView:
        if self.broken:
            raise self.broken
        pool = PoolView(
            name="gpu0",
            budget=24 * GIB,
            committed=4 * GIB,
            settling=0,
            measured=4 * GIB,
            free=None,
            low=None,
            pressed=False,
            source="nvml",
        )
        status = StatusView(
            version=self.version,
            pid=4242,
            mode="foreground",
            url=self.url,
            started_at=time.time() - 60,
            config=self.config,
            config_problem="",
            log="/logs/daemon.log",
            pools=[pool],
            backends=len(self.running),
            leases=0,
            queue=0,
            claim=None,
            waiting=[],
            paused=False,
            paused_left=None,
            thrash_ratio=0.0,
            advice="",
            draining=False,
            counters={"loads": 3},
        )
        return replace(status, **self.changes)

    async def look(self, name: str = "") -> None:
        self.looked.append(name)

    async def decide(self) -> None:
        self.decided += 1

    def models(self, *, presets: bool = False, found: bool = False) -> list[ModelView]:
        extra = [model_view("preset-one", preset="preset-one", pulled=False)] if presets else []
        return [*self.catalog.values(), *extra, *(self.found if found else ())]

    def model(self, name: str) -> ModelView:
        for model in self.catalog.values():
            if name == model.name or name in model.aliases:
                return model
        raise ProblemError(
            Problem(Code.MODEL_NOT_FOUND, f"There is no model {name!r}.", "`ctl ls` shows all.")
        )

    def backends(self) -> list[BackendView]:
        return list(self.running)

    async def fit(self, name: str, *, ctx: int | None = None) -> FitView:
        return replace(self.fits, model=self.model(name).name)

    async def load(
        self, name: str, *, ctx: int | None = None, fit: LoadFit | None = None
    ) -> AsyncIterator[Progress]:
        self.calls.append(("load", name, ctx, *([fit] if fit else [])))
        async for step in self._play(f"load {name}"):
            yield step

    async def pull(self, name: str) -> AsyncIterator[Progress]:
        self.calls.append(("pull", name))
        async for step in self._play(f"pull {name}"):
            yield step

    def pulls(self) -> list[PullView]:
        return list(self.pulling_now.values())

    def pulling(self, name: str) -> PullView:
        if name not in self.pulling_now:
            self.model(name)
            problem = Problem(Code.PULL_UNKNOWN, f"No pull of {name!r} is under way.")
            raise ProblemError(problem)
        return self.pulling_now[name]

    async def cancel_pull(self, name: str) -> PullView:
        view = self.pulling(name)
        self.calls.append(("cancel_pull", name))
        del self.pulling_now[name]
        return view

    async def _play(self, name: str) -> AsyncIterator[Progress]:
        for step in self.steps:
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, Progress):
                yield step
            else:
                raise step
        self.ended.append(name)

    async def unload(self, name: str | None, *, force: bool = False) -> list[str]:
        wanted = None if name is None else self.model(name).name
        self.calls.append(("unload", wanted, force))
        gone = [b.model for b in self.running if wanted in (None, b.model)]
        self.running = [b for b in self.running if b.model not in gone]
        return gone

    def pause(self, seconds: float | None, *, hold: bool, force: bool) -> None:
        self.calls.append(("pause", seconds, hold, force))

    def resume(self) -> bool:
        self.calls.append(("resume",))
        return any(call[0] == "pause" for call in self.calls)

    def pin(self, name: str, pinned: bool) -> None:
        self.calls.append(("pin", self.model(name).name, pinned))

    def reset(self, name: str) -> str:
        self.calls.append(("reset", self.model(name).name))
        return f"{name} may be started again"

    def schedule(self) -> list[ScheduleView]:
        return self.lines

    def incidents(self, name: str, limit: int) -> list[IncidentView]:
        wanted = self.model(name).name if name else None
        found = [one for one in self.died if wanted in (None, one.model)]
        return found[:limit]

    def stories(self, incidents: Sequence[IncidentView]) -> list[StoryView]:
        return stories(incidents, {name: model.state for name, model in self.catalog.items()})

    def verdicts(self, name: str) -> list[VerdictView]:
        model = self.model(name)
        return [model.tested] if model.tested is not None else []

    def judge(self, name: str, findings: Sequence[FindingView]) -> VerdictView:
        model = self.model(name)
        self.calls.append(("judge", model.name, [one.step for one in findings]))
        word, text = verdict({one.step: one for one in findings})
        made = verdict_view(
            model=model.name, verdict=word, text=text, findings=list(findings), at=time.time()
        )
        self.catalog[model.name] = replace(model, tested=made)
        return made

    async def benchmarks(self, name: str, limit: int) -> list[BenchView]:
        wanted = self.model(name).name if name else None
        return [one for one in self.benches if wanted in (None, one.model)][:limit]

    async def keep_benchmark(self, name: str, measured: MeasuredView) -> BenchView:
        model = self.model(name).name
        self.calls.append(("keep_benchmark", model))
        made = bench_view(id=len(self.benches) + 1, at=time.time(), model=model, measured=measured)
        self.benches.insert(0, made)
        return made

    async def reload(self) -> ReloadView:
        self.calls.append(("reload",))
        return self.reload_view

    def log_path(self, name: str | None) -> str:
        self.log_paths_asked += 1
        if name is not None:
            name = self.model(name).name
        return self.logs.get(name, "/nonexistent/modelport.log")

    def request(self, request_id: str) -> RequestView:
        found = self.requests.get(request_id)
        if found is None:
            raise ProblemError(Problem(Code.REQUEST_UNKNOWN, f"No {request_id!r} is remembered."))
        return found

    def history(self, after: int) -> list[EventView]:
        return [event for event in self.kept if event.id > after]

    def subscribe(self, callback: Callable[[EventView], None]) -> Callable[[], None]:
        self.subscribers.append(callback)
        self.subscribed += 1
        return lambda: self.subscribers.remove(callback)

    def shutdown(self) -> None:
        self.calls.append(("shutdown",))
        self.on_shutdown()


def as_port(fake: FakeControl) -> ControlPort:
    """Checked by mypy: the fake has the shape of the port."""
    return fake


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for what another task brings about; fails when ``seconds`` are over."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.005)


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name (104 bytes on macOS)."""
    folder = Path(tempfile.mkdtemp(prefix="mp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def served(
    fake: FakeControl,
    path: Path,
    *,
    auth: Auth | None = None,
    limits: Limits | None = None,
    cancel: bool = True,
) -> AsyncIterator[web.AppRunner]:
    """The control API on a unix socket."""
    app = make_app(as_port(fake), auth=auth or OwnerAuth(), limits=limits)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=cancel, shutdown_timeout=2.0)
    await runner.setup()
    try:
        await web.UnixSite(runner, str(path)).start()
        yield runner
    finally:
        await runner.cleanup()


class FakeDaemon:
    """The control API in a thread of its own, for the command line. ``do`` reaches its loop."""

    def __init__(self, fake: FakeControl, path: Path, limits: Limits | None = None) -> None:
        self.fake = fake
        self.path = path
        self._limits = limits
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fake-daemon")

    def __enter__(self) -> FakeDaemon:
        self._thread.start()
        assert self._up.wait(30), "the fake daemon did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self.do(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "the fake daemon did not stop"

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def do(self, what: Callable[[], object]) -> None:
        """Run it on the daemon's loop."""
        with suppress(RuntimeError):  # its loop is closed: it has just stopped by itself
            self._loop.call_soon_threadsafe(what)

    def when(self, condition: Callable[[], object], action: Callable[[], object]) -> None:
        """Do it on the daemon's loop as soon as the condition holds."""

        async def wait() -> None:
            await until(lambda: bool(condition()))
            action()

        self.do(lambda: self._tasks.add(self._loop.create_task(wait())))

    def stop(self) -> None:
        """As the daemon stops itself: the socket goes away."""
        self.do(self._stop.set)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.run_until_complete(asyncio.sleep(0))  # transports close in the next turn
        self._loop.close()

    async def _serve(self) -> None:
        async with served(self.fake, self.path, limits=self._limits):
            self._up.set()
            await self._stop.wait()
        await asyncio.gather(*self._tasks)
