"""Deliberate bugs in what the core has always done; see ``mutants``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """``old`` must occur exactly once in ``daemon/core/<file>``."""

    name: str
    file: str
    old: str
    new: str


USUAL: tuple[Mutant, ...] = (
    # who is stopped
    Mutant(
        "evicts a busy model without waiting for its leases",
        "claims.py",
        "if not victim.leases and victim.state is State.DRAINING:",
        "if victim.state is State.DRAINING:",
    ),
    Mutant(
        "keep-alive ends during a request",
        "page.py",
        "used = self.leases or self.loads or len(self.queue)",
        "used = self.loads or len(self.queue)",
    ),
    Mutant(
        "keep-alive ends under a load that is not answered yet",
        "page.py",
        "used = self.leases or self.loads or len(self.queue)",
        "used = self.leases or len(self.queue)",
    ),
    Mutant(
        "keep-alive counts from the last use, not from ready",
        "page.py",
        "return max(self.ready_at, self.last_used)",
        "return self.last_used",
    ),
    Mutant(
        "ready is not a use",
        "runs.py",
        "page.ready_at = page.last_used = now\n        page.load_seconds",
        "page.last_used = now\n        page.load_seconds",
    ),
    Mutant(
        "pinned models are victims",
        "claims.py",
        "            elif not (pinned or leaves):",
        "            elif not leaves:",
    ),
    Mutant(
        "pinned models are unloaded when idle",
        "page.py",
        "or used or self.pinned or self.spec.keep_alive < 0",
        "or used or self.spec.keep_alive < 0",
    ),
    Mutant(
        "most recently used goes first",
        "eviction.py",
        "self.leases > 0, self.last_used, self.reload",
        "self.leases > 0, -self.last_used, self.reload",
    ),
    Mutant(
        "busy goes before idle",
        "eviction.py",
        "(not self.draining, self.leases > 0,",
        "(not self.draining, self.leases == 0,",
    ),
    Mutant(
        "superfluous victims leave, too",
        "eviction.py",
        "            chosen = [r for r in chosen if r is not resident]\n            left = less\n",
        "            pass\n",
    ),
    Mutant(
        "a single victim may be busy while idle ones would do",
        "eviction.py",
        "if (busy or not resident.leases) and fits(",
        "if fits(",
    ),
    Mutant(
        "no quantum: a busy model is taken at once",
        "page.py",
        "            return turn_over\n",
        "            return 0.0\n",
    ),
    Mutant(
        "the quantum ignores how long the head has waited",
        "page.py",
        "turn_over = max(self.ready_at, target.oldest()) + quantum",
        "turn_over = self.ready_at + quantum",
    ),
    Mutant(
        "no linger: an idle model is taken at once",
        "page.py",
        "return min(self.idle_since() + self.linger(policy), turn_over)",
        "return min(self.idle_since(), turn_over)",
    ),
    Mutant(
        "the lower bound of the linger wins",
        "page.py",
        "return min(wanted, policy.linger_max, policy.linger_share * self.load_seconds)",
        "return max(policy.linger_min, min(wanted, policy.linger_share * self.load_seconds))",
    ),
    Mutant(
        "a draining model is given new requests",
        "scheduler.py",
        "        if page.state is not State.READY:\n"
        "            return\n"
        "        for ticket in list(",
        "        if page.state not in (State.READY, State.DRAINING):\n"
        "            return\n"
        "        for ticket in list(",
    ),
    Mutant(
        "victims drain on for a claim that was dropped",
        "claims.py",
        "            self._call_off_drains(before - self.claim_victims)\n",
        "            pass\n",
    ),
    Mutant(
        "an unload is called off with a claim",
        "claims.py",
        " and page.drain_reason == CLAIM:",
        ":",
    ),
    # memory
    Mutant(
        "loads in progress are not counted",
        "book.py",
        "        self.ledger.charge(page.name, variant.need, new=True)\n",
        "",
    ),
    Mutant(
        "memory is free at the signal, not at the exit",
        "book.py",
        "        self._move(page, State.STOPPING)\n",
        "        self._move(page, State.STOPPING)\n        self.ledger.release(page.name, now)\n",
    ),
    Mutant(
        "nothing settles",
        "budget.py",
        "        if slow:\n",
        "        if False:\n",
    ),
    Mutant(
        "half of the memory back is enough",
        "policy.py",
        "settle_share: float = 0.75",
        "settle_share: float = 0.5",
    ),
    Mutant(
        "one pool back is enough",
        "budget.py",
        "            or any(\n",
        "            or all(\n",
    ),
    Mutant(
        "settling never ends by time",
        "budget.py",
        "kept = [item for item in self._settling if item.until > now]",
        "kept = list(self._settling)",
    ),
    Mutant(
        "a pool that nobody has is as large as you like",
        "budget.py",
        "count > room.get(pool, 0):",
        "count > room.get(pool, count):",
    ),
    Mutant(
        "a grown footprint is not charged",
        "runs.py",
        "            self.ledger.charge(page.name, grown)\n",
        "",
    ),
    Mutant(
        "a backfill takes what the claim needs",
        "claims.py",
        "        left = minus(survey.later, variant.need)\n",
        "        left = dict(survey.later)\n",
    ),
    Mutant(
        "nobody fills a gap",
        "claims.py",
        "                if self._backfills(page, variant, survey, now):\n"
        "                    return True\n"
        "                self._make",
        "                self._make",
    ),
    Mutant(
        "everybody claims",
        "claims.py",
        "                self._make_them_go(page, now)\n                return False\n",
        "                self._make_them_go(page, now)\n",
    ),
    Mutant(
        "the youngest claims first",
        "index.py",
        "return self._order[0][1] if",
        "return self._order[-1][1] if",
    ),
    Mutant(
        "always the full size, whoever has to go",
        "claims.py",
        "            if fits(variant.need, survey.beside_recent):\n",
        "            if fits(variant.need, survey.beside_pins):\n",
    ),
    Mutant(
        "what can never fit waits for its deadline",
        "claims.py",
        "            if not self._fits_some(page, survey.beside_pins):\n",
        "            if False:\n",
    ),
    # requests
    Mutant(
        "a grant does not change the books at once",
        "page.py",
        "        self.leases[ticket_id] = slot\n",
        "",
    ),
    Mutant(
        "a full slot is granted again",
        "scheduler.py",
        "while len(page.queue) and len(page.leases) < page.slots:",
        "while len(page.queue) and len(page.leases) <= page.slots:",
    ),
    Mutant(
        "one client is served until it has nothing left",
        "queues.py",
        "        self._turn(client, now)\n        self._out(ticket)\n",
        "        self._out(ticket)\n",
    ),
    Mutant(
        "a second attempt joins the end",
        "queues.py",
        "        if ticket.attempt > 1:\n",
        "        if False:\n",
    ),
    Mutant(
        "the index of ages is never tidied",
        "queues.py",
        "            self._keys.pop(client, None)\n        self._tidy()\n",
        "            self._keys.pop(client, None)\n",
    ),
    Mutant(
        "a start is stopped when its waiters leave",
        "arrivals.py",
        "        self._forget(page, ticket_id)\n\n    def _ended",
        "        self._forget(page, ticket_id)\n"
        "        if page.state is State.STARTING and not page.waits():\n"
        "            self._stop(page, UNLOAD, now)\n\n    def _ended",
    ),
    Mutant(
        "the clock of a ticket runs on while its backend starts",
        "scheduler.py",
        "            if page.state is State.STARTING:  # the",
        "            if False:  # the",
    ),
    Mutant(
        "no credit for the time that a start took",
        "scheduler.py",
        "            elif stood_still > 0:\n",
        "            elif False:\n",
    ),
    Mutant(
        "waiting bodies are counted for ever",
        "book.py",
        "        self._bytes -= ticket.body_bytes\n",
        "",
    ),
    Mutant(
        "a load is a pin",
        "scheduler.py",
        "            page.by_hand = True\n",
        "            page.by_hand = page.pinned = True\n",
    ),
    # failures
    Mutant(
        "a late exit of an older process is believed",
        "runs.py",
        "return page if page and page.generation == generation and page.state.resident else None",
        "return page if page and page.state.resident else None",
    ),
    Mutant(
        "generations begin anew when a model returns",
        "operators.py",
        "generation=self._generations.pop(name, 0)",
        "generation=0",
    ),
    Mutant(
        "a failed start frees its memory before its exit",
        "runs.py",
        "        page.failed_as = (exit_class, detail)\n",
        "        page.failed_as = (exit_class, detail)\n        self.ledger.release(model, now)\n",
    ),
    Mutant(
        "a failed start counts as a stop that was asked for",
        "runs.py",
        "asked = page.state is State.STOPPING and page.failed_as is None",
        "asked = page.state is State.STOPPING",
    ),
    Mutant(
        "the breaker never opens",
        "restarts.py",
        "if len(history.crashes) >= policy.breaker_crashes:",
        "if len(history.crashes) > 10 * policy.breaker_crashes:",
    ),
    Mutant(
        "no backoff",
        "restarts.py",
        "return Retry(now + delay * jitter(",
        "return Retry(now + 0.0 * jitter(",
    ),
    Mutant(
        "the backoff does not grow",
        "restarts.py",
        "doublings = min(history.consecutive - 1, 64)",
        "doublings = min(0, 64)",
    ),
    Mutant(
        "a permanent failure is tried again",
        "restarts.py",
        "        return GiveUp(None)\n",
        "        return GiveUp(now + policy.half_open)\n",
    ),
    Mutant(
        "out of memory starts the same again",
        "ladder.py",
        "page.rung, page.smallest, page.failed, page.tried = below, smallest, used",
        "page.rung, page.smallest, page.failed, page.tried = below, 0, used",
    ),
    Mutant(
        "steps of the ladder are allowed from the first",
        "page.py",
        "if v.allowed_on(self.rung))",
        "if v.allowed_on(99))",
    ),
    Mutant(
        "a crashed model comes back although nobody asks",
        "runs.py",
        "if (page.pinned or page.by_hand) and page.wanted_since is None:",
        "if page.wanted_since is None:",
    ),
    Mutant(
        "a pinned model stays dead",
        "runs.py",
        "if (page.pinned or page.by_hand) and page.wanted_since is None:",
        "if page.by_hand and page.wanted_since is None:",
    ),
    Mutant(
        "a forced unload does not end its requests",
        "operators.py",
        "        if force:\n            for ticket_id in page.leases:\n"
        "                self._say(CancelRequest(ticket_id, gone))\n",
        "",
    ),
    Mutant(
        "an untouched model is drained by any change of the catalog",
        "operators.py",
        "        if not anew:\n            return\n",
        "",
    ),
    Mutant(
        "a removed model is forgotten while its process lives",
        "operators.py",
        "        if not page.state.resident:\n            self._drop(page)\n",
        "        self._drop(page)\n",
    ),
    Mutant(
        "an adopted backend is not charged",
        "runs.py",
        "        self.ledger.charge(model, variant.need)\n        self._touched.add(model)\n",
        "        self._touched.add(model)\n",
    ),
)
