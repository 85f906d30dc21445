"""The tables of the file, apart from ``[models]``, ``[engines]`` and ``[timing]``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from daemon.config.base import Part
from daemon.config.cron import cron_fields
from daemon.config.types import (
    Budget,
    Bytes,
    Count,
    Fit,
    Flag,
    Host,
    Interval,
    KeepAlive,
    Line,
    Name,
    Origin,
    Port,
    Seconds,
    Tokens,
    Whole,
    parse_switch,
    refuse,
)

RouteName = Literal[
    "chat",
    "completions",
    "embeddings",
    "messages",
    "responses",
    "rerank",
    "infill",
    "audio",
    "images",
]
"""What a request wants, by its path; as ``ctl show`` lists it (``daemon.ports.Route``)."""
RouteNames = dict[RouteName, Name]


class Listener(Part):
    """One more port: bound to one model, or for programs that look for a known port."""

    port: Port = Field(description="The port to listen on as well.")
    host: Host | None = Field(default=None, description="Its address; unset: that of [server].")
    model: Name | None = Field(default=None, description="Every request here goes to this model.")
    as_: Literal["ollama", "lmstudio", "llama-server", "openai"] | None = Field(
        default=None, alias="as", description="Answer as this program does: 11434, 1234, 8080."
    )

    @model_validator(mode="after")
    def _one_purpose(self) -> Listener:
        if (self.model is None) == (self.as_ is None):
            raise refuse('either "model" or "as"')
        return self


class Server(Part):
    """The fixed address, and what is let in there."""

    host: Host = Field(default="127.0.0.1", description="Address to listen on; others need a key.")
    port: Port = Field(default=8123, description="The one port that every client keeps.")
    also: tuple[Listener, ...] = Field(
        default=(), description="More ports; each {port, model} or {port, as}."
    )
    default_model: Name | None = Field(
        default=None,
        description="Answers requests that name no model of ours, claude-* and gpt-* too.",
    )
    small_model: Name | None = Field(
        default=None, description="Answers titles, tags, classifiers and autocompletion."
    )
    small_calls: Literal["loaded", "small_model", "own"] = Field(
        default="loaded",
        description="Titles, tags, classifiers and autocompletion go to their own model or "
        "small_model, or meanwhile to one that is loaded; always to small_model; or as others.",
    )
    small_evicts: Flag = Field(
        default=False, description="These may make a model leave that is in use."
    )
    default_for: RouteNames = Field(
        default_factory=dict,
        description='Instead of default_model by path, {embeddings = "embed", infill = "fim"}.',
    )
    body_limit: Bytes = Field(default=64 * 2**20, description="The largest request body.")
    queue_timeout: Seconds = Field(default=300.0, description="The longest wait for a turn.")
    hosts: tuple[Host, ...] = Field(default=(), description="More Host names that are accepted.")
    cors_origins: tuple[Origin, ...] = Field(
        default=(), description="Web origins, exact, that a browser may call from."
    )


def _read_degrade(value: Any) -> Any:
    value = parse_switch(value)
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Degrade = Annotated[
    Literal["off", "on", "aggressive"],
    BeforeValidator(_read_degrade),
    WithJsonSchema({"enum": ["off", "on", "aggressive", True, False]}),
]


class Memory(Part):
    """How much memory the backends may take together, and what is done when it is short."""

    budget: Budget = Field(
        default=None,
        validate_default=False,
        description='"18GiB", "75%" or a table per pool; unset: from the machine.',
    )
    tier: Literal["safe", "balanced", "aggressive"] = Field(
        default="balanced", description="How much is kept free for the rest of the machine."
    )
    policy: Literal["wait", "wait_then_fail", "preempt"] = Field(
        default="wait",
        description="A request without room: wait, give up (wait_then_fail) or cut others short "
        "(preempt) once it has waited timing.memory_wait.",
    )
    fit: Fit = Field(
        default="shrink", description="A model too big as configured: shrink its context, …"
    )
    degrade: Degrade = Field(
        default="on",
        description="Out of memory: smaller variants; aggressive: also below what is written.",
    )
    allow_cpu_offload: Flag = Field(
        default=False, description="The ladder may move layers to the CPU."
    )
    max_drain: Seconds | None = Field(
        default=None, description="End requests of a draining backend after it; unset: never."
    )


class Defaults(Part):
    """For every model that does not say otherwise."""

    keep_alive: KeepAlive = Field(
        default=900.0, description="Idle time before unloading; -1: never."
    )
    slots: Whole = Field(
        default=1, ge=1, le=256, description="Requests that a model serves at once."
    )
    ctx: Tokens = Field(
        default=131072, description="The largest context given where none is written."
    )
    min_ctx: Tokens = Field(
        default=32768, description="The smallest context that shrinking may reach."
    )
    auto_pull: Flag = Field(
        default=False, description="A request for a model that is not here downloads it."
    )


class OnBattery(Part):
    """What differs while the machine runs on its battery."""

    keep_alive: KeepAlive | None = Field(default=None, description="A shorter keep-alive.")
    model: Name | None = Field(
        default=None, description="A smaller model in place of default_model."
    )


class Power(Part):
    """Saving energy, and sleeping at the right time."""

    inhibit_sleep: Flag = Field(
        default=True,
        description="No idle sleep while requests run, models load or come down; the lid and "
        "who chooses to sleep are always obeyed.",
    )
    unload_before_sleep: Literal["off", "discrete", "always"] = Field(
        default="off",
        description="Unload all models before the machine sleeps: where a graphics card has "
        "memory of its own (discrete), always, or not (Linux).",
    )

    on_battery: OnBattery | None = Field(
        default=None,
        description="Shorter keep-alive and a smaller model on battery; unset: no change.",
    )


def _read_cron(value: Any) -> Any:
    if isinstance(value, str):
        try:
            cron_fields(value)
        except ValueError as error:
            raise refuse('a cron line such as "30 8 * * mon-fri"', f"In it, {error}.") from None
    return value


Cron = Annotated[str, BeforeValidator(_read_cron)]


class Schedule(Part):
    """One line of the calendar."""

    cron: Cron = Field(description='When, in local time: five fields, "30 8 * * mon-fri".')
    do: Literal["load", "unload", "keep"] = Field(
        description="Load the model; unload it; keep it, once loaded, however idle it is (for)."
    )
    model: Name = Field(description="Which model.")
    for_: Interval | None = Field(
        default=None, alias="for", description='With keep: how long from then on, "8h".'
    )

    @model_validator(mode="after")
    def _a_window(self) -> Schedule:
        if (self.do == "keep") != (self.for_ is not None):
            hint = 'For example: do = "keep", for = "8h".'
            raise refuse('"for" with "keep", and with nothing else', hint)
        return self


class Lan(Part):
    """Being reached from other machines. Keys are kept in the state directory, hashed."""

    enabled: Flag = Field(default=False, description="Listen for other machines; needs a key.")
    host: Host = Field(
        default="::",
        description="Where: all addresses (::), those of IPv4 (0.0.0.0), an interface, or one.",
    )
    mdns: Flag = Field(
        default=True, description="Announce the server on the network while enabled."
    )
    name: Line | None = Field(default=None, description="The name announced; unset: the host's.")


class Downloads(Part):
    """Bringing weights from the hub."""

    parallel: Whole = Field(
        default=2, ge=1, le=16, description="Downloads at the same time; others wait their turn."
    )


class Tls(Part):
    """Encryption off loopback."""

    enabled: Flag = Field(default=False, description="Serve HTTPS off loopback.")
    cert: Line | None = Field(default=None, description="Certificate file; unset: a self-made one.")
    key: Line | None = Field(default=None, description="Its private key file.")


class Logs(Part):
    """The daemon's own log and those of the backends."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least serious line that is kept."
    )
    format: Literal["text", "json"] = Field(
        default="text", description="How a line of the daemon's log looks."
    )
    max_size: Bytes = Field(
        default=10 * 2**20, ge=2**16, description="A log is rotated at this size."
    )
    keep: Whole = Field(default=5, ge=1, le=1000, description="Rotated files kept of each log.")
    max_age: Seconds = Field(default=14 * 86400.0, description="Older rotated files are removed.")


