"""systemctl, loginctl and journalctl: what is asked of them, and what their answers mean."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from daemon.core.problems import Code, Problem, ProblemError
from daemon.service.places import LABEL, Scope
from daemon.service.programs import Done, Run, State, run_program

SERVICE: Final = f"{LABEL}.service"
SOCKET: Final = f"{LABEL}.socket"
_PROPERTIES: Final = (
    "LoadState", "ActiveState", "SubState", "Result", "MainPID", "ExecMainCode", "ExecMainStatus",
    "StatusText", "NRestarts", "StateChangeTimestampMonotonic", "UnitFileState", "FragmentPath",
    "NeedDaemonReload",
)  # fmt: skip
_ACTIVE: Final = {
    "active": "running",
    "reloading": "running",
    "activating": "starting",
    "deactivating": "stopping",
    "failed": "failed",
    "inactive": "stopped",
}
# si_code of waitid(2), as ExecMainCode has it
_EXITED, _KILLED, _DUMPED = "1", "2", "3"


@dataclass(slots=True)
class Systemd:
    """One of systemd's managers. All of it blocks. What fails raises ProblemError."""

    scope: Scope
    run: Run = run_program
    also: tuple[str, ...] = field(default=())  # units of sockets beside the fixed one

    def ctl(self, *words: str) -> Done:
        flag = ["--user"] if self.scope == "user" else []
        return self.run(["systemctl", *flag, "--no-ask-password", *words])

    def check(self) -> None:
        """Raises ProblemError where this manager cannot be asked."""
        done = self.ctl("show", "-p", "Version", "--value")
        if done.code == 0 and done.out.strip():
            return
        if done.code == 127:
            raise _problem(
                "There is no systemd on this machine.",
                "Start `modelportd --service --config FILE` by what starts programs here.",
            )
        if self.scope == "user":
            raise _problem(
                f"The systemd of user {os.geteuid()} does not answer: {done.said}",
                "Log in to the machine itself or by ssh (not by su or sudo), and see that "
                "libpam-systemd and dbus are installed; or take --system.",
            )
        raise _problem(f"systemd does not answer: {done.said}", "See `systemctl status`.")

    # ------------------------------------------------------------ changing

    def reread(self) -> None:
        self._must(self.ctl("daemon-reload"), "systemd cannot read its units again")

    def enable(self, units: Sequence[str]) -> None:
        self._must(self.ctl("enable", *units), "the service cannot be enabled")

    def disable(self, units: Sequence[str]) -> None:
        """Those that are gone already are no trouble."""
        for unit in units:
            self.ctl("disable", unit)

    def start(self) -> list[str]:
        """Sockets first, then wait until the service is ready. Ports beside the fixed one that
        cannot be had are returned, in words."""
        self.ctl("reset-failed", SERVICE, SOCKET, *self.also)
        self._must(self.ctl("start", SOCKET), "the port cannot be taken")
        failed = [
            f"{unit} cannot be started: {done.said}"
            for unit in self.also
            if (done := self.ctl("start", unit)).code != 0
        ]
        self._must(self.ctl("start", SERVICE), "the service does not start")
        return failed

    def stop(self) -> None:
        """Sockets as well: else the next client would start it again."""
        self._must(self.ctl("stop", SOCKET, *self.also, SERVICE), "the service does not stop")

    def restart(self) -> None:
        """The service alone: its sockets keep who connects meanwhile."""
        self.ctl("reset-failed", SERVICE)
        self._must(self.ctl("restart", SERVICE), "the service does not start again")

    def forget(self, units: Sequence[str]) -> None:
        """They are gone: let systemd lose its memory of their failures."""
        self.reread()
        self.ctl("reset-failed", *units)

    def _must(self, done: Done, what: str) -> None:
        if done.code != 0:
            scope = "--user " if self.scope == "user" else ""
            raise _problem(
                f"{what[0].upper()}{what[1:]}: {done.said}",
                f"`ctl service logs` shows why; so does `journalctl {scope}-u {LABEL} -n 50`.",
            )

    # ------------------------------------------------------------ looking

    def state(self) -> State:
        """The service and its sockets."""
        about = parse_show(self.ctl("show", SERVICE, "-p", ",".join(_PROPERTIES)).out)
        sockets = []
        for unit in (SOCKET, *self.also):
            one = parse_show(self.ctl("show", unit, "-p", "LoadState,ActiveState").out)
            if one.get("LoadState") == "loaded":
                sockets.append((unit, one.get("ActiveState", "unknown")))
        return state_of(about, tuple(sockets), time.clock_gettime(time.CLOCK_MONOTONIC))

    def journal(self, lines: int, *, follow: bool, form: str = "short-iso") -> list[str]:
        """The command that shows what it said."""
        unit = "--user-unit" if self.scope == "user" else "--unit"
        words = ["journalctl", f"{unit}={SERVICE}", "--no-pager", f"--lines={lines}"]
        return [*words, f"--output={form}", *(["--follow"] if follow else ["--quiet"])]

    # ------------------------------------------------------------ lingering

    def lingers(self, user: str) -> bool | None:
        """Whether it runs without a login; None: nobody can say."""
        done = self.run(["loginctl", "show-user", user, "-p", "Linger", "--value"])
        if done.code == 0:
            return done.out.strip() == "yes"
        marks = Path("/var/lib/systemd/linger")
        return (marks / user).exists() if marks.is_dir() else None

    def linger(self, user: str, wanted: bool) -> str:
        """Have it so; "" or why not."""
        verb = "enable-linger" if wanted else "disable-linger"
        done = self.run(["loginctl", "--no-ask-password", verb, user])
        return "" if done.code == 0 else done.said


