"""A mark per start: by it everything that an engine started is found, also when its keeper was
killed and its processes have no parent any more that tells whose they are.

It is a variable of the engine's environment, which its children inherit, whatever session they
open. It is no secret, and no two starts share one, so a process that carries it is of that start.
A process that throws its environment away is not found by it. Blocks: for a thread.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Mapping

import psutil

from daemon.backends import keeper as program

NAME = "MODELPORT_START"
# py-setproctitle (vLLM names its workers by it) else writes a title over what other processes see
# of the environment: "SPT_NOENV" in its README.
KEEP_VISIBLE = {"SPT_NOENV": "1"}
PATIENCE = 15.0  # seconds from the first KILL; freeing what a large engine holds takes some
CLEAN = 3  # looks in a row that find nobody: one alone misses who was forked meanwhile
PAUSE, LONGEST_PAUSE = 0.01, 0.2  # seconds between two rounds, the first and the later ones


def fresh(backend: str, generation: int) -> str:
    """A mark that no start had before; the words in front are for people who read it."""
    name = backend.encode("ascii", "replace").decode()
    return f"{name}/{generation}/{secrets.token_hex(16)}"


def marked(env: Mapping[str, str], mark: str) -> dict[str, str]:
    """The engine's environment, with its mark."""
    return {**KEEP_VISIBLE, **env, NAME: mark}


def carriers(mark: str) -> dict[int, str]:
    """Processes of this user that carry exactly this mark: pid and start token. Never ourselves."""
    found = {}
    for pid in reversed(psutil.pids()):  # the newest first: they come and go
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            if pid == os.getpid() or process.uids().real != os.getuid():
                continue
            start = program.start_token(pid)
            if start is not None and process.environ().get(NAME) == mark:
                found[pid] = start
    return found


def end_all(
    mark: str, others: Mapping[int, str] | None = None, *, patience: float = PATIENCE
) -> bool:
    """KILL to all that carry ``mark`` ("": nobody does) and to ``others`` (pid and start token),
    again until none is left. False if some still live after ``patience`` seconds."""
    left, pause, clean = dict(others or {}), PAUSE, 0
    deadline = time.monotonic() + patience
    while True:
        if mark:
            left |= carriers(mark)
        left = {pid: start for pid, start in left.items() if alive(pid, start)}
        clean = 0 if left else clean + 1
        if clean == (CLEAN if mark else 1):
            return True
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if left and time.monotonic() >= deadline:
            return False
        time.sleep(PAUSE if clean else pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def alive(pid: int, start: str) -> bool:
    """Whether it is still that process, and holds anything: the dead hold no memory."""
    if program.start_token(pid) != start:
        return False
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
