"""One model with everything filled in, and the merging that fills it in. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pydantic import JsonValue

from daemon.config.entry import ModelEntry, Params
from daemon.config.presets import Form, FormName, Preset
from daemon.config.settings import Settings
from daemon.config.types import Dialect, Fit, Kind
from daemon.core.problems import Problem

_FORM_OF: Final[Mapping[str, FormName]] = {
    "llama-server": "gguf",
    "xllamacpp": "gguf",
    "mlx-lm": "mlx",
    "vllm-mlx": "mlx",
}
_EMPTY: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Fields:
    """Fields of request bodies: used by default, always, where tools are offered, and never."""

    default: Mapping[str, JsonValue] = field(default_factory=dict)
    force: Mapping[str, JsonValue] = field(default_factory=dict)
    with_tools: Mapping[str, JsonValue] = field(default_factory=dict)
    strip: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Choice:
    """Why a preset's weights are these of several, in words. ``refusal``: none of them fits this
    machine, so that nothing is fetched unless somebody insists."""

    text: str
    refusal: Problem | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """One model with everything filled in: its entry over its preset over the defaults.

    ``ctx`` is what one conversation (a slot) gets, in tokens; None means the largest that fits up
    to ``ctx_limit``. ``ctx_written`` says that the user wrote it, so that it is never shrunk
    unless he also wrote ``min_ctx``. Sizes are bytes, ``keep_alive`` is seconds (-1: never
    unload). ``hf`` holds ``owner/repo`` and perhaps ``:QUANT``.
    """

    name: str
    listed: bool = True
    """Whether it stands in the file; False for a preset that the user did not name."""
    preset: str | None = None
    description: str = ""
    engine: str | None = None
    form: FormName | None = None
    """The format of the weights, where it is known without looking at them."""
    path: Path | None = None
    hf: str | None = None
    file: str | None = None
    quants: Mapping[str, int] = field(default_factory=dict)
    """Other quantisations of ``hf`` that may be taken, best first, and their bytes."""
    mmproj: str | None = None
    draft: str | None = None
    template: str | None = None
    install: str | None = None
    """The command that brings the weights, where no download does."""
    size: int | None = None
    min_memory: int | None = None
    min_engine: Mapping[str, str] = field(default_factory=dict)
    kind: Kind | None = None
    ctx: int | None = None
    ctx_written: bool = False
    ctx_limit: int = 131072
    min_ctx: int = 32768
    min_ctx_written: bool = False
    slots: int = 1
    slots_written: bool = False
    args: tuple[str, ...] = ()
    own_args: tuple[str, ...] = ()
    """Those of ``args`` that the user wrote: the rest are a preset's."""
    engine_args: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    engine_env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    keep_alive: float = 900.0
    pin: bool = False
    priority: int = 0
    pool: str | None = None
    fit: Fit = "shrink"
    params: Fields = Fields()
    thinking: bool | None = None
    tools: bool | None = None
    dialects: tuple[Dialect, ...] | None = None
    rescue_tools: str = "auto"
    loading_text: bool = False
    allow_tools: tuple[str, ...] | None = None
    tell_cut_calls: bool = False
    min_output: int | None = None
    max_output: int | None = None
    conversations: bool = True
    auto_pull: bool = False
    warnings: tuple[str, ...] = ()
    choice: Choice | None = field(default=None, compare=False)
    """Set where the machine decided (``daemon.choosing``)."""

    @property
    def repo(self) -> str | None:
        """``owner/repo`` of the hub, without the quantisation."""
        return self.hf.partition(":")[0] if self.hf is not None else None

    @property
    def quant(self) -> str | None:
        """The quantisation wanted of the repository, where one is named."""
        return (self.hf.partition(":")[2] or None) if self.hf is not None else None

    def args_for(self, engine: str) -> tuple[str, ...]:
        """Its arguments for ``engine``; the user's own come last, and the last one counts."""
        return (*self.engine_args.get(engine, ()), *self.args)

    def env_for(self, engine: str) -> dict[str, str]:
        """Its environment for ``engine``; the user's own wins."""
        return {**self.engine_env.get(engine, _EMPTY), **self.env}


