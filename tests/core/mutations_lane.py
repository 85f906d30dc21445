"""Deliberate bugs on the short way of a request; see ``mutants``."""

from __future__ import annotations

from typing import Final

from tests.core.mutations import Mutant

LANE: Final = (
    Mutant(
        "the short way overtakes those who wait for memory",
        "lane.py",
        "        if waits or short or",
        "        if short or",
    ),
    Mutant(
        "the short way goes on while memory is short",
        "lane.py",
        "        if waits or short or",
        "        if waits or",
    ),
    Mutant(
        "the short way gives more slots than there are",
        "lane.py",
        "or len(page.leases) >= page.slots",
        "or len(page.leases) > page.slots",
    ),
    Mutant(
        "the short way overtakes the model's queue",
        "lane.py",
        "len(page.queue) or len(page.guests)",
        "len(page.guests)",
    ),
    Mutant(
        "the short way forgets those that it stands in for",
        "lane.py",
        "len(page.queue) or len(page.guests)",
        "len(page.queue)",
    ),
    Mutant(
        "no keep-alive after the short way",
        "lane.py",
        "        self._timers.set(page.name, at)\n",
        "",
    ),
    Mutant(
        "a keep-alive of nothing lasts until something happens",
        "lane.py",
        "        if now + page.spec.keep_alive == now:",
        "        if False:",
    ),
    Mutant(
        "time passes unseen on the short way",
        "lane.py",
        "        if at is not None and at < self.calm_until:\n            self.calm_until = at\n",
        "",
    ),
    Mutant(
        "one that serves by the short way expires",
        "lane.py",
        "        self._timers.set(page.name, None)\n",
        "",
    ),
    Mutant(
        "an ended wait is granted by the short way",
        "lane.py",
        "            or ticket.deadline <= now\n",
        "",
    ),
    Mutant(
        "claims do not see what the short way has changed",
        "lane.py",
        "        self._looks.pop(page.name, None)  # so that claims see it anew\n",
        "",
    ),
    Mutant(
        "the highest slot first",
        "page.py",
        "slot = heapq.heappop(self.freed) if self.freed else len(self.leases)",
        "slot = len(self.leases) + len(self.freed)",
    ),
    Mutant(
        "the slots of a dead process stay taken",
        "page.py",
        "        self.leases.clear()\n        self.freed.clear()\n",
        "        self.leases.clear()\n",
    ),
)
