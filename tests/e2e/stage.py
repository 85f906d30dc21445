"""A daemon on which faults are played, one after the other, and the one check that ends each.

Its models run on the stand-in, whose flags lie in a file that is read at each start and whose
control file is read before each request: so one daemon sees many faults, as a real one does.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from control_api.client import RefusedError, SseEvent
from tests.e2e.conftest import timing
from tests.e2e.house import House, process_exists
from tests.e2e.outcomes import Ask, Crowd, Outcome, ask
from tests.fakes import start

MIB = 1 << 20
SETTLED = 30.0  # seconds in which what is over must be gone: descriptors, processes, records
WORKERS = min(32, (os.cpu_count() or 1) + 4)  # threads of asyncio's own pool: started, then kept
SLACK = 15.0  # seconds on top of what a return may take: a deadline on a busy machine, no figure
TIMES: dict[str, object] = {
    "start_stall": 2.0,
    "answer_stall": 1.6,  # more than a busy machine takes to let a stand-in say its next word
    "probe_timeout": 1.0,
    "health_timeout": 0.5,
    "liveness_interval": 0.1,
    "stop_grace": 0.4,
    "kill_grace": 0.3,
    "keeper_lost": 0.3,
    "drain_grace": 1.0,
    "adopt_timeout": 2.0,
    "backoff": 0.05,
    "backoff_max": 0.2,
    "settle": 0.2,
    "linger_min": 0,
    "linger_max": 0.1,
    "quantum_min": 0.1,
    "quantum_max": 0.3,
    "memory_sample": 0.1,
    "machine_sample": 0.2,
    "write_stall": 2.0,
    "body_stall": 1.5,
    "header_timeout": 1.5,
    "sweep": 0.1,
    "close_linger": 0.2,
    "lost_retry": 1.0,
}
BACKOFF = 0.2 * 1.2  # seconds, the longest pause of these settings with its jitter


@dataclass(frozen=True)
class Counts:
    """What a daemon holds when nothing runs on it."""

    descriptors: int
    threads: int
    log: int  # bytes of its log so far


def put(path: Path, text: str) -> None:
    """In one step: an engine may be reading it."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder with a short path, for more than one test."""
    path = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@dataclass
