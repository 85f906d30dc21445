"""What single values cannot show: contradictions between entries, and things worth a warning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from daemon.config.entry import ATTACHED, ENGINES, ModelEntry
from daemon.config.mistakes import Finding, did_you_mean, shown
from daemon.config.settings import Settings
from daemon.config.tree import KeyPath

if TYPE_CHECKING:
    from daemon.config.presets import Preset

DAEMON_LOG: Final = "daemon"
"""What the daemon's own log is asked for by, so that no model can have this name."""

_MLX_ENGINES = frozenset({"mlx-lm", "vllm-mlx"})


def contradictions(
    settings: Settings, presets: Mapping[str, Preset]
) -> Iterator[tuple[Finding, tuple[KeyPath, ...]]]:
    """Every contradiction, with the keys that it was concluded from.

    A conclusion from a key that was itself a mistake is not worth telling: the caller drops it.
    """
    for name, entry in settings.models.items():
        path: KeyPath = ("models", name)
        yield from _weights(path, name, entry, presets)
        yield from _references(path, entry, settings, presets)
        yield from _sizes(path, entry, presets)
    for name in settings.engines.command:
        if name in ENGINES:
            where: KeyPath = ("engines", "command", name)
            yield Finding(where, shown(name), "a name that no engine has"), ()
    yield from _names(settings)
    yield from _model_references(settings, presets)
    yield from _ports(settings)
    yield from _tls(settings)
    yield from _timing(settings)


def _weights(
    path: KeyPath, name: str, entry: ModelEntry, presets: Mapping[str, Preset]
) -> Iterator[tuple[Finding, tuple[KeyPath, ...]]]:
    if entry.path is not None and entry.hf is not None:
        yield (
            Finding((*path, "hf"), shown(entry.hf), '"path" or "hf", not both', "Remove one."),
            ((*path, "path"), (*path, "hf")),
        )
    weightless = (entry.engine or "").split(".")[0] in ATTACHED | {"command"} or (
        entry.engine is not None and entry.engine not in ENGINES
    )
    if not weightless and entry.path is None and entry.hf is None and entry.preset is None:
        hint = (
            f'preset = "{name}" builds on the preset of that name.'
            if name in presets
            else 'Give path = "/…/model.gguf" or hf = "owner/repo:QUANT".'
        )
        yield Finding(path, "no weights", '"path", "hf" or "preset"', hint), (path,)
    if entry.file is None:
        return
    where = (*path, "file")
    if entry.hf is None:
        hint = 'With "path", name the file in the path itself.' if entry.path else ""
        yield Finding(where, shown(entry.file), '"file" beside "hf"', hint), (path,)
    elif ":" in entry.hf:
        allowed = 'a quantisation in "hf", or "file", not both'
        yield Finding(where, shown(entry.file), allowed), (where, (*path, "hf"))


def _references(
    path: KeyPath, entry: ModelEntry, settings: Settings, presets: Mapping[str, Preset]
) -> Iterator[tuple[Finding, tuple[KeyPath, ...]]]:
    if entry.preset is not None and entry.preset not in presets:
        where = (*path, "preset")
        hint = did_you_mean(entry.preset, presets)
        yield Finding(where, shown(entry.preset), "the name of a preset", hint), (where,)
    commands = settings.engines.command
    engine = entry.engine
    if engine is None or engine in commands or engine.removeprefix("command.") in commands:
        return
    where = (*path, "engine")
    needs = (where, ("engines", "command"))
    if engine == "command" or engine.startswith("command."):
        names = ", ".join(f"command.{name}" for name in commands) or "none is defined"
        hint = "A template is written as [engines.command.NAME] with argv."
        yield Finding(where, shown(engine), f"a command template: {names}", hint), needs
    elif engine not in ENGINES:
        known = [*(name for name in ENGINES if name != "command"), *commands]
        yield Finding(where, shown(engine), ", ".join(known), did_you_mean(engine, known)), needs


def _sizes(
    path: KeyPath, entry: ModelEntry, presets: Mapping[str, Preset]
) -> Iterator[tuple[Finding, tuple[KeyPath, ...]]]:
    ctx, whose = entry.ctx, "ctx"
    preset = presets.get(entry.preset or "")
    if ctx is None and preset is not None:
        ctx, whose = preset.ctx, "the preset's ctx"
    if ctx is not None and entry.min_ctx is not None and entry.min_ctx > ctx:
        where = (*path, "min_ctx")
        finding = Finding(where, str(entry.min_ctx), f"at most {whose}, {ctx}")
        yield finding, (where, (*path, "ctx"), (*path, "preset"))


def _names(settings: Settings) -> Iterator[tuple[Finding, tuple[KeyPath, ...]]]:
    """No two models may answer to the same name, and none to the daemon's."""
    taken: dict[str, KeyPath] = {}
    for name, entry in settings.models.items():
        aliases = [(("models", name, "aliases", i), a) for i, a in enumerate(entry.aliases)]
        for path, word in ((("models", name), name), *aliases):
            if word.casefold() == DAEMON_LOG:
                hint = "`ctl logs daemon` is the daemon's own log."
                yield Finding(path, shown(word), f'any other name than "{DAEMON_LOG}"', hint), ()
    for name in settings.models:
        other = taken.setdefault(name.casefold(), ("models", name))
        if other[1] != name:
            hint = f'It differs from "{other[1]}" in case alone.'
            yield Finding(("models", name), shown(name), "a name of its own", hint), ()
    for name, entry in settings.models.items():
        for index, alias in enumerate(entry.aliases):
            where: KeyPath = ("models", name, "aliases", index)
            other = taken.setdefault(alias.casefold(), where)
            if other == where:
                continue
            if len(other) == 2:
                hint = f'"{other[1]}" is the name of a model.'
            elif other[1] == name:
                hint = "It stands twice in this list."
            else:
                hint = f'Model "{other[1]}" has it already.'
            yield Finding(where, shown(alias), "an alias that nothing else uses", hint), ()


