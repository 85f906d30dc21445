"""One model's page in the landlord's book."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace

from daemon.core.eviction import Resident
from daemon.core.index import Least, least
from daemon.core.lifecycle import State, check
from daemon.core.messages import Bytes, ExitClass, ModelSpec, Standing, Ticket, Variant
from daemon.core.policy import Policy
from daemon.core.problems import Problem
from daemon.core.queues import FairQueue
from daemon.core.restarts import History

CLAIM, UNLOAD, CHANGED, IDLE = "evict", "unload", "changed", "idle"
PAUSE, PRESSURE, OVER, OUTGROWN = "pause", "pressure", "over_budget", "outgrown"
CLIMB = "climb"  # idle, and to be started anew at its full size
"""Why a backend drains or stops. A drain for a claim, or for a pause, may be called off."""

MARGIN = 0.1  # more for what ran out of memory while it served: its need had grown


def with_margin(variant: Variant) -> Variant:
    """The same for a higher price."""
    return replace(variant, need={pool: n + int(n * MARGIN) for pool, n in variant.need.items()})


@dataclass(slots=True)
class Page:
    """All that is known of one model. Written by the scheduler alone."""

    spec: ModelSpec
    name: str = field(init=False)
    state: State = State.STOPPED
    generation: int = 0
    variant: Variant | None = None
    queue: FairQueue = field(default_factory=FairQueue)
    guests: FairQueue = field(default_factory=FairQueue)  # of other models: this one may stand in
    loads: dict[int, Ticket] = field(default_factory=dict)
    leases: dict[int, int] = field(default_factory=dict)  # ticket -> slot
    freed: list[int] = field(default_factory=list)  # heap of slots below the highest ever taken
    started_for: set[int] = field(default_factory=set)  # not one of them granted yet
    pinned: bool = False
    by_hand: bool = False  # loaded by an operator or adopted: comes back after a crash
    wanted_since: float | None = (
        None  # nobody waits, but it should run (pin, crash of a loaded one)
    )
    started_at: float = 0.0
    ready_at: float = 0.0
    last_used: float = 0.0
    stopping_at: float = 0.0
    drain_reason: str = ""
    draining_at: float = 0.0
    cut: bool = False  # its running requests were told to end, so that the drain ends
    returns: str = ""  # PAUSE or PRESSURE took it, and it comes back afterwards
    unfit: bool = False  # pinned, and there is no room for it
    first_size: Bytes | None = None  # what it took once ready: growth is measured from it
    measured: Bytes = field(default_factory=dict)  # what it takes, as last seen
    told_size: Bytes = field(default_factory=dict)  # what it took when it was said to have grown
    gap: float = 0.0  # usual seconds between a release and the next request
    released: float | None = None  # when the last lease ended
    load_seconds: float = 0.0
    stop_seconds: float = 0.0
    starting_total: float = 0.0  # seconds in STARTING: a ticket's clock stands still meanwhile
    overdue: dict[int, float] = field(default_factory=dict)  # ticket -> seconds it has afterwards
    history: History = field(default_factory=History)
    was_ready: bool = False  # in its present life
    good: int = 0  # answers of it that went well
    smallest: int = 0  # index of the first variant still allowed
    rung: int = 0  # of the ladder, see there
    failed: str = ""  # the variant that ran out of memory last
    failures: int = 0  # how often it did
    margin: bool = False  # it did so while it served: more is reserved for it
    tried: bool = True  # this rung was ready once, so the rung itself is sound
    before: Standing | None = None  # it tries its full size, and falls back to here
    trying: bool = False  # what runs is that try
    climb_at: float | None = None  # when it may try that
    degraded_at: float = 0.0  # when it went down last, where rung is not 0
    tries: dict[int, int] = field(default_factory=dict)  # ticket -> starts that ran out of memory
    retry_at: float | None = None  # BACKOFF
    half_open: float | None = None  # FAILED by the breaker
    problem: Problem | None = None  # why it is FAILED or in BACKOFF
    failed_as: tuple[ExitClass, str] | None = None  # told before the exit itself
    removed: bool = False  # no longer in the catalog: disappears with its process
    _allowed: tuple[object, tuple[Variant, ...], Least] | None = None

    def __post_init__(self) -> None:
        self.pinned = self.spec.pinned
        self.name = self.spec.name
        self.load_seconds = self.spec.load_estimate
        self.stop_seconds = self.spec.stop_estimate

    def move(self, state: State) -> None:
        check(self.name, self.state, state)
        self.state = state

    def waits(self) -> bool:
        """Whether anyone, or anything, wants this model to run."""
        return bool(len(self.queue) or self.loads or self.wanted_since is not None)

    def oldest(self) -> float:
        """Since when the oldest of those waits."""
        ages = [t.arrived for t in self.loads.values()]
        if (head := self.queue.oldest()) is not None:
            ages.append(head)
        if self.wanted_since is not None:
            ages.append(self.wanted_since)
        return min(ages)

    def rank(self, policy: Policy) -> float:
        """When the first of those that wait came, were priority age."""
        ages = [t.arrived - policy.bonus(t.priority) for t in self.loads.values()]
        if (first := self.queue.first()) is not None:
            ages.append(first)
        if self.wanted_since is not None:
            ages.append(self.wanted_since)
        return min(ages) - policy.bonus(self.spec.priority)

    def age_key(self, policy: Policy) -> tuple[float, str]:
        """Order of claims: arrival, with some seconds off for priority, so that all age alike."""
        return (self.rank(policy), self.name)

    def only_small(self, policy: Policy) -> bool:
        """Whether nothing but small calls wants it: it makes nobody leave that is in use."""
        queue = self.queue
        others = self.loads or self.wanted_since is not None or queue.small < len(queue)
        return not others and not policy.small_evicts

    @property
    def slots(self) -> int:
        """Requests that it serves at once, as it runs now."""
        if self.variant is not None and self.variant.slots is not None and self.state.resident:
            return self.variant.slots
        return self.spec.slots

    def take_slot(self, ticket_id: int) -> int:
        """Give a request the lowest free slot. One is free: see ``slots``."""
        slot = heapq.heappop(self.freed) if self.freed else len(self.leases)
        self.leases[ticket_id] = slot
        return slot

    def free_slot(self, ticket_id: int) -> None:
        """A request is over."""
        heapq.heappush(self.freed, self.leases.pop(ticket_id))

    def free_all_slots(self) -> None:
        """Its process is gone."""
        self.leases.clear()
        self.freed.clear()

    @property
    def alone(self) -> bool:
        """Whether its next start is to be with no other model beside it."""
        return 0 < self.spec.alone == self.rung

    def starts_alone(self) -> bool:
        """While it does, nothing else starts."""
        return self.alone and self.state is State.STARTING

    def degraded(self) -> str:
        """What became of it after running out of memory, for people; "" at full size."""
        allowed = self.allowed()
        variant = self.variant if self.state.resident else (allowed[0] if allowed else None)
        if self.rung == 0 or variant is None:
            return ""
        times = "once" if self.failures == 1 else f"{self.failures} times"
        beside = ", no other model beside its start" if self.alone else ""
        return f"{variant.id}{beside} (after running out of memory {times})"

    def _looked_up(self) -> tuple[object, tuple[Variant, ...], Least]:
        given = (self.spec.variants, self.smallest, self.rung, self.margin)
        if self._allowed is None or self._allowed[0] != given:
            left = self.spec.variants[self.smallest :]
            found = tuple(v for v in left if v.allowed_on(self.rung))
            if self.margin:
                found = tuple(with_margin(v) for v in found)
            self._allowed = (given, found, least(tuple(v.need for v in found)))
        return self._allowed

    def allowed(self) -> tuple[Variant, ...]:
        """The variants that may be started now, best first."""
        return self._looked_up()[1]

    def least(self) -> Least:
        """For the index of those that wait: what the smallest of them need."""
        return self._looked_up()[2]

    def starting_seconds(self, now: float) -> float:
        """All seconds that it has been STARTING until now."""
        running = now - self.started_at if self.state is State.STARTING else 0.0
        return self.starting_total + running

    def idle_since(self) -> float:
        """From when keep-alive counts: the later of ready and the last release."""
        return max(self.ready_at, self.last_used)

    def expires_at(self) -> float | None:
        """When keep-alive ends, if it runs now."""
        used = self.leases or self.loads or len(self.queue)
        if self.state is not State.READY or used or self.pinned or self.spec.keep_alive < 0:
            return None
        return self.idle_since() + self.spec.keep_alive

    def cut_at(self, policy: Policy) -> float | None:
        """When its drain has lasted too long."""
        if self.state is not State.DRAINING or policy.max_drain is None or self.cut:
            return None
        return self.draining_at + policy.max_drain if self.leases else None

    def climbs_at(self, policy: Policy) -> float | None:
        """When it may try its full size again: it does not run, or nobody has used it lately."""
        if self.climb_at is None:
            return None
        if self.state in (State.STOPPED, State.FAILED):
            return self.climb_at
        return max(self.climb_at, self.idle_since() + policy.recent) if self.idle() else None

    def wakes_at(self, policy: Policy) -> float | None:
        """When something happens to it by the passing of time alone."""
        if self.state is State.BACKOFF:
            return self.retry_at
        if self.state is State.READY and self.climb_at is None:  # nearly always
            return self.expires_at()
        times = [self.expires_at(), self.climbs_at(policy), self.cut_at(policy)]
        return min((t for t in times if t is not None), default=None)

    def idle(self) -> bool:
        """Ready, and of no use to anybody at this moment."""
        return self.state is State.READY and not (self.leases or self.loads or len(self.queue))

    def leaves(self) -> bool:
        """On its way out whatever becomes of the claim."""
        drains = self.state is State.DRAINING and self.drain_reason != CLAIM
        return drains or self.state is State.STOPPING

    def quantum(self, target: Page, policy: Policy) -> float:
        """How long this one may serve before ``target`` may take its place while it is busy."""
        price = target.load_seconds + self.load_seconds + self.stop_seconds
        return min(max(policy.quantum_factor * price, policy.quantum_min), policy.quantum_max)

    def returned(self, now: float, policy: Policy) -> None:
        """A request comes. Learn how long it takes a client to come back, also from those who
        found their model gone: else one that is taken too early would never be kept longer.
        A longer absence than any linger is no such return."""
        if self.released is None or self.leases or len(self.queue):
            return
        if (gap := now - self.released) <= policy.linger_max:
            self.gap = 0.5 * self.gap + 0.5 * gap

    def linger(self, policy: Policy) -> float:
        """How long it is kept after a release because its client will probably be back."""
        wanted = max(policy.linger_factor * self.gap, policy.linger_min)
        return min(wanted, policy.linger_max, policy.linger_share * self.load_seconds)

    def unserved(self) -> bool:
        """Someone that it was started for still waits: it may not be pushed out before."""
        waiting = {t for t in self.started_for if t in self.queue or t in self.loads}
        return bool(waiting) and not self.by_hand

    def takeable_at(self, target: Page, policy: Policy) -> float | None:
        """When it may be made to leave for ``target``; None: only another event can tell."""
        if self.state is State.DRAINING:
            return 0.0
        if self.unserved():
            return None
        quantum = self.quantum(target, policy)
        turn_over = max(self.ready_at, target.oldest()) + quantum
        if self.leases or len(self.queue):
            return turn_over
        return min(self.idle_since() + self.linger(policy), turn_over)

    def as_resident(self, charge: Bytes) -> Resident:
        """As a choice of victims sees it."""
        return Resident(
            self.name,
            charge,
            len(self.leases) + len(self.queue),
            self.idle_since(),
            self.load_seconds,
            self.state is State.DRAINING,
        )

    def price(self) -> Bytes:
        return self.variant.need if self.variant else {}
