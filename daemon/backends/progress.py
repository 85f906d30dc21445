"""Whether a load goes on: what moves while an engine reads its weights. Pure, apart from
:func:`signs_of_life`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from daemon.machine.process import descendants

# What our own polling costs an engine that answers it is no progress. Seen at 100 polls a second:
# llama-server 1.7% of a core and 200 KiB, a Python server about 6%.
BUSY_SHARE = 0.15  # of a core
GROWTH = 1 << 20  # bytes of memory


@dataclass(frozen=True, slots=True)
class Signs:
    """What moves while an engine loads: bytes logged, bytes of memory, bytes read from the disk
    (where the system tells), seconds of CPU time."""

    logged: int = 0
    memory: int = 0
    cpu: float = 0.0
    read: int = 0


def progressed(mark: Signs, last: Signs, now: Signs, seconds: float) -> bool:
    """Whether a load went on: ``mark`` is the latest progress, ``last`` was seen ``seconds`` ago.

    Memory adds up since the mark, so that the slowest disk counts; CPU time must be spent at once.
    """
    return moved(mark, now) or now.cpu - last.cpu >= BUSY_SHARE * seconds


def moved(mark: Signs, now: Signs) -> bool:
    """Whether something was read, kept or said since ``mark``: more than computing, which an
    engine that waits for a lost GPU does for ever."""
    return (
        now.logged != mark.logged
        or abs(now.memory - mark.memory) >= GROWTH
        or now.read - mark.read >= GROWTH
    )


@dataclass(slots=True)
class Watch:
    """The signs of one start over time. ``since`` and ``moved_at``: when it last progressed in any
    way, and when it last moved (see :func:`moved`); both, and ``looked``, as the caller's clock."""

    last: Signs
    looked: float
    since: float = field(init=False)
    moved_at: float = field(init=False)
    _mark: Signs = field(init=False)
    _moved: Signs = field(init=False)

    def __post_init__(self) -> None:
        self.since = self.moved_at = self.looked
        self._mark = self._moved = self.last

    def look(self, signs: Signs, now: float) -> None:
        """Take in what is seen at ``now``."""
        if progressed(self._mark, self.last, signs, now - self.looked):
            self._mark, self.since = signs, now
        if moved(self._moved, signs):
            self._moved, self.moved_at = signs, now
        self.last, self.looked = signs, now


def signs_of_life(log: Path, pid: int | None) -> Signs:
    """Of the process and of all that it started (vllm loads in a child). For a thread."""
    logged, memory, cpu, read = 0, 0, 0.0, 0
    with contextlib.suppress(OSError):
        logged = log.stat().st_size
    if pid is not None:
        for each in (pid, *descendants(pid)):
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(each)
                times = process.cpu_times()
                cpu += times.user + times.system
                memory += process.memory_info().rss
                if hasattr(process, "io_counters"):  # not on macOS
                    read += process.io_counters().read_bytes
    return Signs(logged, memory, cpu, read)
