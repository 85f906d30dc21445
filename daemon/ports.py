"""The Protocols that keep the sides apart, and the values that cross them.

``LeasePort`` is what the relay may ask of the supervisor, ``ControlPort`` what the control API may.
(``Engine``, what the supervisor may ask of an engine, is in ``daemon.engines.base``.)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

from daemon.access.keys import Wanted
from daemon.access.principals import LOCAL, Principal
from daemon.core.messages import Outcome
from daemon.core.problems import Code, Problem
from daemon.dialects.manner import Manner
from daemon.views import (
    BackendView,
    BenchView,
    EventView,
    FindingView,
    FitView,
    IncidentView,
    KeyView,
    MeasuredView,
    ModelView,
    PullView,
    ReloadView,
    RequestView,
    ScheduleView,
    StatusView,
    StoryView,
    VerdictView,
)
from daemon.views import ModelCard as ModelCard


class Route(StrEnum):
    """What a request wants of a model. Engines say which of these they serve themselves."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    MESSAGES = "messages"
    COUNT_TOKENS = "count_tokens"
    RESPONSES = "responses"
    RERANK = "rerank"
    INFILL = "infill"
    TOKENS = "tokens"  # llama-server's tokenizer and template
    AUDIO = "audio"
    IMAGES = "images"
    UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class Wish:
    """A checked request on its way to a model. ``model`` is as the client wrote it ("" if none)."""

    model: str
    route: Route
    principal: Principal
    client: str
    body_bytes: int
    request_id: str
    attempt: int = 1
    arrived: float | None = None  # the supervisor's seconds; set on a second attempt
    mark: Callable[[], str] = str  # a digest of the body, worked out when asked for; "" for none
    small: bool = False  # by what it says: a title, a tag, a classifier, an autocompletion
    movable: bool = True  # another model may serve it while its own is not ready, if it is small


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a request's name means. ``small``: a title, a tag, an autocompletion; ``stand_ins``: who
    may serve it while the model itself is not ready, the likeliest first."""

    model: str
    small: bool = False
    stand_ins: tuple[str, ...] = ()
    guessed: bool = False  # the name is none of ours: a default answers


@dataclass(frozen=True, slots=True)
class Target:
    """Where a leased request goes: TCP address or unix socket of the backend."""

    host: str
    port: int
    uds: str | None = None

    def __str__(self) -> str:
        return f"unix:{self.uds}" if self.uds is not None else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Edits:
    """What is done to the fields at the top of a request's body. Values are JSON texts.

    ``default`` where a request says nothing; ``with_tools`` over these where it offers tools;
    ``force`` whatever it says; ``strip`` is taken out first. ``model`` is nobody's but the lease's.
    """

    default: Mapping[str, bytes] = field(default_factory=dict)
    force: Mapping[str, bytes] = field(default_factory=dict)
    with_tools: Mapping[str, bytes] = field(default_factory=dict)
    strip: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Hold:
    """How to reach a backend: what every lease on it carries."""

    target: Target
    upstream_model: str
    headers: Mapping[str, str]
    keep_query: bool


@dataclass(frozen=True, slots=True)
class Waits:
    """Where a request's time went before its lease (seconds): in the queue, while others made room
    (``evicted`` names them), while its model was loaded."""

    queue: float
    evict: float = 0.0
    load: float = 0.0
    evicted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tokens:
    """How many tokens a chat has. ``exact``: as the engine would read it."""

    count: int
    exact: bool


class Lease(Protocol):
    """An admitted request's hold on a backend. Ended exactly once, by :meth:`end`.

    The relay sets ``status`` (0: no answer yet) and ``sent`` (bytes of a good answer so far), from
    which it is seen that the backend goes on, and ``rescued`` (tool calls made of text).
    """

    status: int
    rescued: int

    @property
    def model(self) -> str: ...
    @property
    def upstream_model(self) -> str: ...  # what the body's ``model`` must say there
    @property
    def target(self) -> Target: ...
    @property
    def headers(self) -> Mapping[str, str]: ...  # to add, such as the key of this start
    @property
    def keep_query(self) -> bool: ...  # mlx-lm answers 404 to any query string
    @property
    def edits(self) -> Edits | None: ...  # to the body, as configured; None: none
    @property
    def manner(self) -> Manner | None: ...  # how it is spoken to; None: as the client speaks
    @property
    def arrived(self) -> float: ...
    @property
    def on_cancel(self) -> Callable[[Problem], None] | None: ...
    @on_cancel.setter
    def on_cancel(self, callback: Callable[[Problem], None] | None) -> None: ...
    @property
    def sent(self) -> Callable[[], int] | None: ...
    @sent.setter
    def sent(self, count: Callable[[], int] | None) -> None: ...
    def end(self, outcome: Outcome) -> None: ...
    def waits(self) -> Waits | None:
        """None: it waited for nothing but its turn."""
        ...

    def suspect(self) -> bool:
        """Was this very body in flight when a backend crashed?"""
        ...


class Waiting(Protocol):
    """A wish in the queue. ``cancel`` when the client left; nothing is called back after it."""

    def cancel(self) -> None: ...


NOT_LOADED = Problem(Code.MODEL_UNAVAILABLE, "The model is not loaded.", retry_after=1.0)
"""For whoever counts tokens: no model is loaded for that."""


class LeasePort(Protocol):
    """What the relay may ask. All of it is for the event loop's thread and never blocks."""

    def acquire(self, wish: Wish, done: Callable[[Lease | Problem], None]) -> Waiting | None:
        """Queue for a lease. ``done`` is called exactly once unless the wait is cancelled; it may
        be called before this returns (then None is returned). Who counts tokens never queues: it
        gets NOT_LOADED where the model is not ready."""
        ...

    def cards(self, who: Principal = LOCAL) -> list[ModelCard]:
        """Every model that ``who`` may name, for ``GET /v1/models``. Never waits for a load."""
        ...

    def card(self, name: str, route: str = "", who: Principal = LOCAL) -> ModelCard | Problem:
        """The model that ``name`` means ("": none named) to ``who``, who asks for ``route``."""
        ...

    def manner(self, name: str, who: Principal = LOCAL) -> Manner | None:
        """How the model that ``who`` calls so is spoken to; None: there is none, or not yet."""
        ...

    def count(
        self, name: str, chat: bytes, done: Callable[[Tokens | None], None]
    ) -> Waiting | None:
        """Count the tokens of ``chat`` (JSON) by the own tokenizer of the model of this name, which
        need not be loaded. ``done`` gets None where nobody can count, or not in time; else as
        :meth:`acquire`."""
        ...

    def unload(self, name: str, who: Principal = LOCAL) -> Problem | None:
        """Unload the model of this name once its requests are over; None: that is ordered."""
        ...

    def waiting_text(self, name: str) -> str:
        """What a request for this model waits for, in one line; "" if that is not to be shown."""
        ...

    @property
    def draining(self) -> bool:
        """The daemon is stopping: say ``Connection: close``."""
        ...