def parse_show(text: str) -> dict[str, str]:
    """``systemctl show``: a ``Key=value`` on each line."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key: value for key, _, value in pairs}


def state_of(about: Mapping[str, str], sockets: tuple[tuple[str, str], ...], now: float) -> State:
    """What ``systemctl show`` means. ``now``: seconds of the clock that systemd counts by."""
    pid, changed = about.get("MainPID", "0"), about.get("StateChangeTimestampMonotonic", "0")
    restarts, load = about.get("NRestarts", "0"), about.get("LoadState", "")
    since = now - int(changed) / 1e6 if changed.isdecimal() and int(changed) else None
    return State(
        installed=load == "loaded",
        file=about.get("FragmentPath", ""),
        enabled=about.get("UnitFileState") == "enabled",
        active=_ACTIVE.get(about.get("ActiveState", ""), "unknown"),
        pid=int(pid) if pid.isdecimal() and int(pid) else None,
        since=since,
        text=about.get("StatusText", ""),
        restarts=int(restarts) if restarts.isdecimal() else 0,
        last_exit=ending(about),
        sockets=sockets,
        unreadable="" if load in ("", "loaded", "not-found", "stub") else load,
        stale=about.get("NeedDaemonReload") == "yes",
    )


def ending(about: Mapping[str, str]) -> str:
    """How its process ended the last time, in words; "" if it has not."""
    code, status = about.get("ExecMainCode", "0"), about.get("ExecMainStatus", "0")
    words = ""
    if code == _EXITED:
        words = f"exit code {status}"
        words += " (mend its configuration first)" if status == "78" else ""
    elif code in (_KILLED, _DUMPED):
        words = f"signal {signal_name(status)}"
    if about.get("Result") == "watchdog":
        words = f"{words}, it gave no sign of life (watchdog)".removeprefix(", ")
    elif about.get("Result") == "timeout":
        words = f"{words}, it took too long".removeprefix(", ")
    return words


def signal_name(number: str) -> str:
    """``6`` -> ``SIGABRT``."""
    import signal

    try:
        return signal.Signals(int(number)).name
    except ValueError:
        return number


def _problem(message: str, hint: str) -> ProblemError:
    return ProblemError(Problem(Code.INVALID_REQUEST, message, hint))
