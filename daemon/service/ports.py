"""Taking the fixed port, and saying who has it when it is taken. (``handed`` has those that a
service manager holds for us.)"""

from __future__ import annotations

import asyncio
import errno
import pwd
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from daemon.core.problems import Code, Problem, ProblemError
from daemon.logs.lines import escape
from daemon.logs.redact import redact

Bind = Callable[[str, int], socket.socket]
BACKLOG = 1024
COMMAND = 160  # characters of a command line that are shown
TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
TRIES = 100  # ports after the fixed one that are looked at for an offer


def bind(host: str, port: int) -> socket.socket:
    """A listening socket on the fixed address. Raises ProblemError: taken, or not ours.

    It listens at once: whoever connects while the rest is being imported waits and is served.
    Never another port than the one asked for: the fixed URL is the promise.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:  # a machine without IPv6
        raise ProblemError(_why(error, host, port)) from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ProblemError(_why(error, host, port)) from None
    return sock


async def bind_aside(bind: Bind, host: str, port: int) -> socket.socket:
    """``bind`` in a thread: finding out who holds a taken port may take a moment. Raises
    ProblemError. A thread is not cut short: what it binds when nobody waits any more is closed."""
    binding = asyncio.ensure_future(asyncio.to_thread(bind, host, port))
    try:
        return await asyncio.shield(binding)
    except asyncio.CancelledError:
        with suppress(ProblemError):
            (await binding).close()
        raise


def url(host: str, port: int, scheme: str = "http") -> str:
    """The address as a client writes it."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _why(error: OSError, host: str, port: int) -> Problem:
    if error.errno == errno.EADDRINUSE:
        offer = offered(host, port)
        hint = f"Port {offer} is free: ctl serve --port {offer}" if offer else "Free it first."
        hint += ", or set server.port in the configuration for good." if offer else ""
        return Problem(
            Code.CONFIG_INVALID,
            f"Port {port} on {host} is taken by {holder(port)}.",
            hint,
            facts={"port": port, "offer": offer},
        )
    reason = error.strerror or str(error)
    return Problem(
        Code.CONFIG_INVALID,
        f"The address {host}:{port} cannot be used: {reason}.",
        "Set server.host and server.port to an address of this machine.",
        facts={"port": port},
    )


@dataclass(frozen=True, slots=True)
class Holder:
    """Who listens on a port, as far as this user may see. ``command`` is without secrets and on
    one line; ``user`` is known where the program is not."""

    program: str = ""
    pid: int | None = None
    command: str = ""
    user: str = ""

    @property
    def text(self) -> str:
        """In words."""
        if self.program:
            how = f", started as: {self.command}" if self.command else ""
            return f"{self.program} (pid {self.pid}){how}"
        if self.user:
            return f"a program of {self.user}"
        return "another program (not one of this user's)"


def find_holder(port: int) -> Holder:
    """Who listens on ``port``."""
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            at = getattr(connection.laddr, "port", None)
            if connection.status == psutil.CONN_LISTEN and at == port and connection.pid:
                process = psutil.Process(connection.pid)
                return Holder(process.name(), process.pid, _command(process))
    return Holder(user=_owner(port))


def holder(port: int) -> str:
    """The same in words."""
    return find_holder(port).text


def _command(process: psutil.Process) -> str:
    """Its command line, without secrets and on one line."""
    with suppress(psutil.Error, OSError):
        return escape(redact(" ".join(process.cmdline())))[:COMMAND]
    return ""


def _owner(port: int, tables: Iterable[Path] = TABLES) -> str:
    """Which user listens on ``port``: on Linux everybody may see that (proc_net_tcp)."""
    for table in tables:
        with suppress(OSError, ValueError, IndexError):
            for line in table.read_text().splitlines()[1:]:
                # sl, local_address, rem_address, st (0A: LISTEN), queues, timer, retransmits, uid
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    uid = int(fields[7])
                    with suppress(KeyError):
                        return f"user {pwd.getpwuid(uid).pw_name}"
                    return f"user {uid}"
    return ""


def offered(host: str, port: int) -> int | None:
    """The next free port after ``port``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port + 1, min(port + TRIES, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((host, candidate))
                return candidate
    return None
