"""One run of the chaos: clients, troubles, and what must hold at its end."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.troubles import Troubles
from tests.e2e.outcomes import DIALECTS, Ask, Outcome, ask
from tests.e2e.stage import SETTLED, Stage, ledger, until

MODELS = ("a", "b", "c")
WAIT = 30.0  # seconds that a request may wait for its turn, by the daemon's own settings
LONGEST = WAIT + 60.0  # until a client says that it hangs

Say = Callable[[str], None]


@dataclass
class Report:
    """What came of a run."""

    seed: int
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    loads: int = 0
    worst: float = 0.0
    wrong: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"seed {self.seed}: {self.asked} requests, {self.loads} loads, "
            f"the longest took {self.worst:.1f} s",
            "outcomes: " + ", ".join(f"{k} {n}" for k, n in self.outcomes.most_common()),
            "faults: " + ", ".join(f"{k} {n}" for k, n in self.faults.most_common()),
            *(f"WRONG: {each}" for each in self.wrong),
        ]


@dataclass
class Client(threading.Thread):
    """Asks, one request after the other, as its dice fall."""

    port: int
    rng: random.Random
    over: threading.Event
    report: Report
    lock: threading.Lock
    say: Say

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        while not self.over.is_set():
            what = self._next()
            try:
                found: Outcome | None = ask(self.port, what)
                wrong = ""
            except Exception as error:
                found, wrong = None, f"{type(error).__name__}: {error}"
            with self.lock:
                self.report.asked += 1
                if found is None:
                    self.report.wrong.append(wrong)
                    self.say(f"WRONG: {wrong}")
                else:
                    self._count(found)
            self.over.wait(self.rng.expovariate(5.0))

    def _next(self) -> Ask:
        rng = self.rng
        tokens = rng.choice((1, 5, 20, 60))
        leave = rng.choice((None, None, None, None, 0, 1, 2000))
        return Ask(
            rng.choice(MODELS),
            rng.choice(DIALECTS),
            rng.random() < 0.6,
            tokens,
            tokens,
            f"{rng.random()}",
            close=rng.random() < 0.3,
            leave=leave,
            seconds=LONGEST,
        )

    def _count(self, found: Outcome) -> None:
        named = f"error {found.status} {found.code}" if found.kind == "error" else found.kind
        self.report.outcomes[named] += 1
        self.report.worst = max(self.report.worst, found.seconds)


def play(place: Path, *, seed: int, seconds: float, clients: int = 20, say: Say = print) -> Report:
    """Run it in ``place`` (a short path) and judge. ``say`` is told of each action."""
    rng = random.Random(seed)
    report = Report(seed)
    stage = Stage(place, names=MODELS, budget="250 MiB")
    stage.house.server = f"queue_timeout = {WAIT:g}\n"
    stage.house.write(stage.config())
    with stage:
        over, lock = threading.Event(), threading.Lock()
        began = time.monotonic()

        def note(text: str) -> None:
            line = f"{time.monotonic() - began:7.2f} {text}"
            report.actions.append(line)
            say(line)

        crowd = [
            Client(stage.house.port, random.Random(rng.random()), over, report, lock, note)
            for _ in range(clients)
        ]
        troubles = Troubles(stage, rng, note)
        for client in crowd:
            client.start()
        told = began
        while time.monotonic() - began < seconds and len(report.wrong) < 10:
            troubles.one()
            time.sleep(rng.expovariate(4.0))
            if time.monotonic() - told > 10:
                told = time.monotonic()
                with lock:
                    note(f"... {report.asked} requests, {len(report.wrong)} wrong")
        over.set()
        note("the end: no more troubles")
        _end(stage, troubles, crowd, report)
        report.faults = troubles.done
        report.loads = int(stage.house.status()["counters"]["starts"])
    return report


def _end(stage: Stage, troubles: Troubles, crowd: list[Client], report: Report) -> None:
    """All that is still asked comes to its end, all is healed, and the end-check holds."""
    troubles.go_on()
    for name in MODELS:  # no new trouble for those who still wait
        stage.install(name)
    deadline = time.monotonic() + LONGEST + 10
    for client in [*crowd, *troubles.readers]:
        client.join(max(0.1, deadline - time.monotonic()))
        if client.is_alive():
            report.wrong.append("a client hangs")
    report.asked += troubles.asked
    report.wrong += troubles.wrong
    for each in troubles.outcomes:
        report.outcomes[f"slow reader: {each.kind}"] += 1
    if sum(report.outcomes.values()) + len(report.wrong) < report.asked:
        report.wrong.append("a request without an outcome")
    try:
        until(lambda: stage.house.status()["queue"] == 0, SETTLED, lambda: str(ledger(stage.house)))
        troubles.heal()
        for name in MODELS:
            stage.answers(name)
        stage.end_check(errors="")
    except AssertionError as error:
        report.wrong.append(f"at the end: {error}")
