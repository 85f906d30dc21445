"""Events (facts told to the scheduler) and commands (orders that it answers with).

All are frozen values. Times are seconds on one monotonic clock, chosen by the caller; bytes are
bytes, per pool. The core knows no engine: a *variant* is one way to run a model, as an opaque id
with its price.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from daemon.core.problems import Problem

Bytes = Mapping[str, int]  # pool name -> bytes


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a model and what it costs.

    ``rung`` 0 is what was asked for (or a smaller context of it); a higher rung is a step of the
    out-of-memory ladder, allowed only from there on. ``until``: the last rung on which it is so
    (None: for ever). ``slots``: where it has others than the model.
    """

    id: str
    need: Bytes
    rung: int = 0
    until: int | None = None
    slots: int | None = None

    def allowed_on(self, rung: int) -> bool:
        return self.rung <= rung and (self.until is None or rung <= self.until)


@dataclass(frozen=True, slots=True)
class Standing:
    """How far down its ladder a model is: remembered between lives of the daemon.

    ``failed``: the variant that ran out of memory last. ``failures``: how often that happened.
    ``margin``: it did so while it served, so more is reserved for it. ``age``: seconds since then.
    """

    rung: int
    failed: str
    failures: int
    margin: bool = False
    age: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What the scheduler must know of a model. ``variants`` go from wanted to smallest allowed.

    ``keep_alive``: idle seconds until it is unloaded; 0 at once, negative never. ``load_estimate``
    and ``stop_estimate`` (seconds) are used until real ones were seen. A model without variants
    is not on the disk. ``alone``: the rung on which it is started as it was, with no other model
    beside it but pins (0: none). ``standing``: what is remembered of it; ``ladder``: a mark of all
    that this hangs on: with another one it begins at its full size.
    """

    name: str
    variants: tuple[Variant, ...]
    slots: int = 1
    keep_alive: float = 900.0
    pinned: bool = False
    priority: float = 0.0
    load_estimate: float = 2.0
    stop_estimate: float = 0.5
    alone: int = 0
    ladder: str = ""
    standing: Standing | None = None

    @property
    def plain(self) -> tuple[Variant, ...]:
        """The variants without any step of the ladder."""
        return tuple(variant for variant in self.variants if variant.rung == 0)


@dataclass(frozen=True, slots=True)
class Ticket:
    """One waiting request, or (``load``) an operator's wish to have the model ready.

    ``arrived`` orders the queue and survives a second attempt; ``deadline`` ends the wait.
    ``client`` is whoever is queued fairly; ``principal`` the key that asked. ``priority`` (of the
    key; the model's own is added) counts as seconds of age, see ``Policy.bonus``. A ``small`` one
    (title, tag, autocompletion) makes no model leave that is in use. ``stand_in`` names a model
    that may serve it while the wanted one is not ready or has no free slot.
    """

    id: int
    model: str
    client: str
    principal: str
    arrived: float
    deadline: float
    body_bytes: int = 0
    attempt: int = 1
    priority: float = 0.0
    load: bool = False
    small: bool = False
    stand_in: str | None = None


class ExitClass(StrEnum):
    """Why a backend's process ended, as its engine's adapter classified it."""

    CLEAN = "clean"  # we asked it to stop
    PERMANENT = "permanent"  # the same start would fail again
    PORT = "port"  # somebody else took its port
    OUT_OF_MEMORY = "out_of_memory"
    METAL_INIT = "metal_init"
    CRASH = "crash"
    HANG = "hang"  # it lived, but did not answer


class Ask(StrEnum):
    """What an operator may ask for."""

    UNLOAD = "unload"
    PIN = "pin"
    UNPIN = "unpin"
    RESET = "reset"
    PAUSE = "pause"  # everything leaves, pins too, and nothing starts
    RESUME = "resume"


class Outcome(StrEnum):
    """How a lease ended."""

    OK = "ok"
    CLIENT_GONE = "client_gone"
    UPSTREAM_ERROR = "upstream_error"  # the backend broke after bytes had been sent on
    LOST = "lost"  # the backend broke before any byte: may be tried again


# ---------------------------------------------------------------- events: facts


@dataclass(frozen=True, slots=True)
class RequestArrived:
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class RequestCancelled:
    ticket_id: int


@dataclass(frozen=True, slots=True)
class RequestEnded:
    ticket_id: int
    outcome: Outcome = Outcome.OK


@dataclass(frozen=True, slots=True)
class BackendReady:
    model: str
    generation: int


@dataclass(frozen=True, slots=True)
class BackendAdopted:
    """A backend that outlived the previous daemon serves on; counters continue above it."""

    model: str
    generation: int
    variant: Variant


@dataclass(frozen=True, slots=True)
class BackendUnhealthy:
    """A failed liveness check: the process lives but does not do its work.

    ``exit_class`` says why where its log tells (out of memory: the next start is smaller).
    """

    model: str
    generation: int
    reason: str = ""
    exit_class: ExitClass = ExitClass.HANG


@dataclass(frozen=True, slots=True)
class StartFailed:
    """A start will not become ready (probe refused, stalled). The process may live: only its exit
    frees its memory."""

    model: str
    generation: int
    exit_class: ExitClass
    detail: str = ""


@dataclass(frozen=True, slots=True)
class BackendExited:
    """A process is gone, and all that it started. ``repeated``: by a request that had ended one
    before, which is no second sign of a bad backend: both count as one crash."""

    model: str
    generation: int
    exit_class: ExitClass
    detail: str = ""
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class MemoryObserved:
    """Free bytes per pool as the machine says, and what running backends really take.

    ``low`` and ``high``: the marks of free bytes per pool. Below the low one another program needs
    memory, and idle backends leave until the high one is reached. Empty: as told before. A pool
    without marks is not watched, and starts are not measured against what is free there.
    """

    free: Bytes
    footprints: Mapping[tuple[str, int], Bytes] = field(default_factory=dict)
    low: Bytes = field(default_factory=dict)
    high: Bytes = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OperatorAsked:
    """``model`` None means all. ``force`` lets an unload or a pause cut running requests.

    Of a pause, which is always for all: ``seconds`` until it ends by itself (None: at ``resume``);
    ``hold``: requests wait meanwhile, else they are refused at once.
    """

    ask: Ask
    model: str | None = None
    force: bool = False
    seconds: float | None = None
    hold: bool = True


@dataclass(frozen=True, slots=True)
class CatalogChanged:
    """The whole catalog as it now is. ``touched``: models whose backend must start anew.

    ``budget`` comes with a whole new configuration: both count at once, and every pinned model that
    does not run is wanted again. Without it one model was prepared anew, and the pins stay as they
    are.
    """

    models: Mapping[str, ModelSpec]
    touched: frozenset[str] = frozenset()
    budget: Bytes | None = None


@dataclass(frozen=True, slots=True)
class BudgetChanged:
    budget: Bytes


@dataclass(frozen=True, slots=True)
class TimeAdvanced:
    pass


Event = (
    RequestArrived
    | RequestCancelled
    | RequestEnded
    | BackendReady
    | BackendAdopted
    | BackendUnhealthy
    | StartFailed
    | BackendExited
    | MemoryObserved
    | OperatorAsked
    | CatalogChanged
    | BudgetChanged
    | TimeAdvanced
)

# ---------------------------------------------------------------- commands: orders


@dataclass(frozen=True, slots=True)
class StartBackend:
    model: str
    generation: int
    variant: Variant


@dataclass(frozen=True, slots=True)
class StopBackend:
    """Stop it politely: nothing runs on it, or what runs was cancelled first."""

    model: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class KillBackend:
    model: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Grant:
    """The ticket may use this slot of this backend. A ``load`` ticket gets slot -1 and no lease.

    ``model`` is the one really used: another than the ticket's where a stand-in serves it.
    """

    ticket_id: int
    model: str
    generation: int
    slot: int


@dataclass(frozen=True, slots=True)
class Reject:
    ticket_id: int
    problem: Problem


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """End a running request now: forced unload, failed liveness check, ``max_drain``, preempted."""

    ticket_id: int
    problem: Problem


@dataclass(frozen=True, slots=True)
class Publish:
    """Something that people and metrics want to hear of; ``model`` is empty if it is about all."""

    kind: str
    model: str
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Remember:
    """Keep, beyond this life of the daemon, where on its ladder a model stands (None: at its full
    size). It comes back as ``ModelSpec.standing``."""

    model: str
    standing: Standing | None


Command = (
    StartBackend | StopBackend | KillBackend | Grant | Reject | CancelRequest | Publish | Remember
)
