"""The daemon's own memory: what it holds for good, and what it gives back."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def tidy_memory() -> None:
    """What was imported stays for good: no later collection looks at it, and what starting up
    left free goes back to the system (glibc keeps it otherwise)."""
    gc.collect()
    gc.freeze()
    give_back()


def give_back() -> None:
    """Memory that is free goes back to the system. Any thread."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
