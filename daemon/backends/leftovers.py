"""Records of engines that an earlier daemon left behind, and the careful end of those.

A keeper writes its record when the engine has started and removes it when all is over. A record
whose keeper does not answer belongs to a keeper that was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from daemon.backends import keeper as program

RECORD_LIMIT = 1 << 20  # bytes; no record of ours is near


@dataclass(frozen=True, slots=True)
class Record:
    """One engine as its keeper wrote it down. ``path`` is the file; ``start`` is a token."""

    path: Path
    protocol: int
    backend: str
    generation: int
    pid: int
    start: str
    argv: tuple[str, ...]
    keeper_pid: int
    keeper_start: str
    socket: Path
    log: Path
    mode: str
    facts: Mapping[str, Any] = field(repr=False)

    @property
    def keeper_alive(self) -> bool:
        """Whether the keeper still runs: adopt it, or let it finish."""
        return program.start_token(self.keeper_pid) == self.keeper_start


class Reaped(StrEnum):
    """What became of a leftover."""

    KILLED = "killed"
    ABSENT = "absent"  # it was dead already
    FOREIGN = "foreign"  # the pid is another process now, and was left alone


def records(directory: Path) -> list[Record]:
    """All records in ``directory`` (``*.json``), by file name.

    What is no record (broken, too long, no regular file) is moved aside as ``.corrupt-<seconds>``.
    A record of another protocol is returned: who reads it decides.
    """
    found = []
    for path in sorted(directory.glob("*.json")):
        try:
            found.append(_decode(path, _read(path)))
        except FileNotFoundError:
            continue  # its keeper has just removed it
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            with contextlib.suppress(OSError):
                path.replace(f"{path}.corrupt-{int(time.time())}")
    return found


def reap(record: Record) -> Reaped:
    """Kill what ``record`` describes if it is still the same process, and remove the record.

    Same means all three: the pid, the kernel's start time, the command line. Then its process group
    and all its descendants get KILL. Never by name.
    """
    verdict = _judge(record)
    if verdict is Reaped.KILLED:
        family = {pid: program.start_token(pid) for pid in program.descendants(record.pid)}
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # keepers start engines as leaders; anything else would hit a stranger's group
            leads = os.getpgid(record.pid) == record.pid
            (os.killpg if leads else os.kill)(record.pid, signal.SIGKILL)
        for pid, start in family.items():
            if start is not None and program.start_token(pid) == start:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
    if not record.keeper_alive:
        for path in (record.path, record.socket):
            with contextlib.suppress(OSError):
                path.unlink()
    return verdict


def same_command(recorded: Sequence[str], current: Sequence[str]) -> bool:
    """Whether ``current`` is how the kernel shows ``recorded``.

    A script is shown behind its interpreter, by the path that was found for it.
    """
    if not recorded or len(current) < len(recorded):
        return False
    tail = current[len(current) - len(recorded) :]
    if list(tail[1:]) != list(recorded[1:]):
        return False
    if len(current) == len(recorded):
        return tail[0] == recorded[0]
    return os.path.basename(tail[0]) == os.path.basename(recorded[0])  # noqa: PTH119


def _judge(record: Record) -> Reaped:
    start = program.start_token(record.pid)
    if start is None:
        return Reaped.ABSENT
    if start != record.start:
        return Reaped.FOREIGN
    try:
        process = psutil.Process(record.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return Reaped.ABSENT
        same = same_command(record.argv, process.cmdline())
    except psutil.NoSuchProcess:
        return Reaped.ABSENT
    except psutil.AccessDenied:
        return Reaped.FOREIGN
    return Reaped.KILLED if same else Reaped.FOREIGN


def _read(path: Path) -> dict[str, Any]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode) or about.st_size > RECORD_LIMIT:
            raise ValueError("not a record")
        value = json.loads(file.read(RECORD_LIMIT))
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value


def _decode(path: Path, value: Mapping[str, Any]) -> Record:
    def take(name: str, kind: type) -> Any:
        if type(value[name]) is not kind:
            raise TypeError(f"{name}: {kind.__name__} is expected")
        return value[name]

    argv = take("argv", list)
    if not all(type(word) is str for word in argv) or take("pid", int) < 2:
        raise TypeError("argv, pid: an engine is expected")
    return Record(
        path=path,
        protocol=take("protocol", int),
        backend=take("backend", str),
        generation=take("generation", int),
        pid=take("pid", int),
        start=take("start", str),
        argv=tuple(argv),
        keeper_pid=take("keeper_pid", int),
        keeper_start=take("keeper_start", str),
        socket=Path(take("socket", str)),
        log=Path(take("log", str)),
        mode=take("mode", str),
        facts=take("facts", dict),
    )
