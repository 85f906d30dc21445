"""Running a client in the foreground: terminal, signals and exit status are its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, Final

from control_api.client import RefusedError

# The terminal sends these to its whole foreground group, so the client has them already.
_THEIRS: Final = (signal.SIGINT, signal.SIGQUIT)
_PASSED_ON: Final = (signal.SIGTERM, signal.SIGHUP)


def run(
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    pass_fds: Sequence[int] = (),
    wire: int | None = None,
    folder: str | None = None,
) -> int:
    """Run it (in ``folder``) to its end; the result is its exit status, 128 + N after signal N.

    ``wire``: a descriptor that takes signals as bytes, for a client in a sandbox; what stands
    between (bubblewrap) then ignores those of the terminal. Raises ``RefusedError``.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    before = {number: signal.getsignal(number) for number in (*_THEIRS, *_PASSED_ON)}
    try:
        for number in _THEIRS:
            # a handler is gone after exec, what is ignored stays so
            signal.signal(number, _nothing if wire is None else signal.SIG_IGN)
        begun = _passing_on(wire)
        try:
            child = subprocess.Popen(argv, env=dict(env), pass_fds=pass_fds, cwd=folder)
        except OSError as error:
            text = f"{argv[0]} cannot be started: {error.strerror}."
            raise RefusedError("client_failed", text) from None
        begun(child.pid)
        return _wait(child)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(child: subprocess.Popen[bytes]) -> int:
    while True:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            if os.isatty(0):  # the shell takes over, and continues us
                os.kill(os.getpid(), signal.SIGSTOP)
            os.kill(child.pid, signal.SIGCONT)
            continue
        code = os.waitstatus_to_exitcode(status)
        child.returncode = code  # reaped here: Popen must not look for it
        return code if code >= 0 else 128 - code


def _passing_on(wire: int | None) -> Callable[[int], None]:
    """Pass signals on from now on: those that come before the client's pid is told, then."""
    clients: list[int] = []
    early: list[int] = []

    def pass_on(number: int, _: FrameType | None = None) -> None:
        if not clients:
            early.append(number)
            return
        try:
            if wire is None:
                os.kill(clients[0], number)
            else:
                os.write(wire, bytes([number]))
        except OSError:
            return  # it has ended

    def begun(pid: int) -> None:
        clients.append(pid)
        for number in early:
            pass_on(number)

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    return begun


def _nothing(*_: Any) -> None:
    """For signals that the client gets from the terminal itself."""
