"""How much each key asks for: requests at once, and a minute. Pure: the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass, field

from daemon.access.principals import Principal
from daemon.core.problems import Code, Problem

MINUTE = 60.0
_DUST = 1e-9  # what adding up fractions of a second leaves
BUSY = 1.0  # seconds after which one more is tried where all are at work


@dataclass(slots=True)
class _Meter:
    at_work: int = 0
    left: float = 0.0  # of the minute's requests
    seen: float = 0.0


@dataclass(slots=True)
class Meters:
    """The requests of each key, by its name: a bucket that fills again over a minute."""

    _meters: dict[str, _Meter] = field(default_factory=dict)

    def begin(self, who: Principal, now: float) -> Problem | None:
        """One more request; None: it may come in, and :meth:`end` is to be called. ``now`` in
        seconds of any clock that does not go back."""
        meter = self._meter(who)
        if who.at_once and meter.at_work >= who.at_once:
            text = f"The key {who.name} has {who.at_once} requests at work, which is its limit."
            return Problem(Code.RATE_LIMITED, text, "Wait for one to end.", BUSY)
        problem = _one_more(meter, who, now)
        if problem is None:
            meter.at_work += 1
        return problem

    def count(self, who: Principal, now: float) -> Problem | None:
        """One more of the minute, that is no work of an engine: it has no end to be told of."""
        return _one_more(self._meter(who), who, now)

    def _meter(self, who: Principal) -> _Meter:
        meter = self._meters.get(who.name)
        if meter is None:
            meter = self._meters[who.name] = _Meter(left=float(who.per_minute))
        return meter

    def end(self, who: Principal) -> None:
        """One that came in is over."""
        meter = self._meters.get(who.name)
        if meter is not None:
            meter.at_work -= 1

    def forget(self, names: frozenset[str]) -> None:
        """Only these keys are left; requests that are still at work are waited for."""
        for name in [n for n, m in self._meters.items() if n not in names and not m.at_work]:
            del self._meters[name]


def _one_more(meter: _Meter, who: Principal, now: float) -> Problem | None:
    """Take one from what is left of the minute, if there is one."""
    if not who.per_minute:
        return None
    rate = who.per_minute / MINUTE
    meter.left = min(who.per_minute, meter.left + (now - meter.seen) * rate)
    meter.seen = now
    if meter.left < 1.0 - _DUST:
        text = f"The key {who.name} has had {who.per_minute} requests in a minute, which "
        wait = (1.0 - meter.left) / rate
        return Problem(Code.RATE_LIMITED, text + "is its limit.", "", wait)
    meter.left -= 1.0
    return None