class History(Part):
    """Numbers of past requests; never their text."""

    enabled: Flag = Field(default=True, description="Keep the history of requests.")
    max_age: Seconds = Field(default=30 * 86400.0, description="Older entries are removed.")
    max_size: Bytes = Field(default=256 * 2**20, description="The oldest go when it is larger.")


class Conversations(Part):
    """Keeping what a model has read of a conversation on the disk, across swaps."""

    enabled: Flag = Field(default=True, description="Keep conversations across swaps.")
    max_size: Bytes = Field(
        default=20 * 2**30,
        description="Disk space, or a tenth of what is free, whichever is smaller.",
    )
    max_age: Seconds = Field(default=7 * 86400.0, description="Older snapshots are removed.")
    min_tokens: Count = Field(
        default=512, description="Shorter conversations are not worth a file."
    )
    save_timeout: Seconds = Field(
        default=5.0, description="The longest that saving may delay a stop."
    )
    idle_save: Seconds = Field(
        default=60.0, description="A long conversation is saved when idle so long."
    )


class Service(Part):
    """Running at login."""

    scope: Literal["user", "system"] = Field(default="user", description="Whose service it is.")
    linger: Flag = Field(default=True, description="Run without a login as well (Linux).")
    keep_backends: Flag = Field(
        default=True, description="Backends outlive a restart of the daemon."
    )


class Discovery(Part):
    """Models that are on this machine already, wherever other programs keep theirs."""

    enabled: Flag = Field(default=True, description="Look for models on this machine.")
    places: tuple[Literal["huggingface", "lmstudio", "llama.cpp", "ollama"], ...] = Field(
        default=("huggingface", "lmstudio", "llama.cpp", "ollama"),
        description="Whose models: the caches and folders of these programs.",
    )
    folders: tuple[Line, ...] = Field(
        default=(),
        description="More folders; relative to the folder of the configuration. Folders in them "
        "that are links are not entered.",
    )
    listed: Flag = Field(
        default=True,
        description="Programs are told of found models, too (/v1/models, /api/tags); false: they "
        "are served to who names them, and shown by ctl ls --all.",
    )
