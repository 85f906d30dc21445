"""Where the daemon of this machine is: its state, its record of itself, its socket.

Standard library only (but for platformdirs where no variable says), so that ``ctl`` starts fast.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

SOCKET_ENV: Final = "MODELPORT_CONTROL_SOCKET"
FACTS_LIMIT: Final = 65536  # bytes of the daemon's record of itself; it has 300
SYSTEM_RUN: Final = Path("/run/modelport")
"""Where the daemon of a whole machine has its sockets; `daemon.config.paths` knows it as well."""


def state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the daemon keeps its state; the same rule as ``daemon.config.paths``."""
    if given := environ.get("MODELPORT_STATE_DIR"):
        return absolute(given)
    from platformdirs import user_state_path  # 10 ms, and only without the variable

    return user_state_path("modelport", appauthor=False).absolute()


def absolute(text: str) -> Path:
    """A path as somebody wrote it; ``~user`` of nobody known stays as it is."""
    return Path(os.path.expanduser(text)).absolute()  # noqa: PTH111 - never raises


def daemon_facts(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What the running daemon wrote about itself (``<state>/daemon.json``); {} if there is none."""
    try:
        facts = json.loads(_own_file(state_dir(environ) / "daemon.json"))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _own_file(path: Path) -> bytes:
    """Its bytes, if it is a plain file of ours: else anybody could name us a socket. OSError,
    ValueError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or os.geteuid() not in (0, about.st_uid):
            raise ValueError("it is no plain file of ours")
        if stat.S_IMODE(about.st_mode) & 0o022:
            raise ValueError("others can write to it")
        return file.read(FACTS_LIMIT)


def find_socket(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The daemon's control socket: the environment, then its own record, then the usual places.

    None if there is no socket in any of them. A socket that is named but does not exist is
    returned as it is: the error should name it.
    """
    if given := environ.get(SOCKET_ENV):
        return Path(given)
    if recorded := daemon_facts(environ).get("socket"):
        return Path(str(recorded))
    places = [state_dir(environ) / "run"]
    session = environ.get("XDG_RUNTIME_DIR", "")
    if session.startswith("/"):
        places.insert(0, Path(session) / "modelport")
    if given := environ.get("MODELPORT_RUNTIME_DIR"):
        places.insert(0, absolute(given))
    places.append(SYSTEM_RUN)
    return next((p / "control.sock" for p in places if is_socket(p / "control.sock")), None)


def is_socket(path: Path) -> bool:
    """Whether a unix socket is there (somebody may listen on it or not)."""
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False
