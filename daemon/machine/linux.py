"""Ordinary memory on Linux: what is available, within the limits of our control groups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon.machine.base import RAM, PoolFacts

# Kernels write "no limit" as a huge number in version 1; nothing real is as large.
_UNLIMITED: Final = 1 << 60


def parse_meminfo(text: str) -> dict[str, int]:
    """``/proc/meminfo`` as bytes by name. Lines that are not understood are left out."""
    values: dict[str, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        parts = rest.split()
        if parts and parts[0].isdecimal():
            values[name.strip()] = int(parts[0]) * (1024 if parts[1:] == ["kB"] else 1)
    return values


def parse_limit(text: str) -> int | None:
    """A control group's limit in bytes; None for none (``max``, or version 1's huge number)."""
    text = text.strip()
    if not text.isdecimal() or int(text) >= _UNLIMITED:
        return None
    return int(text)


def parse_stat(text: str, name: str) -> int:
    """One value of a ``memory.stat``; 0 where it is missing."""
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdecimal():
            return int(value)
    return 0


def parse_cgroups(text: str) -> tuple[str | None, str | None]:
    """Paths of our groups in ``/proc/self/cgroup``: (version 2, version 1's memory)."""
    second = first = None
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        if parts[0] == "0" and not parts[1]:
            second = parts[2]
        elif "memory" in parts[1].split(","):
            first = parts[2]
    return second, first


@dataclass(frozen=True, slots=True)
class Group:
    """Files of one control group that limits memory."""

    limit: Path
    usage: Path
    stat: Path
    inactive: str  # name of the reclaimable part in ``stat``

    def read(self) -> tuple[int, int] | None:
        """(limit, what may still be taken within it), or None where it limits nothing."""
        limit = parse_limit(_read(self.limit))
        if limit is None:
            return None
        usage = parse_limit(_read(self.usage)) or 0
        reclaimable = parse_stat(_read(self.stat), self.inactive)
        return limit, max(0, limit - max(0, usage - reclaimable))


def limiting_groups(text: str, root: Path) -> tuple[Group, ...]:
    """All groups above us that may limit memory, from ``/proc/self/cgroup``.

    A limit of a parent counts as much as our own. In a container the path may be that of the host
    and not exist: then the mounted root is our group.
    """
    second, first = parse_cgroups(text)
    groups: list[Group] = []
    if second is not None:
        groups += (
            Group(d / "memory.max", d / "memory.current", d / "memory.stat", "inactive_file")
            for d in _upwards(root, second)
        )
    if first is not None:
        groups += (
            Group(
                d / "memory.limit_in_bytes",
                d / "memory.usage_in_bytes",
                d / "memory.stat",
                "total_inactive_file",
            )
            for d in _upwards(root / "memory", first)
        )
    return tuple(group for group in groups if group.limit.exists())


def _upwards(root: Path, path: str) -> Iterable[Path]:
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    for length in range(len(parts), -1, -1):
        yield root.joinpath(*parts[:length])


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""  # a group may vanish, a kernel may lack a file: then it says nothing


class LinuxSource:
    """The pool ``ram``. ``proc`` and ``cgroup`` are arguments for the tests."""

    def __init__(self, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> None:
        self._meminfo = proc / "meminfo"
        # Groups are looked up once: a daemon is not moved between them while it runs.
        self._groups = limiting_groups(_read(proc / "self" / "cgroup"), cgroup)

    def pools(self) -> tuple[PoolFacts, ...]:
        total, free, limit = self._now()
        if not total:
            return ()
        source = "MemAvailable" if limit is None else "MemAvailable and the control group's limit"
        return (PoolFacts(RAM, total, free, limit, source),)

    def free(self) -> dict[str, int]:
        total, free, _ = self._now()
        return {RAM: free} if total else {}

    def _now(self) -> tuple[int, int, int | None]:
        memory = parse_meminfo(_read(self._meminfo))
        total = memory.get("MemTotal", 0)
        free = memory.get("MemAvailable", memory.get("MemFree", 0))
        limit = None
        for limits in (group.read() for group in self._groups):
            if limits is not None and limits[0] < total:
                limit = min(limits[0], total if limit is None else limit)
                free = min(free, limits[1])
        return total, free, limit
