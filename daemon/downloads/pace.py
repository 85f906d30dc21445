"""How fast a download is, and how long it will take. Pure: times and counts in, figures out."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

WINDOW: Final = 15.0  # seconds that the figure is made of: long enough to be calm
WARM: Final = 3.0  # seconds of bytes before there is a figure at all
_EVERY: Final = 0.5  # seconds between two samples


@dataclass(slots=True)
class Pace:
    """Of one download. ``fetched`` are bytes over the line since its process began."""

    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, now: float, fetched: int) -> None:
        """So much had come at ``now`` (seconds of a monotonic clock)."""
        seen = self._seen
        if seen and fetched < seen[-1][1]:  # another process: it counts from 0 again
            seen.clear()
        if seen and now - seen[-1][0] < _EVERY:
            return
        seen.append((now, fetched))
        while now - seen[0][0] > WINDOW and len(seen) > 2:
            seen.popleft()

    def rate(self) -> float | None:
        """Bytes per second of the last seconds; None: too early to say, or nothing came."""
        if len(self._seen) < 2:
            return None
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        if last - first < WARM or after <= before:
            return None
        return (after - before) / (last - first)

    def left(self, done: int, total: int) -> float | None:
        """Seconds until ``total`` bytes are there; None: too early to say."""
        rate = self.rate()
        return None if rate is None or total <= 0 else max(0, total - done) / rate
