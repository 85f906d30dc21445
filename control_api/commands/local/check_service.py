"""What ``ctl doctor`` says of the login service: what systemd or launchd tells."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from control_api.commands.local.checks import Check

if TYPE_CHECKING:
    from daemon.service.launchd import Launchd
    from daemon.service.programs import Run, State
    from daemon.service.systemd import Systemd

NAME: Final = "service"
SECONDS: Final = 3.0  # for one question; a manager that takes longer is ill
NOT_INSTALLED: Final = Check(
    NAME, "ok", "not installed: the daemon runs while `ctl serve` does (ctl service install)"
)


def check_service(platform: str = sys.platform, run: Run | None = None) -> Iterator[Check]:
    """Whether it is installed, for this user or for the machine; runs, and outlives a logout."""
    from control_api.commands.local.serviced import manager_of, places, session
    from daemon.core.problems import ProblemError
    from daemon.service.programs import run_program

    if platform != "darwin" and not platform.startswith("linux"):
        return
    session()
    ask, found, troubles = run or partial(run_program, seconds=SECONDS), False, []
    for scope in ("user", "system"):
        manager = manager_of(places(scope, platform), ask)
        try:
            manager.check()
        except ProblemError as error:
            troubles.append(error.problem.message)
            continue
        state = manager.state()
        if state.installed or state.unreadable:
            found = True
            yield judge(state, scope)
            yield from _linger(manager)
    if not found and troubles:
        yield Check(NAME, "ok", f"not installed, as far as can be seen: {troubles[0]}")
    elif not found:
        yield NOT_INSTALLED


def judge(state: State, whose: str) -> Check:
    """One installation of the service. ``whose``: user | system."""
    named = f"the {whose} service"
    if state.unreadable:
        text = f"{named}'s file cannot be loaded ({state.unreadable})"
        return Check(NAME, "fail", text, "ctl service install writes it anew.")
    ended = state.last_exit or "no reason is told"
    if state.active == "failed":
        said = f"; it said: {state.text}" if state.text else ""
        text = f"{named} does not run: it has ended with {ended}{said}"
        return Check(NAME, "fail", text, "ctl service logs; then: ctl service start")
    if state.active in ("starting", "stopping"):
        text = f"{named} is {state.active}"
        if not state.restarts:
            return Check(NAME, "ok", text)
        text += f", {state.restarts} restarts so far; before it ended with {ended}"
        return Check(NAME, "warn", text, "ctl service logs")
    listens = any(how in ("active", "listening") for _, how in state.sockets)
    if state.active != "running" and not listens:
        return Check(NAME, "warn", f"{named} is installed and does not run", "ctl service start")
    what = "runs" if state.active == "running" else "starts with the first connection"
    if not state.enabled:
        text = f"{named} {what}, but will not after a restart of the machine"
        return Check(NAME, "warn", text, "ctl service install")
    return Check(NAME, "ok", f"{named} {what}, and does so at login")


def _linger(manager: Systemd | Launchd) -> Iterator[Check]:
    from daemon.service.systemd import Systemd

    if manager.scope != "user" or not isinstance(manager, Systemd):
        return
    lingers = manager.lingers(_user())
    if lingers is False:
        said = "the user service ends when you log out, and does not start before you log in"
        yield Check("linger", "warn", said, "loginctl enable-linger, if it should run always.")
    elif lingers:
        yield Check("linger", "ok", "the user service runs without a login as well")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as in containers
        return str(os.getuid())
