"""The invariants of the design, as the seeded world checks them at every step."""

from __future__ import annotations

from daemon.core import ladder
from daemon.core.budget import fits
from daemon.core.lifecycle import State
from daemon.core.messages import Event, Standing, Ticket, Variant
from daemon.core.policy import Policy
from daemon.core.problems import Code
from daemon.core.scheduler import Scheduler


class Laws:
    """What must hold; the world (its subclass) has the state."""

    core: Scheduler
    policy: Policy
    now: float
    agenda: list[tuple[float, int, Event]]
    alive: dict[tuple[str, int], bool]
    running: dict[int, tuple[str, int]]
    waiting: dict[int, Ticket]
    free: dict[str, int]
    unseen: dict[tuple[str, int], dict[str, int]]
    forced: bool
    lowered: bool
    remembered: dict[str, tuple[Standing, float]]
    floors: dict[str, int]
    short: dict[str, float]

    def check_machine(self, variant: Variant) -> None:
        """Nothing starts that does not fit in what is really free, where marks are told."""
        for pool in self.core.ledger.low:
            taken = sum(need.get(pool, 0) for need in self.unseen.values())
            need = variant.need.get(pool, 0)
            assert need <= max(0, self.free[pool] - taken), f"{pool} has no {need} really free"

    def check_rung(self, model: str, variant: Variant) -> None:
        """What starts is allowed on its rung, smaller than what ran out of memory, and alone where
        it is to be; and nothing starts beside one that is to be alone."""
        page, core = self.core.pages[model], self.core
        known = next(v for v in page.spec.variants if v.id == variant.id)
        assert known.allowed_on(page.rung), f"{model} starts as {variant.id} on rung {page.rung}"
        place = page.spec.variants.index(known)
        floor = self.floors.get(model, 0)
        assert place >= floor, f"{model} starts as {variant.id}, which was too large"
        there = [p for p in core.residents.values() if (p.name, p.generation) in self.alive]
        others = [p for p in there if p is not page]
        assert not any(p.starts_alone() for p in others), "something starts beside one alone"
        waiting = [t for t in self.waiting.values() if t.model == model]
        small = bool(waiting) and all(t.small and not t.load for t in waiting)
        if page.alone and not small:
            assert all(p.pinned for p in others), f"{model} was to be alone"
            assert not core.ledger.settling(), f"{model} starts before the memory is back"

    def check_climb(self, model: str) -> None:
        since = max(self.short.get(model, 0.0), 0.0)
        assert self.now - since >= self.policy.climb_back - 1e-6, f"{model} climbs too early"

    def check_ladder(self) -> None:
        """What is remembered is what is; whoever stands on the ladder may climb one day."""
        for page in self.core.pages.values():
            standing = ladder.standing(page)
            known = self.remembered.get(page.name)
            assert (known is None) == (standing is None), f"{page.name}: {known} and {standing}"
            if known is not None and standing is not None:
                there, here = known[0], standing
                assert (there.rung, there.failed) == (here.rung, here.failed)
                assert there.failures == here.failures >= 1
            assert page.rung == 0 or page.before is None
            assert page.rung == 0 or page.climb_at is not None, f"{page.name} never climbs"
            assert page.allowed() or not page.spec.variants, f"{page.name} has no way to run"
            assert set(page.tries) <= {t.id for t in page.queue}, "a count is left behind"

    def check_cut(self, ticket_id: int, code: Code) -> None:
        """I2: a running request is ended for few reasons."""
        if code is not Code.PREEMPTED:
            assert self.forced or code is Code.UPSTREAM_ERROR
            return
        page = self.core.pages[self.running[ticket_id][0]]
        policy, claim = self.policy, self.core.claim
        assert page.state is State.DRAINING
        assert not page.pinned or page.drain_reason != "evict"
        too_long = policy.max_drain is not None
        too_long = too_long and self.now >= page.draining_at + (policy.max_drain or 0.0)
        waited = policy.memory_policy == "preempt" and claim is not None
        waited = waited and self.core.pages[claim or ""].oldest() + policy.memory_wait <= self.now
        assert too_long or waited, f"I2: {page.name} was cut short"

    def check_eviction(self, victim: str, claim: str) -> None:
        """Small calls make nobody leave that is in use, or was lately."""
        asking = [t for t in self.waiting.values() if t.model == claim]
        small = asking and all(t.small and not t.load for t in asking)
        if small and self.core.pages[claim].wanted_since is None and not self.policy.small_evicts:
            page = self.core.pages[victim]
            assert not page.leases, f"{victim} leaves, busy, for a small call"
            assert page.idle_since() + self.policy.recent <= self.now, f"{victim} was in use"

    def check(self) -> None:
        self.check_memory()
        core = self.core
        for page in core.pages.values():
            if page.state is State.READY:
                free = page.slots - len(page.leases)
                waits = len(page.queue) or len(page.guests)
                assert not (free and waits), f"I9: someone waits beside a free slot of {page.name}"
            assert len(page.leases) <= page.slots
            assert len(set(page.leases.values())) == len(page.leases), "a slot granted twice"
            resident = any(model == page.name for model, _ in self.alive)
            assert page.state.resident == resident, f"{page.name}: {page.state} but {self.alive}"
            if core.paused is not None:
                assert page.state not in (State.READY, State.STARTING), "it runs during a pause"
        self.check_claim()
        self.check_ladder()
        if self.waiting and not self.agenda:
            assert core.next_deadline() is not None, "I6: waiting, and nothing is due"

    def check_memory(self) -> None:
        committed, budget = self.core.ledger.committed, self.core.ledger.budget
        over = any(committed.get(pool, 0) > budget[pool] for pool in budget)
        assert self.lowered or not over, f"I1: {committed} of {budget}"
        self.lowered = over
        for pool in budget:
            charged = sum(
                page.variant.need.get(pool, 0)
                for page in self.core.pages.values()
                if page.state.resident and page.variant
            )
            assert committed.get(pool, 0) >= charged, "the ledger forgot a live process"

    def check_claim(self) -> None:
        core = self.core
        waiting = [p for p in core.pages.values() if p.state is State.STOPPED and p.waits()]
        # Small calls claim only where nobody else does.
        normal = [p for p in waiting if not p.only_small(core.policy)]
        if core.claim is not None:
            claimant = core.pages[core.claim]
            assert claimant in waiting, "I10: a claim for nobody"
            key = claimant.age_key(core.policy)
            assert claimant in normal or not normal, "small calls claim before others"
            if claimant in normal:
                ages = [p.age_key(core.policy) for p in normal]
                assert key == min(ages), "I4: not the oldest claims"
        elif normal:
            assert core.paused is not None, "I4: somebody waits, and nobody claims"
        drains = [p for p in core.pages.values() if p.state is State.DRAINING]
        for page in drains:
            assert page.drain_reason != "evict" or page.name in core.claim_victims, "I10: for whom?"
        if waiting and core.paused is None:
            first = min(normal or waiting, key=lambda p: p.age_key(core.policy))
            survey = core._survey(self.now)
            variant = core._choose(first, survey)
            startable = variant is not None and core._startable(first, variant, survey)
            assert not startable, f"I9: {first.name} fits and waits"
            for page in waiting:
                some = any(fits(v.need, survey.beside_pins) for v in page.allowed())
                assert some, f"I7: {page.name} can never fit, and waits"

    def check_picture(self) -> None:
        """What people are shown is what is."""
        picture = self.core.explain(self.now)
        assert {w.model for w in picture.waiting} == {
            p.name for p in self.core.pages.values() if p.waits()
        }
        assert sum(w.requests + w.loads for w in picture.waiting) == len(self.waiting)
        assert (picture.claim.model if picture.claim else None) == self.core.claim
        assert all(w.why.text and w.oldest_age >= 0.0 for w in picture.waiting)
        assert 0.0 <= picture.thrash_ratio <= 1.0
