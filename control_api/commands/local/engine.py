"""``engine``: the inference servers on this machine."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from control_api.client import Client, RefusedError, UnreachableError
from control_api.commands.command import Command
from control_api.commands.local import engine_change
from control_api.commands.local.settings import (
    add_config_flag,
    config_file,
    find_paths,
    load_settings,
)
from control_api.commands.output import Out
from control_api.commands.progress import Notice

if TYPE_CHECKING:
    from daemon.engines.base import Installed
    from daemon.engines.install.shelf import Shelf
    from daemon.engines.registry import Registry

DIALECTS: Final = ("chat", "completions", "messages", "responses", "embeddings", "rerank")


@dataclass(frozen=True, slots=True)
class Found:
    """One engine as it was found, or (``program`` empty) why not, with what installs it."""

    name: str
    program: tuple[str, ...] = ()
    version: str = ""
    accelerators: tuple[str, ...] = ()
    warning: str = ""
    missing: str = ""
    hint: str = ""
    used: bool = True  # False: it is there, and another one of the same name is used
    whose: str = ""  # "modelport": installed by us; else where it was found
    build: str = ""
    called: str = ""  # its version in `ctl engine use NAME@VERSION`, where it is ours
    trial: int = 0  # loads until it is trusted
    proven: str = ""
    taken_back: str = ""  # which version was, and why
    flags: tuple[str, ...] = ()
    dialects: tuple[str, ...] = ()
    models: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "found": bool(self.program),
            "used": self.used and bool(self.program),
            "program": list(self.program),
            "version": self.version,
            "accelerators": list(self.accelerators),
            "warning": self.warning,
            "missing": self.missing,
            "hint": self.hint,
            "whose": self.whose,
            "build": self.build,
            "called": self.called,
            "trial": self.trial,
            "proven": self.proven,
            "taken_back": self.taken_back,
            "dialects": list(self.dialects),
            "flags": list(self.flags),
            "models": list(self.models),
        }


def look(registry: Registry, tell: Callable[[str], None] = lambda _: None) -> list[Found]:
    """Every engine. Programs that have not been asked before are run once for their version."""
    from daemon.core.problems import ProblemError

    result = []
    for name in registry.names():
        tell(name)
        try:
            installed = registry.find(name)
        except ProblemError as error:
            result.append(Found(name, missing=error.problem.message, hint=error.problem.hint))
        else:
            result.append(_found(installed, name))
    return result


def _found(installed: Installed, name: str) -> Found:
    return Found(
        name,
        installed.program,
        installed.version,
        installed.accelerators,
        installed.warning,
        flags=tuple(sorted(installed.flags)),
    )


def look_everywhere(
    registry: Registry,
    shelf: Shelf,
    home: Path | None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Found]:
    """As :func:`look`, and beside the engine in use the others of its kind: those that we have
    installed, and those in known folders of other programs. ``tell``: what is looked at."""
    from daemon.engines.install.shelf import given_up

    result = []
    for first in look(registry, tell):
        tell(first.name)
        found, own = first, shelf.items(first.name)
        engine = registry.get(found.name)
        routes = frozenset().union(*(engine.routes(k) for k in ("chat", "embedding", "rerank")))
        spoken = tuple(name for name in DIALECTS if name in routes)
        mine = next((item for item in own if _is(found.program, item.folder)), None)
        if mine is not None:
            use = shelf.use(found.name)
            trial = use.trial if use.version == mine.version else 0
            found = replace(
                found, whose="modelport", build=mine.build, called=mine.version, trial=trial,
                proven=mine.proven,
            )  # fmt: skip
        if (gone := given_up(shelf.use(found.name))) is not None:
            found = replace(found, taken_back=gone.text)
        result.append(replace(found, dialects=spoken))
        for item in own:
            if item is not mine:
                told = _at(registry, found.name, {"path": item.path, "stamp": item.stamp})
                told = replace(
                    told, version=told.version or item.version, proven=item.proven,
                    build=item.build, called=item.version, whose="modelport", dialects=spoken,
                )  # fmt: skip
                result.append(told)
        elsewhere = []
        if mine is not None:  # what would be used without us: `NAME@found`
            elsewhere = [replace(_at(registry, found.name, {}), whose="found")]
        known = (*found.program, *(word for one in elsewhere for word in one.program))
        elsewhere += _foreign(registry, found.name, known, home)
        result += [replace(one, dialects=spoken) for one in elsewhere if one.program]
    return result


def _foreign(registry: Registry, name: str, known: Sequence[str], home: Path | None) -> list[Found]:
    from daemon.engines.install.known import others

    return [
        replace(_at(registry, name, {"path": path}), whose=whose)
        for whose, path in others(name, home, known)
    ]


def _is(program: Sequence[str], folder: Path) -> bool:
    """Whether this command line starts what lies there."""
    return any(Path(word).is_relative_to(folder) for word in program if word.startswith("/"))


def _at(registry: Registry, name: str, place: Mapping[str, Path]) -> Found:
    from daemon.core.problems import ProblemError

    try:
        installed = registry.at(name, {key: str(path) for key, path in place.items()})
    except ProblemError as error:
        problem = error.problem
        return Found(name, missing=problem.message, hint=problem.hint, used=False)
    return replace(_found(installed, name), used=False)


def registry_of(config: str | None) -> Registry:
    """The engines under the user's settings. Raises ``ConfigError``."""
    from daemon.engines.install.shelf import Shelf
    from daemon.engines.registry import Registry

    paths = find_paths(config)
    cache, shelf = paths.cache_dir / "engines.json", Shelf(paths.engines_dir)
    return Registry(load_settings(config).settings, os.environ, cache, shelf=shelf)


