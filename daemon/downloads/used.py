"""When weights were used last, as far as we know it: the clock of a disk tells it badly (atime is
kept coarsely, or not at all)."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from daemon.files import Kept

FILE: Final = "used.json"
VERSION: Final = 1
_LIMIT: Final = 1 << 20  # bytes
_MOST: Final = 2000  # paths; of more, those that were used last


@dataclass(slots=True)
class Used:
    """The record, in the state directory: path of the weights -> Unix seconds. All of it blocks."""

    path: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, weights: Path, now: float) -> None:
        """They are used at this moment."""
        with self._lock:
            times = self.times(mend=True)
            times[str(weights.absolute())] = round(now)
            kept = sorted(times.items(), key=lambda item: item[1])[-_MOST:]
            value = {"version": VERSION, "used": dict(kept)}
            Kept(self.path, _LIMIT).write(json.dumps(value).encode())

    def times(self, *, mend: bool = False) -> dict[str, float]:
        """All that is known."""

        def made(stored: dict[str, Any]) -> dict[str, float]:
            return {str(path): float(at) for path, at in stored["used"].items() if _moment(at)}

        return Kept(self.path, _LIMIT).load(VERSION, made, mend=mend) or {}


def _moment(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0
