"""The ledger: which bytes of which pool are spoken for, from the start of a process until its
memory has been seen back."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from daemon.core.messages import Bytes
from daemon.core.policy import Policy

NOTHING: Bytes = {}


def plus(a: Bytes, b: Bytes) -> dict[str, int]:
    """Pool by pool."""
    return {pool: a.get(pool, 0) + b.get(pool, 0) for pool in a.keys() | b.keys()}


def minus(a: Bytes, b: Bytes) -> dict[str, int]:
    """Pool by pool; may go below zero, which tells how much is missing."""
    return {pool: a.get(pool, 0) - b.get(pool, 0) for pool in a.keys() | b.keys()}


def total(parts: Iterable[Bytes]) -> dict[str, int]:
    """Sum, pool by pool."""
    result: dict[str, int] = {}
    for part in parts:
        for pool, count in part.items():
            result[pool] = result.get(pool, 0) + count
    return result


def fits(need: Bytes, room: Bytes) -> bool:
    """Whether ``need`` goes into ``room`` in every pool; a pool that does not exist has no room."""
    for pool, count in need.items():  # noqa: SIM110 - a plain loop: it is asked very often
        if count > 0 and count > room.get(pool, 0):
            return False
    return True


def largest(a: Bytes, b: Bytes) -> dict[str, int]:
    """The larger of both, pool by pool."""
    return {pool: max(a.get(pool, 0), b.get(pool, 0)) for pool in a.keys() | b.keys()}


@dataclass(slots=True)
class Settling:
    """Bytes of a process that is gone, not yet seen back."""

    need: Bytes
    until: float
    before: Bytes  # free bytes per pool at the exit


class Ledger:
    """Charges of live backends and of those that are settling."""

    def __init__(self, budget: Bytes, policy: Policy) -> None:
        self.budget: dict[str, int] = dict(budget)
        self.free: dict[str, int] = {}
        self.policy = policy
        self._charges: dict[str, Bytes] = {}
        self._settling: list[Settling] = []
        self._committed: dict[str, int] = {}
        self._unseen: dict[str, Bytes] = {}  # of starts that ``free`` does not show yet
        self.low: dict[str, int] = {}  # marks of free bytes: below it somebody else is short
        self.high: dict[str, int] = {}  # and from here on nobody is

    def charge(self, model: str, need: Bytes, *, new: bool = False) -> None:
        """Commit bytes for a model's backend, replacing what it had; ``new``: it starts."""
        self._charges[model] = dict(need)
        if new:
            self._unseen[model] = self._charges[model]
        self._recount()

    def charged(self, model: str) -> Bytes:
        return self._charges.get(model, {})

    def release(self, model: str, now: float) -> None:
        """The process is gone: bytes of pools that give back slowly go on counting for a while."""
        need = self._charges.pop(model, {})
        if self._unseen.pop(model, None) is None:
            for pool in self.policy.unsettled_pools & need.keys() & self.free.keys():
                self.free[pool] += need[pool]  # until somebody looks
        slow = {p: n for p, n in need.items() if p not in self.policy.unsettled_pools and n > 0}
        if slow:
            before = {pool: self.free[pool] for pool in slow if pool in self.free}
            self._settling.append(Settling(slow, now + self.policy.settle, before))
        self._recount()

    def observe(self, free: Bytes, starting: Container[str] = ()) -> None:
        """Free memory as the machine says; whatever has come back is settled. Those ``starting``
        have not taken theirs yet."""
        self.free = dict(free)
        self._unseen = {name: need for name, need in self._unseen.items() if name in starting}
        share = self.policy.settle_share
        self._settling = [
            item
            for item in self._settling
            if not item.before
            or any(
                free.get(pool, 0) - item.before[pool] < share * item.need[pool]
                for pool in item.before
            )
        ]
        self._recount()

    def expire(self, now: float) -> bool:
        """Stop waiting for what did not come back in time; whether there was any."""
        kept = [item for item in self._settling if item.until > now]
        if len(kept) != len(self._settling):
            self._settling = kept
            self._recount()
            return True
        return False

    def _recount(self) -> None:
        self._committed = total([*self._charges.values(), self.settling()])

    def settling(self) -> dict[str, int]:
        """Bytes of processes that are gone, not yet seen back."""
        return total(item.need for item in self._settling)

    def settles_at(self) -> float | None:
        """When the next settling charge is dropped at the latest."""
        return min((item.until for item in self._settling), default=None)

    @property
    def committed(self) -> Mapping[str, int]:
        return self._committed

    def room(self, keep: Bytes = NOTHING) -> dict[str, int]:
        """Bytes left in each pool now; below zero after a lowered budget or a grown footprint.

        In a pool with marks no more than what the machine really has left, less what it is to
        ``keep``.
        """
        room = self.spare()
        for pool in self.low:
            if pool in self.free and pool in room:
                taken = sum(need.get(pool, 0) for need in self._unseen.values())
                room[pool] = min(room[pool], self.free[pool] - taken - keep.get(pool, 0))
        return room

    def spare(self) -> dict[str, int]:
        """Bytes of the budget that are not spoken for."""
        return minus(self.budget, self._committed)
