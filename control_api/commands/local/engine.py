"""``engine``: the inference servers on this machine."""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from control_api.commands.command import Command
from control_api.commands.local.settings import add_config_flag, find_paths, load_settings
from control_api.commands.output import Out

if TYPE_CHECKING:
    from daemon.engines.registry import Registry


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

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "found": bool(self.program),
            "program": list(self.program),
            "version": self.version,
            "accelerators": list(self.accelerators),
            "warning": self.warning,
            "missing": self.missing,
            "hint": self.hint,
        }


def look(registry: Registry) -> list[Found]:
    """Every engine. Programs that have not been asked before are run once for their version."""
    from daemon.core.problems import ProblemError

    result = []
    for name in registry.names():
        try:
            installed = registry.find(name)
        except ProblemError as error:
            result.append(Found(name, missing=error.problem.message, hint=error.problem.hint))
        else:
            result.append(
                Found(
                    name,
                    installed.program,
                    installed.version,
                    installed.accelerators,
                    installed.warning,
                )
            )
    return result


def registry_of(config: str | None) -> Registry:
    """The engines under the user's settings. Raises ``ConfigError``."""
    from daemon.engines.registry import Registry

    cache = find_paths(config).cache_dir / "engines.json"
    return Registry(load_settings(config).settings, os.environ, cache)


def list_engines(args: Namespace, out: Out) -> int:
    found = look(registry_of(args.config))
    if out.json:
        out.value({"engines": [engine.as_json() for engine in found]})
        return 0
    rows = [
        (
            engine.name,
            engine.version.splitlines()[0] if engine.version else "-",
            ", ".join(engine.accelerators) or ("cpu" if engine.program else "-"),
            " ".join(engine.program) or out.paint("not found", "dim"),
        )
        for engine in found
    ]
    out.table(("ENGINE", "VERSION", "RUNS ON", "PROGRAM"), rows)
    for engine in found:
        if engine.warning:
            out.line(f"{out.paint('!', 'yellow')} {engine.warning}")
    if not any(engine.program for engine in found):
        out.line("No engine was found. One is enough:")
        out.facts([(f"  {engine.name}", engine.hint) for engine in found])
    return 0


COMMANDS: Final = {
    "engine": Command(
        summary="the inference servers on this machine",
        examples=(("ctl engine ls", ""),),
        subcommands={
            "ls": Command(
                summary="list the engines: version, what they run on, where they are",
                examples=(
                    ("ctl engine ls", ""),
                    ("ctl engine ls --json", "also what installs those that are missing"),
                ),
                run=list_engines,
                arguments=add_config_flag,
            ),
        },
    ),
}
