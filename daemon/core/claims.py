"""Who gets the memory: oldest claim first, with a quantum and a short anticipation.

At most one model at a time may make others leave for it: the one whose oldest ticket is oldest,
priority counted as age. What fits without anybody leaving starts at once; younger ones may fill
what the claim leaves over. Small calls claim last, and only what nobody has used lately.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from daemon.core import admission, eviction
from daemon.core.budget import fits, minus, plus
from daemon.core.explain import Swap
from daemon.core.lifecycle import State
from daemon.core.messages import Bytes, Variant
from daemon.core.operators import Operators
from daemon.core.page import CLAIM, Page

NOBODY: frozenset[str] = frozenset()
NEVER = float("inf")
INSTANT = 0.001  # seconds, so that a window has surely ended, however times are rounded


@dataclass(slots=True)
class Survey:
    """The memory at one moment, as claims look at it. Bytes per pool."""

    room: dict[str, int]  # to start something now
    beside_pins: dict[str, int]  # were all gone that may go
    beside_recent: dict[str, int]  # were all gone that nobody has used lately
    later: dict[str, int]  # once those that leave anyway are gone and have settled
    candidates: list[eviction.Resident]  # who could be made to leave
    company: bool  # somebody is there, or settling, who is no pin
    hushed: bool  # one starts that is to be alone


def _add(amounts: dict[str, int], part: Mapping[str, int], sign: int) -> None:
    for pool, count in part.items():
        amounts[pool] = amounts.get(pool, 0) + sign * count


class Claims(Operators):
    """Starts, claims, victims, backfill."""

    def _settle_claim(self, now: float) -> None:
        """Start what fits; let the oldest of the others claim; let younger ones fill gaps.

        All of that stands as it was decided last, unless something that it goes by has changed.
        """
        if not self._stale and now < self._stale_at:
            return
        self._stale, self._stale_at = False, NEVER
        before, self.claim, self._claim_deadline = self.claim_victims, None, None
        self.claim_victims = NOBODY
        if (self._waiting or self._small) and self.paused is None:
            while self._hand_out(now):
                pass  # something began beside the claim, which may be content with less now
        if before or self.claim_victims:
            self._call_off_drains(before - self.claim_victims)
        if self._claim_deadline is not None:
            self._stale_at = min(self._stale_at, self._claim_deadline)

    def _hand_out(self, now: float) -> bool:
        """One look at all who wait; whether it is to be repeated."""
        self.claim, self.claim_victims = None, NOBODY
        survey = self._refuse_hopeless(self._survey(now), now)
        while (name := self._waiting.first()) is not None:
            page = self.pages[name]
            variant = self._choose(page, survey)
            if variant is None:
                self._refuse_hopeless_one(page, now)
            elif self._startable(page, variant, survey):
                survey = self._start_now(page, variant, now)
            elif self._claims(page, variant, survey, now):
                if self._backfills(page, variant, survey, now):
                    return True
                self._make_them_go(page, now)
                return False
        return bool(self._small) and self._small_calls(survey, now)

    def _start_now(self, page: Page, variant: Variant, now: float) -> Survey:
        """How things look once it has begun; a pin may leave no room for others."""
        self._start(page, variant, now)
        self._reindex(page)
        return self._refuse_hopeless(self._survey(now), now)

    def _survey(self, now: float) -> Survey:
        horizon = now - self.policy.recent
        beside_pins, beside_recent = dict(self.ledger.budget), dict(self.ledger.budget)
        room = self.ledger.room()
        later = plus(room, settling) if (settling := self.ledger.settling()) else dict(room)
        candidates: list[eviction.Resident] = []
        company, hushed, stale_at = bool(settling), False, self._stale_at
        for name, page in self.residents.items():
            charge, state, pinned = self.ledger.charged(name), page.state, page.pinned
            leaves, starts = page.leaves(), state is State.STARTING
            company = company or not pinned
            if leaves:
                _add(later, charge, 1)
            elif pinned:
                _add(beside_pins, charge, -1)
            if state is not State.STOPPING:
                recent = page.last_used >= horizon
                if recent or pinned or starts or page.leases:
                    _add(beside_recent, charge, -1)
                if recent:
                    stale_at = min(stale_at, page.last_used + self.policy.recent)
            if starts:
                hushed = hushed or page.starts_alone()
            elif not (pinned or leaves):
                candidates.append(page.as_resident(charge))
        self._stale_at = stale_at
        return Survey(room, beside_pins, beside_recent, later, candidates, company, hushed)

    # ------------------------------------------------------------ what can never be

    def _refuse_hopeless(self, survey: Survey, now: float) -> Survey:
        """Refuse those that would not even fit beside the pins alone. Looked at again only where
        the model is new here, or less is left beside the pins than before."""
        if survey.beside_pins != self._beside_pins:
            self._beside_pins = survey.beside_pins
            self._unchecked.update(self._waiting, self._small)
        waiting = [n for n in self._unchecked if n in self._waiting or n in self._small]
        self._unchecked.clear()
        for name in sorted(waiting, key=self._rank_of):
            page = self.pages[name]
            if not self._fits_some(page, survey.beside_pins):
                self._refuse_hopeless_one(page, now)
        return survey

    @staticmethod
    def _fits_some(page: Page, room: Bytes) -> bool:
        return any(fits(variant.need, room) for variant in page.allowed())

    def _refuse_hopeless_one(self, page: Page, now: float) -> None:
        pins = [p for p in self.residents.values() if p.pinned and not p.leaves()]
        problem = admission.never_fits(page, self.ledger, pins)
        self._refuse_all(page, problem)
        if page.wanted_since is not None:
            page.wanted_since = None
            page.unfit, page.problem = True, problem
            self._publish("unfit", page, detail=problem.message, **problem.facts)
        self._reindex(page)

    def _choose(self, page: Page, survey: Survey) -> Variant | None:
        """The best variant that fits beside the pins and what was used lately; else, unless only
        small calls ask for it, beside the pins alone."""
        allowed = page.allowed()
        for variant in allowed:
            if fits(variant.need, survey.beside_recent):
                return variant
        if page.name in self._small:
            return None
        return next((v for v in allowed if fits(v.need, survey.beside_pins)), None)

    def _startable(self, page: Page, variant: Variant, survey: Survey) -> bool:
        """Whether it may start at this moment."""
        if survey.hushed or (survey.company and self._to_itself(page)):
            return False
        return fits(variant.need, survey.room)

    def _to_itself(self, page: Page) -> bool:
        """Whether all others must leave for it. Small calls do not ask that of anybody."""
        return page.alone and page.name not in self._small

    # ------------------------------------------------------------ the claim

    def _claims(self, page: Page, variant: Variant, survey: Survey, now: float) -> bool:
        """Name who must leave for it. False if it gave up instead."""
        chosen = tuple(survey.candidates)
        if not self._to_itself(page):
            found = eviction.choose_victims(variant.need, survey.later, survey.candidates)
            chosen = found or ()
        victims = [self.pages[r.model] for r in chosen]
        gives_up = self._gives_up_at(page, victims)
        if gives_up is not None and gives_up <= now:
            self._give_up(page, victims, now)
            return False
        self.claim, self.claim_victims = page.name, frozenset(r.model for r in chosen)
        self._claim_deadline = gives_up
        return True

    def _make_them_go(self, page: Page, now: float) -> None:
        """The victims of the claim leave once all of them may be taken."""
        victims = [self.pages[name] for name in sorted(self.claim_victims)]
        times = [victim.takeable_at(page, self.policy) for victim in victims]
        later = [t for t in times if t is not None and t > now]
        if None not in times and not later:
            for victim in victims:
                self._evict(victim, page, now)
            later = self._preempt(page, victims, now)
        if later:
            self._claim_deadline = min(max(later), self._claim_deadline or max(later))

    def _gives_up_at(self, page: Page, victims: list[Page]) -> float | None:
        """When its oldest request has waited as long as it may for busy victims."""
        if self.policy.memory_policy != "wait_then_fail":
            return None
        arrivals = [ticket.arrived for ticket in page.loads.values()]
        if (oldest := page.queue.oldest()) is not None:
            arrivals.append(oldest)
        busy = any(victim.leases or len(victim.queue) for victim in victims)
        return min(arrivals) + self.policy.memory_wait if busy and arrivals else None

    def _give_up(self, page: Page, victims: list[Page], now: float) -> None:
        """Refuse those that have waited long enough; younger ones go on waiting."""
        times = [t for t in (v.takeable_at(page, self.policy) for v in victims) if t is not None]
        busy = [v.name for v in victims if v.leases or len(v.queue)]
        problem = admission.held_up(
            page.name, busy, self.policy.memory_wait, max(times, default=now) - now
        )
        for ticket in [*page.queue, *page.loads.values()]:
            if ticket.arrived + self.policy.memory_wait <= now:
                self._reject(page, ticket.id, problem)
        self._reindex(page)

    def _evict(self, victim: Page, target: Page, now: float) -> None:
        if victim.state is State.READY:
            self.swaps.append(Swap(now, victim.name, target.name))
            self._publish("evict", victim, claim=target.name)
            self._drain(victim, CLAIM, now)
        if not victim.leases and victim.state is State.DRAINING:
            self._stop(victim, CLAIM, now)

    def _preempt(self, page: Page, victims: list[Page], now: float) -> list[float]:
        """Cut short what still runs on drained victims, if that is the policy and its time has
        come; else when it will."""
        if self.policy.memory_policy != "preempt":
            return []
        at = page.oldest() + self.policy.memory_wait
        busy = [v for v in victims if v.leases and not v.cut and v.state is State.DRAINING]
        if at > now:
            return [at] if busy else []
        for victim in busy:
            self._cut(victim, admission.preempted(victim.name, page.name))
        return []

    def _call_off_drains(self, spared: frozenset[str]) -> None:
        """Whoever drains for a claim that is gone goes on serving."""
        for name in sorted(spared):
            page = self.residents.get(name)
            if page and page.state is State.DRAINING and page.drain_reason == CLAIM:
                self._undrain(page)

    # ------------------------------------------------------------ beside the claim

    def _backfills(self, page: Page, variant: Variant, survey: Survey, now: float) -> bool:
        """A younger model may start only if the claim stays satisfiable without evicting it."""
        if self._to_itself(page):
            return False
        left = minus(survey.later, variant.need)
        for name in self.claim_victims:
            _add(left, self.ledger.charged(name), 1)
        return self._fills(survey, left, page.name, now)

    def _fills(self, survey: Survey, left: dict[str, int], claim: str | None, now: float) -> bool:
        """Start, oldest first, those that fit now and into what is ``left`` beside the claim."""
        spare = {pool: min(n, left.get(pool, 0)) for pool, n in survey.room.items()}
        names = self._waiting.within(spare)
        if self._small:
            names += self._small.within(spare)
        began = False
        for name in sorted(names, key=self._rank_of) if len(names) > 1 else names:
            page = self.pages[name]
            waits = name != claim and (name in self._waiting or name in self._small)
            variant = self._choose(page, survey) if waits else None
            if variant is None or not fits(variant.need, spare):
                continue
            if not self._startable(page, variant, survey):
                continue
            survey, began = self._start_now(page, variant, now), True
            left = minus(left, variant.need)
            spare = {pool: min(n, left.get(pool, 0)) for pool, n in survey.room.items()}
        return began

    def _rank_of(self, name: str) -> tuple[float, str]:
        return (self._waiting if name in self._waiting else self._small).rank(name)

    def _small_calls(self, survey: Survey, now: float) -> bool:
        """Nobody else claims: small calls may have what is idle and was not used lately. Whether
        something began, and all is to be looked at again."""
        if self._fills(survey, survey.room, None, now):
            return True
        horizon = now - self.policy.recent
        cold = [r for r in survey.candidates if not r.leases and r.last_used < horizon]
        for name in self._small:
            page = self.pages[name]
            variant = self._choose(page, survey)
            if variant is None:
                continue
            chosen = eviction.choose_victims(variant.need, survey.later, cold)
            if chosen is not None:
                self.claim, self.claim_victims = name, frozenset(r.model for r in chosen)
                if self._backfills(page, variant, survey, now):
                    return True
                for resident in chosen:
                    self._evict(self.pages[resident.model], page, now)
                return False
        warm = [r.last_used for r in survey.candidates if r.last_used >= horizon]
        if warm:
            self._claim_deadline = min(warm) + self.policy.recent + INSTANT
        return False
