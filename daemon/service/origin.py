"""Where this program is installed, and which console script a service manager can call for years.

Most installations have one at an absolute path that upgrades leave alone: it is used as it is. One
that is made anew each time (``uvx``, a folder of /tmp) is not; then the service gets an environment
of its own (``environment``).
"""

from __future__ import annotations

import site
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

PROGRAM: Final = "modelportd"
_PASSING: Final = ("archive-v", "environments-v", "builds-v")  # folders of uv's cache

_EMPTIED: Final = ("/tmp", "/var/tmp", "/var/folders")  # noqa: S108 - nothing is made there


class Kind(StrEnum):
    """How modelport came here."""

    OWN = "own"
    """The environment that ``ctl service install`` made."""
    HOMEBREW = "homebrew"
    UV_TOOL = "uv tool"
    PIPX = "pipx"
    CHECKOUT = "checkout"
    """Files of a repository, in its virtual environment or in none."""
    VENV = "venv"
    SYSTEM = "system"
    """Installed for a Python itself, without an environment."""
    PASSING = "passing"
    """An environment that is gone tomorrow: uvx, pipx run, a temporary folder."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of the running program."""

    prefix: Path
    base_prefix: Path
    scripts: tuple[Path, ...]  # folders where its console scripts may lie
    code: Path  # the folder with our packages
    own: Path  # where environments of services are made
    passing: tuple[Path, ...]  # folders that the system empties
    exists: Callable[[Path], bool] = Path.exists


@dataclass(frozen=True, slots=True)
class Origin:
    """``program``: the script for the service manager; None: there is no lasting one. ``upgrade``:
    the command that brings a newer version; "" where ``ctl`` has to do it."""

    kind: Kind
    program: Path | None
    note: str = ""
    upgrade: str = ""


def look(own: Path) -> Seen:
    """The running program, as the machine shows it. ``own``: see :class:`Seen`."""
    executable = Path(sys.executable)
    scripts = [executable.parent, Path(sysconfig.get_path("scripts"))]
    with suppress(AttributeError, OSError):
        scripts.append(Path(site.getuserbase()) / "bin")
    passing = {Path(tempfile.gettempdir()), *map(Path, _EMPTIED)}
    return Seen(
        prefix=Path(sys.prefix),
        base_prefix=Path(sys.base_prefix),
        scripts=tuple(dict.fromkeys(scripts)),
        code=Path(__file__).resolve().parents[2],
        own=own,
        passing=tuple(sorted(passing)),
    )


def classify(seen: Seen) -> Origin:
    """What to call. Nothing but ``seen.exists`` looks at the disk."""
    program = next((d / PROGRAM for d in seen.scripts if seen.exists(d / PROGRAM)), None)
    if _within(seen.prefix, seen.own):
        return Origin(Kind.OWN, seen.own / "current" / "bin" / PROGRAM)
    if (brewed := _homebrew(seen.prefix)) is not None:
        # The Cellar's path names a version; the link in opt/ stays, and brew moves it on.
        return Origin(Kind.HOMEBREW, brewed, upgrade="brew upgrade modelport")
    if _passes(seen):
        note = f"{seen.prefix} is made anew each time: the service gets an environment of its own."
        return Origin(Kind.PASSING, None, note)
    if seen.exists(seen.prefix / "uv-receipt.toml"):
        return Origin(Kind.UV_TOOL, program, upgrade="uv tool upgrade modelport")
    if seen.exists(seen.prefix / "pipx_metadata.json"):
        return Origin(Kind.PIPX, program, upgrade="pipx upgrade modelport")
    if seen.exists(seen.code / "pyproject.toml"):
        note = f"It runs from the files in {seen.code}: they have to stay there."
        if program is None:
            note = f"{seen.code} is not installed: the service gets an environment of its own."
        return Origin(Kind.CHECKOUT, program, note)
    if seen.prefix != seen.base_prefix:
        return Origin(Kind.VENV, program)
    return Origin(Kind.SYSTEM, program)


def _within(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def _homebrew(prefix: Path) -> Path | None:
    """``…/Cellar/modelport/1.2/libexec`` -> ``…/opt/modelport/bin/modelportd``."""
    parts = prefix.parts
    if "Cellar" not in parts:
        return None
    at = parts.index("Cellar")
    if at + 2 >= len(parts) or parts[at + 1].startswith("python"):  # a venv of brew's Python
        return None
    return Path(*parts[:at], "opt", parts[at + 1], "bin", PROGRAM)


def _passes(seen: Seen) -> bool:
    cached = any(part.startswith(_PASSING) for part in seen.prefix.parts)
    pipx_run = "pipx" in seen.prefix.parts and ".cache" in seen.prefix.parts
    return cached or pipx_run or any(_within(seen.prefix, folder) for folder in seen.passing)
