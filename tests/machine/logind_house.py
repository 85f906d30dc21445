"""A private D-Bus with a logind on it that knows locks and signals, and puts nothing to sleep.

A real ``dbus-daemon`` (Debian: apt-get install dbus). ``Logind.locks`` are those that are held now,
as ``(what, mode, who)``: a lock is a pipe, and is let go when its other end is closed.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jeepney import (  # type: ignore[import-untyped]
    DBusAddress,
    HeaderFields,
    MessageType,
    message_bus,
    new_error,
    new_method_return,
    new_signal,
)
from jeepney.io.blocking import open_dbus_connection  # type: ignore[import-untyped]

from daemon.machine import logind

PROGRAMS = ("dbus-daemon", "systemd-inhibit")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
<allow own="*"/><allow send_type="signal"/></policy></busconfig>
"""
EMITTER = DBusAddress(logind.PATH, logind.SENDER, logind.INTERFACE)


@dataclass
class Logind:
    """See the module. ``refuses``: it gives no lock, as polkit may say."""

    address: str
    refuses: bool = False
    locks: dict[int, tuple[str, str, str]] = field(default_factory=dict)  # by our end of the pipe
    _stop: tuple[int, int] = field(default_factory=os.pipe)
    _up: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _connection: Any = None

    @property
    def held(self) -> list[tuple[str, str, str]]:
        return sorted(self.locks.values())

    def start(self) -> None:
        self._connection = open_dbus_connection(bus=self.address, enable_fds=True)
        self._connection.send_and_get_reply(message_bus.RequestName(logind.SENDER))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def sleeps(self, begins: bool) -> None:
        """Tell everybody. From another connection: signals may come from any thread."""
        self._connection.send(new_signal(EMITTER, logind.MEMBER, "b", (begins,)))

    def stop(self) -> None:
        os.write(self._stop[1], b"x")
        assert self._thread is not None
        self._thread.join(5)
        self._connection.close()
        for end in (*self.locks, *self._stop):
            os.close(end)

    def _serve(self) -> None:
        while True:
            waiting = [self._connection.sock, self._stop[0], *self.locks]
            readable, _, _ = select.select(waiting, [], [])
            if self._stop[0] in readable:
                return
            for end in [end for end in readable if end in self.locks]:
                os.close(end)
                del self.locks[end]
            if self._connection.sock in readable:
                with suppress(TimeoutError):
                    self._answer(self._connection.receive(timeout=0.5))

    def _answer(self, message: Any) -> None:
        header = message.header
        if header.message_type is not MessageType.method_call:
            return
        if header.fields.get(HeaderFields.member) != "Inhibit" or self.refuses:
            error = "org.freedesktop.DBus.Error.AccessDenied"
            self._connection.send(new_error(message, error, "s", ("Permission denied",)))
            return
        what, who, _, mode = message.body
        ours, theirs = os.pipe()
        self.locks[ours] = (what, mode, who)
        self._connection.send(new_method_return(message, "h", (theirs,)))
        os.close(theirs)


@contextmanager
def private_logind(folder: Path) -> Iterator[Logind]:
    """A bus and a logind on it, in this folder (a short path)."""
    path = folder / "bus"
    config = folder / "bus.conf"
    config.write_text(CONFIG.format(path=path))
    bus = subprocess.Popen(
        ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert bus.stdout is not None
        bus.stdout.readline()  # it listens
        found = Logind(f"unix:path={path}")
        found.start()
        try:
            yield found
        finally:
            found.stop()
    finally:
        bus.terminate()
        bus.wait(10)
        assert bus.stdout is not None
        bus.stdout.close()
