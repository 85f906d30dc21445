"""Which pulls are under way, on the disk: a daemon that was ended in the middle takes them up
again when it is back."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from daemon.files import Kept

FILE: Final = "pulls.json"
VERSION: Final = 1
_LIMIT: Final = 1 << 18  # bytes
_MOST: Final = 256


@dataclass(slots=True)
class Unfinished:
    """The record, in the state directory. All of it blocks. What is kept of a pull is its name: of
    a model, or ``hf:OWNER/REPO:QUANT``."""

    path: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, name: str) -> None:
        """It is under way from now on."""
        with self._lock:
            names = self._read()
            if name not in names:
                self._write([*names, name])

    def end(self, name: str) -> None:
        """It is over: there, failed, or cancelled."""
        with self._lock:
            names = self._read()
            if name in names:
                self._write(one for one in names if one != name)

    def names(self) -> list[str]:
        """Those that were under way, the oldest first."""
        with self._lock:
            return self._read()

    def _read(self) -> list[str]:
        def made(stored: dict[str, Any]) -> list[str]:
            names = [one for one in stored["names"] if isinstance(one, str) and 0 < len(one) < 300]
            return list(dict.fromkeys(names))[:_MOST]

        return Kept(self.path, _LIMIT).load(VERSION, made) or []

    def _write(self, names: Iterable[str]) -> None:
        value = {"version": VERSION, "names": list(names)}
        Kept(self.path, _LIMIT).write(json.dumps(value).encode())