class Stage:
    """``names``: models; each takes 100 MiB by word. ``more``: TOML to add, per model;
    ``tables``: of its own, with those models in ``others``."""

    folder: Path
    names: tuple[str, ...] = ("a", "b")
    budget: str = "1 GiB"
    times: dict[str, object] = field(default_factory=dict)
    more: dict[str, str] = field(default_factory=dict)
    tables: str = ""
    others: tuple[str, ...] = ()
    service: bool = False
    slots: int = 3
    extra: dict[str, str] = field(default_factory=dict)
    returns: dict[str, float] = field(default_factory=dict)  # worst seconds to a good answer
    house: House = field(init=False)
    before: Counts = field(init=False)
    _states: int = 0

    def __post_init__(self) -> None:
        for name in self.names:
            self.install(name)
        self.house = House(self.folder, self.config(), self.service)
        self.house.extra = dict(self.extra)

    # ------------------------------------------------------------ configuration

    def install(self, name: str) -> Path:
        """Its engine, whole and without a fault: a program of its own."""
        program = self.folder / f"engine-{name}"
        words = shlex.join(start.argv("engine"))
        flags = f'"{self.folder}/flags-{name}"'
        program.write_text(f'#!/bin/sh\neval "set -- "\\$@" $(cat {flags})"\nexec {words} "$@"\n')
        program.chmod(0o755)
        self.flags(name)
        self.control(name)
        return program

    def config(self, names: Iterable[str] | None = None, **changes: str) -> str:
        """The file; ``changes``: other lines for a model."""
        parts = [f'[memory]\nbudget = "{self.budget}"\n', timing({**TIMES, **self.times})]
        for name in self.names if names is None else names:
            parts.append(self.model(name, changes.get(name, self.more.get(name, ""))))
        return "\n".join([*parts, self.tables])

    def model(self, name: str, more: str = "") -> str:
        control = self.folder / f"control-{name}"
        words = [self.folder / f"engine-{name}", "--port", "{port}", "-c", "{ctx}"]
        words += ["-np", self.slots, "--api-key-file", "{key_file}", "--control", control]
        argv = ", ".join(f"'{word}'" for word in words)
        return (
            f'[engines.command.{name}]\nargv = [{argv}]\nfootprint = "100 MiB"\n'
            'dialects = ["chat", "messages", "responses"]\n'
            f'[models.{name}]\nengine = "command.{name}"\n'
            f"slots = {self.slots}\nctx = 4096\n{more}\n"
        )

    def flags(self, name: str, *words: object, times: int | None = None) -> None:
        """The flags of the next starts. ``times``: faults at so many of them only."""
        given = ["--tokens", "-1", *map(str, words)]
        if times is not None:
            self._states += 1
            state = self.folder / f"state-{self._states}"
            given += ["--times", str(times), "--state", str(state)]
        put(self.folder / f"flags-{name}", shlex.join(given))

    def control(self, name: str, **options: object) -> None:
        """Options for the process that runs now, from its next request on."""
        put(self.folder / f"control-{name}", json.dumps(options))

    # ------------------------------------------------------------ life

    def __enter__(self) -> Stage:
        self.house.start()
        self.baseline()
        return self

    def __exit__(self, *_: object) -> None:
        self.house.__exit__()

    @property
    def pid(self) -> int:
        assert self.house.process is not None
        return self.house.process.pid

    def baseline(self) -> None:
        """Count what the daemon holds at rest, once it has served each model."""
        for name in self.names:
            self.answers(name)
        self.house.client.post("/unload", force=True)
        counts = [self.counts()]
        deadline = time.monotonic() + SETTLED
        while len(counts) < 20 or counts[-1].descriptors > min(
            each.descriptors for each in counts[-20:]
        ):
            assert time.monotonic() < deadline, "the daemon does not come to rest"
            time.sleep(0.02)
            counts.append(self.counts())
        self.before = counts[-1]

    def fresh(self) -> Stage:
        """As it was at first, whatever the test before did, or failed to do."""
        self.house.client.post("/unload", force=True)
        for name in self.names:
            self.install(name)
        for name in self.names + self.others:
            self.flags(name)
            self.forget(name)
        return self

    def forget(self, name: str) -> None:
        """Its crashes and its refused requests: the next fault is not judged by them."""
        with contextlib.suppress(RefusedError):
            self.house.client.post(f"/models/{name}/reset")

    def counts(self) -> Counts:
        folder = Path(f"/proc/{self.pid}")
        log = self.seen(self.house.log_file)
        return Counts(
            len(os.listdir(folder / "fd")),  # noqa: PTH208 - counted often
            len(os.listdir(folder / "task")),  # noqa: PTH208
            log.stat().st_size if log.exists() else 0,
        )

    def crowd(self, *asks: Ask) -> Crowd:
        return Crowd(self.house.port, *asks)

    def backend(self, name: str, seconds: float = 20.0) -> dict[str, Any]:
        """The view of a running backend, once its process is known."""
        found: dict[str, Any] = until(
            lambda: _running(self.house.backends().get(name)), seconds, f"{name} runs"
        )
        return found

    def ready(self, name: str) -> dict[str, Any]:
        """Load it, and wait until it is."""
        self.answers(name)
        return self.backend(name)

    def now(self) -> int:
        """The number of the last event: what comes after it belongs to the next fault."""
        return max((e.id or 0 for e in self.house.events()), default=0)

    def story(self, name: str, since: int) -> list[SseEvent]:
        """What happened to a model after ``since``."""
        found = self.house.client.events(since=since, follow=False)
        return [e for e in found if e.data["model"] == name]

    def kinds(self, name: str, since: int) -> list[str]:
        return [event.kind for event in self.story(name, since)]

    def told_of(self, kind: str, name: str, since: int, seconds: float = 20.0) -> dict[str, Any]:
        """The facts of the first such event after ``since``, waited for."""

        def found() -> list[SseEvent]:
            return [e for e in self.story(name, since) if e.kind == kind]

        events = until(found, seconds, lambda: f"{kind} of {name}: {self.kinds(name, since)}")
        facts: dict[str, Any] = events[0].data["facts"]
        return facts

    def state(self, name: str) -> str:
        return str(self.house.client.get(f"/models/{name}")["state"])

    def answers(self, name: str, seconds: float = 30.0) -> Outcome:
        """A good answer of this model; refusals that ask to try again are heeded until then."""
        deadline = time.monotonic() + seconds
        while True:
            found = ask(self.house.port, Ask(name, text=f"good {time.monotonic()}", stream=False))
            if found.kind == "answer":
                return found
            assert time.monotonic() < deadline, f"no good answer of {name}: {found}"
            assert found.retry != "false", f"{name} is given up: {found}"
            time.sleep(0.02)

    # ------------------------------------------------------------ after a fault

    def heal(self, fault: str, name: str, *, load: float = 0.0, given_up: bool = False) -> None:
        """The cause is mended: the next good answer comes within back-off, load and a second.

        ``given_up``: it may have been, and then the owner says that it may start again.
        """
        self.flags(name)
        self.control(name)
        if given_up and self.state(name) == "failed":
            self.house.client.post(f"/models/{name}/reset")
        began = time.monotonic()
        self.answers(name, BACKOFF + load + 1.0 + SLACK)
        took = time.monotonic() - began
        self.returns[fault] = max(took, self.returns.get(fault, 0.0))

    def end_check(self, outcomes: Iterable[Outcome] = (), *, errors: str = "") -> None:
        """What must hold after every fault: see the module. ``outcomes``: of all requests (that
        each is one is proven by their being here); ``errors``: a pattern of ERROR lines that may
        be in the daemon's log."""
        for each in outcomes:
            assert each.kind in ("answer", "error", "aborted", "left"), each
        house = self.house
        house.client.post("/unload")
        until(lambda: not self.leftovers(), SETTLED, lambda: f"left: {self.leftovers()}")
        until(lambda: ledger(house) == [], SETTLED, lambda: f"not settled: {ledger(house)}")
        until(
            lambda: self.counts().descriptors <= self.before.descriptors,
            SETTLED,
            lambda: f"descriptors: {self.before} -> {self.counts()}: {self.open_files()}",
        )
        # The pool's threads stay for good; all others end with what they were started for.
        most = self.before.threads + WORKERS
        until(lambda: self.counts().threads <= most, SETTLED, f"threads: more than {most}")
        until(lambda: self.records() == [], SETTLED, lambda: f"files left: {self.records()}")
        wrong = self.told(self.before.log)
        wrong = [line for line in wrong if not errors or not re.search(errors, line)]
        assert not wrong, f"the daemon's log has: {wrong}"
        assert "Traceback" not in house.stderr()
        for name in self.names + self.others:
            self.forget(name)
        self.before = Counts(self.before.descriptors, self.before.threads, self.counts().log)

    def told(self, since: int) -> list[str]:
        """ERROR lines of the daemon's log."""
        data = self.seen(self.house.log_file).read_bytes()
        lines = data[since:].decode("utf-8", "replace").splitlines()
        return [line for line in lines if re.search(r"^\S+ (?:ERROR|CRITICAL) ", line)]

    def seen(self, path: Path) -> Path:
        """A file as the daemon sees it, which may have file systems of its own."""
        inside = Path(f"/proc/{self.pid}/root{path}")
        return inside if inside.exists() else path

    def records(self) -> list[str]:
        """Files of backends that are left in the runtime directory."""
        return sorted(path.name for path in (self.folder / "run" / "b").glob("*"))

    def open_files(self) -> list[str]:
        found = []
        for path in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(str(path.readlink()))
        return sorted(found)

    def leftovers(self) -> list[str]:
        """Processes of this house that are not the daemon itself."""
        return house_processes(self.folder, {self.pid})


