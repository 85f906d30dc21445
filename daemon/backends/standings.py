"""Where models stand on their out-of-memory ladders, and which engines need a remedy to start at
all: kept so that a restart goes on from there.

A small file of ours in the state directory, a memory aid like ``learned``: what cannot be read is
moved aside and forgotten, what cannot be written is written later.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from daemon.core.messages import Standing
from daemon.files import Kept as File

VERSION: Final = 1
MAX_ENTRIES: Final = 256  # those that failed last are kept
MAX_FILE: Final = 1 << 20  # bytes; 256 entries take a tenth of it
MAX_REMEDIES: Final = 64
MAX_COUNT: Final = 1 << 20
MAX_TEXT: Final = 300


@dataclass(frozen=True, slots=True)
class Kept:
    """One model's. ``since``: of its last failure, in seconds since the epoch."""

    model: str
    standing: Standing
    since: float


class Standings:
    """The entries of ``path``; None keeps them in memory. ``now``: seconds since the epoch.

    ``get`` reads the file once; then nothing but ``write`` touches the disk. Not for two threads at
    once, but for ``write``.
    """

    def __init__(self, path: Path | None, now: Callable[[], float] = time.time) -> None:
        self._file = File(path, MAX_FILE) if path is not None else None
        self._now = now
        self._entries: dict[str, Kept] | None = None
        self._remedies: dict[str, str] = {}

    def get(self, key: str) -> Standing | None:
        """Where the model of this key stands; None: at its full size."""
        kept = self._load().get(key)
        if kept is None:
            return None
        standing = kept.standing
        age = max(0.0, self._now() - kept.since)
        return Standing(
            standing.rung, standing.failed, standing.failures, standing.margin, standing.age + age
        )

    def put(self, key: str, model: str, standing: Standing | None) -> None:
        """Remember, or (None) forget."""
        entries = self._load()
        entries.pop(key, None)
        if standing is not None:
            entries[key] = Kept(model, standing, self._now())  # at the end
        while len(entries) > MAX_ENTRIES:
            del entries[next(iter(entries))]

    def remedied(self, key: str) -> bool:
        """Whether the engine of this key is started with its remedy."""
        self._load()
        return key in self._remedies

    def remedy(self, key: str, engine: str, *, needed: bool = True) -> bool:
        """Remember that it needs one, or that it does not. Whether that is news."""
        self._load()
        if (key in self._remedies) is needed:
            return False
        if needed:
            self._remedies[key] = engine
            while len(self._remedies) > MAX_REMEDIES:
                del self._remedies[next(iter(self._remedies))]
        else:
            del self._remedies[key]
        return True

    def load(self) -> None:
        """Read the file, if that has not been done. Blocks on the disk."""
        self._load()

    def text(self) -> str:
        """What is to be written."""
        entries = {
            key: {
                "model": kept.model,
                "rung": kept.standing.rung,
                "failed": kept.standing.failed,
                "failures": kept.standing.failures,
                "margin": kept.standing.margin,
                "since": kept.since - kept.standing.age,
            }
            for key, kept in self._load().items()
        }
        return json.dumps({"version": VERSION, "entries": entries, "remedies": self._remedies})

    def write(self, text: str) -> None:
        """Blocks on the disk; later, where that refuses."""
        if self._file is not None:
            self._file.write(text.encode())

    def _load(self) -> dict[str, Kept]:
        if self._entries is None:
            found = _read(self._file) if self._file is not None else ({}, {})
            self._entries, self._remedies = found
        return self._entries


def _read(file: File) -> tuple[dict[str, Kept], dict[str, str]]:
    """The entries of a file; none of it where it is not ours to understand."""

    def made(stored: dict[str, Any]) -> tuple[dict[str, Kept], dict[str, str]]:
        items = list(stored["entries"].items())[-MAX_ENTRIES:]
        remedies = list(stored.get("remedies", {}).items())[-MAX_REMEDIES:]
        entries = {key: _kept(value) for key, value in items}
        return entries, {key: str(engine)[:MAX_TEXT] for key, engine in remedies}

    return file.load(VERSION, made) or ({}, {})


def _kept(value: dict[str, object]) -> Kept:
    model, failed, since = value["model"], value["failed"], value["since"]
    if not isinstance(model, str) or not isinstance(failed, str):
        raise TypeError("a name is no text")
    if type(since) not in (int, float) or not 0 <= float(str(since)) < 1e12:
        raise ValueError(f"a time is {since!r:.40}")
    standing = Standing(
        _count(value["rung"]), failed[:MAX_TEXT], _count(value["failures"]),
        value["margin"] is True,
    )  # fmt: skip
    return Kept(model[:MAX_TEXT], standing, float(str(since)))


def _count(value: object) -> int:
    if type(value) is not int or not 0 < value < MAX_COUNT:
        raise ValueError(f"a count is {value!r:.40}")
    return value
