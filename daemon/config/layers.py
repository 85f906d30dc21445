"""The three places that settings come from, each as nested tables that know their origin."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from daemon.config.mistakes import ConfigError, Finding, Mistake, shown
from daemon.config.positions import positions
from daemon.config.settings import Settings
from daemon.config.tree import KeyPath, Node, dotted, lookup, read_text

PREFIX: Final = "MODELPORT_"
ROOT: Final = Node.of(Settings)
_MAX_FILE: Final = 4 * 2**20  # a configuration of megabytes is another file, given by mistake
_AT_LINE: Final = re.compile(r" ?\(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from: ``default``, a line of the file, a variable or a flag."""

    kind: Literal["default", "file", "env", "flag"]
    name: str = ""
    line: int | None = None

    def __str__(self) -> str:
        if self.kind == "file":
            return f"{self.name}:{self.line}" if self.line is not None else self.name
        return f"{self.kind} {self.name}".strip()


@dataclass(frozen=True, slots=True)
class Layer:
    """Nested tables of settings, and the origin of each key that is in them."""

    kind: Literal["file", "env", "flag"]
    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[KeyPath, Origin] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def origin(self, path: KeyPath) -> Origin:
        """The origin of ``path``, or of the nearest table around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        for known, origin in self.origins.items():
            if known[: len(path)] == path:  # a table that only a key inside it has brought about
                return origin
        return Origin(self.kind, self.name)


@dataclass(frozen=True, slots=True)
class Sources:
    """All layers, strongest first: flags, environment, file."""

    layers: tuple[Layer, ...] = ()

    def origin(self, path: KeyPath) -> Origin:
        """Where the value at ``path`` came from; ``default`` where nobody wrote it."""
        for layer in self.layers:
            if lookup(layer.values, path)[0] or any(f.path == path for f in layer.findings):
                return layer.origin(path)
        return Origin("default")

    def place(self, path: KeyPath) -> Origin:
        """The origin of ``path``, or of the nearest table around it that somebody wrote."""
        for length in range(len(path), 0, -1):
            origin = self.origin(path[:length])
            if origin.kind != "default":
                return origin
        return Origin("default")

    def mistake(self, finding: Finding) -> Mistake:
        """The finding with its line."""
        origin = self.place(finding.path)
        return Mistake(
            where=dotted(finding.path),
            found=finding.found,
            allowed=finding.allowed,
            hint=finding.hint,
            line=origin.line,
            source="" if origin.kind == "default" else origin.name,
        )


def file_layer(path: Path, *, missing_ok: bool = False) -> Layer:
    """The layer of the TOML file at ``path``.

    Raises ConfigError where it cannot be read or is not TOML. With ``missing_ok`` a file that is
    not there is an empty one.
    """
    try:
        text = read_file(path)
    except FileNotFoundError:
        if missing_ok:
            return Layer("file", str(path))
        raise _unreadable(path, "no such file", "`ctl config edit` begins one.") from None
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error), "") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _unreadable(path, "bytes that are not UTF-8", "Save it as UTF-8.", line) from None
    return text_layer(text, str(path))


def read_file(path: Path) -> str:
    """The text of a configuration file. Raises OSError or UnicodeDecodeError."""
    # Opened without waiting, and looked at before reading: a FIFO would never answer.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as file:  # noqa: PTH123 (a descriptor, not a path)
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(0, "it is not a regular file")
        if info.st_size > _MAX_FILE:
            raise OSError(0, "it is larger than 4 MiB")
        return file.read().decode("utf-8-sig")


def text_layer(text: str, name: str) -> Layer:
    """The layer of TOML ``text``; ``name`` is what its origin is called.

    Raises ConfigError where it is not TOML.
    """
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError([_syntax_mistake(error, text, name)], name) from None
    lines = positions(text)
    return Layer("file", name, values, {p: Origin("file", name, n) for p, n in lines.items()})


def _syntax_mistake(error: Exception, text: str, name: str) -> Mistake:
    if isinstance(error, RecursionError):
        return Mistake("the file", "tables nested too deep", "a few levels", source=name)
    reason = str(error)
    match = _AT_LINE.search(reason)
    lines = text.splitlines()
    line = int(match[1]) if match and match[1] else (max(1, len(lines)) if match else None)
    found = lines[line - 1].strip() if line and line <= len(lines) else "the end of the file"
    message = _AT_LINE.sub("", reason)
    hint = "Text needs quotes, and each key stands once." if match else ""
    return Mistake("the file", shown(found), f"TOML ({message})", hint, line, name)


def _unreadable(path: Path, found: str, hint: str, line: int | None = None) -> ConfigError:
    mistake = Mistake("the file", found, "a TOML file that can be read", hint, line, str(path))
    return ConfigError([mistake], str(path))


def env_layer(environ: Mapping[str, str], file: Layer) -> Layer:
    """The layer of ``MODELPORT_SECTION__KEY`` variables; empty ones count as unset.

    Names of models and engines are matched to those of ``file`` without regard to case and
    punctuation, which variables cannot carry.
    """
    values: dict[str, Any] = {}
    origins: dict[KeyPath, Origin] = {}
    wrong: list[Finding] = []
    for name in sorted(environ):
        parts = name.removeprefix(PREFIX).split("__")
        if not name.startswith(PREFIX) or len(parts) < 2 or environ[name] == "":
            continue
        path = _real_path(parts, file.values)
        node = ROOT.at(path)
        value = read_text(node, environ[name], words=path[-1] == "args")
        origins[path] = Origin("env", name)
        if all(parts) and _put(values, path, value):
            continue
        wrong.append(Finding(path, shown(value, path), "MODELPORT_SECTION__KEY, one for each key"))
    return Layer("env", "the environment", values, origins, tuple(wrong))


def flag_layer(flags: Mapping[str, object]) -> Layer:
    """The layer of command line flags: ``{"server.port": 9000}``. None counts as not given."""
    values: dict[str, Any] = {}
    origins: dict[KeyPath, Origin] = {}
    wrong: list[Finding] = []
    for name, value in flags.items():
        if value is None:
            continue
        path = tuple(name.split("."))
        if isinstance(value, str):
            value = read_text(ROOT.at(path), value, words=path[-1] == "args")  # noqa: PLW2901
        origins[path] = Origin("flag", name)
        if not _put(values, path, value):
            wrong.append(Finding(path, shown(value, path), "a flag of its own for each key"))
    return Layer("flag", "flags", values, origins, tuple(wrong))


def _put(values: dict[str, Any], path: KeyPath, value: Any) -> bool:
    """Store a value, or say False where another variable has put a plain value in the way."""
    for part in path[:-1]:
        inner = values.setdefault(str(part), {})
        if not isinstance(inner, dict):
            return False
        values = inner
    last = str(path[-1])
    if last in values and isinstance(values[last], dict):
        return False
    values[last] = value
    return True


def _real_path(parts: list[str], written: Any) -> KeyPath:
    """The path that the parts of a variable's name mean."""
    path: KeyPath = ()
    node: Node | None = ROOT
    for part in parts:
        known = node.keys() if node else ()
        if node is not None and node.is_mapping:
            here = lookup(written, path)[1]
            known = tuple(here) if isinstance(here, dict) else ()
        same = [key for key in known if _plain(key) == _plain(part)]
        # Variables of an engine keep their case; everything else of ours is lower case.
        chosen = same[0] if same else (part if path[-1:] == ("env",) else part.lower())
        path = (*path, chosen)
        node = node.step(chosen) if node is not None else None
    return path


def _plain(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", key.casefold())
