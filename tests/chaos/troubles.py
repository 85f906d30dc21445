"""The faults of the chaos: what is done to a daemon, by the dice, while its clients ask."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from control_api.client import RefusedError, UnreachableError
from tests.e2e.outcomes import Ask, Outcome, ask
from tests.e2e.stage import Stage

SLOW = 3  # slow readers at once
SOME_FLAGS: tuple[tuple[str, ...], ...] = (
    (),
    (),
    (),
    ("--token-s", "0.01"),
    ("--load-s", "0.5", "--load-log"),
    ("--load-s", "1.5", "--load-log"),
    ("--crash-at", "load", "--exit-code", "3"),
    ("--crash-at", "first-byte", "--skip", "2"),
    ("--crash-at", "token:5", "--skip", "1", "--signal", "SEGV"),
    ("--crash-at", "load", "--oom", "--signal", "ABRT"),
    ("--crash-at", "token:3", "--skip", "3", "--oom"),
    ("--hang-load",),
    ("--hang-accept",),
    ("--hang-answer",),
    ("--health-lies",),
    ("--port-busy",),
    ("--fail-start", "9"),
    ("--ignore-term",),
    ("--term-s", "2"),
    ("--term-hangs",),
    ("--grandchild", "--ignore-term"),
    ("--close-idle", "5"),
    ("--drop-reused",),
    ("--flood-log", "4"),
    ("--drip", "0.0002"),
    ("--leak", "40", "--token-s", "0.02"),
    ("--no-such-flag",),
)


@dataclass
class Troubles:
    """One trouble after the other. ``log``: what was done and when, for whoever looks into it."""

    stage: Stage
    rng: random.Random
    log: Callable[[str], None]
    done: Counter[str] = field(default_factory=Counter)
    stopped: set[int] = field(default_factory=set)
    outcomes: list[Outcome] = field(default_factory=list)  # of the requests made here
    wrong: list[str] = field(default_factory=list)
    asked: int = 0
    readers: list[threading.Thread] = field(default_factory=list)

    def one(self) -> None:
        """Do something to it."""
        kinds: tuple[tuple[int, Callable[[], str]], ...] = (
            (5, self.kill_backend),
            (2, self.kill_keeper),
            (2, self.stop_backend),
            (2, self.go_on),
            (8, self.other_flags),
            (2, self.other_answers),
            (2, self.reload),
            (2, self.broken_reload),
            (3, self.load),
            (3, self.unload),
            (1, self.unload_all),
            (3, self.reset),
            (1, self.pause),
            (2, self.slow_reader),
            (1, self.sleep_of_the_daemon),
        )
        weights = [weight for weight, _ in kinds]
        (what,) = self.rng.choices([work for _, work in kinds], weights)
        try:
            told = what()
        except (RefusedError, UnreachableError) as error:
            told = f"refused: {error}"
        self.done[what.__name__] += 1
        self.log(f"{what.__name__}: {told}")

    def model(self) -> str:
        return self.rng.choice(self.stage.names)

    def _victim(self) -> dict[str, object]:
        running = [b for b in self.stage.house.backends().values() if b["pid"]]
        return self.rng.choice(running) if running else {}

    def _signal(self, pid: object, number: int) -> str:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(str(pid)), number)
        return f"{signal.Signals(number).name} to {pid}"

    def kill_backend(self) -> str:
        numbers = ("SIGKILL", "SIGSEGV", "SIGABRT", "SIGTERM")
        if not (victim := self._victim()):
            return "nobody"
        number = getattr(signal, self.rng.choice(numbers))
        return f"{victim['model']}: {self._signal(victim['pid'], number)}"

    def kill_keeper(self) -> str:
        if not (victim := self._victim()) or not victim["keeper_pid"]:
            return "nobody"
        return f"{victim['model']}: {self._signal(victim['keeper_pid'], signal.SIGKILL)}"

    def stop_backend(self) -> str:
        if not (victim := self._victim()):
            return "nobody"
        self.stopped.add(int(str(victim["pid"])))
        return f"{victim['model']}: {self._signal(victim['pid'], signal.SIGSTOP)}"

    def go_on(self) -> str:
        """Whoever was stopped and still lives."""
        told = [self._signal(pid, signal.SIGCONT) for pid in sorted(self.stopped)]
        self.stopped.clear()
        return ", ".join(told) or "nobody"

    def other_flags(self) -> str:
        name, flags = self.model(), self.rng.choice(SOME_FLAGS)
        times = self.rng.choice((1, 2)) if flags and self.rng.random() < 0.8 else None
        self.stage.flags(name, *flags, times=times)
        return f"{name}: {' '.join(flags) or 'none'} {times or ''}"

    def other_answers(self) -> str:
        """Of the process that runs, or of none."""
        name = self.model()
        options = self.rng.choice(
            ({}, {"health_lies": True}, {"hang_answer": True}, {"token_s": 0.03}, {"first_s": 0.2})
        )
        self.stage.control(name, **options)
        return f"{name}: {options}"

    def reload(self) -> str:
        """Another alias, another context, another budget, one model less, or nothing new."""
        stage, name = self.stage, self.model()
        change = self.rng.choice(("", 'aliases = ["x"]', "keep_alive = 60", "pin = true", "gone"))
        if change == "gone":
            names = [each for each in stage.names if each != name]
            stage.house.write(stage.config(names))
        else:
            stage.house.write(stage.config(**{name: change}))
        return f"{name} {change!r}: {stage.house.client.post('/reload', seconds=30)['ok']}"

    def broken_reload(self) -> str:
        self.stage.house.write(self.stage.config() + "[nonsense]\n")
        os.kill(self.stage.pid, signal.SIGHUP)
        return "HUP"

    def load(self) -> str:
        name = self.model()
        self.stage.house.client.post(f"/models/{name}/load")
        return name

    def unload(self) -> str:
        name, force = self.model(), self.rng.random() < 0.5
        self.stage.house.client.post(f"/models/{name}/unload", seconds=60, force=force)
        return f"{name}{' by force' if force else ''}"

    def unload_all(self) -> str:
        force = self.rng.random() < 0.5
        self.stage.house.client.post("/unload", seconds=60, force=force)
        return "by force" if force else ""

    def reset(self) -> str:
        name = self.model()
        self.stage.house.client.post(f"/models/{name}/reset")
        return name

    def pause(self) -> str:
        hold, seconds = self.rng.random() < 0.7, self.rng.uniform(0.2, 1.0)
        force = self.rng.random() < 0.5
        self.stage.house.client.post("/pause", duration=seconds, hold=hold, force=force)
        return f"{seconds:.1f} s, hold {hold}, force {force}"

    def slow_reader(self) -> str:
        """One that reads a little and then nothing, until it is cut or has had enough."""
        name, rng = self.model(), self.rng
        self.readers = [each for each in self.readers if each.is_alive()]
        if len(self.readers) == SLOW:
            return "enough of them"
        pace, leave = rng.choice((3_000, 40_000)), rng.choice((None, 9_000))
        what = Ask(name, tokens=400, limit=400, read=pace, leave=leave, text=f"slow {rng.random()}")
        self.asked += 1
        self.readers.append(threading.Thread(target=self._read, args=(what,), daemon=True))
        self.readers[-1].start()
        return name

    def _read(self, what: Ask) -> None:
        try:
            self.outcomes.append(ask(self.stage.house.port, what))
        except Exception as error:
            self.wrong.append(f"a slow reader: {type(error).__name__}: {error}")

    def sleep_of_the_daemon(self) -> str:
        seconds = self.rng.uniform(0.1, 1.0)
        os.kill(self.stage.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(self.stage.pid, signal.SIGCONT)
        return f"{seconds:.1f} s"

    def heal(self) -> None:
        """No cause of trouble is left."""
        self.go_on()
        stage = self.stage
        stage.house.write(stage.config())
        stage.house.client.post("/reload", seconds=30)
        with contextlib.suppress(RefusedError):
            stage.house.client.post("/resume")
        stage.fresh()
