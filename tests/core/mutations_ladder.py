"""Deliberate bugs of the out-of-memory ladder; see ``mutants``."""

from __future__ import annotations

from typing import Final

from tests.core.mutations import Mutant

LADDER: Final = (
    Mutant(
        "rungs never end",
        "messages.py",
        "(self.until is None or rung <= self.until)",
        "True",
    ),
    Mutant(
        "the same variant is tried again on the next rung",
        "ladder.py",
        "smallest = max(page.smallest, index if alone else index + 1)",
        "smallest = max(page.smallest, index)",
    ),
    Mutant(
        "alone though nobody is beside it",
        "ladder.py",
        "if (others or not alone) and any(",
        "if any(",
    ),
    Mutant(
        "alone beside others",
        "claims.py",
        "if survey.hushed or (survey.company and self._to_itself(page)):",
        "if survey.hushed:",
    ),
    Mutant(
        "others start beside one that is to be alone",
        "claims.py",
        "if survey.hushed or (survey.company and self._to_itself(page)):",
        "if survey.company and self._to_itself(page):",
    ),
    Mutant(
        "it is alone before memory has come back",
        "claims.py",
        "company, hushed, stale_at = bool(settling), False,",
        "company, hushed, stale_at = False, False,",
    ),
    Mutant(
        "younger ones start while one waits to be alone",
        "claims.py",
        "            if not self._startable(page, variant, survey):\n                continue\n",
        "",
    ),
    Mutant(
        "nothing is remembered",
        "runs.py",
        "now + self.policy.climb_back\n            self._remember(page)\n",
        "now + self.policy.climb_back\n",
    ),
    Mutant(
        "what is remembered is not heeded",
        "operators.py",
        "                ladder.stand(page, spec.standing, now, self.policy)\n            else:\n",
        "            else:\n",
    ),
    Mutant(
        "a reset is not remembered",
        "operators.py",
        "                        self._remember(page)\n",
        "",
    ),
    Mutant(
        "it never climbs",
        "page.py",
        "times = [self.expires_at(), self.climbs_at(policy), self.cut_at(policy)]",
        "times = [self.expires_at(), self.cut_at(policy)]",
    ),
    Mutant(
        "it climbs at once",
        "runs.py",
        "page.climb_at = now, now + self.policy.climb_back\n            self._remember",
        "page.climb_at = now, now\n            self._remember",
    ),
    Mutant(
        "it climbs while it is in use",
        "page.py",
        "self.idle_since() + policy.recent) if self.idle() else None",
        "self.idle_since()) if self.state is State.READY else None",
    ),
    Mutant(
        "its failed climb walks the whole ladder again",
        "runs.py",
        "        stepped = ladder.fall_back(page, now, self.policy)\n",
        "        stepped = False\n        page.before = None\n",
    ),
    Mutant(
        "one good minute at full size is enough",
        "runs.py",
        "if page.trying and page.before is not None and life.healthy(self.policy):",
        "if page.trying and page.before is not None:",
    ),
    Mutant(
        "a request waits for any number of failures",
        "runs.py",
        "if tries >= self.policy.memory_attempts:",
        "if tries > 99:",
    ),
    Mutant(
        "memory that was short at work reserves no more",
        "runs.py",
        "page.margin = any(",
        "page.margin = False and any(",
    ),
    Mutant(
        "one slot is granted twice",
        "page.py",
        "            return self.variant.slots\n",
        "            return self.spec.slots\n",
    ),
    Mutant(
        "out of memory counts for the breaker",
        "restarts.py",
        "    if smaller:\n        return Retry(now + policy.backoff)\n",
        "    if smaller:\n        history.count(now, policy.breaker_window, repeated=False)\n"
        "        return Retry(now + policy.backoff)\n",
    ),
    Mutant(
        "Metal is tried for ever",
        "restarts.py",
        "        history.metal += 1\n",
        "",
    ),
    Mutant(
        "another ladder keeps the old rung",
        "operators.py",
        "        other = other or page.spec.ladder != spec.ladder\n",
        "",
    ),
    Mutant(
        "a poisonous request opens the breaker",
        "restarts.py",
        "        if repeated and self.crashes:\n",
        "        if False:\n",
    ),
    Mutant(
        "many good answers forgive nothing",
        "restarts.py",
        "(HEALTHY_SHARE if busy else 1.0)",
        "1.0",
    ),
)
