"""Time as the machine lives it: seconds awake, and whether it slept.

``time.monotonic`` stands still while the machine is suspended: it is CLOCK_MONOTONIC on Linux and
``mach_absolute_time`` on macOS, and neither counts sleep. So keep-alives and queue deadlines count
awake time by themselves, and the wall clock may jump as it likes. That it slept is seen by a second
clock which goes on: CLOCK_BOOTTIME on Linux, CLOCK_MONOTONIC on macOS (both as their manuals say).
A process that was stopped (SIGSTOP, a paused virtual machine) finds its monotonic clock far ahead
instead; those seconds are taken out here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final

_ALWAYS: Final = (
    time.CLOCK_MONOTONIC if sys.platform == "darwin" else getattr(time, "CLOCK_BOOTTIME", None)
)


OFTEN: Final = 0.05
"""Seconds. The two clocks are compared no more often: each request reads this one several times."""


def elapsed() -> float:
    """Seconds since some start, those of a sleeping machine included (where the system tells)."""
    return time.monotonic() if _ALWAYS is None else time.clock_gettime(_ALWAYS)


class Awake:
    """A clock of seconds awake; ``on_wake`` is called with the seconds slept, once it is seen.

    ``attended``: it is read every few seconds at the least, so a silence of more than ``gap``
    seconds between two readings is sleep. Else nobody reads it and any silence is an honest one.
    """

    def __init__(
        self,
        gap: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        elapsed: Callable[[], float] = elapsed,
    ) -> None:
        self.gap = gap
        self.on_wake: Callable[[float], None] = lambda _: None
        self._monotonic, self._elapsed = monotonic, elapsed
        self._last = self._compared = monotonic()
        self._always = elapsed()
        self._slept = 0.0
        self._told = 0.0  # a sum of floats may come out a hair below the one before
        self._attended = False

    @property
    def attended(self) -> bool:
        return self._attended

    def attend(self, attended: bool) -> None:
        """Readings come regularly from now on, or no longer do."""
        if attended and not self._attended:
            self._last = self._compared = self._monotonic()
            self._always = self._elapsed()
        self._attended = attended

    def __call__(self) -> float:
        """Seconds awake since some start. Never goes back."""
        now = self._monotonic()
        if self._attended:
            silence = now - self._last
            if silence > self.gap:
                self._slept += silence
                self._woke(now, silence)
            elif now - self._compared >= OFTEN:
                self._compare(now)
        self._last = now
        self._told = max(self._told, now - self._slept)
        return self._told

    def _compare(self, now: float) -> None:
        """Did the clock that counts sleep go further than the one that does not?"""
        always = self._elapsed()
        asleep = always - self._always - (now - self._compared)
        self._always, self._compared = always, now
        if asleep > self.gap:
            self.on_wake(asleep)

    def _woke(self, now: float, seconds: float) -> None:
        self._always, self._compared = self._elapsed(), now
        self.on_wake(seconds)
