"""How many processes the system has killed for want of memory.

Linux counts them since the boot in ``/proc/vmstat`` (``oom_kill``), those of memory cgroups too.
macOS has no count that a program can read: jetsam writes reports for Console only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

VMSTAT: Final = Path("/proc/vmstat")


def kernel_kills(path: Path = VMSTAT) -> int | None:
    """The count, or None where the system keeps none."""
    try:
        text = path.read_text("ascii", "replace")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill" and count.isascii() and count.isdecimal():
            return int(count)
    return None
