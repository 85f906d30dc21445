"""What models really took: measured once, used for the next start of the same command line.

A small file of ours in the state directory. It is a memory aid, never a truth that a start depends
on: what cannot be read is moved aside, what cannot be written stays in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from daemon.engines.memory_log import Allotted, allotted
from daemon.files import Kept

VERSION: Final = 1
MAX_ENTRIES: Final = 512  # the ones used last are kept
MAX_FILE: Final = 4 << 20  # bytes; 512 entries take a fifth of it
MAX_POOLS: Final = 64
MAX_BYTES: Final = 1 << 50
MAX_LOG: Final = 4 << 20  # bytes of one start's log; the memory is told of in the first 100 KB
MARGIN: Final = 0.03  # on top of what was measured: the next conversation is another one
WRONG: Final = 0.15  # an estimate further off than this is told …
WRONG_BYTES: Final = 256 << 20  # … where it matters: small models are mostly the process itself
HEADER_BYTES: Final = 64 << 10  # of each file: architecture, sizes and the first tensor infos


@dataclass(frozen=True, slots=True)
class Entry:
    """One command line's measure. ``estimated`` and ``measured``: bytes by pool; the measure is
    the peak of all its runs. ``told``: the engine said itself what it allotted; else a process that
    looks small may only not have used its memory yet. ``seen``: when last, in seconds since the
    epoch."""

    model: str
    way: str
    estimated: Mapping[str, int]
    measured: Mapping[str, int]
    told: bool = False
    runs: int = 1
    seen: float = 0.0

    @property
    def error(self) -> float:
        """How far the estimate was off: 0.2 is a fifth too high, -0.2 a fifth too low."""
        total = sum(self.measured.values())
        charged = sum(self.estimated.get(pool, 0) for pool in self.measured)
        off = charged / total - 1.0 if total else 0.0
        return off if self.told else min(off, 0.0)

    @property
    def wrong(self) -> bool:
        """Whether ``ctl doctor`` should tell of it."""
        taken = sum(self.measured.values())
        return abs(self.error) > WRONG and abs(self.error) * taken > WRONG_BYTES


class Learned:
    """The entries of ``path``; None keeps them in memory. ``now``: seconds since the epoch.
    ``mend``: a file that cannot be understood is moved aside.

    Not for two threads at once.
    """

    def __init__(
        self, path: Path | None, now: Callable[[], float] = time.time, *, mend: bool = True
    ) -> None:
        self._kept = Kept(path, MAX_FILE) if path is not None else None
        self._mend = mend
        self._now = now
        self._entries: dict[str, Entry] | None = None

    def need(self, key: str, estimated: Mapping[str, int]) -> dict[str, int]:
        """What to charge for a start: ``estimated``, or what was measured with a margin.

        Pools of which nothing was measured keep their estimate.
        """
        entry = self._load().get(key)
        if entry is None:
            return dict(estimated)
        need = dict(estimated)
        for pool, amount in entry.measured.items():
            if pool in need:
                wanted = amount + int(amount * MARGIN)
                need[pool] = wanted if entry.told else max(wanted, need[pool])
        return need

    def record(
        self, key: str, model: str, way: str, estimated: Mapping[str, int],
        measured: Mapping[str, int], *, told: bool,
    ) -> Entry | None:  # fmt: skip
        """Remember what a run took (see :func:`combined`); a smaller measure than before changes
        nothing but the date. ``told``: the engine's own log is part of it.

        Returns the entry where it is new or larger than what was known, else None. Blocks on the
        disk then.
        """
        entries = self._load()
        sound = {pool: amount for pool, amount in measured.items() if 0 < amount < MAX_BYTES}
        if not sound:
            return None
        old = entries.pop(key, None)
        peak = dict(old.measured) if old is not None else {}
        larger = any(amount > peak.get(pool, 0) for pool, amount in sound.items())
        larger = larger or (told and old is not None and not old.told)
        told = told or (old is not None and old.told)
        for pool, amount in sound.items():
            peak[pool] = max(amount, peak.get(pool, 0))
        runs = old.runs + 1 if old is not None else 1
        entry = Entry(model, way, dict(estimated), peak, told, runs, self._now())
        entries[key] = entry  # at the end: the ones used last stay
        while len(entries) > MAX_ENTRIES:
            del entries[next(iter(entries))]
        if not larger:
            return None
        self.save()
        return entry

    def wrong(self) -> list[Entry]:
        """Estimates that were far off, the worst first."""
        found = [entry for entry in self._load().values() if entry.wrong]
        return sorted(found, key=lambda entry: -abs(entry.error))

    def forget(self, model: str | None = None) -> int:
        """Forget one model, or all; how many entries went."""
        entries = self._load()
        gone = [key for key, entry in entries.items() if model in (None, entry.model)]
        for key in gone:
            del entries[key]
        if gone:
            self.save()
        return len(gone)

    def save(self) -> None:
        """Write all of it; later, where the disk refuses."""
        if self._kept is not None and self._entries is not None:
            entries = {key: asdict(entry) for key, entry in self._entries.items()}
            self._kept.write(json.dumps({"version": VERSION, "entries": entries}).encode())

    def _load(self) -> dict[str, Entry]:
        if self._entries is None:
            self._entries = _read(self._kept, self._mend) if self._kept is not None else {}
        return self._entries


@dataclass(frozen=True, slots=True)
class Promise:
    """What was reckoned with for one backend: ``estimated`` bytes by pool, of which ``later`` come
    after its start. ``key``: under which its measure is kept."""

    key: str
    estimated: Mapping[str, int]
    later: Mapping[str, int]


def combined(
    allotted: Mapping[str, int], footprint: Mapping[str, int], promised: Mapping[str, int]
) -> dict[str, int]:
    """What a run takes, by pool: what its process was seen to hold, or what its engine allotted
    and may yet fill (``promised``: prompt cache, checkpoints, results), whichever is more."""
    told = {pool: amount + promised.get(pool, 0) for pool, amount in allotted.items()}
    return {
        pool: max(footprint.get(pool, 0), told.get(pool, 0)) for pool in sorted({*footprint, *told})
    }


def heard(log_file: Path) -> Allotted:
    """What an engine said in its log, which begins anew with each start. Blocks for a moment. A log
    that cannot be read says nothing."""
    try:
        with log_file.open("rb") as file:
            text = file.read(MAX_LOG)
    except OSError:
        return Allotted()
    return allotted(text.decode(errors="replace").splitlines())


def key_of(identity: str, way: Sequence[str], version: str) -> str:
    """The key of a command line: which files, how started, by which engine.

    ``way``: all that decides the memory, without what is new at each start (port, key file).
    """
    text = json.dumps([identity, list(way), version])
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def identity_of(files: Iterable[Path]) -> str:
    """What tells these weights from others without reading them: size, time of change and the
    beginning of each file. Blocks for a moment; a file that cannot be read counts by its name."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(os.fsencode(path.name) + b"\0")
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                status = os.fstat(descriptor)
                digest.update(f"{status.st_size} {status.st_mtime_ns}\0".encode())
                digest.update(os.read(descriptor, HEADER_BYTES))
            finally:
                os.close(descriptor)
    return digest.hexdigest()


