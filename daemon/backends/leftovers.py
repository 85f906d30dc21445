"""Records of engines that an earlier daemon left behind, and the careful end of those.

A keeper writes its record when the engine has started and removes it when all is over. A record
whose keeper does not answer belongs to a keeper that was killed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from daemon.backends import keeper as program
from daemon.backends import marks
from daemon.backends.keeper_messages import Exited, exited
from daemon.config.paths import ENGINE_SOCKET
from daemon.files import move_aside, read_private

log = logging.getLogger("modelport.backends")

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
    mark: str = ""  # of this start (see ``marks``); an older keeper wrote none

    @property
    def keeper_alive(self) -> bool:
        """Whether the keeper still runs: adopt it, or let it finish."""
        return marks.alive(self.keeper_pid, self.keeper_start)


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
    and all its descendants get KILL; and in any case all that carry its mark, who may have outlived
    it. Never by name. Returns once they are gone. Blocks.
    """
    verdict = _judge(record)
    family: dict[int, str] = {}
    if verdict is Reaped.KILLED:
        for pid in (record.pid, *program.descendants(record.pid)):
            if (start := program.start_token(pid)) is not None:
                family[pid] = start
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # keepers start engines as leaders; anything else would hit a stranger's group
            leads = os.getpgid(record.pid) == record.pid
            (os.killpg if leads else os.kill)(record.pid, signal.SIGKILL)
    _end(record.backend, record.mark, family)
    if not record.keeper_alive:
        suffixes = (".key", ENGINE_SOCKET)
        made = [record.path.with_suffix(suffix) for suffix in suffixes]
        for path in (record.path, record.socket, *made):
            with contextlib.suppress(OSError):
                path.unlink()
    return verdict


def reap_recorded(path: Path, files: Iterable[Path] = (), mark: str = "") -> str:
    """End the engine that this record describes, by pid, start time and command line, with all that
    carry its ``mark``, and remove its private ``files`` (a killed keeper does not). Blocks."""
    found = next((record for record in records(path.parent) if record.path == path), None)
    deadline = time.monotonic() + DYING
    while found is not None and found.keeper_alive and time.monotonic() < deadline:
        time.sleep(0.005)
    if found is not None:
        verdict = reap(replace(found, mark=found.mark or mark)).value
    else:
        verdict = "no record"
        _end(path.stem, mark, {})
    for file in files:
        file.unlink(missing_ok=True)
    return verdict


def _end(backend: str, mark: str, family: Mapping[int, str]) -> None:
    if not marks.end_all(mark, family):
        log.warning("something that %s started does not end, though it was killed", backend)


def sweep(directory: Path) -> None:
    """Remove the socket and the key of keepers that never got an order: their daemon was killed
    between making them and giving it. They have no record, and nobody listens. So are sockets of
    engines whose keeper was killed, and its record taken away by an older version. Blocks."""
    for path in directory.glob("*.sock"):
        whose = path.with_name(path.name.removesuffix(ENGINE_SOCKET)) if _engines(path) else path
        if not whose.with_suffix(".json").exists() and not _listens(path):
            for file in (path,) if _engines(path) else (path, path.with_suffix(".key")):
                with contextlib.suppress(OSError):
                    file.unlink()


def _engines(path: Path) -> bool:
    """Whether this is the socket of an engine, and not its keeper's."""
    return path.name.endswith(ENGINE_SOCKET)


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
        mark=mark if type(mark := value.get("mark")) is str else "",
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
