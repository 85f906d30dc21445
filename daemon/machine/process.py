"""What a running engine takes: the bytes of a process and of everything that it started.

Resident size alone misleads: on a Mac it leaves out what the GPU holds, on Linux it counts mapped
weights once for every process that maps them.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import psutil

from daemon.core.units import GIB
from daemon.machine import observe
from daemon.machine.base import RAM, UNIFIED
from daemon.ports import Target

# Reading smaps_rollup walks the page table under the process's memory lock: 3 to 9 ms per GiB.
# Above this the resident size must do.
PROPORTIONAL_UP_TO: Final = 4 * GIB
MAX_PROCESSES: Final = 1024  # of one tree; a fork bomb may not hold us up
# Num: RefCount Protocol Flags Type St Inode Path
_UNIX: Final = re.compile(
    rb"^[0-9a-f]+: \w+ \w+ ([0-9A-F]{8}) \w+ \w+ +(\d{1,20}) (.+)$", re.MULTILINE
)


def footprint(pid: int) -> int | None:
    """Bytes of main memory of ``pid`` and its descendants; None where ``pid`` is gone.

    Linux: the proportional set size (shared pages count in parts), or the resident size of very
    large processes. macOS: the physical footprint, which is what the system kills by.
    """
    own = process_bytes(pid)
    if own is None:
        return None
    return own + sum(process_bytes(child) or 0 for child in descendants(pid))


def footprints(pid: int) -> dict[str, int] | None:
    """Bytes by pool of ``pid`` and its descendants; None where ``pid`` is gone.

    What a GPU's driver holds for a process is no part of its resident memory, also where it lies in
    main memory: there the two are added. Pools of cards that do not tell are left out.
    """
    main = footprint(pid)
    if main is None:
        return None
    if sys.platform == "darwin":
        return {UNIFIED: main}
    held = observe.on_cards({pid, *descendants(pid)})
    if observe.shared() is not None:
        return {UNIFIED: main + held.get(UNIFIED, 0)}
    return {RAM: main} | held


def process_bytes(pid: int) -> int | None:
    """Bytes of one process; None where it is gone or is another user's."""
    if sys.platform == "darwin":
        return mac_footprint(pid)
    return linux_footprint(Path("/proc", str(pid)))


def descendants(pid: int) -> list[int]:
    """All children of ``pid`` and theirs. Empty where there are none or it is gone."""
    if sys.platform == "linux":
        found = _linux_descendants(pid)
        if found is not None:
            return found
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def listens(pid: int, target: Target) -> bool | None:
    """Whether ``pid`` or one of its descendants is who listens on this TCP port or unix socket;
    None where that cannot be seen: one of them is another user's. For a thread."""
    hidden = False
    for each in (pid, *descendants(pid)):
        try:
            if target.uds is not None:
                found = Path(target.uds).name in _unix_listeners(each)
            else:
                sockets = psutil.Process(each).net_connections("tcp")
                ports = (s.laddr.port for s in sockets if s.status == psutil.CONN_LISTEN)
                found = target.port in ports
        except (psutil.AccessDenied, PermissionError):
            hidden = True
        except (psutil.Error, OSError):
            pass  # gone meanwhile
        else:
            if found:
                return True
    return None if hidden else False


def _unix_listeners(pid: int) -> set[str]:
    """The names of the files of unix sockets on which a process listens.

    Of the path only the name: a server may have bound it from within the folder, or by a link.
    psutil tells neither who listens nor paths with a space (Linux). OSError, psutil.Error.
    """
    if sys.platform != "linux":
        sockets = psutil.Process(pid).net_connections("unix")
        return {os.path.basename(str(s.laddr)) for s in sockets}  # noqa: PTH119
    listeners = parse_unix(Path(f"/proc/{pid}/net/unix").read_bytes())
    held = set()
    for descriptor in os.scandir(f"/proc/{pid}/fd"):
        try:
            held.add(os.readlink(descriptor.path))  # noqa: PTH115
        except FileNotFoundError:
            continue  # closed meanwhile
    names = (path for inode, path in listeners.items() if f"socket:[{inode}]" in held)
    return {os.path.basename(os.fsdecode(path)) for path in names}  # noqa: PTH119


