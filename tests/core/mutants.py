"""Deliberate bugs of the core, to see whether the tests bite.

Each mutant is one small change that somebody could make by mistake; many are bugs that other
programs of this kind have had. Run ``.venv/bin/python tests/core/mutants.py [NAME ...]``: it copies
the core and its tests to a temporary folder, applies one mutant at a time, and runs the tests there
with few seeds (``MODELPORT_SEEDS``, default 10). Exit status 1 if fewer than 90% were killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENOUGH = 0.9
LIMIT = 120.0  # seconds for one mutant; one that never ends is killed, too


@dataclass(frozen=True, slots=True)
class Mutant:
    """``old`` must occur exactly once in ``daemon/core/<file>``."""

    name: str
    file: str
    old: str
    new: str


MUTANTS: tuple[Mutant, ...] = (
    # who is stopped
    Mutant(
        "evicts a busy model without waiting for its leases",
        "scheduler.py",
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
        "book.py",
        "page.ready_at = page.last_used = now\n        page.load_seconds",
        "page.last_used = now\n        page.load_seconds",
    ),
    Mutant(
        "pinned models are victims",
        "scheduler.py",
        "if not p.pinned and not self._leaves(p) and",
        "if not self._leaves(p) and",
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
        "            chosen = rest",
        "            pass",
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
        "        if page.state is not State.READY:\n            return\n",
        "        if page.state not in (State.READY, State.DRAINING):\n            return\n",
    ),
    Mutant(
        "victims drain on for a claim that was dropped",
        "scheduler.py",
        "        self._call_off_drains(victims, now)\n",
        "",
    ),
    Mutant(
        "an unload is called off with a claim",
        "scheduler.py",
        "                and page.drain_reason == CLAIM\n",
        "",
    ),
    # memory
    Mutant(
        "loads in progress are not counted",
        "book.py",
        "        self.ledger.charge(page.name, variant.need)\n        self._say(StartBackend",
        "        self._say(StartBackend",
    ),
    Mutant(
        "memory is free at the signal, not at the exit",
        "book.py",
        "        page.move(State.STOPPING)\n",
        "        page.move(State.STOPPING)\n        self.ledger.release(page.name, now)\n",
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
        "count <= room.get(pool, 0) for",
        "count <= room.get(pool, count) for",
    ),
    Mutant(
        "a grown footprint is not charged",
        "book.py",
        "                self.ledger.charge(model, grown)\n",
        "",
    ),
    Mutant(
        "a backfill takes what the claim needs",
        "scheduler.py",
        "if reserved is None or self._backfills(variant, reserved, victims):",
        "if True:",
    ),
    Mutant(
        "nobody fills a gap",
        "scheduler.py",
        "if reserved is None or self._backfills(variant, reserved, victims):",
        "if reserved is None:",
    ),
    Mutant(
        "everybody claims",
        "scheduler.py",
        "            elif reserved is None:\n                reserved,",
        "            else:\n                reserved,",
    ),
    Mutant(
        "the youngest claims first",
        "scheduler.py",
        "for page in sorted(waiting, key=lambda p: p.age_key(self.policy)):",
        "for page in sorted(waiting, key=lambda p: p.age_key(self.policy), reverse=True):",
    ),
    Mutant(
        "always the full size, whoever has to go",
        "scheduler.py",
        "for keep in (self._recent(page, now), self._pins(page)):",
        "for keep in (self._pins(page),):",
    ),
    Mutant(
        "what can never fit waits for its deadline",
        "scheduler.py",
        "                self._refuse_all(page, admission.never_fits(",
        "                str(admission.never_fits(",
    ),
    # requests
    Mutant(
        "a grant does not change the books at once",
        "scheduler.py",
        "        page.leases[ticket.id] = slot\n",
        "",
    ),
    Mutant(
        "a full slot is granted again",
        "scheduler.py",
        "len(page.leases) < page.spec.slots:",
        "len(page.leases) <= page.spec.slots:",
    ),
    Mutant(
        "one client is served until it has nothing left",
        "queues.py",
        "            self._clients.move_to_end(client)\n",
        "            pass\n",
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
        "        del self._tickets[ticket.id]\n        self._tidy()\n",
        "        del self._tickets[ticket.id]\n",
    ),
    Mutant(
        "a start is stopped when its waiters leave",
        "book.py",
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
        "scheduler.py",
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
        "book.py",
        "return page if page and page.generation == generation and page.state.resident else None",
        "return page if page and page.state.resident else None",
    ),
    Mutant(
        "generations begin anew when a model returns",
        "book.py",
        "generation=self._generations.pop(name, 0)",
        "generation=0",
    ),
    Mutant(
        "a failed start frees its memory before its exit",
        "book.py",
        "        page.failed_as = (exit_class, detail)\n",
        "        page.failed_as = (exit_class, detail)\n        self.ledger.release(model, now)\n",
    ),
    Mutant(
        "a failed start counts as a stop that was asked for",
        "book.py",
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
        "book.py",
        "        page.smallest, page.rung = smallest, rung\n",
        "        page.smallest = page.rung = 0\n",
    ),
    Mutant(
        "steps of the ladder are allowed from the first",
        "page.py",
        "if v.rung <= self.rung)",
        "if v.rung <= 99)",
    ),
    Mutant(
        "a crashed model comes back although nobody asks",
        "book.py",
        "if (page.pinned or page.by_hand) and page.wanted_since is None:",
        "if page.wanted_since is None:",
    ),
    Mutant(
        "a pinned model stays dead",
        "book.py",
        "if (page.pinned or page.by_hand) and page.wanted_since is None:",
        "if page.by_hand and page.wanted_since is None:",
    ),
    Mutant(
        "a forced unload does not end its requests",
        "book.py",
        "        if force:\n            for ticket_id in page.leases:\n"
        "                self._say(CancelRequest(ticket_id, gone))\n",
        "",
    ),
    Mutant(
        "an untouched model is drained by any change of the catalog",
        "book.py",
        "        if not anew:\n            return\n",
        "",
    ),
    Mutant(
        "a removed model is forgotten while its process lives",
        "book.py",
        "        if not page.state.resident:\n            self._drop(page)\n",
        "        self._drop(page)\n",
    ),
    Mutant(
        "an adopted backend is not charged",
        "book.py",
        "        self.ledger.charge(model, variant.need)\n        self._touched.add(model)\n",
        "        self._touched.add(model)\n",
    ),
)


def apply(mutant: Mutant, core: Path) -> None:
    """Write the mutant's change into a copy of the core. Raises ValueError if it has no place."""
    file = core / mutant.file
    text = file.read_text(encoding="utf-8")
    if (count := text.count(mutant.old)) != 1:
        raise ValueError(f"{mutant.name}: its text occurs {count} times in {mutant.file}")
    file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def survives(mutant: Mutant) -> bool:
    """Whether the tests of the core let it pass."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder)
        skip = shutil.ignore_patterns("__pycache__", "test_mutants.py")
        for package in ("daemon", "tests"):
            shutil.copytree(ROOT / package / "core", copy / package / "core", ignore=skip)
            (copy / package / "__init__.py").touch()
        apply(mutant, copy / "daemon" / "core")
        command = (
            sys.executable,
            "-m",
            "pytest",
            "tests/core",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
        )
        seeds = os.environ.get("MODELPORT_SEEDS", "10")
        environ = {**os.environ, "MODELPORT_SEEDS": seeds, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                command, cwd=copy, env=environ, capture_output=True, timeout=LIMIT, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        if done.returncode not in (0, 1):  # neither passed nor failed: the run itself is broken
            raise RuntimeError(f"{mutant.name}: pytest could not run\n{done.stdout.decode()}")
        return done.returncode == 0


def main(names: Sequence[str]) -> int:
    """Try all mutants, or those whose name contains one of ``names``."""
    chosen = [m for m in MUTANTS if not names or any(part in m.name for part in names)]
    began = time.monotonic()
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        alive = 0
        for mutant, passed in zip(chosen, pool.map(survives, chosen), strict=True):
            alive += passed
            print(f"{'SURVIVED' if passed else 'killed  '}  {mutant.name}", flush=True)
    killed = len(chosen) - alive
    print(f"{killed} of {len(chosen)} killed in {time.monotonic() - began:.0f} s")
    return 0 if killed >= ENOUGH * len(chosen) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
