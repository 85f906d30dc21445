"""Who leaves, in which order. Pure: it is asked speculatively, again at each decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daemon.core.budget import fits, minus, plus
from daemon.core.messages import Bytes


@dataclass(slots=True)  # not frozen: many are made at each decision
class Resident:
    """A backend that could leave. ``reload``: seconds that it would cost to bring it back."""

    model: str
    charge: Bytes
    leases: int
    last_used: float
    reload: float
    draining: bool = False

    def order(self) -> tuple[bool, bool, float, float, str]:
        """Those already leaving first, idle before busy, least recently used, cheapest reload."""
        return (not self.draining, self.leases > 0, self.last_used, self.reload, self.model)


def choose_victims(
    need: Bytes, room: Bytes, residents: Sequence[Resident]
) -> tuple[Resident, ...] | None:
    """The residents that must leave so that ``need`` fits into ``room``; None if all would not do.

    The coldest that alone frees enough is preferred over several, but a busy one never over idle
    ones; what turns out superfluous is dropped.
    """
    ordered = sorted(residents, key=Resident.order)
    chosen: list[Resident] = []
    left = dict(room)
    while not fits(need, left):
        if len(chosen) == len(ordered):
            return None
        chosen.append(ordered[len(chosen)])
        left = plus(left, chosen[-1].charge)
    for resident in reversed(list(chosen)):
        less = minus(left, resident.charge)
        if fits(need, less):
            chosen = [r for r in chosen if r is not resident]
            left = less
    if len(chosen) > 1 and not any(r.draining for r in chosen):
        busy = any(r.leases for r in chosen)
        for resident in ordered:
            if (busy or not resident.leases) and fits(need, plus(room, resident.charge)):
                return (resident,)
    return tuple(chosen)
