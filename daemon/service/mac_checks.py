"""What only a Mac shows of the login service, step by step: ``ctl selftest --macos``.

Each step does one thing and looks at one thing. It touches the service alone: an installed one is
restarted, and in the end the machine is as it was before.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from daemon.service.launchd import parse_print, state_of
from daemon.service.places import LABEL
from daemon.service.programs import Done

SECONDS: Final = 40.0  # for a start
POLL: Final = 0.2
KNOCKS: Final = 200  # connections that are tried while it restarts


class Failed(Exception):
    """A step that did not go as it should; the text says what was seen."""


class Site(Protocol):
    """What the steps do to the machine."""

    def launchctl(self, *words: str) -> Done: ...
    def ctl(self, *words: str) -> tuple[int, Any]:
        """One of our own commands with ``--json``: its exit code and its answer."""
        ...

    def health(self) -> bool:
        """Ask the fixed port once; ConnectionRefusedError if nobody is there."""
        ...

    def kill(self, pid: int, signum: int) -> None: ...
    def alive(self, pid: int) -> bool: ...
    def size(self, path: str) -> int:
        """Bytes of a file; -1 if there is none."""
        ...

    def sleep(self, seconds: float) -> None: ...
    def clock(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Found:
    """How one step went."""

    title: str
    verdict: Literal["ok", "fail", "skip"]
    text: str = ""


@dataclass(slots=True)
class Checks:
    """The steps, in order. ``model``: one that is loaded, to see that it outlives the daemon."""

    site: Site
    uid: int
    model: str = ""
    was_installed: bool = False
    _backend: int = 0
    _facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> str:
        return f"gui/{self.uid}/{LABEL}"

    def run(self) -> Iterator[Found]:
        """Each step as it is done. After a failure the later ones still have a meaning, unless
        the service cannot be installed at all."""
        steps: list[tuple[str, Callable[[], str]]] = [
            ("launchd answers for this desktop session", self.domain),
            ("ctl service install: loaded and running", self.install),
            ("launchctl print is understood", self.printed),
            ("a second install changes nothing", self.again),
            ("the port is held by launchd and answers", self.sockets),
            ("a model is loaded", self.load),
            ("restart: nobody is refused", self.restart),
            ("restart: the model is still the same process", self.same),
            ("kill -9: launchd starts it again", self.killed),
            ("kill -9: the model is adopted", self.same),
            ("after a stop that was asked for, the next client starts it", self.woken),
            ("launchd's own log of it stays small", self.quiet),
            ("stop: models are gone, the port is free", self.stop),
            ("start", self.start),
            ("uninstall leaves nothing", self.uninstall),
        ]
        for title, step in steps:
            try:
                text = self._done(step)
            except Failed as failed:
                yield Found(title, "fail", str(failed))
                if step == self.install:
                    return
            else:
                skipped = text.startswith("skip: ")
                yield Found(title, "skip" if skipped else "ok", text.removeprefix("skip: "))

    def _done(self, step: Callable[[], str]) -> str:
        try:
            return step()
        except ConnectionRefusedError:
            raise Failed("the port refuses connections") from None

    # ------------------------------------------------------------ steps

    def domain(self) -> str:
        done = self.site.launchctl("print", f"gui/{self.uid}")
        if done.code != 0:
            raise Failed(f"code {done.code}: {done.said}")
        return f"gui/{self.uid}"

    def install(self) -> str:
        self.was_installed = bool(self._status().get("installed"))
        code, said = self.site.ctl("service", "install", "--yes")
        if code != 0:
            raise Failed(str(said))
        self._until(lambda: self._status().get("active") == "running", "it does not run")
        return f"pid {self._pid()}"

    def printed(self) -> str:
        done = self.site.launchctl("print", self.target)
        facts, blocks = parse_print(done.out)
        missing = [name for name in ("state", "path", "pid") if name not in facts]
        if missing:
            raise Failed(f"without {', '.join(missing)}: {done.out[:600]}")
        return f"{len(facts)} facts, blocks: {', '.join(sorted(blocks))[:200]}"

    def again(self) -> str:
        before = self._pid()
        code, said = self.site.ctl("service", "install", "--yes")
        if code != 0 or said.get("written") or self._pid() != before:
            raise Failed(f"code {code}, pid {before} -> {self._pid()}: {said}")
        return ""

    def sockets(self) -> str:
        held = state_of(self.site.launchctl("print", self.target).out).sockets
        names = [name for name, _ in held]
        if LABEL not in names:
            raise Failed(f"launchd lists the sockets {names}; the daemon took the port itself")
        if not self.site.health():
            raise Failed("/health does not answer with 200")
        return ", ".join(names)

    def load(self) -> str:
        if not self.model:
            return "skip: name one with --model"
        code, said = self.site.ctl("load", self.model)
        if code != 0:
            raise Failed(str(said))
        self._backend = self._engine()
        return f"process {self._backend}"

    def restart(self) -> str:
        before = self._pid()
        started = self.site.clock()
        code, said = self.site.ctl("service", "restart")
        if code != 0:
            raise Failed(str(said))
        refused = self._knock()
        if refused or self._pid() == before:
            raise Failed(f"{refused} of {KNOCKS} refused; pid {before} -> {self._pid()}")
        return f"{self.site.clock() - started:.1f} s"

    def same(self) -> str:
        if not self._backend:
            return "skip: no model was loaded"
        found = self._engine()
        if found != self._backend:
            raise Failed(f"process {self._backend} before, {found or 'none'} now")
        return f"process {found}"

    def killed(self) -> str:
        before = self._pid()
        started = self.site.clock()
        self.site.kill(before, signal.SIGKILL)
        refused = self._knock()
        self._until(lambda: self._pid() not in (0, before), "it was not started again")
        if refused:
            raise Failed(f"{refused} of {KNOCKS} refused")
        return f"after {self.site.clock() - started:.1f} s (ThrottleInterval is 2 s)"

    def woken(self) -> str:
        before = self._pid()
        self.site.launchctl("kill", "SIGTERM", self.target)
        self._until(lambda: not self.site.alive(before), "it does not end")
        if not self.site.health():
            raise Failed("/health does not answer with 200")
        self._until(lambda: self._pid() not in (0, before), "it was not started by a client")
        return f"pid {self._pid()}"

    def quiet(self) -> str:
        folder = str(self.site.ctl("config", "path", "--all")[1].get("log", ""))
        size = self.site.size(f"{folder}/launchd.log")
        if size > 16384:
            raise Failed(f"{size} bytes: errors alone belong there")
        return f"{max(size, 0)} bytes"

    def stop(self) -> str:
        code, said = self.site.ctl("service", "stop", "--force")
        if code != 0:
            raise Failed(str(said))
        try:
            self.site.health()
        except ConnectionRefusedError:
            pass
        else:
            raise Failed("the port still answers")
        if self._backend and self.site.alive(self._backend):
            raise Failed(f"the model's process {self._backend} is still there")
        return ""

    def start(self) -> str:
        code, said = self.site.ctl("service", "start")
        if code != 0 or not self.site.health():
            raise Failed(f"code {code}: {said}")
        return f"pid {self._pid()}"

    def uninstall(self) -> str:
        if self.was_installed:
            return "skip: it was installed before, and stays"
        code, said = self.site.ctl("service", "uninstall", "--force")
        if code != 0 or self.site.launchctl("print", self.target).code == 0:
            raise Failed(f"code {code}, launchd still knows it: {said}")
        return ""

    # ------------------------------------------------------------ looking

    def _status(self) -> Mapping[str, Any]:
        answer = self.site.ctl("service", "status")[1]
        return answer if isinstance(answer, Mapping) else {}

    def _pid(self) -> int:
        return int(self._status().get("pid") or 0)

    def _engine(self) -> int:
        answer = self.site.ctl("ps")[1]
        rows = answer.get("backends", []) if isinstance(answer, Mapping) else answer
        return next((int(row["pid"]) for row in rows if row.get("model") == self.model), 0)

    def _knock(self) -> int:
        """Clients, one after the other; how many were refused."""
        refused = 0
        for _ in range(KNOCKS):
            try:
                self.site.health()
            except ConnectionRefusedError:
                refused += 1
        return refused

    def _until(self, true: Callable[[], bool], what: str) -> None:
        deadline = self.site.clock() + SECONDS
        while not true():
            if self.site.clock() > deadline:
                raise Failed(f"after {SECONDS:g} s {what}")
            self.site.sleep(POLL)
