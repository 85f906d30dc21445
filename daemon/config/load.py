"""Reading the configuration: flags over environment over file, every mistake at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from daemon.config.checks import contradictions, warnings
from daemon.config.layers import (
    ROOT,
    Layer,
    Sources,
    env_layer,
    file_layer,
    flag_layer,
    text_layer,
)
from daemon.config.mistakes import ConfigError, Finding, Mistake, findings
from daemon.config.presets import load_presets
from daemon.config.settings import Settings
from daemon.config.tree import KeyPath, lookup

_ROUNDS: Final = 50  # each round drops at least one wrong key of one level of the tree


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and where each of them came from."""

    settings: Settings
    sources: Sources

    def warnings(self) -> tuple[Mistake, ...]:
        """What is allowed but doubtful, such as paths that do not exist. Looks at the disk."""
        return tuple(self.sources.mistake(finding) for finding in warnings(self.settings))


def load(
    path: Path | None,
    *,
    environ: Mapping[str, str],
    flags: Mapping[str, object] | None = None,
    missing_ok: bool = False,
) -> Settings:
    """The settings of the file at ``path`` (None: no file), under environment and flags.

    ``flags`` maps dotted keys to values: ``{"server.port": 9000}``. Raises ConfigError with all
    mistakes at once. With ``missing_ok`` a file that is not there counts as an empty one.
    """
    return load_with_sources(path, environ=environ, flags=flags, missing_ok=missing_ok).settings


def load_with_sources(
    path: Path | None,
    *,
    environ: Mapping[str, str],
    flags: Mapping[str, object] | None = None,
    missing_ok: bool = False,
) -> Loaded:
    """As :func:`load`, with the origin of each value."""
    layer = file_layer(path, missing_ok=missing_ok) if path is not None else Layer("file", "")
    return _assemble(layer, environ, flags or {}, path.parent if path is not None else None)


def load_text(text: str, *, name: str, folder: Path | None = None) -> Loaded:
    """As :func:`load` for TOML that is not (yet) in a file, without environment and flags."""
    return _assemble(text_layer(text, name), {}, {}, folder)


def _assemble(
    file: Layer, environ: Mapping[str, str], flags: Mapping[str, object], folder: Path | None
) -> Loaded:
    sources = Sources((flag_layer(flags), env_layer(environ, file), file))
    layers = [_anchored(layer.values, folder) for layer in sources.layers]
    found = [finding for layer in sources.layers for finding in layer.findings]
    settings, wrong, dropped = _validated(layers)
    found += wrong
    for finding, needs in contradictions(settings, load_presets()):
        original = dropped.original(finding.path)
        if not any(dropped.touches(dropped.original(need)) for need in needs):
            found.append(Finding(original, finding.found, finding.allowed, finding.hint))
    if found:
        mistakes = {sources.mistake(finding): None for finding in found}
        name = Path(file.name).name or "the configuration"
        raise ConfigError(sorted(mistakes, key=_order), name)
    return Loaded(settings, sources)


def _order(mistake: Mistake) -> tuple[int, str, str]:
    return (mistake.line or 0, mistake.source, mistake.where)


class _Dropped:
    """What was taken out of the layers because it was wrong, so that the rest can be read."""

    def __init__(self) -> None:
        self._paths: list[KeyPath] = []

    def add(self, paths: list[KeyPath]) -> None:
        self._paths += [self.original(path) for path in paths]

    def touches(self, path: KeyPath) -> bool:
        """Whether something was dropped at, above or below ``path``."""
        return any(
            dropped[: len(path)] == path or path[: len(dropped)] == dropped
            for dropped in self._paths
        )

    def original(self, path: KeyPath) -> KeyPath:
        """The path as written: items of a list move up when one before them is dropped."""
        result: KeyPath = ()
        for part in path:
            if isinstance(part, int):
                gone = sorted(
                    dropped[-1]
                    for dropped in self._paths
                    if dropped[:-1] == result and isinstance(dropped[-1], int)
                )
                for index in gone:
                    part += index <= part  # noqa: PLW2901
            result = (*result, part)
        return result


