"""From one daemon to the next: has the new one answered, and taken the loaded models over?"""

from __future__ import annotations

import http.client
import os
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from control_api.client import PING_SECONDS, Client, RefusedError, UnreachableError

POLL: Final = 0.1
"""Seconds between two looks."""
WAIT: Final = 45.0
"""Seconds for a new daemon, less than backends live without one: so there is time to go back."""
_LIVING: Final = ("ready", "draining")


@dataclass(frozen=True, slots=True)
class Seen:
    """A daemon. ``backends``: model -> process of its engine, of those that are loaded."""

    pid: int
    version: str
    url: str
    mode: str = "service"
    healthy: bool = True
    backends: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """``waiting``: why it is not over; "": it is. ``kept``: models that answer from the process of
    before; ``lost``: those whose process the new daemon has ended, or which have left."""

    waiting: str = ""
    kept: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


def judge(before: Seen, wanted: str, now: Seen | None, alive: Callable[[int], bool]) -> Verdict:
    """How far it is. ``wanted``: the version that has to answer."""
    if now is None:
        return Verdict("no daemon answers")
    if now.pid == before.pid:
        return Verdict("the daemon of before still answers")
    if now.version != wanted:
        return Verdict(f"version {now.version} answers, not {wanted}")
    if not now.healthy:
        return Verdict(f"{now.url}/health does not answer")
    kept, lost = [], []
    for model, pid in sorted(before.backends.items()):
        if now.backends.get(model) == pid:
            kept.append(model)
        elif alive(pid):
            return Verdict(f"{model} has not been taken over")
        else:
            lost.append(model)
    return Verdict("", tuple(kept), tuple(lost))


def look(client: Client) -> Seen | None:
    """The daemon that answers now."""
    try:
        status = client.get("/status", seconds=PING_SECONDS)
        rows = client.get("/backends", seconds=PING_SECONDS)["backends"]
    except (UnreachableError, RefusedError):
        return None
    loaded = {
        str(row["model"]): int(row["pid"])
        for row in rows
        if row.get("pid") and row.get("state") in _LIVING
    }
    url = str(status.get("url", ""))
    return Seen(
        int(status["pid"]),
        str(status["version"]),
        url,
        str(status.get("mode", "")),
        healthy(url),
        loaded,
    )


def healthy(url: str) -> bool:
    """Whether ``/health`` on the fixed port says 200."""
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":  # its own certificate: who it is, the control socket has told
        unchecked = ssl._create_unverified_context()  # noqa: S323
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=PING_SECONDS, context=unchecked
        )
    else:
        connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port, timeout=PING_SECONDS
        )
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def await_daemon(client: Client, before: Seen, wanted: str, seconds: float) -> Verdict:
    """Look until it is over, or until the time is."""
    deadline = time.monotonic() + seconds
    while True:
        verdict = judge(before, wanted, look(client), alive)
        if not verdict.waiting or time.monotonic() >= deadline:
            return verdict
        time.sleep(POLL)


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    with suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
