"""What an upgrade, or the way back, would be: decided from what is known, done by ``ctl``."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from daemon.files import read_private, write_private
from daemon.service.environment import NAME
from daemon.service.installers import Newest, newer, version_of
from daemon.service.origin import Kind

_LIMIT: Final = 65536
VERSION: Final = 1


class Act(StrEnum):
    """How the other version comes."""

    NOTHING = "nothing"
    ENVIRONMENT = "environment"
    """A new environment for the service, beside the one in use."""
    PROGRAM = "program"
    """The program that it was installed with brings it."""
    BY_HAND = "by hand"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Known:
    """``own``: the service has an environment of its own, and ``current`` is its version; else it
    is that of the running program. ``what``: the requirement that was asked for with ``--from``
    ("": the newest); ``held``: a rollback holds this version back; ``extras``: those installed."""

    kind: Kind
    own: bool
    current: str
    newest: Newest = field(default_factory=Newest)
    what: str = ""
    extras: tuple[str, ...] = ()
    held: bool = False
    code: str = ""  # the folder of a checkout
    pip: tuple[str, ...] = ()  # how its packages are installed, for a virtual environment


@dataclass(frozen=True, slots=True)
class Plan:
    """``argv``: what PROGRAM runs; ``line``: what a person is to run, or runs by it."""

    act: Act
    text: str
    target: str = ""  # a version; "": told only once it is here
    what: str = ""  # the requirement for ENVIRONMENT
    argv: tuple[str, ...] = ()
    line: str = ""


def plan(known: Known) -> Plan:
    """The way of an upgrade."""
    asked = bool(known.what)
    if known.kind is Kind.CHECKOUT and not asked:
        then = "ctl service install" if known.own else "ctl service restart"
        line = f"git -C {known.code} pull && {then}"
        return Plan(Act.BY_HAND, "It runs from a repository.", line=line)
    if not known.own and (found := _nobody_else(known)) is not None:
        return found
    if not asked:
        if not known.newest.version:
            hint = f"{known.newest.trouble}; {known.current} stays as it is."
            return Plan(Act.REFUSED, hint.lstrip("; "))
        if not newer(known.newest.version, known.current):
            return Plan(Act.NOTHING, f"{known.current} is the newest.", known.current)
    target = version_of(known.what) if asked else known.newest.version
    text = f"{known.current} -> {target or known.what}"
    what = known.what or f"{_name(known.extras)}=={target}"
    if known.own:
        return Plan(Act.ENVIRONMENT, text, target, what)
    argv = command(known, what if asked else "")
    return Plan(Act.PROGRAM, text, target, what, argv, " ".join(argv))


def _nobody_else(known: Known) -> Plan | None:
    """Where ``ctl`` brings no version itself; None: it does."""
    if known.kind is Kind.PASSING:
        line = f"uvx {NAME}@latest"
        return Plan(Act.BY_HAND, "This program is brought anew by each start.", line=line)
    if known.kind is Kind.SYSTEM:
        line = f"python3 -m pip install --upgrade '{known.what or _name(known.extras)}'"
        return Plan(Act.BY_HAND, "It was installed for a Python itself.", line=line)
    if known.kind is Kind.HOMEBREW and known.what:
        text = "Homebrew installs the versions of its formula alone."
        return Plan(Act.REFUSED, text, line=f"brew upgrade {NAME}")
    if known.kind is Kind.VENV and not known.pip:
        line = f"pip install --upgrade '{known.what or _name(known.extras)}'"
        return Plan(Act.BY_HAND, "Neither uv nor pip is here.", line=line)
    if known.kind is Kind.CHECKOUT:
        text = f"It runs from {known.code}: another version cannot be put over it."
        return Plan(Act.REFUSED, text, line=f"git -C {known.code} checkout VERSION")
    return None


def command(known: Known, what: str) -> tuple[str, ...]:
    """The command line of the program that installed it; ``what``: "" for the newest."""
    if known.kind is Kind.UV_TOOL:
        if not what and not known.held:
            return ("uv", "tool", "upgrade", NAME)
        return ("uv", "tool", "install", "--force", what or _name(known.extras))
    if known.kind is Kind.PIPX:
        if not what and not known.held:
            return ("pipx", "upgrade", NAME)
        return ("pipx", "install", "--force", what or _name(known.extras))
    if known.kind is Kind.HOMEBREW:
        return ("brew", "upgrade", NAME)
    return (*known.pip, what or _name(known.extras))


@dataclass(frozen=True, slots=True)
class Past:
    """What the last upgrade replaced. ``environment``: "" where a package manager has it;
    ``what``: the requirement that brings it again; ``held``: it is in use again, by a rollback."""

    version: str
    replaced_by: str
    kind: str
    environment: str = ""
    what: str = ""
    held: bool = False
    schema: int = VERSION


def plan_back(known: Known, past: Past | None, *, there: bool) -> Plan:
    """The way back to what was before. ``there``: its environment can still be started."""
    if past is None or past.held:
        return Plan(Act.REFUSED, "There is no earlier version to go back to: nothing was upgraded.")
    text = f"{known.current} -> {past.version}"
    if known.own:
        if not past.environment or not there:
            return Plan(Act.REFUSED, f"The environment of {past.version} is gone.")
        return Plan(Act.ENVIRONMENT, text, past.version)
    if known.kind is Kind.HOMEBREW:
        return Plan(Act.REFUSED, f"Homebrew does not keep {past.version}.")
    if known.kind.value != past.kind:
        return Plan(Act.REFUSED, f"It was installed anew since ({past.kind} -> {known.kind}).")
    argv = command(known, past.what)
    return Plan(Act.PROGRAM, text, past.version, past.what, argv, " ".join(argv))


def pinned(version: str, extras: tuple[str, ...]) -> str:
    """The requirement for exactly this version."""
    return f"{_name(extras)}=={version}"


def load_past(path: Path) -> Past | None:
    """What was written down, or None: nothing was, or it is not one that we can read."""
    with suppress(OSError, ValueError, TypeError, RecursionError):
        data: Any = json.loads(read_private(path, _LIMIT))
        if isinstance(data, dict) and data.get("schema") == VERSION:
            return Past(**data)
    return None


def save_past(path: Path, past: Past) -> None:
    """Write it, 0600. Raises OSError."""
    write_private(path, (json.dumps(asdict(past), indent=2) + "\n").encode())


def _name(extras: tuple[str, ...]) -> str:
    return f"{NAME}[{','.join(extras)}]" if extras else NAME
