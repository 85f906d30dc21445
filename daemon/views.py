"""What the daemon shows of itself: plain values that cross to the control API and to ``ctl``.

Standard library only, so that ``ctl`` may import it without importing the daemon. Bytes are bytes,
durations seconds, instants Unix time in seconds. ``control_api.schemas`` publishes these shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendView:
    """One running engine process."""

    model: str
    engine: str
    generation: int
    state: str
    pid: int | None
    keeper_pid: int | None
    address: str | None
    where: str  # "100% gpu0", "100% cpu"
    variant: str
    context: int | None
    slots: int
    leases: int
    queue: int
    footprint: dict[str, int]  # per pool, as charged
    footprint_source: str  # estimated | measured | learned
    measured: int | None
    keep_alive_left: float | None  # None: pinned, busy or never
    pinned: bool
    started_at: float
    ready_at: float | None
    log: str
    warning: str = ""
    rescued: int = 0  # tool calls that it wrote as text, and that were made calls
    degraded: str = ""  # what is given up after running out of memory
    degraded_since: float | None = None
    climbs_in: float | None = None  # seconds until it may try its full size again by itself
    version: str = ""  # of its engine, as it was started: another may be in use by now


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingView:
    """What one step of a test found. ``outcome``: works | but | broken | skipped | unknown;
    ``fault``: model (too weak) | plumbing (all around it) | "". ``hint`` is the next step."""

    step: str
    outcome: str
    text: str
    fault: str = ""
    hint: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictView:
    """What a model came to with one version of an engine.

    ``verdict``: works | works, but | broken | partly tested; ``text`` says why. ``current``: the
    model is served so today; else another engine, version or file is.
    """

    model: str
    engine: str
    version: str  # of the engine
    source: str
    verdict: str
    text: str
    at: float  # of the newest step
    modelport: str  # the version that asked
    current: bool
    findings: list[FindingView]


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureView:
    """One thing that was measured ``count`` times. ``name``: load | first_token | latency (unit s),
    prefill | generation (tokens/s), items (items/s)."""

    name: str
    unit: str
    median: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredView:
    """What was measured of a model. ``prompt`` and ``generate``: tokens that were asked for, of one
    text and of one answer (0: none is written); ``tokens_in`` and ``tokens_out``: what it came to
    (medians); ``cached``: most tokens of a prompt that were not read again."""

    prompt: int
    generate: int
    runs: int
    tokens_in: int
    tokens_out: int
    cached: int
    timed_by: str  # engine | clock
    cold: bool  # its process was started for this
    disturbed: str  # models that served others meanwhile
    figures: list[FigureView]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchView:
    """One kept measurement, and how the model was served. ``id`` grows."""

    id: int
    at: float
    model: str
    kind: str
    engine: str
    version: str  # of the engine
    quant: str
    source: str
    context: int | None
    slots: int
    footprint: dict[str, int]  # per pool, as charged when it was over
    taken: int | None  # bytes that it was really seen to take; None: nobody has looked yet
    modelport: str
    measured: MeasuredView


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """One model of the catalog, loaded or not."""

    name: str
    aliases: list[str]
    state: str
    engine: str | None
    source: str  # path, hf:…, preset
    kind: str
    size: int | None
    quantisation: str | None
    context: int | None
    context_max: int | None
    slots: int
    pinned: bool
    keep_alive: float
    routes: list[str]
    estimate: dict[str, int]
    breakdown: dict[str, int]
    variants: list[str]
    problem: str = ""  # why it cannot be served now, with the next step
    preset: str | None = None
    args: list[str] = field(default_factory=list)
    pulled: bool = True
    degraded: str = ""  # what is given up after running out of memory, also at the next start
    degraded_since: float | None = None
    climbs_in: float | None = None  # seconds until it may try its full size again by itself
    sees: bool = False  # it has a projector for images
    choice: str = ""  # why a preset's weights are these of several
    warnings: list[str] = field(default_factory=list)  # what is known to be weak in it
    tested: VerdictView | None = None  # the newest test, of what is served now if there is one
    place: str = ""  # where it was found: folder | huggingface | lmstudio | llama.cpp | ollama
    parameters: int | None = None
    abilities: list[str] = field(default_factory=list)  # by header and template: tools, vision, …
    architecture: str = ""
    files: list[str] = field(default_factory=list)  # of weights
    mmproj: str = ""  # its projector
    template: str = ""  # where its chat template is from
    params: dict[str, Any] = field(default_factory=dict)  # where a request says nothing
    clash: str = ""  # whose name it would have had


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceView:
    """One thing that can be done where room is tight; see ``daemon.preflight.Choice``."""

    key: str  # shrink | raise_limit | both | unpin | ignore
    text: str
    context: int | None
    fit: str  # what a load is then asked for
    command: list[str]  # what the user runs before, by his own hand


@dataclass(frozen=True, slots=True, kw_only=True)
class FitView:
    """Whether a load would fit, and what could be done."""

    model: str
    verdict: str  # fits | evicts | shrinks | refused
    text: str
    setting: str  # the model's own `fit`: shrink | refuse | ask
    wanted_context: int | None
    wanted: dict[str, int]  # bytes per pool
    context: int | None  # what it would get
    need: dict[str, int]
    budget: dict[str, int]
    evicts: list[str]
    pinned: list[str]
    choices: list[ChoiceView]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    name: str
    budget: int
    committed: int
    settling: int
    measured: int  # what running backends really take
    free: int | None  # as the machine says
    low: int | None  # fewer free bytes than this: another program needs memory, idle models leave
    pressed: bool  # that is so now
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VictimView:
    """Who leaves for the claim. ``seconds``: until it may be made to, if it stays in use."""

    model: str
    state: str
    leases: int
    seconds: float | None
    bytes: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimView:
    """The one model that others leave for. ``age``: seconds since its oldest request came."""

    model: str
    age: float
    need: dict[str, int]
    victims: list[VictimView]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitView:
    """Who waits for one model, and why. ``seconds``: until that changes by itself, if known."""

    model: str
    requests: int
    loads: int
    age: float  # of the oldest, seconds
    kind: str  # busy, starting, draining, victims, quantum, linger, settling, memory, behind, …
    why: str
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerView:
    """A port beside the fixed one: bound to ``model``, or answering as ``speaks`` does."""

    url: str
    port: int
    model: str
    speaks: str  # openai | ollama | lmstudio | llama-server; "" where it is bound to a model
    open: bool
    problem: str  # why it is not open: who holds it


@dataclass(frozen=True, slots=True, kw_only=True)
class LanView:
    """How other machines reach the daemon. ``tls``: by HTTPS alone, with the certificate in the
    file ``certificate``, whose SHA-256 is ``fingerprint`` and which ends at ``expires``."""

    enabled: bool = False
    urls: list[str] = field(default_factory=list)  # the likeliest first
    public: list[str] = field(default_factory=list)  # those that may be reached from everywhere
    tls: bool = False
    self_made: bool = False
    fingerprint: str = ""
    certificate: str = ""
    expires: float | None = None
    announced: str = ""  # the name under which it is found by mDNS; "" if it is not
    keyless: bool = False  # who comes in may use models without a key, as the user has said
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusView:
    version: str
    pid: int
    mode: str  # foreground | service
    url: str
    started_at: float
    config: str
    config_problem: str
    log: str
    pools: list[PoolView]
    backends: int
    leases: int
    queue: int
    claim: ClaimView | None
    waiting: list[WaitView]
    paused: bool
    paused_left: float | None  # seconds until the pause ends by itself
    thrash_ratio: float  # share of the last minutes in which models were being started
    advice: str  # what could be done about it
    draining: bool
    counters: dict[str, int]
    troubles: list[str] = field(default_factory=list)  # serving goes on, but something is lost
    listeners: list[ListenerView] = field(default_factory=list)
    small_model: str = ""  # for titles and the like, as configured
    power: str = ""  # battery or mains, and what follows from it; whether sleep is held off
    lan: LanView | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """One thing that happened. ``id`` grows by one; a gap means that some were missed."""

    id: int
    at: float
    kind: str
    model: str
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldView:
    """One memory at the moment of an incident. All in bytes."""

    name: str
    budget: int
    charged: int  # for all backends together
    free: int | None  # as the machine was last seen
    own: int  # charged for the model that died
    own_measured: int | None  # what it was last seen to take


@dataclass(frozen=True, slots=True, kw_only=True)
class BesideView:
    """Another backend that ran at the moment of an incident."""

    model: str
    state: str
    leases: int
    bytes: dict[str, int]  # per pool, as charged


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentView:
    """One backend's unasked end: what was, what it said, what was done, what came of it.

    ``id`` grows. ``exit_class`` is a value of ``core.messages.ExitClass``. ``lines`` are those of
    its log that matter, oldest first, without secrets.
    """

    id: int
    at: float
    model: str
    engine: str
    version: str
    generation: int
    exit_class: str
    detail: str
    status: int | None  # exit status; negative: the signal; None: unknown, or it could not be run
    serving: bool  # it had been ready
    age: float | None  # seconds since it was ready, or (loading) since its start
    lines: list[str]
    advice: str  # the engine's own
    variant: str
    context: int | None
    slots: int | None
    leases: int  # requests that it broke
    queue: int
    memory: list[HeldView]
    beside: list[BesideView]
    near_budget: bool
    kernel_kills: int | None  # by the system for want of memory, since last looked; None: unknown
    done: str = ""  # backoff | gave_up | half_open
    done_seconds: float | None = None  # until it may start again
    next_variant: str = ""  # if another one is tried next
    unattended: bool = False  # it ended while modelport was not running
    followed: str = ""  # ready | died | reset
    followed_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryView:
    """What happened to one model, told once where the same happened again; newest first.

    ``last`` is the newest of the ``count`` incidents; ``steps`` are what to do next, commands
    in backticks.
    """

    model: str
    state: str  # of the model now; "" if there is no such model any more
    count: int
    first_at: float
    last_at: float
    what: str  # "ran out of memory"
    how: str
    meaning: str
    done: str
    followed: str
    steps: list[str]
    last: IncidentView


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleView:
    """One line of the calendar. ``words``: its times in words (local time). ``last``: what came of
    it: ok | failed | late (missed for good) | running; "" for nothing yet."""

    cron: str
    words: str
    do: str  # load | unload | keep
    model: str
    seconds: float | None  # of a window (keep)
    next_at: float | None  # None: never
    open_until: float | None = None  # the window that is open now
    last: str = ""
    last_at: float | None = None
    last_text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadView:
    ok: bool
    added: list[str]
    removed: list[str]
    changed: list[str]
    relabelled: list[str]
    settings: list[str]
    needs_restart: list[str]
    problem: str = ""
    mistakes: list[dict[str, Any]] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)  # taken, but not all of it could be done


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestView:
    """One request that is over. Durations are milliseconds; None: it never came to that.

    ``queue_ms``, ``evict_ms`` (while others made room: ``evicted``) and ``load_ms`` follow each
    other; ``first_byte_ms`` counts from its arrival, as does ``total_ms``.
    """

    id: str
    model: str
    client: str
    method: str
    path: str
    arrived: float
    status: int  # 499: the client left
    outcome: str
    queue_ms: float | None
    evict_ms: float | None
    load_ms: float | None
    evicted: list[str]
    first_byte_ms: float | None
    total_ms: float
    tokens_in: int | None
    tokens_out: int | None
    tokens_per_second: float | None
    retried: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyView:
    """One key, without the key itself. Limits of 0 are none; ``used`` is coarse (a minute)."""

    name: str
    scopes: list[str]
    created: float
    expires: float | None
    expired: bool
    models: list[str]  # names and patterns that it may use; none: all
    priority: int
    at_once: int
    per_minute: int
    default_model: str
    used: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PullView:
    """One download. ``name``: of the model, or ``hf:OWNER/REPO:QUANT`` where none is configured.
    Bytes, of all its files; ``rate``: bytes per second; ``left``: seconds; None: not known yet."""

    name: str
    source: str
    state: str  # waiting (for its turn), or running
    done: int
    total: int
    rate: float | None
    left: float | None
    file: str
    note: str  # what it does just now, in words
    began: float  # Unix seconds
    watchers: int


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One line of ``GET /v1/models``, for clients of the data plane."""

    id: str
    aliases: tuple[str, ...] = ()
    created: int = 0  # Unix seconds
    context: int | None = None
    max_output: int | None = None
    state: str = "stopped"
    engine: str | None = None
    kind: str = "chat"
    facts: Mapping[str, object] = field(default_factory=dict)
    present: bool = True  # its weights are on this machine
