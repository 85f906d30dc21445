"""The contract of the control API: what goes in, what comes out. The OpenAPI document is made from
these types, so a field that is not here does not exist.

The shapes of answers are the plain values of ``daemon.views``. What comes in is a ``Body``: unknown
fields are refused, because a misspelt option that is ignored is a bug that nobody sees.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from daemon.access.keys import MODELS as KEY_MODELS
from daemon.access.keys import MOST_MODELS, MOST_REQUESTS, PRIORITIES, RESERVED
from daemon.access.keys import NAME as KEY_NAME
from daemon.ports import LoadFit
from daemon.views import (
    BackendView,
    BenchView,
    EventView,
    FigureView,
    FindingView,
    FitView,
    IncidentView,
    KeyView,
    LanView,
    ListenerView,
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

__all__ = [
    "KEY_NAME",
    "BackendView",
    "Backends",
    "BenchBody",
    "BenchView",
    "Benches",
    "Body",
    "Done",
    "Empty",
    "ErrorBody",
    "ErrorDetail",
    "EventView",
    "FigureBody",
    "FigureView",
    "FindingBody",
    "FindingView",
    "FitView",
    "Gap",
    "IncidentView",
    "Incidents",
    "KeyBody",
    "KeyMade",
    "KeyView",
    "Keys",
    "LanView",
    "ListenerView",
    "LoadBody",
    "MeasuredView",
    "ModelView",
    "Models",
    "PauseBody",
    "ProgressLine",
    "PullBody",
    "PullView",
    "Pulls",
    "ReloadView",
    "RequestView",
    "ScheduleLines",
    "ScheduleView",
    "StatusView",
    "StoryView",
    "TestBody",
    "UnloadBody",
    "Unloaded",
    "VerdictView",
    "Verdicts",
    "Version",
]

MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}$"
"""What a name may look like: it is only a key of the catalog, never a path or a flag."""

MIN_CTX, MAX_CTX = 256, 16_777_216
MAX_PAUSE = 30 * 86400.0
MAX_LASTS = 100 * 366 * 86400.0


class Body(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The JSON object of a request that changes something."""


class Empty(Body, frozen=True):
    """No options: ``{}`` or no body at all."""


class LoadBody(Body, frozen=True):
    """``ctx``: context in tokens for this run only. ``fit``, for this run too: what to do where
    room is tight; without it a given ``ctx`` is kept to, and refused if it does not fit.
    ``wait``: stream the steps until ready."""

    ctx: Annotated[int, msgspec.Meta(ge=MIN_CTX, le=MAX_CTX)] | None = None
    fit: LoadFit | None = None
    wait: bool = False


class PullBody(Body, frozen=True):
    """``wait``: stream the steps until the files are there."""

    wait: bool = False


class PauseBody(Body, frozen=True):
    """``duration``: seconds until it ends by itself; without it, until it is resumed. ``hold``:
    requests wait meanwhile, else they are refused. ``force``: running requests are cut."""

    duration: Annotated[float, msgspec.Meta(gt=0, le=MAX_PAUSE)] | None = None
    hold: bool = True
    force: bool = False


class UnloadBody(Body, frozen=True):
    """``force``: cut running requests instead of letting them finish."""

    force: bool = False


# Said here, and checked where keys are made: there it is said in words, too.
_KeyName = Annotated[
    str,
    msgspec.Meta(extra_json_schema={"pattern": KEY_NAME, "not": {"enum": sorted(RESERVED)}}),
]
_KeyModel = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": KEY_MODELS})]
_OneModel = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": f"^$|{MODEL_NAME}"})]
_Requests = Annotated[int, msgspec.Meta(ge=0, le=MOST_REQUESTS)]


class KeyBody(Body, frozen=True):
    """A new key. ``scope``: ``control`` is with ``use``. ``lasts``: seconds, without it for ever.
    ``models``: names and patterns that it may use, none for all. ``at_once`` and ``per_minute``:
    requests, 0 for no limit. ``default_model``: in place of the daemon's own."""

    name: _KeyName
    scope: Literal["use", "control"] = "use"
    lasts: Annotated[float, msgspec.Meta(gt=0, le=MAX_LASTS)] | None = None
    models: Annotated[list[_KeyModel], msgspec.Meta(max_length=MOST_MODELS)] = []
    priority: Annotated[int, msgspec.Meta(ge=PRIORITIES[0], le=PRIORITIES[1])] = 0
    at_once: _Requests = 0
    per_minute: _Requests = 0
    default_model: _OneModel = ""