LoadFit = Literal["shrink", "refuse", "ignore"]
"""Where room is tight: a smaller context, no load, or as it is, whatever the numbers say."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a load, for whoever waits. ``fraction`` 0 to 1 where it is known."""

    step: str  # resolve | choose | note | pull | wait | evict | start | ready | failed
    text: str
    fraction: float | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


class ControlPort(Protocol):
    """What the control API may ask. Errors are raised as ``ProblemError``."""

    def status(self) -> StatusView: ...
    async def look(self, name: str = "") -> None:
        """See what models are on the disk now, before they are asked for; ``name``: only if there
        is no such model yet, and make one that was found ready to be served, or choose the weights
        of a preset. Never raises for what is or is not there."""
        ...

    async def decide(self) -> None:
        """Choose the weights of the presets that nobody has asked for yet, before all are shown."""
        ...

    def models(self, *, presets: bool = False, found: bool = False) -> list[ModelView]: ...
    def model(self, name: str) -> ModelView: ...
    def backends(self) -> list[BackendView]: ...
    async def fit(self, name: str, *, ctx: int | None = None) -> FitView:
        """Whether a load would fit, and what could be done; nothing is started."""
        ...

    def load(
        self, name: str, *, ctx: int | None = None, fit: LoadFit | None = None
    ) -> AsyncIterator[Progress]:
        """Load and tell the steps; the last is ``ready``, or ProblemError is raised.

        ``ctx`` and ``fit`` hold for this run; without ``fit`` a given ``ctx`` is kept to.
        """
        ...

    async def unload(self, name: str | None, *, force: bool = False) -> list[str]:
        """Unload one or (None) all; returns the names once their processes are gone."""
        ...

    def pin(self, name: str, pinned: bool) -> None: ...
    def pause(self, seconds: float | None, *, hold: bool, force: bool) -> None:
        """Unload everything and start nothing, for ``seconds`` or until :meth:`resume`. Requests
        are held meanwhile, or refused; ``force`` cuts running ones."""
        ...

    def resume(self) -> bool:
        """End a pause; False if there was none."""
        ...

    def reset(self, name: str) -> str:
        """Forget its crashes and what it has given up; says in words what that was."""
        ...

    async def reload(self) -> ReloadView: ...
    def pull(self, name: str) -> AsyncIterator[Progress]:
        """Bring the files of a model or of ``hf:OWNER/REPO[:QUANT]``; the last step is ``done``
        (its facts: ``served_as``, "" where no model is served so, ``found`` where it has no entry,
        and where the files are).
        Goes on when the caller leaves."""
        ...

    def pulls(self) -> list[PullView]:
        """All that are under way or wait for their turn."""
        ...

    def pulling(self, name: str) -> PullView: ...
    async def cancel_pull(self, name: str) -> PullView:
        """End one; returns how far it was, once its process is gone."""
        ...

    def log_path(self, name: str | None) -> str:
        """The log file of a model's backend, or the daemon's own (None)."""
        ...

    def incidents(self, name: str, limit: int) -> list[IncidentView]:
        """The last ``limit`` unasked ends of one model's backends ("": of all), newest first. A
        model that is gone from the configuration may have some."""
        ...

    def stories(self, incidents: Sequence[IncidentView]) -> list[StoryView]:
        """The same in plain words, told once where the same happened again."""
        ...

    def verdicts(self, name: str) -> list[VerdictView]:
        """What tests of a model have found, that of what is served now first."""
        ...

    def judge(self, name: str, findings: Sequence[FindingView]) -> VerdictView:
        """Keep what a test has found, beside what is known of other steps."""
        ...

    async def benchmarks(self, name: str, limit: int) -> list[BenchView]:
        """The last ``limit`` measurements of one model ("": of all), newest first."""
        ...

    async def keep_benchmark(self, name: str, measured: MeasuredView) -> BenchView:
        """Keep what was measured, with how the model is served now."""
        ...

    async def keys(self) -> list[KeyView]: ...
    async def add_key(self, wanted: Wanted) -> tuple[KeyView, str]:
        """Make a key; it is in force at once. Its text is told here and never again."""
        ...

    async def remove_key(self, name: str) -> None: ...
    def request(self, request_id: str) -> RequestView:
        """One of the last requests that are over."""
        ...

    def schedule(self) -> list[ScheduleView]:
        """The lines of the calendar, as they stand in the configuration."""
        ...

    def history(self, after: int) -> list[EventView]:
        """Events still remembered with an id above ``after``."""
        ...

    def subscribe(self, callback: Callable[[EventView], None]) -> Callable[[], None]:
        """Call back at each event; returns the function that ends it."""
        ...

    def shutdown(self) -> None: ...
