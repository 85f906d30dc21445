"""launchctl: what is asked of it, and what its answers mean.

Written from its manual pages and from what people report of it; see docs/untested.md.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from daemon.core.problems import Code, Problem, ProblemError
from daemon.service.places import LABEL, Scope
from daemon.service.programs import Done, Run, State, run_program

POLL: Final = 0.2  # seconds between two looks while it starts or stops
_LINE: Final = re.compile(r"^\t([^\t=][^=]*?) = (.*)$")
_BLOCK: Final = re.compile(r"^\t(\S.*) = \{$")
_ENTRY: Final = re.compile(r'^\t\t"?([^"\t]+?)"? = \{$')
# What launchctl ends with, and what it means: (words, next step)
_MEANINGS: Final[Mapping[int, tuple[str, str]]] = {
    5: (
        "launchd refused the property list (it is loaded already, broken, or not yours)",
        "`ctl service uninstall`, then `ctl service install`",
    ),
    3: ("there is no such service", "`ctl service install` installs it"),
    36: ("launchd is still at it", "try again in some seconds"),
    37: ("it is loaded already", "`ctl service status` shows it"),
    113: ("there is no such service", "`ctl service install` installs it"),
    119: ("it is disabled", "launchctl enable DOMAIN/modelport, then try again"),
    125: (
        "there is no desktop session of this user here (ssh, or nobody has logged in)",
        "log in on the Mac itself and run it there, or take --system",
    ),
    127: ("there is no launchctl", "it is a Mac's service manager"),
    150: ("macOS does not let this user do it", "run it with sudo, and --system"),
}


@dataclass(slots=True)
class Launchd:
    """One domain of launchd: ``gui/UID`` or ``system``. All of it blocks; failures raise
    ProblemError."""

    scope: Scope
    file: Path
    run: Run = run_program
    patience: float = 60.0  # seconds for a start or a stop
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    uid: int = field(default_factory=os.getuid)

    @property
    def domain(self) -> str:
        return "system" if self.scope == "system" else f"gui/{self.uid}"

    @property
    def target(self) -> str:
        return f"{self.domain}/{LABEL}"

    def check(self) -> None:
        """Raises ProblemError where this domain cannot be asked."""
        done = self.run(["launchctl", "print", self.domain])
        if done.code != 0:
            raise refused(done, f"launchd's domain {self.domain} does not answer")

    # ------------------------------------------------------------ changing

    def start(self) -> None:
        """Load it if it is not, and see that it runs."""
        if not self.state().installed:
            self.run(["launchctl", "enable", self.target])  # an old "disable" outlives its file
            self._must(["launchctl", "bootstrap", self.domain, str(self.file)], "it is not loaded")
        self._must(["launchctl", "kickstart", self.target], "it does not start")
        self._until(lambda state: state.pid is not None, "it does not run")

    def stop(self) -> None:
        """Unload it: its ports go as well, and nothing starts it until the next :meth:`start`."""
        if not self.state().installed:
            return
        done = self.run(["launchctl", "bootout", self.target])
        if done.code not in (0, 3, 36, 113):
            raise refused(done, "it cannot be unloaded")
        self._until(lambda state: not state.installed, "it is still there")

    def restart(self) -> None:
        """A stop in good order, then a start: ``kickstart -k`` would kill it at once."""
        before = self.state().pid
        if before is not None:
            self.run(["launchctl", "kill", "SIGTERM", self.target])
            self._until(lambda state: state.pid != before, "it does not stop")
        self.start()

    def _must(self, argv: list[str], what: str) -> None:
        done = self.run(argv)
        if done.code != 0:
            raise refused(done, what)

    def _until(self, true: Callable[[State], bool], what: str) -> None:
        deadline = self.clock() + self.patience
        while not true(self.state()):
            if self.clock() > deadline:
                hint = "`ctl service logs` shows what it said."
                text = f"After {self.patience:g} s {what}."
                raise ProblemError(Problem(Code.INVALID_REQUEST, text, hint))
            self.sleep(POLL)

    # ------------------------------------------------------------ looking

    def state(self) -> State:
        done = self.run(["launchctl", "print", self.target])
        if done.code != 0:
            return State(installed=False, file=str(self.file) if self.file.exists() else "")
        return state_of(done.out)


def parse_print(text: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """``launchctl print DOMAIN/LABEL``: the facts of its outermost block, and the names of the
    entries in each block within. It is made for people, and may change: what is not understood is
    left out."""
    facts: dict[str, str] = {}
    blocks: dict[str, list[str]] = {}
    inside = ""
    for line in text.splitlines():
        if found := _BLOCK.match(line):
            inside = found[1]
            blocks[inside] = []
        elif line == "\t}":
            inside = ""
        elif inside and (entry := _ENTRY.match(line)):
            blocks[inside].append(entry[1])
        elif not inside and (fact := _LINE.match(line)):
            facts[fact[1]] = fact[2]
    return facts, blocks


def state_of(text: str) -> State:
    """What ``launchctl print`` means."""
    facts, blocks = parse_print(text)
    pid = facts.get("pid", "")
    running = facts.get("state") == "running" and pid.isdecimal()
    last = facts.get("last exit code", "")
    runs = facts.get("runs", "0")
    sockets = tuple((name, "listening") for name in blocks.get("sockets", []))
    return State(
        installed=True,
        file=facts.get("path", ""),
        enabled=True,
        active=_active(facts, running, last),
        pid=int(pid) if running else None,
        restarts=max(0, int(runs) - 1) if runs.isdecimal() else 0,
        last_exit=_ending(facts, last),
        sockets=sockets,
    )


def _active(facts: Mapping[str, str], running: bool, last: str) -> str:
    if running:
        return "running"
    if facts.get("state", "") in ("spawn scheduled", "waiting") and last not in ("", "0"):
        return "starting" if "spawn" in facts["state"] else "stopped"
    failed = last.split(":")[0].strip()
    return "failed" if failed.isdecimal() and int(failed) else "stopped"


def _ending(facts: Mapping[str, str], last: str) -> str:
    if signal := facts.get("last terminating signal", ""):
        return f"signal {signal}"
    return "" if not last or "never" in last else f"exit code {last}"


def refused(done: Done, what: str) -> ProblemError:
    """launchctl's exit code in words."""
    words, step = _MEANINGS.get(done.code, (done.said or f"code {done.code}", "see `log show`"))
    return ProblemError(
        Problem(
            Code.INVALID_REQUEST,
            f"{what[0].upper()}{what[1:]}: {words}.",
            f"{step[0].upper()}{step[1:]}.",
            facts={"launchctl": done.code, "said": done.said},
        )
    )
