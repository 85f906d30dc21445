"""How many seeds the seeded tests on whole daemons play: few by default, all in ``make test-long``.

``MODELPORT_SEEDS`` is the number for the cheapest of the seeded tests (the scheduler's world);
those that start processes take a share of it.
"""

from __future__ import annotations

import os

GIVEN = int(os.environ.get("MODELPORT_SEEDS", "0"))


def share(least: int, most: int) -> range:
    """``least`` seeds by default; ``most`` of them where 2000 are asked for."""
    return range(max(least, min(most, GIVEN * most // 2000)))


FAULTS = share(2, 20)
REAL = share(2, 50)
