"""Who asks again and again without a key that is good: counted by address, and then slowed down.

Not shut out: behind one address may be many machines, and a right key always passes. Pure: the
time is an argument.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from functools import lru_cache

ALLOWED = 10  # failures in a window
WINDOW = 60.0  # seconds, where nothing else is configured
_ADDRESSES = 1024  # remembered; those seen longest ago go first


@dataclass(slots=True)
class Failures:
    """The last failures of each address."""

    allowed: int = ALLOWED
    window: float = WINDOW
    _times: OrderedDict[str, deque[float]] = field(default_factory=OrderedDict)

    def count(self, address: str, now: float) -> float:
        """One more. The seconds after which this address has a free try again; 0: it has."""
        who = network(address)
        times = self._times.pop(who, None)
        if times is None:
            # Ten and no more: a flood shall not keep itself out for ever.
            times = deque(maxlen=self.allowed)
        self._times[who] = times
        if len(self._times) > _ADDRESSES:
            self._times.popitem(last=False)
        while times and not 0 <= now - times[0] < self.window:
            times.popleft()
        if len(times) < self.allowed:
            times.append(now)
            return 0.0
        return self.window - (now - times[0])

    def __len__(self) -> int:
        return len(self._times)


@lru_cache(maxsize=1024)
def network(address: str) -> str:
    """Whose address that is: a host has 2**64 addresses of IPv6, so there its network counts."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))