def merge(
    name: str,
    entry: ModelEntry,
    preset: Preset | None,
    settings: Settings,
    wanted: FormName,
    *,
    listed: bool = True,
) -> Model:
    """The entry over its preset over the defaults.

    ``wanted`` is the format to take of a preset that has both, where the entry names no engine.
    """
    engine = canonical_engine(entry.engine, settings)
    family = _FORM_OF.get(engine or "")
    form_name, form = preset.form(family or wanted) if preset is not None else (family, Form())
    # The arguments of a preset are those of one family of engines; another would refuse them.
    fitting = preset is not None and (engine is None or family == form_name)
    own_weights = entry.path is not None or entry.hf is not None
    return Model(
        name=name,
        listed=listed,
        preset=entry.preset,
        description=preset.description if preset is not None else "",
        engine=engine,
        form=form_name,
        args=(*(form.args if fitting else ()), *entry.args),
        own_args=tuple(entry.args),
        engine_args=dict(form.engine_args) if fitting else {},
        env=dict(entry.env),
        engine_env=dict(form.engine_env) if fitting else {},
        template=entry.template or form.template,
        min_engine=dict(form.min_engine) if fitting else {},
        warnings=(*preset.warnings, *form.warnings) if preset is not None else (),
        **_weights(entry, Form() if own_weights else form),
        **_context(entry, preset, settings),
        **_requests(entry, preset, form, settings, engine),
        **_schedule(entry, preset, settings),
    )


def canonical_engine(engine: str | None, settings: Settings) -> str | None:
    """The engine as all others know it: a command template as ``command.NAME``."""
    if engine is not None and engine in settings.engines.command:
        return f"command.{engine}"
    return engine


def _weights(entry: ModelEntry, form: Form) -> dict[str, Any]:
    """Where the weights are: a file on the disk comes before a hub."""
    path = Path(entry.path) if entry.path is not None else form.path
    hub = form if path is None else Form()
    return {
        "path": path,
        "hf": entry.hf or hub.hf,
        "file": entry.file or hub.file,
        "quants": dict(hub.quants) if entry.file is None else {},  # else the user has chosen
        "install": hub.install,
        "mmproj": entry.mmproj or form.mmproj,
        "draft": entry.draft or form.draft,
        "size": form.size,
        "min_memory": form.min_memory,
    }


def _context(entry: ModelEntry, preset: Preset | None, settings: Settings) -> dict[str, Any]:
    ctx = entry.ctx if entry.ctx is not None else (preset.ctx if preset is not None else None)
    min_ctx = entry.min_ctx
    if min_ctx is None:
        # The default is no reason to refuse a model whose whole context is smaller.
        min_ctx = settings.defaults.min_ctx if ctx is None else min(settings.defaults.min_ctx, ctx)
    fit = entry.fit or settings.memory.fit
    if entry.fit is None and fit == "shrink" and entry.ctx is not None and entry.min_ctx is None:
        fit = "refuse"  # a context that the user wrote is shrunk only where he allows it
    return {
        "ctx": ctx,
        "ctx_written": entry.ctx is not None,
        "ctx_limit": settings.defaults.ctx,
        "min_ctx": min_ctx,
        "min_ctx_written": entry.min_ctx is not None,
        "fit": fit,
    }


def _requests(
    entry: ModelEntry,
    preset: Preset | None,
    form: Form,
    settings: Settings,
    engine: str | None,
) -> dict[str, Any]:
    """What concerns requests, not the process."""
    template = settings.engines.command.get((engine or "").removeprefix("command."))
    kind = entry.kind or (template.kind if template is not None else None)
    dialects = entry.dialects
    if dialects is None and template is not None:
        dialects = template.dialects
    layers = (preset.params, form.params) if preset is not None else ()
    return {
        "kind": kind or (preset.kind if preset is not None else None),
        "dialects": dialects,
        "params": _fields(*layers, entry.params),
        "thinking": _first(entry.thinking, preset.thinking if preset is not None else None),
        "tools": _first(entry.tools, preset.tools if preset is not None else None),
        "rescue_tools": entry.rescue_tools,
        "loading_text": entry.loading_text,
        "allow_tools": entry.allow_tools,
        "tell_cut_calls": entry.tell_cut_calls,
        "min_output": entry.min_output,
        "max_output": entry.max_output,
        "conversations": _first(entry.conversations, settings.conversations.enabled),
        "auto_pull": _first(entry.auto_pull, settings.defaults.auto_pull),
    }


def _schedule(entry: ModelEntry, preset: Preset | None, settings: Settings) -> dict[str, Any]:
    """What concerns the schedule and the memory."""
    slots = _first(entry.slots, preset.slots if preset is not None else None)
    return {
        "slots": _first(slots, settings.defaults.slots),
        "slots_written": entry.slots is not None,
        "aliases": entry.aliases,
        "keep_alive": _first(entry.keep_alive, settings.defaults.keep_alive),
        "pin": entry.pin,
        "priority": entry.priority,
        "pool": entry.pool,
    }


def _first(value: Any, otherwise: Any) -> Any:
    return value if value is not None else otherwise


def _fields(*layers: Params) -> Fields:
    """The layers merged, the last of which wins."""
    return Fields(
        default={key: value for layer in layers for key, value in layer.default.items()},
        force={key: value for layer in layers for key, value in layer.force.items()},
        with_tools={key: value for layer in layers for key, value in layer.with_tools.items()},
        strip=frozenset(key for layer in layers for key in layer.strip),
    )
