"""Unified memory on a Mac: one pool, of which the GPU may wire only a part."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Final

from daemon.core.units import GIB, MIB
from daemon.machine import mach
from daemon.machine.base import GUESSED_LIMIT, METAL_LIMIT, UNIFIED, USER_LIMIT, PoolFacts

_SECONDS: Final = 5.0  # for each of the system's own programs, which take milliseconds
_SYSCTLS: Final = ("hw.memsize", "iogpu.wired_limit_mb")
# Pages that a new process can have without hurting another one.
_FREE_PAGES: Final = ("Pages free", "Pages speculative", "Pages inactive", "Pages purgeable")


def parse_vm_stat(text: str) -> int:
    """Bytes that can be had, from ``vm_stat``: free, speculative, inactive and purgeable pages.

    0 where the text is not understood.
    """
    size = re.search(r"page size of (\d{1,7}) bytes", text)
    if size is None:
        return 0
    pages = dict(re.findall(r"^\"?([A-Za-z][\w -]*?)\"?:\s+(\d{1,15})\.?\s*$", text, re.MULTILINE))
    return int(size[1]) * sum(int(pages.get(name, 0)) for name in _FREE_PAGES)


def parse_sysctl(text: str) -> dict[str, int]:
    """``sysctl``'s lines ``name: number`` by name."""
    return {
        name: int(value)
        for name, value in re.findall(r"^([\w.]+): (\d{1,18})$", text, re.MULTILINE)
    }


def fallback_limit(total: int) -> int:
    """What the GPU may wire where nobody says: 2/3 up to 36 GiB of memory, 3/4 above."""
    return total * 2 // 3 if total <= 36 * GIB else total * 3 // 4


def unified_pool(total: int, wired_limit_mb: int, working_set: int | None, free: int) -> PoolFacts:
    """The pool, its ceiling from the best source that there is.

    ``wired_limit_mb`` is the user's own sysctl (0: not set), ``working_set`` Metal's answer.
    """
    if wired_limit_mb:
        limit, source = wired_limit_mb * MIB, USER_LIMIT
    elif working_set:
        limit, source = working_set, METAL_LIMIT
    else:
        limit, source = fallback_limit(total), GUESSED_LIMIT
    return PoolFacts(UNIFIED, total, min(free, total), min(limit, total), source)


def available() -> int:
    """Bytes that can be had now: from the kernel, else from ``vm_stat``; 0 where neither tells."""
    seen = mach.available()
    return seen if seen is not None else parse_vm_stat(_output("/usr/bin/vm_stat"))


class MacSource:
    """The pool ``unified``. :meth:`pools` runs programs of the system: call it in a thread."""

    def pools(self) -> tuple[PoolFacts, ...]:
        values = parse_sysctl(_output("/usr/sbin/sysctl", *_SYSCTLS))
        total = values.get("hw.memsize", 0)
        if not total:
            return ()
        wired = values.get("iogpu.wired_limit_mb", 0)
        return (unified_pool(total, wired, recommended_working_set(), available()),)

    def free(self) -> dict[str, int]:
        free = available()
        return {UNIFIED: free} if free else {}


@lru_cache(maxsize=1)
def recommended_working_set() -> int | None:
    """Metal's recommendedMaxWorkingSetSize in bytes, or None.

    Asked by a child process, once: Metal's libraries cost some 50 MiB and are not wanted here.
    """
    text = _output(sys.executable, "-I", str(Path(__file__).with_name("metal.py")))
    value = int(text) if re.fullmatch(r"\d{1,18}\s*", text) else 0
    return value or None


def _output(*argv: str) -> str:
    """What a program prints; "" where it fails. sysctl fails for one name and prints the others."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")
