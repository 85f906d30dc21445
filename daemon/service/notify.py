"""What systemd is told, where it listens (``NOTIFY_SOCKET``); nothing happens elsewhere.

STATUS is made ASCII here: the sdnotify package loses other characters.
"""

from __future__ import annotations

import socket
import unicodedata
import warnings
from collections.abc import Mapping
from contextlib import suppress

import sdnotify


def watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    """Seconds between two signs of life that systemd wants (``WatchdogSec``), half of its limit;
    None: it wants none."""
    usec = environ.get("WATCHDOG_USEC", "")
    for_us = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
    return int(usec) / 2_000_000 if usec.isdecimal() and int(usec) > 0 and for_us else None


class Notifier:
    """READY, STATUS, RELOADING and STOPPING for ``Type=notify`` units (sd_notify(3))."""

    def __init__(self) -> None:
        with warnings.catch_warnings():  # where nobody listens it drops its socket unclosed
            warnings.simplefilter("ignore", ResourceWarning)
            self._socket = sdnotify.SystemdNotifier()
        if self._socket.socket is not None:  # systemd that does not read must not hold us up
            self._socket.socket.setblocking(False)

    def ready(self, status: str) -> None:
        self._socket.notify(f"READY=1\nSTATUS={ascii_text(status)}")

    def status(self, text: str) -> None:
        """What ``systemctl status`` shows of us, from now on."""
        self._socket.notify(f"STATUS={ascii_text(text)}")

    def reloading(self) -> None:
        self._socket.notify("RELOADING=1")

    def alive(self) -> None:
        """The watchdog's food; see ``daemon.service.watchdog``."""
        self._socket.notify("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """Starting or stopping takes this much longer, counted from now: it goes on well."""
        self._socket.notify(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")

    def stopping(self) -> None:
        self._socket.notify("STOPPING=1\nSTATUS=draining")

    @property
    def heard(self) -> bool:
        """Does anybody listen?"""
        return self._socket.socket is not None

    def store(self, sock: socket.socket, name: str) -> None:
        """Have systemd keep it beyond our end, and hand it to the next of us under this name
        (``FileDescriptorStoreMax=``). ``name``: ASCII without colons."""
        if self._socket.socket is not None:
            with suppress(OSError):  # systemd that does not read: it is as if there were none
                message = f"FDSTORE=1\nFDNAME={name}".encode("ascii")
                socket.send_fds(self._socket.socket, [message], [sock.fileno()])

    def forget(self, name: str) -> None:
        """It is not to be kept any more."""
        self._socket.notify(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def close(self) -> None:
        """Nothing is told any more."""
        if self._socket.socket is not None:
            self._socket.socket.close()


def ascii_text(text: str) -> str:
    """One line of plain ASCII: accents are dropped, other characters become ``?``."""
    plain = unicodedata.normalize("NFKD", text)
    kept = "".join(c for c in plain if not unicodedata.combining(c))
    return " ".join(kept.encode("ascii", "replace").decode("ascii").split())