def _validated(layers: list[dict[str, Any]]) -> tuple[Settings, list[Finding], _Dropped]:
    """Settings of what is right in the layers, and everything that is wrong."""
    found: list[Finding] = []
    dropped = _Dropped()
    for _ in range(_ROUNDS):
        try:
            return Settings.from_layers(*layers), found, dropped
        except ValidationError as error:
            merged = _merged(layers)
            round_ = findings(error, merged, ROOT)
            for finding, _ in round_:
                path = dropped.original(finding.path)
                # What only follows from a key that was dropped as wrong is not worth telling.
                if not dropped.touches(path):
                    found.append(Finding(path, finding.found, finding.allowed, finding.hint))
            wrong = _outermost([path for _, path in round_ if path])
            dropped.add(wrong)
            # From the last to the first, so that the indices of what is left to drop stay true.
            for path in sorted(wrong, key=_sort_key, reverse=True):
                for layer in layers:
                    _drop(layer, path)
    return Settings(), found, dropped


def _sort_key(path: KeyPath) -> tuple[tuple[bool, int, str], ...]:
    return tuple((isinstance(p, int), p if isinstance(p, int) else 0, str(p)) for p in path)


def _outermost(paths: list[KeyPath]) -> list[KeyPath]:
    unique = sorted(set(paths), key=len)
    kept: list[KeyPath] = []
    for path in unique:
        if not any(path[: len(outer)] == outer for outer in kept):
            kept.append(path)
    return sorted(kept, key=_sort_key)


def _drop(layer: Any, path: KeyPath) -> None:
    holder = lookup(layer, path[:-1])[1]
    if isinstance(holder, dict):
        holder.pop(path[-1], None)
    elif isinstance(holder, list) and isinstance(path[-1], int) and path[-1] < len(holder):
        del holder[path[-1]]


def _merged(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """The layers as pydantic-settings merges them: the first wins, tables key by key."""
    result: dict[str, Any] = {}
    for layer in reversed(layers):
        _merge(result, layer)
    return result


def _merge(under: dict[str, Any], over: dict[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(under.get(key), dict):
            inner = dict(under[key])
            _merge(inner, value)
            under[key] = inner
        else:
            under[key] = value


def _anchored(values: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """A deep copy in which local paths are absolute: ``~`` and the file's folder filled in."""
    copied: dict[str, Any] = _copy(values)
    for name in _tables(copied, "models"):
        _anchor(name, ("path",), folder)
        _anchor(name, ("mmproj", "draft", "template"), None)
    for engine, entry in _items(copied, "engines"):
        _anchor(entry, ("path",), folder, programs=True)
        if engine == "command":
            for template in _tables({"command": entry}, "command"):
                _anchor(template, ("cwd",), folder)
    for tls in [copied["tls"]] if isinstance(copied.get("tls"), dict) else []:
        _anchor(tls, ("cert", "key"), folder)
    for table in [copied["discovery"]] if isinstance(copied.get("discovery"), dict) else []:
        if isinstance(table.get("folders"), list):
            table["folders"] = [_anchored_path(each, folder) for each in table["folders"]]
    return copied


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


def _items(values: dict[str, Any], section: str) -> list[tuple[str, dict[str, Any]]]:
    table = values.get(section)
    items = table.items() if isinstance(table, dict) else ()
    return [(key, value) for key, value in items if isinstance(value, dict)]


def _tables(values: dict[str, Any], section: str) -> list[dict[str, Any]]:
    return [value for _, value in _items(values, section)]


def _anchor(
    table: dict[str, Any],
    keys: tuple[str, ...],
    folder: Path | None,
    *,
    programs: bool = False,
) -> None:
    for key in keys:
        value = table.get(key)
        if isinstance(value, str) and value:
            if programs and "/" not in value:
                continue  # the name of a program, looked up in PATH
            table[key] = _anchored_path(value, folder)


def _anchored_path(value: Any, folder: Path | None) -> Any:
    if not isinstance(value, str) or not value:
        return value
    expanded = os.path.expanduser(value)  # noqa: PTH111 (never raises, unlike pathlib's)
    if folder is None or expanded.startswith("/"):
        return expanded
    return str(folder.absolute() / expanded)
