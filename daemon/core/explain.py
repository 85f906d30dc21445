"""Why things are as they are: a pure picture of the book for ``ctl status`` and the dashboard.

Everything here is a plain value, made when it is asked for. Times that lie ahead are on the clock
that the scheduler is told; durations are seconds; amounts are bytes per pool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from daemon.core.budget import total
from daemon.core.lifecycle import State
from daemon.core.messages import Bytes
from daemon.core.page import CHANGED, CLAIM, OUTGROWN, UNLOAD
from daemon.core.units import format_bytes

if TYPE_CHECKING:
    from daemon.core.book import Book
    from daemon.core.page import Page

# ---------------------------------------------------------------- thrashing


@dataclass(slots=True)
class Span:
    """A start: from when to when (None: it goes on)."""

    model: str
    began: float
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class Swap:
    """One had to leave for another."""

    at: float
    victim: str
    target: str


@dataclass(frozen=True, slots=True)
class Advice:
    """Two models push each other out again and again."""

    pair: tuple[str, str]
    swaps: int  # between the two, within the window
    needs: Mapping[str, Bytes]
    budget: Bytes

    @property
    def text(self) -> str:
        """The same for people, with what could be done."""
        first, second = self.pair
        both = total(self.needs.values())
        tight = [p for p in sorted(both) if both[p] > self.budget.get(p, 0)] or sorted(both)
        amounts = " and ".join(
            f"{format_bytes(both[p])} of {format_bytes(self.budget.get(p, 0))} {p}" for p in tight
        )
        return (
            f"{first} and {second} do not fit together: {amounts}. Give one of them a smaller "
            "context or quantisation, raise memory.budget, or let both names lead to one model."
        )


def thrash_ratio(spans: Iterable[Span], now: float, window: float) -> float:
    """Share (0 to 1) of the last ``window`` seconds in which something was being started."""
    horizon = now - window
    busy, until = 0.0, horizon
    for span in sorted(spans, key=lambda s: s.began):
        end = min(now, now if span.ended is None else span.ended)
        start = max(span.began, until)
        if end > start:
            busy += end - start
            until = end
    return busy / window if window > 0 else 0.0


def advice(book: Book, now: float) -> Advice | None:
    """What to say of the pair that changes places most often; None where there is none."""
    horizon = now - book.policy.thrash_window
    pairs = Counter(
        (min(s.victim, s.target), max(s.victim, s.target)) for s in book.swaps if s.at >= horizon
    )
    pairs = Counter({p: n for p, n in pairs.items() if p[0] in book.pages and p[1] in book.pages})
    if not pairs:
        return None
    pair, count = min(pairs.items(), key=lambda item: (-item[1], item[0]))
    needs = {name: _need(book.pages[name]) for name in pair}
    return Advice(pair, count, needs, dict(book.ledger.budget))


def _need(page: Page) -> Bytes:
    if page.variant is not None:
        return dict(page.variant.need)
    return dict(page.spec.variants[0].need) if page.spec.variants else {}


# ---------------------------------------------------------------- the picture


@dataclass(frozen=True, slots=True)
class Pool:
    """One memory. ``measured``: what running backends really take; ``free``: as the machine says
    (None where nobody has looked)."""

    name: str
    budget: int
    committed: int
    settling: int
    measured: int
    free: int | None
    low: int | None
    pressed: bool


@dataclass(frozen=True, slots=True)
class Victim:
    """Who leaves for the claim. ``free_at``: when it may be made to leave, if it stays in use;
    None: only when what it was started for has been served."""

    model: str
    state: str
    leases: int
    free_at: float | None
    bytes: Bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """The one model that others leave for."""

    model: str
    since: float
    need: Bytes
    victims: tuple[Victim, ...]


@dataclass(frozen=True, slots=True)
class Why:
    """``kind``: busy, starting, stopping, draining, victims, quantum, linger, settling, memory,
    behind, small, backoff, paused. ``until``: when that changes by itself, where it is known."""

    kind: str
    text: str
    until: float | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wait:
    """Who waits for one model: requests, ``loads`` of operators, or (neither) a pin."""

    model: str
    requests: int
    loads: int
    oldest_age: float
    why: Why


@dataclass(frozen=True, slots=True)
class Explanation:
    """The ledger, the current claim, who waits for what and why."""

    pools: tuple[Pool, ...]
    claim: Claim | None
    waiting: tuple[Wait, ...]  # longest first
    paused_until: float | None
    paused: bool
    thrash_ratio: float
    advice: Advice | None  # where the ratio is worth a warning


def explain(book: Book, now: float) -> Explanation:
    """Look at the whole book. Walks every model: not for the hot path."""
    ratio = thrash_ratio(book.spans, now, book.policy.thrash_window)
    waiting = [_wait(book, page, now) for page in book.pages.values() if page.waits()]
    return Explanation(
        pools=tuple(_pool(book, name) for name in sorted(book.ledger.budget)),
        claim=_claim(book),
        waiting=tuple(sorted(waiting, key=lambda w: (-w.oldest_age, w.model))),
        paused_until=book.paused.until if book.paused else None,
        paused=book.paused is not None,
        thrash_ratio=ratio,
        advice=advice(book, now) if ratio > book.policy.thrash_warn else None,
    )


def _pool(book: Book, name: str) -> Pool:
    ledger = book.ledger
    return Pool(
        name,
        ledger.budget[name],
        ledger.committed.get(name, 0),
        ledger.settling().get(name, 0),
        sum(page.measured.get(name, 0) for page in book.residents.values()),
        ledger.free.get(name),
        ledger.low.get(name),
        name in book.pressed,
    )


def _claim(book: Book) -> Claim | None:
    page = book.pages.get(book.claim) if book.claim else None
    if page is None or not page.waits():
        return None
    victims = tuple(
        Victim(
            one.name,
            one.state.label,
            len(one.leases),
            one.takeable_at(page, book.policy),
            dict(book.ledger.charged(one.name)),
        )
        for one in (book.pages[name] for name in sorted(book.claim_victims))
    )
    chosen = next(iter(page.allowed()), None)
    return Claim(page.name, page.oldest(), dict(chosen.need) if chosen else {}, victims)


def _wait(book: Book, page: Page, now: float) -> Wait:
    age = max(0.0, now - page.oldest())
    return Wait(page.name, len(page.queue), len(page.loads), age, _why(book, page, now))


_LEAVES = {
    CLAIM: "it makes room for another",
    CHANGED: "its configuration changed",
    UNLOAD: "it is being unloaded",
    OUTGROWN: "it has grown too much",
}


def _why(book: Book, page: Page, now: float) -> Why:
    name = page.name
    if book.paused is not None:
        return Why("paused", "serving is paused", book.paused.until)
    match page.state:
        case State.READY:
            slots = page.slots
            what = "its slot is" if slots == 1 else f"its {slots} slots are"
            return Why("busy", f"{what} in use", facts={"slots": slots})
        case State.STARTING:
            return Why("starting", f"it starts, since {now - page.started_at:.0f} s")
        case State.DRAINING:
            whither = _LEAVES.get(page.drain_reason, "it is about to stop")
            return Why("draining", f"{whither}, and starts again afterwards")
        case State.STOPPING:
            return Why("stopping", "its last process has not ended yet")
        case State.BACKOFF:
            return Why("backoff", "it died, and may start again soon", page.retry_at)
        case _:
            pass
    first = next((p.name for p in book.residents.values() if p.starts_alone()), None)
    if first is not None:
        return Why("behind", f"{first} starts first, alone", facts={"model": first})
    if book.claim == name:
        return _why_claim(book, page, now)
    if book.claim is not None:
        return Why("behind", f"{book.claim} gets room first", facts={"claim": book.claim})
    if page.only_small(book.policy):
        return Why("small", "only small calls want it, and all others are in use")
    return Why("memory", "there is no room yet")


def _why_claim(book: Book, page: Page, now: float) -> Why:
    """What the claim itself waits for: the last of its victims, or bytes on their way back."""
    victims = [book.pages[name] for name in sorted(book.claim_victims)]
    for victim in victims:
        if victim.state is State.DRAINING:
            count = len(victim.leases)
            facts: dict[str, object] = {"victim": victim.name, "leases": count}
            what = "its last request" if count == 1 else f"{count} requests"
            return Why("victims", f"{victim.name} finishes {what} first", None, facts)
    times = [(victim.takeable_at(page, book.policy), victim) for victim in victims]
    later = [(at, victim) for at, victim in times if at is not None and at > now]
    if later:
        at, victim = max(later, key=lambda pair: pair[0])
        busy = bool(victim.leases or len(victim.queue))
        kind, what = ("quantum", "has its turn") if busy else ("linger", "is kept for a moment")
        return Why(kind, f"{victim.name} {what}", at, {"victim": victim.name})
    stopping = sorted(p.name for p in book.residents.values() if p.leaves())
    if stopping:
        return Why("stopping", f"{', '.join(stopping)} must end first", facts={"models": stopping})
    settling = {pool: n for pool, n in book.ledger.settling().items() if n > 0}
    if settling:
        amounts = ", ".join(f"{format_bytes(n)} {pool}" for pool, n in sorted(settling.items()))
        until = book.ledger.settles_at()
        return Why("settling", f"{amounts} are not back yet", until, {"settling": settling})
    return Why("memory", "the machine has too little memory free")
