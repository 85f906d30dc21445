"""Listening sockets that the service manager holds for us: a restart then refuses nobody, since the
kernel keeps who connects meanwhile."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from daemon.access.addresses import address_of

FIRST: Final = 3  # SD_LISTEN_FDS_START
MOST: Final = 256  # of what an environment may claim
Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Handed:
    """One of them. ``name`` is what the service manager calls it; ``address`` is its own."""

    sock: socket.socket
    name: str
    address: Address


def handed_over(
    environ: Mapping[str, str],
    pid: int,
    *,
    names: Iterable[str] = (),
    activate: Callable[[str], list[int]] | None = None,
    first: int = FIRST,
) -> list[Handed]:
    """The sockets that systemd (sd_listen_fds(3)) or launchd (launch_activate_socket(3)) hold for
    us. ``names``: what launchd is asked for. What is no listening TCP socket is left alone.
    """
    found: list[tuple[int, str]] = []
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") == str(pid) and count.isdecimal():
        called = environ.get("LISTEN_FDNAMES", "").split(":")
        found += [
            (first + at, called[at] if at < len(called) else "")
            for at in range(min(int(count), MOST))
        ]
    elif activate is not None or (sys.platform == "darwin" and os.getppid() == 1):
        ask = activate or activate_launchd
        found = [(descriptor, name) for name in names for descriptor in ask(name)]
    return [one for descriptor, name in found if (one := _taken(descriptor, name)) is not None]


def _taken(descriptor: int, name: str) -> Handed | None:
    try:
        os.set_inheritable(descriptor, False)  # engines have no business with it
        sock = socket.socket(fileno=descriptor)
    except OSError:
        return None
    with suppress(OSError):
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if sock.family in (socket.AF_INET, socket.AF_INET6) and listens:
            sock.setblocking(False)
            return Handed(sock, name, sock.getsockname()[:2])
    sock.detach()
    return None


def same(one: Address, other: Address) -> bool:
    """Whether two addresses are one, however they are written."""
    here, there = (address_of(host, zone=True) or host for host in (one[0], other[0]))
    return one[1] == other[1] and here == there


def pick(handed: list[Handed], address: Address) -> Handed | None:
    """Take the one with this address out of the list."""
    for one in handed:
        if same(one.address, address):
            handed.remove(one)
            return one
    return None


def activate_launchd(name: str) -> list[int]:
    """launch.h: ``int launch_activate_socket(const char *name, int **fds, size_t *cnt)``: 0 with an
    array that the caller frees, else an errno: ENOENT (no such name in the property list), ESRCH
    (launchd did not start us), EALREADY. [] then, and the port is taken in the usual way.
    """
    try:
        system = ctypes.CDLL(None, use_errno=True)
        call, free = system.launch_activate_socket, system.free
    except (OSError, AttributeError):
        return []
    call.argtypes = [
        ctypes.c_char_p,
        ctypes.POINTER(ctypes.POINTER(ctypes.c_int)),
        ctypes.POINTER(ctypes.c_size_t),
    ]
    call.restype = ctypes.c_int
    free.argtypes = [ctypes.c_void_p]
    free.restype = None
    descriptors, count = ctypes.POINTER(ctypes.c_int)(), ctypes.c_size_t(0)
    if call(name.encode(), ctypes.byref(descriptors), ctypes.byref(count)) != 0:
        return []
    try:
        return [descriptors[at] for at in range(count.value)]
    finally:
        free(descriptors)
