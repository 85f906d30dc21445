"""Running the service manager's own programs, for commands that wait."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

SECONDS: Final = 180.0  # a start waits for READY, a stop for running requests


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended. 127: there is no such program; 124: it did not end in time."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def said(self) -> str:
        """Its words, the important ones first."""
        return (self.err.strip() or self.out.strip())[-600:]


Run = Callable[[Sequence[str]], Done]


def run_program(argv: Sequence[str], seconds: float = SECONDS) -> Done:
    """Run it to its end, without input. Never raises."""
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError:
        return Done(127, err=f"{argv[0]}: not found")
    except subprocess.TimeoutExpired:
        return Done(124, err=f"{argv[0]} did not end within {seconds:g} s")
    except OSError as error:
        return Done(126, err=str(error))
    return Done(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True, slots=True)
class State:
    """The service as its manager sees it. ``active``: running | starting | stopping | failed |
    stopped | unknown; ``since``: seconds for which it has been so; ``sockets``: name -> state."""

    installed: bool
    file: str = ""
    enabled: bool = False
    active: str = "stopped"
    pid: int | None = None
    since: float | None = None
    text: str = ""
    restarts: int = 0
    last_exit: str = ""
    sockets: tuple[tuple[str, str], ...] = ()
    unreadable: str = ""  # its file is there, and the manager cannot load it: why
    stale: bool = False  # the files were changed since the manager read them
