"""What ``ctl doctor`` says of the login service: what systemd or launchd tells."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from control_api.commands.local.checks import Check

NAME: Final = "service"
UNITS: Final = ("modelport.service", "modelport.socket")
LABEL: Final = "modelport"
SECONDS: Final = 3.0  # for one question; a manager that takes longer is ill
INSTALL: Final = "ctl service install"
NOT_INSTALLED: Final = Check(
    NAME, "ok", f"not installed: the daemon runs while `ctl serve` does ({INSTALL})"
)
_SHOWN: Final = "Id,LoadState,ActiveState,UnitFileState,Result,NRestarts"

Run = Callable[[Sequence[str]], tuple[int, str]]
"""Runs a program: (exit status, stdout and stderr together); 127: it is not there, 124: no end."""


def run(argv: Sequence[str]) -> tuple[int, str]:
    """See :data:`Run`."""
    program = shutil.which(argv[0])
    if program is None:
        return 127, f"{argv[0]} is not there"
    try:
        done = subprocess.run(
            [program, *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, f"no answer within {SECONDS:g} s"
    except OSError as error:
        return 126, str(error)
    return done.returncode, done.stdout.decode("utf-8", "replace")


def check_service(platform: str = sys.platform, run: Run = run) -> Iterator[Check]:
    """Whether it is installed, runs, and outlives a logout."""
    if platform == "darwin":
        yield _launchd(run)
    elif platform.startswith("linux"):
        yield from _systemd(run)


def parse_units(text: str) -> dict[str, dict[str, str]]:
    """``systemctl show`` of several units: their properties by name."""
    units: dict[str, dict[str, str]] = {}
    for block in re.split(r"\n\s*\n", text):
        pairs = (line.partition("=") for line in block.splitlines())
        values = {key.strip(): value.strip() for key, sign, value in pairs if sign}
        if "Id" in values:
            units[values["Id"]] = values
    return units


def _systemd(run: Run) -> Iterator[Check]:
    found = False
    troubles = []
    for flags, whose in ((("--user",), "user"), ((), "system")):
        status, text = run(("systemctl", *flags, "show", *UNITS, f"--property={_SHOWN}"))
        units = parse_units(text)
        if status == 127:
            yield Check(NAME, "ok", "no systemd here: the daemon runs in the foreground")
            return
        if status != 0 or not units:
            troubles.append(f"{whose}: {_first(text) or f'exit status {status}'}")
        elif units.get(UNITS[0], {}).get("LoadState") != "not-found":
            found = True
            yield judge_units(units, whose)
            if whose == "user":
                yield from _linger(run)
    if not found and troubles:
        why = "; ".join(troubles)
        yield Check(NAME, "ok", f"not installed, as far as systemd answers ({why})")
    elif not found:
        yield NOT_INSTALLED


def judge_units(units: Mapping[str, Mapping[str, str]], whose: str) -> Check:
    """One installation of the service, by what systemd shows of it."""
    service, socket = units.get(UNITS[0], {}), units.get(UNITS[1], {})
    flag = " --user" if whose == "user" else ""
    logs = f"journalctl{flag} --unit modelport --lines 50"
    active, load = service.get("ActiveState", ""), service.get("LoadState", "")
    listens = socket.get("ActiveState") == "active"
    enabled = "enabled" in (service.get("UnitFileState"), socket.get("UnitFileState"))
    if load not in ("loaded", ""):
        text = f"the {whose} unit cannot be loaded ({load})"
        return Check(NAME, "fail", text, f"{INSTALL} writes it anew.")
    if active == "failed":
        text = f"the {whose} service has failed ({service.get('Result') or 'no reason given'})"
        return Check(NAME, "fail", text, f"{logs}; then: ctl service start")
    if active in ("activating", "reloading"):
        restarts = service.get("NRestarts", "0")
        text = f"the {whose} service is starting ({restarts} restarts so far)"
        return Check(NAME, "ok" if restarts in ("", "0") else "warn", text, logs)
    if active != "active" and not listens:
        text = f"the {whose} service is installed and does not run"
        return Check(NAME, "warn", text, "ctl service start")
    what = "runs" if active == "active" else "starts with the first connection"
    if not enabled:
        text = f"the {whose} service {what}, but will not after a restart of the machine"
        return Check(NAME, "warn", text, f"systemctl{flag} enable modelport.socket modelport")
    return Check(NAME, "ok", f"the {whose} service {what}, and does so at login")


def _linger(run: Run) -> Iterator[Check]:
    status, text = run(("loginctl", "show-user", _user(), "--property=Linger"))
    if status == 0 and text.strip() == "Linger=no":
        said = "the user service ends when you log out, and does not start before you log in"
        yield Check("linger", "warn", said, "loginctl enable-linger, if it should run always.")
    elif status == 0 and text.strip() == "Linger=yes":
        yield Check("linger", "ok", "the user service runs without a login as well")


def _launchd(run: Run) -> Check:
    for domain, whose in ((f"gui/{os.getuid()}", "agent"), ("system", "daemon")):
        status, text = run(("launchctl", "print", f"{domain}/{LABEL}"))
        if status == 127:
            return Check(NAME, "ok", "no launchd here: the daemon runs in the foreground")
        if status == 124:
            return Check(NAME, "warn", f"launchctl: {text}", "Try again, or restart the machine.")
        if status == 0:
            return judge_agent(text, f"{domain}/{LABEL}", whose)
    return NOT_INSTALLED


def judge_agent(text: str, target: str, whose: str) -> Check:
    """What ``launchctl print`` shows: made for people, so only ``state`` and the last exit code
    are looked for."""
    state = re.search(r"^\s*state = (.+)$", text, re.MULTILINE)
    code = re.search(r"^\s*last exit code = (-?\d+)", text, re.MULTILINE)
    if state is not None and state[1].strip() == "running":
        return Check(NAME, "ok", f"the launchd {whose} runs")
    ended = code is not None and code[1] != "0"
    found = state[1].strip() if state else "unknown"
    words = f"the launchd {whose} is installed and does not run (state: {found}"
    words += f", last exit code {code[1]})" if ended and code is not None else ")"
    fix = f"launchctl kickstart {target}; its log: ctl logs daemon"
    return Check(NAME, "fail" if ended else "warn", words, fix)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as in containers
        return str(os.getuid())


def _first(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:200]