def users(config: str | None) -> dict[str, list[str]]:
    """By engine: the models that it runs, as the daemon says, else those that name it."""
    by_engine: dict[str, list[str]] = {}
    try:
        for model in Client().get("/models")["models"]:
            if model.get("engine") and model.get("pulled", True):
                by_engine.setdefault(str(model["engine"]), []).append(str(model["name"]))
    except (UnreachableError, RefusedError):
        if not config_file(config).exists():
            return {}
        for name, entry in load_settings(config).settings.models.items():
            if entry.engine:
                by_engine.setdefault(entry.engine, []).append(name)
    return by_engine


def list_engines(args: Namespace, out: Out) -> int:
    from daemon.engines.install.shelf import Shelf

    registry = registry_of(args.config)
    shelf = Shelf(find_paths(args.config).engines_dir)
    home = Path(os.environ["HOME"]) if os.environ.get("HOME") else None
    models, notice = users(args.config), Notice(out)
    try:
        every = look_everywhere(registry, shelf, home, lambda name: notice.show(f"asking {name}"))
    finally:
        notice.clear()
    found = [
        replace(one, models=tuple(models.get(one.name, ()))) if one.used else one for one in every
    ]
    if out.json:
        out.value({"engines": [engine.as_json() for engine in found]})
        return 0
    out.table(
        ("", "ENGINE", "VERSION", "RUNS ON", "SPEAKS", "MODELS", "PROGRAM"),
        [_row(engine, out) for engine in found],
    )
    for engine in found:
        if engine.used and engine.warning:
            out.line(f"{out.paint('!', 'yellow')} {engine.warning}")
        if engine.taken_back:
            out.line(f"{out.paint('!', 'yellow')} {engine.name} {engine.taken_back}.")
        if engine.trial:
            text = f"{engine.name} {engine.version} is new: trusted after {engine.trial} more loads"
            out.line(f"{out.paint('!', 'yellow')} {text}.")
    if not any(engine.program for engine in found):
        out.line("No engine was found. One is enough:")
        out.facts([(f"  {engine.name}", engine.hint) for engine in found])
    return 0


def _row(engine: Found, out: Out) -> tuple[str, ...]:
    where = " ".join(engine.program) or out.paint("not found", "dim")
    if engine.missing and not engine.used:
        where = out.paint(engine.missing, "yellow")
    if engine.whose and engine.whose != "modelport":
        where = f"{where} ({engine.whose})"
    version = engine.version.splitlines()[0] if engine.version else "-"
    if engine.called and engine.called.removeprefix("b") != version.split(" ")[0]:
        version = f"{version} @{engine.called}"  # as it is said to `use`
    return (
        "*" if engine.used and engine.program else "",
        engine.name,
        version,
        ", ".join(engine.accelerators) or ("cpu" if engine.program else "-"),
        ", ".join(engine.dialects) if engine.program else "-",
        _few(engine.models),
        where,
    )


def _few(models: Sequence[str]) -> str:
    more = f", +{len(models) - 2}" if len(models) > 2 else ""
    return ", ".join(models[:2]) + more or "-"


COMMANDS: Final = {
    "engine": Command(
        summary="the inference servers on this machine",
        examples=(
            ("ctl engine ls", ""),
            ("ctl engine install llama-server", "the build for the GPU that is there"),
        ),
        subcommands={
            "ls": Command(
                summary="list the engines: version, what they run on, where they are",
                text="A star marks the one that is used of its kind. What each can compute on is\n"
                "asked of the program itself, once per version.",
                examples=(
                    ("ctl engine ls", ""),
                    ("ctl engine ls --json", "also its flags, and what installs those missing"),
                ),
                run=list_engines,
                arguments=add_config_flag,
            ),
            **engine_change.COMMANDS,
        },
    ),
}
