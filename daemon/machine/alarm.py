"""An alarm at a time of day, for a program that sleeps until then: also where the machine has slept
meanwhile, or its clock was set.

A timer of the event loop counts seconds awake, so after a night's sleep it would ring hours late.
The kernel has timers of the other kind: ``timerfd_create(2)`` with ``CLOCK_REALTIME`` on Linux,
``EVFILT_TIMER`` with ``NOTE_ABSOLUTE`` on macOS (``kevent(2)``). Neither wakes the machine itself.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import select
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

log = logging.getLogger("modelport.alarm")

OFTEN: Final = 600.0  # seconds between two looks where there is no such timer
_REALTIME: Final = 0
_FLAGS: Final = 0o2000000 | 0o4000  # TFD_CLOEXEC, TFD_NONBLOCK
_ABSOLUTE: Final = 1 | 2  # TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET
_KQ_SECONDS, _KQ_ABSOLUTE = 1, 8  # NOTE_SECONDS, NOTE_ABSOLUTE


class _Spec(ctypes.Structure):
    """``struct itimerspec``."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("each_s", "each_ns", "at_s", "at_ns"))


class Alarm:
    """Calls ``ring`` in the running loop at the time set last, or when the clock was set."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._timer: int | None = None
        self._queue: Any = None  # of macOS
        self._handle: asyncio.TimerHandle | None = None
        self._watched: int | None = None

    def at(self, instant: float | None) -> None:
        """Ring at ``instant`` (Unix seconds); None: not at all, and nothing is held open."""
        if instant is None:
            self.close()
            return
        loop = asyncio.get_running_loop()
        descriptor = self._armed(instant)
        if descriptor is None:
            if self._handle is not None:
                self._handle.cancel()
            wait = min(OFTEN, max(0.0, instant - time.time()) + 0.001)
            self._handle = loop.call_later(wait, self._ring)
        elif self._watched is None:
            loop.add_reader(descriptor, self._rang)
            self._watched = descriptor

    def close(self) -> None:
        """No more ringing."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._watched is not None:
            asyncio.get_running_loop().remove_reader(self._watched)
            self._watched = None
        if self._timer is not None:
            os.close(self._timer)
            self._timer = None
        if self._queue is not None:
            self._queue.close()
            self._queue = None

    def _armed(self, instant: float) -> int | None:
        """The descriptor that can be read at that time; None: there is none of the kind."""
        if sys.platform == "linux":
            return self._timerfd(instant)
        return self._kevent(instant)

    def _timerfd(self, instant: float) -> int | None:
        libc = ctypes.CDLL(None, use_errno=True)
        if self._timer is None:
            made = libc.timerfd_create(_REALTIME, _FLAGS)
            if made < 0:
                log.warning("no timer of the clock: %s", os.strerror(ctypes.get_errno()))
                return None
            self._timer = made
        seconds = max(1, int(instant))
        spec = _Spec(0, 0, seconds, int((instant - int(instant)) * 1e9) if instant > 1 else 0)
        if libc.timerfd_settime(self._timer, _ABSOLUTE, ctypes.byref(spec), None) < 0:
            log.warning("the timer of the clock: %s", os.strerror(ctypes.get_errno()))
            self.close()
            return None
        return self._timer

    def _kevent(self, instant: float) -> int | None:  # pragma: no cover - macOS
        kernel: Any = select
        if not hasattr(kernel, "kqueue"):
            return None
        self._queue = self._queue or kernel.kqueue()
        event = kernel.kevent(
            1,
            filter=kernel.KQ_FILTER_TIMER,
            flags=kernel.KQ_EV_ADD | kernel.KQ_EV_ONESHOT,
            fflags=_KQ_SECONDS | _KQ_ABSOLUTE,
            data=int(instant) + 1,
        )
        try:
            self._queue.control([event], 0)
        except OSError as error:
            log.warning("no timer of the clock: %s", error)
            return None
        return int(self._queue.fileno())

    def _rang(self) -> None:
        """Read it empty; ECANCELED says that the clock was set."""
        if self._timer is not None:
            with suppress(OSError):
                os.read(self._timer, 8)
        elif self._queue is not None:  # pragma: no cover - macOS
            self._queue.control(None, 8, 0)
        self._ring()