def parse_unix(text: bytes) -> dict[int, bytes]:
    """Inode and path of each listening socket of ``/proc/PID/net/unix`` (proc_pid_net(5)): its
    flags have ``__SO_ACCEPTCON`` (0x10000) of ``<linux/net.h>``."""
    lines = _UNIX.findall(text)
    return {int(inode): path for flags, inode, path in lines if int(flags, 16) & 0x10000}


def parse_status(text: str) -> int | None:
    """Resident bytes from ``/proc/PID/status``; None for a zombie, which has none."""
    match = re.search(r"^VmRSS:\s+(\d{1,15}) kB$", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def parse_rollup(text: str) -> int | None:
    """Proportional bytes from ``/proc/PID/smaps_rollup``; None where they are not told."""
    match = re.search(r"^Pss:\s+(\d{1,15}) kB$", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def linux_footprint(folder: Path) -> int | None:
    """Bytes of the process whose ``/proc`` folder this is; None where it is gone."""
    try:
        resident = parse_status((folder / "status").read_text(errors="replace"))
    except OSError:
        return None
    if resident is None or resident > PROPORTIONAL_UP_TO:
        return resident
    try:
        proportional = parse_rollup((folder / "smaps_rollup").read_text(errors="replace"))
    except OSError:  # another user's, or gone meanwhile
        return resident
    return resident if proportional is None else proportional


def _linux_descendants(pid: int) -> list[int] | None:
    """From the kernel's own lists: a tenth of a millisecond, where a walk over all processes takes
    several. None where this kernel has none."""
    # Not Path.exists: it raises ESRCH, which /proc says of a process that ends in this moment.
    if not os.path.exists(f"/proc/{pid}/task/{pid}/children"):  # noqa: PTH110
        return None if os.path.exists(f"/proc/{pid}") else []  # noqa: PTH110
    found: list[int] = []
    waiting = [pid]
    while waiting and len(found) < MAX_PROCESSES:
        parent = waiting.pop()
        try:
            threads = os.listdir(f"/proc/{parent}/task")  # noqa: PTH208 - twice as fast, often called
        except OSError:
            continue
        for thread in threads:
            try:
                text = Path(f"/proc/{parent}/task/{thread}/children").read_text()
            except OSError:
                continue
            children = [int(word) for word in text.split()]
            found += children
            waiting += children
    return found


class _RusageInfoV0(ctypes.Structure):
    """``struct rusage_info_v0`` of ``<sys/resource.h>``."""

    _fields_ = (
        ("ri_uuid", ctypes.c_uint8 * 16),
        ("ri_user_time", ctypes.c_uint64),
        ("ri_system_time", ctypes.c_uint64),
        ("ri_pkg_idle_wkups", ctypes.c_uint64),
        ("ri_interrupt_wkups", ctypes.c_uint64),
        ("ri_pageins", ctypes.c_uint64),
        ("ri_wired_size", ctypes.c_uint64),
        ("ri_resident_size", ctypes.c_uint64),
        ("ri_phys_footprint", ctypes.c_uint64),
        ("ri_proc_start_abstime", ctypes.c_uint64),
        ("ri_proc_exit_abstime", ctypes.c_uint64),
    )


def mac_footprint(pid: int, library: Any = None) -> int | None:
    """``phys_footprint`` of a process of our own user; None where the system does not tell.

    ``library`` stands in for libproc in tests.
    """
    library = library if library is not None else _libproc()
    if library is None:
        return None
    info = _RusageInfoV0()
    if library.proc_pid_rusage(pid, 0, ctypes.byref(info)) != 0:
        return None
    return int(info.ri_phys_footprint)


@lru_cache(maxsize=1)
def _libproc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("/usr/lib/libproc.dylib")
        library.proc_pid_rusage.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
        library.proc_pid_rusage.restype = ctypes.c_int
    except (OSError, AttributeError):
        return None
    return library