def _model_references(
    settings: Settings, presets: Mapping[str, Preset]
) -> Iterator[tuple[Finding, tuple[KeyPath, ...]]]:
    known = {name.casefold() for name in (*settings.models, *presets)}
    for entry in settings.models.values():
        known.update(alias.casefold() for alias in entry.aliases if "*" not in alias)
    for preset in presets.values():
        known.update(alias.casefold() for alias in preset.aliases)
    server, battery = settings.server, settings.power.on_battery
    references: list[tuple[KeyPath, str | None]] = [
        (("server", "default_model"), server.default_model),
        (("server", "small_model"), server.small_model),
        (("power", "on_battery", "model"), battery.model if battery else None),
    ]
    references += [(("server", "default_for", path), m) for path, m in server.default_for.items()]
    references += [(("server", "also", i, "model"), a.model) for i, a in enumerate(server.also)]
    references += [(("schedule", i, "model"), s.model) for i, s in enumerate(settings.schedule)]
    for where, model in references:
        if model is not None and model.casefold() not in known:
            hint = did_you_mean(model, (*settings.models, *presets))
            allowed = "the name of a model, an alias or a preset"
            yield Finding(where, shown(model), allowed, hint), (("models",), where)


def _ports(settings: Settings) -> Iterator[tuple[Finding, tuple[KeyPath, ...]]]:
    server = settings.server
    taken = {(server.host, server.port): "server.port"}
    for index, listener in enumerate(server.also):
        where: KeyPath = ("server", "also", index, "port")
        key = (listener.host or server.host, listener.port)
        other = taken.setdefault(key, f"server.also[{index}]")
        if other != f"server.also[{index}]":
            finding = Finding(where, str(listener.port), "a port of its own", f"{other} has it.")
            yield finding, (where, ("server", "port"), ("server", "host"))


def _tls(settings: Settings) -> Iterator[tuple[Finding, tuple[KeyPath, ...]]]:
    tls = settings.tls
    if (tls.cert is None) != (tls.key is None):
        missing = "key" if tls.key is None else "cert"
        finding = Finding(("tls", missing), "nothing", '"cert" and "key" together, or neither')
        yield finding, (("tls",),)


def _timing(settings: Settings) -> Iterator[tuple[Finding, tuple[KeyPath, ...]]]:
    """A shortest time above the longest one of its pair."""
    timing = settings.timing
    for low, high in (
        ("linger_min", "linger_max"),
        ("quantum_min", "quantum_max"),
        ("backoff", "backoff_max"),
    ):
        least, most = getattr(timing, low), getattr(timing, high)
        if least > most:
            where: KeyPath = ("timing", low)
            yield (
                Finding(where, f"{least:g} s", f"at most {high}, {most:g} s"),
                (where, ("timing", high)),
            )


NOT_YET: Final = (
    *(("history",), ("conversations",)),
    ("timing", "machine_probe"),
    ("timing", "flush"),
)
"""Settings that are read and checked, and have no effect in this version."""


def without_effect(settings: Settings) -> list[Finding]:
    """Settings written by the user that nothing acts upon yet: silence would be a lie."""
    plain = Settings()
    pairs: list[tuple[KeyPath, Any, Any]] = []
    for path in NOT_YET:
        value: Any = settings
        default: Any = plain
        for part in path:
            value, default = getattr(value, part), getattr(default, part)
        pairs.append((path, value, default))
    hint = "It is kept for a later version; nothing acts on it now."
    return [
        Finding(path, shown(value) if isinstance(value, str | int) else "a value", "unset", hint)
        for path, value, default in pairs
        if value != default
    ]


def warnings(settings: Settings) -> list[Finding]:
    """What is allowed but doubtful: files that are not there, mostly. Looks at the disk."""
    found = without_effect(settings)
    files: list[tuple[KeyPath, str | None]] = [
        (("tls", "cert"), settings.tls.cert),
        (("tls", "key"), settings.tls.key),
    ]
    for name, entry in settings.models.items():
        files.append((("models", name, "path"), entry.path))
        for key in ("mmproj", "draft", "template"):
            value = getattr(entry, key)
            if value is not None and value.startswith("/"):
                files.append((("models", name, key), value))
    files += [(("engines", e, "path"), settings.engines.entry(e).path) for e in ENGINES]
    for path, value in files:
        if value is not None and "/" in value and not Path(value).exists():
            found.append(Finding(path, shown(value), "something that exists", "It is not there."))
    for name, entry in settings.models.items():
        if entry.engine in _MLX_ENGINES and (entry.path or "").endswith(".gguf"):
            hint = "GGUF files are for llama-server or xllamacpp."
            where = ("models", name, "engine")
            found.append(Finding(where, shown(entry.engine), "an engine for its format", hint))
    return found
