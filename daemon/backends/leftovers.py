"""Records of engines that an earlier daemon left behind, and the careful end of those.

A keeper writes its record when the engine has started and removes it when all is over. A record
whose keeper does not answer belongs to a keeper that was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from daemon.backends import keeper as program
from daemon.backends.keeper_messages import Exited, exited
from daemon.files import move_aside, read_private

RECORD_LIMIT = 1 << 20  # bytes; no record of ours is near
DYING = 1.0  # seconds: the kernel closes a killed keeper's socket a moment before it is dead


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
    exit: Exited | None = None  # an end that no daemon was told of

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
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            move_aside(path, f"it is no record of a backend: {error!r:.200}")
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


def reap_recorded(path: Path, files: Iterable[Path] = ()) -> str:
    """End the engine that this record describes, by pid, start time and command line, and remove
    its private ``files`` (a killed keeper does not). Blocks."""
    found = next((record for record in records(path.parent) if record.path == path), None)
    deadline = time.monotonic() + DYING
    while found is not None and found.keeper_alive and time.monotonic() < deadline:
        time.sleep(0.005)
    verdict = reap(found).value if found is not None else "no record"
    for file in files:
        file.unlink(missing_ok=True)
    return verdict


def sweep(directory: Path) -> None:
    """Remove the socket and the key of keepers that never got an order: their daemon was killed
    between making them and giving it. They have no record, and nobody listens. Blocks."""
    for path in directory.glob("*.sock"):
        if not path.with_suffix(".json").exists() and not _listens(path):
            for file in (path, path.with_suffix(".key")):
                with contextlib.suppress(OSError):
                    file.unlink()


def _listens(path: Path) -> bool:
    """Whether anybody does; also where that cannot be known."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(0)  # a queue that is full means that somebody does
        try:
            asking.connect(os.fspath(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True


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
    value = json.loads(read_private(path, RECORD_LIMIT))
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
        exit=_exit(value.get("exit")),
    )


def _exit(value: object) -> Exited | None:
    """What a keeper left of an end; None where it is not to be understood."""
    try:
        found = exited(value) if isinstance(value, dict) else None
    except (KeyError, TypeError):
        return None
    if found is None or type(found.status) is not int:
        return None
    return found if all(type(line) is str for line in found.lines) else None
