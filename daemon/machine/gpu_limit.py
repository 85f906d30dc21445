"""Raise the limit of what a Mac's GPU may wire, and put it back. For ``ctl``, never for the daemon.

It runs ``sudo sysctl`` once, on a person's word, and writes nothing that outlives a restart of the
Mac: the limit is then the system's own again. What it was before is kept in the state directory.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon.config.paths import ensure_private
from daemon.core.problems import Code, Problem, ProblemError
from daemon.core.units import MIB, format_bytes
from daemon.files import read_private, write_private
from daemon.machine.base import USER_LIMIT
from daemon.machine.wired_limit import most_mb

_SYSCTL: Final = "/usr/sbin/sysctl"
_SECONDS: Final = 300.0  # a person types a password; sudo itself waits for five minutes
_RECORD: Final = "gpu-limit.json"
_MAX_RECORD: Final = 4096  # bytes
# Less than this leaves the GPU nothing for the screen.
_LEAST_MB: Final = 1024

Run = Callable[[Sequence[str]], tuple[int, str]]
"""Runs a program: (exit status, what it printed). Its errors go to the terminal."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A change that has been checked and not been made. In mebibytes; 0 is the system's own share.

    ``before``: what was set before our first change, to be put back; ``total``: bytes of memory.
    """

    old: int
    new: int
    before: int
    total: int

    @property
    def argv(self) -> tuple[str, ...]:
        """What is run as root."""
        return ("sudo", _SYSCTL, f"{USER_LIMIT}={self.new}")


def plan_raise(to_mb: int | None, state_dir: Path, *, platform: str, run: Run) -> Plan:
    """Check a new limit; None: the largest that leaves the system enough.

    Raises ProblemError where this is no Mac, or where the limit is too low, too high, or there.
    """
    old, total = _now(platform, run)
    most = most_mb(total)
    new = most if to_mb is None else to_mb
    if not _LEAST_MB <= new <= most:
        text = f"The GPU's limit cannot be {new} MiB; {_LEAST_MB} to {most} MiB are possible here."
        hint = f"This Mac has {format_bytes(total)}, and the system needs some of it."
        raise _refuse(text, hint)
    if old and new <= old:
        text = f"The GPU's limit is {old} MiB already."
        raise _refuse(text, "To lower it: ctl memory restore, then raise it to what you want.")
    record = _read(state_dir)
    ours = record is not None and record[1] == old
    return Plan(old, new, record[0] if record and ours else old, total)


def plan_restore(state_dir: Path, *, platform: str, run: Run) -> Plan:
    """Check what was there before :func:`apply` raised it.

    Raises ProblemError where there is nothing to put back, or where another has changed it since.
    """
    old, total = _now(platform, run)
    record = _read(state_dir)
    if record is None or old == record[0]:
        if record is not None:  # the Mac was restarted since
            _forget(state_dir)
        text = f"There is nothing to restore: the GPU's limit is {describe(old)}."
        hint = f"sudo sysctl {USER_LIMIT}=0 sets the system's own." if old else ""
        raise _refuse(text, hint)
    before, ours = record
    if old != ours:
        text = f"The GPU's limit is {old} MiB, not the {ours} MiB that ctl set: it was left alone."
        raise _refuse(text, f"sudo sysctl {USER_LIMIT}={before} sets what was there before.")
    return Plan(old, before, before, total)


def apply(plan: Plan, state_dir: Path, *, run: Run, interactive: bool) -> None:
    """Make the change. ``interactive``: there is a terminal on which sudo may ask.

    Raises ProblemError where sudo refuses, or where the limit is not what it should be then.
    """
    kept = _read(state_dir)
    if plan.new != plan.before:  # written first: what is changed can always be put back
        _write(state_dir, plan.before, plan.new)
    argv = plan.argv if interactive else (plan.argv[0], "-n", *plan.argv[1:])
    status, _ = run(argv)
    now = _value(USER_LIMIT, run)
    if now == plan.new:
        if plan.new == plan.before:
            _forget(state_dir)
        return
    if kept is None:
        _forget(state_dir)
    else:
        _write(state_dir, *kept)
    line = " ".join(plan.argv)
    if status != 0:
        raise _refuse(f"{' '.join(argv)} failed (status {status}): nothing was changed.", line)
    raise _refuse(f"The system took {now} MiB for {plan.new} MiB.", f"Try it by hand: {line}")


def describe(limit: int) -> str:
    """A limit in mebibytes for people."""
    return f"{limit} MiB ({format_bytes(limit * MIB)})" if limit else "the system's own"


def run_program(argv: Sequence[str]) -> tuple[int, str]:
    """Run a program on this terminal; 127 where it cannot be started or does not end."""
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 127, ""
    return done.returncode, done.stdout.decode(errors="replace")


def _now(platform: str, run: Run) -> tuple[int, int]:
    """(limit, bytes of memory) of this Mac."""
    if platform != "darwin":
        text = "Only macOS limits what the GPU may take: there is nothing to raise here."
        raise _refuse(text, "`ctl doctor` shows the memory of this machine and its budgets.")
    limit, total = _value(USER_LIMIT, run), _value("hw.memsize", run)
    if limit is None or not total:
        text = f"This Mac does not know {USER_LIMIT}."
        raise _refuse(text, "It needs Apple Silicon and macOS 14 or later.")
    return limit, total


def _value(name: str, run: Run) -> int | None:
    status, text = run((_SYSCTL, "-n", name))
    text = text.strip()
    return int(text) if status == 0 and text.isdecimal() else None


def _read(state_dir: Path) -> tuple[int, int] | None:
    """(what was there before, what we have set), or None."""
    try:
        found = json.loads(read_private(state_dir / _RECORD, _MAX_RECORD))
        before, ours = found["before"], found["set"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # nothing of ours, or damaged: then nothing is put back by itself
    return (before, ours) if isinstance(before, int) and isinstance(ours, int) else None


def _write(state_dir: Path, before: int, ours: int) -> None:
    ensure_private(state_dir)
    path = state_dir / _RECORD
    try:
        write_private(path, json.dumps({"before": before, "set": ours}).encode())
    except OSError as error:
        reason = error.strerror or str(error)
        raise _refuse(f"{path} cannot be written: {reason}.", "Nothing was changed.") from None


def _forget(state_dir: Path) -> None:
    (state_dir / _RECORD).unlink(missing_ok=True)


def _refuse(message: str, hint: str = "") -> ProblemError:
    return ProblemError(Problem(Code.INVALID_REQUEST, message, hint))