StepName = Literal[
    "stream", "tools-chat", "tools-messages", "tools-responses", "image", "context", "leak", "stop"
]
_Words = Annotated[str, msgspec.Meta(max_length=400)]


class FindingBody(Body, frozen=True):
    """What one step of a test found; see ``FindingView``."""

    step: StepName
    outcome: Literal["works", "but", "broken", "skipped", "unknown"]
    text: _Words
    fault: Literal["", "model", "plumbing"] = ""
    hint: _Words = ""
    seconds: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0


class TestBody(Body, frozen=True):
    """What a test of a model has found; steps that are not in it keep what was known of them."""

    __test__ = False  # pytest: it is none

    findings: Annotated[list[FindingBody], msgspec.Meta(max_length=64)] = []


_Rate = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_CTX)]
_Runs = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class FigureBody(Body, frozen=True):
    """One thing that was measured; see ``FigureView``."""

    name: Literal["load", "first_token", "latency", "prefill", "generation", "items"]
    unit: Literal["s", "tokens/s", "items/s"]
    median: _Rate
    low: _Rate
    high: _Rate
    count: _Runs


class BenchBody(Body, frozen=True):
    """What was measured of a model; see ``MeasuredView``."""

    prompt: _Tokens = 0
    generate: _Tokens = 0
    runs: _Runs = 1
    tokens_in: _Tokens = 0
    tokens_out: _Tokens = 0
    cached: _Tokens = 0
    timed_by: Literal["engine", "clock"] = "clock"
    cold: bool = False
    disturbed: _Words = ""
    figures: Annotated[list[FigureBody], msgspec.Meta(max_length=16)] = []


class Benches(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements, newest first."""

    benchmarks: list[BenchView]


class Verdicts(msgspec.Struct, frozen=True, kw_only=True):
    """What tests of a model have found, that of what is served now first."""

    verdicts: list[VerdictView]


class Models(msgspec.Struct, frozen=True, kw_only=True):
    models: list[ModelView]


class Pulls(msgspec.Struct, frozen=True, kw_only=True):
    """Those that run, and those that wait for their turn; the oldest first."""

    pulls: list[PullView]


class Backends(msgspec.Struct, frozen=True, kw_only=True):
    backends: list[BackendView]


class Incidents(msgspec.Struct, frozen=True, kw_only=True):
    """Backends that ended unasked, newest first, and the same told in words."""

    incidents: list[IncidentView]
    stories: list[StoryView]


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    keys: list[KeyView]


class KeyMade(msgspec.Struct, frozen=True, kw_only=True):
    """``key`` is told here and never again."""

    key: str
    about: KeyView


class ScheduleLines(msgspec.Struct, frozen=True, kw_only=True):
    """The lines of the calendar, in the order of the configuration."""

    schedule: list[ScheduleView]


class Unloaded(msgspec.Struct, frozen=True, kw_only=True):
    """The models whose processes are gone."""

    unloaded: list[str]


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """It was done, or (status 202) it was begun."""

    ok: bool = True
    model: str | None = None
    text: str | msgspec.UnsetType = msgspec.UNSET  # what was done, where that is not plain


class Version(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    api: str
    pid: int


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """``code`` is for programs and never changes its meaning; ``hint`` is the next step. What the
    front refuses has the request's id, and the seconds after which to ask again (null: do not)."""

    code: str
    message: str
    hint: str = ""
    facts: dict[str, Any] = {}
    retry_after: float | msgspec.UnsetType | None = msgspec.UNSET
    request_id: str | msgspec.UnsetType = msgspec.UNSET


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    error: ErrorDetail


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """The data of an event ``gap``: those between the one with the id ``after`` and the next one
    sent are lost, or (at a stream's end) nothing more is sent."""

    after: int
    reason: str


class ProgressLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a load or a pull. The last line has step ``ready`` (or ``done``), or ``failed``
    and then ``error``."""

    step: str
    text: str = ""
    fraction: float | None = None
    facts: dict[str, Any] = {}
    error: ErrorDetail | None = None