def _read(kept: Kept, mend: bool) -> dict[str, Entry]:
    """The entries of a file; none of it where it is not ours to understand."""

    def made(stored: dict[str, Any]) -> dict[str, Entry]:
        items = list(stored["entries"].items())[-MAX_ENTRIES:]
        return {key: _entry(value) for key, value in items}

    return kept.load(VERSION, made, mend=mend) or {}


def _entry(value: dict[str, object]) -> Entry:
    model, way = value["model"], value["way"]
    runs, seen = value["runs"], value["seen"]
    if not isinstance(model, str) or not isinstance(way, str):
        raise TypeError("a name is no text")
    if not isinstance(runs, int) or not isinstance(seen, (int, float)):
        raise TypeError("a count is no number")
    entry = Entry(model[:200], way[:200], {}, {}, value["told"] is True, runs, float(seen))
    return replace(entry, estimated=_pools(value["estimated"]), measured=_pools(value["measured"]))


def _pools(value: object) -> dict[str, int]:
    if not isinstance(value, dict) or len(value) > MAX_POOLS:
        raise TypeError("pools are missing")
    for pool, amount in value.items():
        if not isinstance(pool, str) or type(amount) is not int or not 0 <= amount < MAX_BYTES:
            raise ValueError(f"{pool!r:.40} has {amount!r:.40} bytes")
    return value
