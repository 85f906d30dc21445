"""What the GPU of a Mac may wire, and whether raising that would help. Pure.

``iogpu.wired_limit_mb`` (macOS 14 and later) is in mebibytes; 0 means the system's own share. It is
gone after a restart of the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from daemon.core.units import GIB, MIB, format_bytes
from daemon.machine.base import UNIFIED, USER_LIMIT, MachineFacts

STEP_MB: Final = 256  # limits are advised in steps of this: easier to read and to type


@dataclass(frozen=True, slots=True)
class Advice:
    """``megabytes`` and ``command``: the limit that would do, and the line that sets it; None and
    "" where none would. ``reason``: why, in one sentence for people."""

    megabytes: int | None
    command: str
    reason: str


def most_mb(total: int) -> int:
    """The largest limit that we set or advise on a machine of ``total`` bytes, in mebibytes.

    It leaves 3 GiB, or a sixteenth, to the system: what the GPU wires can neither be swapped nor
    compressed, and a Mac without memory for itself freezes.
    """
    left = max(0, total - max(3 * GIB, total // 16)) // MIB
    return left // STEP_MB * STEP_MB


def advice(need: int, facts: MachineFacts) -> Advice:
    """The line that makes room for ``need`` bytes: all that is to be in the pool at once.

    A raised limit is the user's own decision, so that no reserve is taken off it: the budget is
    then the limit.
    """
    pool = facts.pool(UNIFIED)
    if facts.platform != "darwin" or pool is None or pool.limit is None:
        return Advice(None, "", "Only a Mac with Apple Silicon has such a limit.")
    most = most_mb(pool.total)
    asked = max(0, need)
    if pool.source == USER_LIMIT and asked <= pool.limit:
        return Advice(None, "", f"{format_bytes(pool.limit)} are allowed already: that is enough.")
    wanted = -(-asked // (STEP_MB * MIB)) * STEP_MB
    wanted = max(wanted, pool.limit // MIB // STEP_MB * STEP_MB)
    if wanted > most:
        return Advice(
            None,
            "",
            f"{format_bytes(asked)} are needed; of the {format_bytes(pool.total)} of this Mac"
            f" {format_bytes(most * MIB)} at most can be given to the GPU.",
        )
    return Advice(
        wanted,
        f"sudo sysctl {USER_LIMIT}={wanted}",
        f"It lets the GPU take {format_bytes(wanted * MIB)} of {format_bytes(pool.total)} until the"
        f" Mac restarts; now it may take {format_bytes(pool.limit)}.",
    )
