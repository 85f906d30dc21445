"""When the machine itself is short of memory: marks for good neighbours, and the system's verdict.

All but :func:`level` is pure.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

from daemon.machine import mach
from daemon.machine.base import USER_LIMIT, MachineFacts
from daemon.machine.budget import Tier, reserve

# Shares of ten seconds in which tasks waited for memory, in percent (Linux PSI). "some": one of
# them did; "full": all of them, so nothing got done. A machine that merely reclaims page cache
# stays below.
_SOME: Final = 20.0
_FULL: Final = 5.0


@dataclass(frozen=True, slots=True)
class Marks:
    """Free bytes of a machine. Under ``low`` another program needs memory that our idle backends
    hold; at ``high`` or more there is enough again. low < high, unless both are 0."""

    low: int
    high: int


def marks(facts: MachineFacts, tier: Tier, *, by_hand: Collection[str] = ()) -> Mapping[str, Marks]:
    """The marks of every pool, to be held against what ``observe.free()`` says.

    They are a quarter and a half of the reserve that ``tier`` leaves to other programs, so that a
    full budget alone does not look like pressure: it is the others that must have taken half of the
    reserve, and three quarters before anything goes. Where the user has set the budget (pools
    ``by_hand``) or the GPU's limit himself, no reserve was kept and he wants his models to stay:
    the marks are those of ``aggressive``.
    """
    found = {}
    for pool in facts.pools:
        chosen = pool.name in by_hand or pool.source == USER_LIMIT
        kept = reserve(pool, "aggressive" if chosen else tier)
        found[pool.name] = Marks(kept // 4, kept // 2)
    return found


class Level(IntEnum):
    """The system's own verdict, from which nothing is evicted by itself: it is shown, and it may
    confirm a mark. Larger is worse."""

    NORMAL = 0
    WARNING = 1
    CRITICAL = 2


def mac_level(value: int | None) -> Level:
    """``kern.memorystatus_vm_pressure_level``: 1 normal, 2 warning, 4 critical."""
    return {2: Level.WARNING, 4: Level.CRITICAL}.get(value or 1, Level.NORMAL)


def parse_psi(text: str) -> dict[str, float]:
    """``/proc/pressure/memory``: the shares of the last ten seconds (``some``, ``full``), percent.

    Empty where the text is not understood: kernels without PSI, or with it switched off.
    """
    lines = re.findall(r"^(some|full) avg10=(\d{1,3}(?:\.\d{1,2})?) ", text, re.MULTILINE)
    return {name: float(share) for name, share in lines}


def linux_level(shares: Mapping[str, float]) -> Level:
    """From the shares of :func:`parse_psi`."""
    if shares.get("full", 0.0) >= _FULL:
        return Level.CRITICAL
    return Level.WARNING if shares.get("some", 0.0) >= _SOME else Level.NORMAL


def level(psi: Path = Path("/proc/pressure/memory")) -> Level:
    """The verdict of this machine now; NORMAL where it gives none. Under a millisecond."""
    if sys.platform == "darwin":
        return mac_level(mach.pressure_level())
    try:
        return linux_level(parse_psi(psi.read_text(errors="replace")))
    except OSError:
        return Level.NORMAL
