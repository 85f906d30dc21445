"""Deliberate bugs in policies, pauses, pressure, small calls and indexes; see ``mutants``.

Among them are the bugs that other programs of this kind live with today.
"""

from __future__ import annotations

from tests.core.mutations import Mutant

MORE: tuple[Mutant, ...] = (
    Mutant(
        "priority jumps every queue for ever",
        "policy.py",
        "            seconds = self.priority_max - half * half / seconds\n",
        "            pass\n",
    ),
    Mutant(
        "the priority of a key is not read",
        "page.py",
        "ages = [t.arrived - policy.bonus(t.priority) for t in self.loads.values()]\n"
        "        if (first := self.queue.first())",
        "ages = [t.arrived for t in self.loads.values()]\n"
        "        if (first := self.queue.oldest())",
    ),
    Mutant(
        "priority overtakes within a client",
        "queues.py",
        "        if ticket.attempt > 1:\n",
        "        if ticket.attempt > 1 or ticket.priority > 0:\n"
        "            line.move_to_end(ticket.id, last=False)\n"
        "        if ticket.attempt > 1:\n",
    ),
    Mutant(
        "a high priority takes every turn in a queue",
        "queues.py",
        "        key = (since - self._bonus(head.priority), number)",
        "        key = (-1e9 * head.priority, number)",
    ),
    Mutant(
        "loaded traffic goes before an older claim for ever",
        "page.py",
        "        if self.leases or len(self.queue):\n            return turn_over\n",
        "        if self.leases or len(self.queue):\n            return None\n",
    ),
    Mutant(
        "a client's gap is learned only where its model was kept",
        "page.py",
        "        if self.released is None or self.leases",
        "        if self.state is not State.READY or self.released is None or self.leases",
    ),
    Mutant(
        "a long absence counts as a return",
        "page.py",
        "        if (gap := now - self.released) <= policy.linger_max:\n",
        "        if (gap := now - self.released) >= 0.0:\n",
    ),
    Mutant(
        "wait_then_fail fails beside idle victims, too",
        "claims.py",
        "        return min(arrivals) + self.policy.memory_wait if busy and arrivals else None",
        "        return min(arrivals) + self.policy.memory_wait if arrivals else None",
    ),
    Mutant(
        "wait_then_fail refuses the young with the old",
        "claims.py",
        "            if ticket.arrived + self.policy.memory_wait <= now:\n",
        "            if ticket.arrived <= now:\n",
    ),
    Mutant(
        "wait_then_fail never fails",
        "claims.py",
        "        if gives_up is not None and gives_up <= now:",
        "        if False:",
    ),
    Mutant(
        "preempts whatever the policy",
        "claims.py",
        '        if self.policy.memory_policy != "preempt":\n            return []\n',
        "",
    ),
    Mutant(
        "preempts before the claim has waited",
        "claims.py",
        "        if at > now:\n            return [at] if busy else []\n",
        "",
    ),
    Mutant(
        "preempts again and again",
        "claims.py",
        "if v.leases and not v.cut and v.state",
        "if v.leases and v.state",
    ),
    Mutant(
        "forgets when to preempt",
        "claims.py",
        "            return [at] if busy else []\n",
        "            return []\n",
    ),
    Mutant(
        "max_drain is always on",
        "page.py",
        "policy.max_drain is None or self.cut:\n"
        "            return None\n"
        "        return self.draining_at + policy.max_drain if",
        "self.cut:\n"
        "            return None\n"
        "        return self.draining_at + (policy.max_drain or 10.0) if",
    ),
    Mutant(
        "a drain is cut again and again",
        "book.py",
        "        page.cut = True\n",
        "",
    ),
    Mutant(
        "a drain for a claim is never cut",
        "scheduler.py",
        "                self._late.append(name)\n",
        '                self._late += [name] * (page.drain_reason != "evict")\n',
    ),
    Mutant(
        "a drain is cut that is called off in the same moment",
        "scheduler.py",
        "                self._late.append(name)\n",
        "                self._late.append(name)\n                self._end_drains(now)\n",
    ),
    Mutant(
        "small calls evict models in use",
        "claims.py",
        "cold = [r for r in survey.candidates if not r.leases and r.last_used < horizon]",
        "cold = list(survey.candidates)",
    ),
    Mutant(
        "small calls claim before others",
        "book.py",
        "            if page.only_small(self.policy):\n",
        "            if False:\n",
    ),
    Mutant(
        "small calls never claim",
        "claims.py",
        "        return bool(self._small) and self._small_calls(survey, now)",
        "        return False",
    ),
    Mutant(
        "small calls wait for ever behind one another's time",
        "claims.py",
        "            self._claim_deadline = min(warm) + self.policy.recent + INSTANT\n",
        "            pass\n",
    ),
    Mutant(
        "a stand-in's guest waits on in its own queue",
        "scheduler.py",
        "            wanted.queue.remove(ticket.id)\n",
        "",
    ),
    Mutant(
        "a guest goes before a stand-in's own requests",
        "scheduler.py",
        "            for page in pages:\n"
        "                self._dispatch(page, now)\n"
        "            for page in pages:\n"
        "                self._serve_guests(page, now)\n",
        "            for page in pages:\n"
        "                self._serve_guests(page, now)\n"
        "            for page in pages:\n"
        "                self._dispatch(page, now)\n",
    ),
    Mutant(
        "a draining stand-in takes guests",
        "scheduler.py",
        "    def _serve_guests(self, page: Page, now: float) -> None:\n"
        "        if page.state is not State.READY:",
        "    def _serve_guests(self, page: Page, now: float) -> None:\n"
        "        if page.state not in (State.READY, State.DRAINING):",
    ),
    Mutant(
        "a stand-in's slots have no end",
        "scheduler.py",
        "while len(page.guests) and len(page.leases) < page.slots:",
        "while len(page.guests) and len(page.leases) <= page.slots:",
    ),
    Mutant(
        "who left is still a guest",
        "book.py",
        "            host.guests.remove(ticket.id)\n",
        "            pass\n",
    ),
    Mutant(
        "the grant of a guest names the wrong lease",
        "scheduler.py",
        "        self._where[ticket.id] = page.name\n",
        "",
    ),
    Mutant(
        "something starts during a pause",
        "claims.py",
        "        if (self._waiting or self._small) and self.paused is None:",
        "        if self._waiting or self._small:",
    ),
    Mutant(
        "a pause spares the pins",
        "operators.py",
        "            leaving = page.leaves() and page.state is not State.STARTING\n"
        "            if leaving:",
        "            leaving = page.leaves() and page.state is not State.STARTING\n"
        "            if leaving or page.pinned:",
    ),
    Mutant(
        "a pause never ends by itself",
        "neighbour.py",
        "self.paused.until <= now:",
        "self.paused.until < 0.0:",
    ),
    Mutant(
        "pins stay away after a pause",
        "operators.py",
        "                    page.wanted_since = now\n            if page.state is State.DRAINING",
        "                    pass\n            if page.state is State.DRAINING",
    ),
    Mutant(
        "a resume leaves drains going",
        "operators.py",
        "                self._undrain(page)\n            self._touched.add(page.name)\n",
        "                pass\n            self._touched.add(page.name)\n",
    ),
    Mutant(
        "the end of a pause wakes nobody",
        "operators.py",
        "        self.paused, self._stale = None, True\n",
        "        self.paused = None\n",
    ),
    Mutant(
        "a pause holds although it should refuse",
        "arrivals.py",
        "self.paused is not None and not self.paused.hold:",
        "False:",
    ),
    Mutant(
        "pressure takes pins",
        "neighbour.py",
        "if page.idle() and not page.pinned]",
        "if page.idle()]",
    ),
    Mutant(
        "pressure takes busy ones",
        "page.py",
        "return self.state is State.READY and not (self.leases or self.loads or len(self.queue))",
        "return self.state is State.READY",
    ),
    Mutant(
        "pressure takes the warmest first",
        "neighbour.py",
        "key=lambda p: (p.idle_since(), p.load_seconds",
        "key=lambda p: (-p.idle_since(), p.load_seconds",
    ),
    Mutant(
        "pressure takes all that is idle",
        "neighbour.py",
        "            missing = minus(missing, charge)\n",
        "",
    ),
    Mutant(
        "pressure forgets what is on its way back",
        "neighbour.py",
        "high.get(p, low[p]) - free[p] - back.get(p, 0)",
        "high.get(p, low[p]) - free[p] + 0 * back.get(p, 0)",
    ),
    Mutant(
        "pressure ends at the low mark",
        "neighbour.py",
        "free[p] < high.get(p, low.get(p, 0))}",
        "free[p] < low.get(p, 0)}",
    ),
    Mutant(
        "nothing comes back after pressure",
        "neighbour.py",
        "                page.returns = PRESSURE\n",
        '                page.returns = ""\n',
    ),
    Mutant(
        "all come back after pressure",
        "neighbour.py",
        "            if reason == PRESSURE and page.by_hand:\n",
        "            if reason == PRESSURE:\n",
    ),
    Mutant(
        "it comes back into the next pressure",
        "neighbour.py",
        "self.ledger.room(keep=self.ledger.low)",
        "self.ledger.room()",
    ),
    Mutant(
        "what is free is not asked at a start",
        "budget.py",
        "                room[pool] = min(room[pool], self.free[pool] - taken"
        " - keep.get(pool, 0))\n",
        "                pass\n",
    ),
    Mutant(
        "what is starting counts as free",
        "budget.py",
        "                taken = sum(need.get(pool, 0) for need in self._unseen.values())\n",
        "                taken = 0\n",
    ),
    Mutant(
        "a grown backend lets the budget be exceeded",
        "runs.py",
        "            self._over = True\n            told =",
        "            told =",
    ),
    Mutant(
        "a leak goes on for ever",
        "runs.py",
        "n > factor * first.get(pool, 0) or n > budget",
        "n > budget",
    ),
    Mutant(
        "a wrong estimate restarts for ever",
        "runs.py",
        "            page.first_size = largest(page.price(), page.measured)\n        elif",
        "            page.first_size = dict(page.price())\n        if",
    ),
    Mutant(
        "a leak is cut in the middle of a request",
        "runs.py",
        "            self._drain(page, OUTGROWN, now)\n",
        "            self._stop(page, OUTGROWN, now)\n",
    ),
    Mutant(
        "a pin without room is dropped silently",
        "claims.py",
        '            self._publish("unfit", page, detail=problem.message, **problem.facts)\n',
        "",
    ),
    Mutant(
        "a claim is never looked at again",
        "claims.py",
        "        if not self._stale and now < self._stale_at:",
        "        if self.claim is not None and now < self._stale_at:",
    ),
    Mutant(
        "an index keeps the old place of a claim",
        "index.py",
        "        if before != key:\n",
        "        if before is None:\n",
    ),
    Mutant(
        "the index by need names too few",
        "index.py",
        "bisect_right(line, (limit, _LAST))",
        'bisect_left(line, (limit, ""))',
    ),
    Mutant(
        "thrashing counts the same second twice",
        "explain.py",
        "        start = max(span.began, until)\n",
        "        start = max(span.began, horizon)\n",
    ),
    Mutant(
        "evicts by count, not by memory",
        "eviction.py",
        "    while not fits(need, left):\n",
        "    while not chosen or not fits(need, left):\n",
    ),
    Mutant(
        "a pending load is revived away by new requests",
        "scheduler.py",
        "        if page.state is State.DRAINING and not page.leases:\n"
        "            self._stop(page, page.drain_reason, now)\n",
        "        if page.state is State.DRAINING and len(page.queue):\n"
        "            self._undrain(page)\n"
        "        if page.state is State.DRAINING and not page.leases:\n"
        "            self._stop(page, page.drain_reason, now)\n",
    ),
    Mutant(
        "one model's crash loop holds the claim",
        "book.py",
        "        if page.state is State.STOPPED and page.waits() and",
        "        if page.state in (State.STOPPED, State.BACKOFF) and page.waits() and",
    ),
    Mutant(
        "two models unload each other before serving",
        "page.py",
        "        waiting = {t for t in self.started_for",
        "        waiting = {t for t in () and self.started_for",
    ),
)