def house_processes(folder: Path, but: set[int]) -> list[str]:
    """Keepers, engines, and whatever those started: all have the folder in their command line or
    their environment, or a parent that does. Children of the daemon that nobody reaped, too."""
    found = []
    mark = str(folder).encode()
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if not entry.isdigit() or int(entry) in but:
            continue
        with contextlib.suppress(OSError):
            place = Path("/proc") / entry
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            words = (place / "cmdline").read_bytes()
            marked = mark in words or mark in (place / "environ").read_bytes()
            if marked or int(fields[1]) in but:
                found.append(f"{entry} ({fields[0]}) {words.replace(bytes(1), b' ')[:160]!r}")
    return found


def ledger(house: House) -> list[str]:
    """What the books still hold; nothing, once all is unloaded."""
    status = house.status()
    found = [f"{key}: {status[key]}" for key in ("backends", "leases", "queue") if status[key]]
    found += [f"claim: {status['claim']}"] if status["claim"] else []
    for pool in status["pools"]:
        found += [f"{pool['name']}: {k} {pool[k]}" for k in ("committed", "settling") if pool[k]]
    return found


def _running(view: dict[str, Any] | None) -> dict[str, Any] | None:
    return view if view is not None and view["pid"] else None


def until(
    condition: Callable[[], Any], seconds: float = 20.0, what: str | Callable[[], str] = "it"
) -> Any:
    """Wait for a truth; returns it. AssertionError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            told = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {seconds:g} s: {told}")
        time.sleep(0.01)
    return found


def dice(fault: str, seed: int) -> random.Random:
    """The same dice for the same fault and seed, whatever else was played before."""
    return random.Random(f"{fault}/{seed}")


__all__ = ["BACKOFF", "Stage", "dice", "ledger", "process_exists", "until"]
