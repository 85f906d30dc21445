"""uv and pip: which of them can put packages into an environment, and asking them for the newest.

They are asked, not an index itself: so a user's own index, proxy and credentials count.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

from daemon.config.paths import expanded
from daemon.core.problems import Code, Problem, ProblemError
from daemon.service.environment import NAME, base_python
from daemon.service.programs import Done, Run, run_program

ASK_SECONDS: Final = 20.0
"""For an index to say which version is the newest."""
INSTALL_SECONDS: Final = 900.0
"""For packages to come over a slow line."""
_WHEEL: Final = re.compile(rf"{NAME}-([^-]+)-(?:[^-]+-)?[^-]+-[^-]+-[^-]+\.whl")
_PLAIN: Final = re.compile(rf"{NAME}(?:\[([^\]]*)\])?\s*(.*)", re.DOTALL)
_PINNED: Final = re.compile(rf"^{NAME}(?:\[[^\]]*\])?==(\S+)", re.MULTILINE)
_OFFLINE: Final = re.compile(
    r"error sending request|failed to fetch|failed to establish|name resolution|timed? ?out|"
    r"temporary failure|connection|proxy|unreachable|network|did not end within",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Installer:
    """One that is here. ``argv``: how it is started."""

    name: Literal["uv", "pip"]
    argv: tuple[str, ...]

    def install(self, python: Path, what: str, *, offline: bool = False) -> list[str]:
        """The command that puts ``what`` into the environment of ``python``. ``offline``: only if
        all that it needs is there already."""
        if self.name == "uv":
            words = ["--offline"] if offline else []
            flags = [*words, "--quiet", "--upgrade-package", NAME, what]
            return [*self.argv, "pip", "install", "--python", str(python), *flags]
        words = ["--no-index"] if offline else []
        flags = ["--no-input", "--disable-pip-version-check", "--quiet", "--upgrade", *words, what]
        return [*self.argv, "--python", str(python), "install", *flags]

    def newest(self, python: Path) -> list[str]:
        """The command that says what the newest version is; :func:`read_newest` reads it."""
        if self.name == "uv":
            flags = ["--no-deps", "--no-header", "--no-annotate", "--quiet", "--upgrade"]
            return [*self.argv, "pip", "compile", "--python", str(python), *flags, "-"]
        flags = ["--no-input", "--disable-pip-version-check", "--retries", "0", "--timeout", "8"]
        look = ["--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--report", "-", NAME]
        return [*self.argv, "--python", str(python), "install", *flags, *look]


@dataclass(frozen=True, slots=True)
class Newest:
    """``version``: "" if it could not be had; then ``trouble`` says why."""

    version: str = ""
    trouble: str = ""
    offline: bool = False


def find_installer(
    run: Run = run_program, which: Callable[[str], str | None] = shutil.which
) -> Installer:
    """uv, else a pip that works on other environments, too. Raises ProblemError."""
    beside = Path(sys.executable).parent / "uv"
    for uv in (which("uv"), str(beside), str(Path.home() / ".local" / "bin" / "uv")):
        if uv and os.access(uv, os.X_OK) and run([uv, "--version"]).code == 0:
            return Installer("uv", (uv,))
    if find_spec("pip") is not None:
        return Installer("pip", (sys.executable, "-m", "pip"))
    with suppress(ProblemError):
        python = str(base_python(shared=False))
        if run([python, "-m", "pip", "--version"]).code == 0:
            return Installer("pip", (python, "-m", "pip"))
    raise ProblemError(
        Problem(
            Code.INVALID_REQUEST,
            "Neither uv nor pip is here: nothing can bring the packages of another version.",
            "Install uv (or your system's python3-pip), then run it again.",
        )
    )


def ask_newest(installer: Installer, python: Path, run: Run | None = None) -> Newest:
    """Ask the index, with a deadline. Never raises."""
    if run is not None:
        return read_newest(installer.name, run(installer.newest(python)))
    argv = installer.newest(python)
    if installer.name == "uv":  # it reads what is wanted from its input
        argv = ["sh", "-c", f'echo {NAME} | exec "$@"', "sh", *argv]
    return read_newest(installer.name, run_program(argv, ASK_SECONDS))


def read_newest(name: str, done: Done) -> Newest:
    """What uv or pip has answered."""
    if done.code == 0:
        with suppress(ValueError, LookupError, TypeError):
            if name == "uv":
                return Newest(_PINNED.findall(done.out)[0])
            return Newest(str(json.loads(done.out)["install"][0]["metadata"]["version"]))
    if done.code == 124 or _OFFLINE.search(done.err):
        return Newest("", "The package index cannot be reached", offline=True)
    lines = [line.strip() for line in done.said.splitlines() if line.strip()]
    said = lines[-1].removeprefix("ERROR: ").removeprefix("cause: ") if lines else "nothing"
    return Newest("", f"The package index has no answer: {said}"[:400])


def requirement(source: str, extras: Sequence[str]) -> str:
    """What to install, as packaging's standards write it. ``source``: "" (the newest), a version, a
    file, an address, or ``modelport==1.2``. ``extras``: those that are installed now, and stay.

    Raises ProblemError for what is none, and for a file that is none of ours.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    made = _requirement(source, extras)
    try:
        Requirement(made)
    except InvalidRequirement:
        raise _wrong(f"{source[:100]!r} names no version of {NAME}.") from None
    return made


def _requirement(source: str, extras: Sequence[str]) -> str:
    wanted = f"{NAME}[{','.join(sorted(extras))}]" if extras else NAME
    source = source.strip()
    if not source:
        return wanted
    if "://" in source:
        return f"{wanted} @ {source}"
    if source.endswith((".whl", ".tar.gz")) or "/" in source or source.startswith("."):
        path = expanded(source).absolute()
        if not path.exists():
            raise _wrong(f"There is no {path}.")
        if path.suffix == ".whl" and not _WHEEL.fullmatch(path.name):
            raise _wrong(f"{path.name} is no wheel of {NAME}.")
        return f"{wanted} @ {path.as_uri()}"
    if re.fullmatch(r"[0-9][A-Za-z0-9.!+_-]*", source):
        return f"{wanted}=={source}"
    if (found := _PLAIN.fullmatch(source)) and (not found[2] or found[2][0] in "=<>~!@"):
        more = {word.strip() for word in (found[1] or "").split(",") if word.strip()}
        every = ",".join(sorted(more | set(extras)))
        rest = found[2] if not found[2].startswith("@") else f" {found[2]}"
        return f"{NAME}[{every}]{rest}" if every else f"{NAME}{rest}"
    raise _wrong(f"{source[:100]!r} names no version of {NAME}.")


def file_of(requirement: str) -> Path | None:
    """The file of a requirement that names one on this machine."""
    _, _, address = requirement.partition(" @ ")
    parts = urlsplit(address)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def version_of(requirement: str) -> str:
    """The version that it names, where it names one; else ""."""
    if found := _PINNED.match(requirement):
        return found[1]
    path = file_of(requirement)
    found = _WHEEL.fullmatch(path.name) if path is not None else None
    return found[1] if found else ""


def newer(version: str, than: str) -> bool:
    """Whether it is a later version; what is no version is never later."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(version) > Version(than)
    except InvalidVersion:
        return False


def extras_of(requires: Sequence[str], installed: Callable[[str], bool]) -> tuple[str, ...]:
    """The extras whose packages are all here. ``requires``: lines of the metadata; ``installed``:
    whether a package is, by its normal name."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    wanted: dict[str, list[bool]] = {}
    for line in requires:
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", line)
        if extra is None:
            continue
        with suppress(InvalidRequirement):
            one = Requirement(line)
            here = installed(canonicalize_name(one.name))
            applies = one.marker is None or one.marker.evaluate({"extra": extra[1]})
            wanted.setdefault(extra[1], []).extend([here] if applies else [])
    return tuple(sorted(name for name, found in wanted.items() if found and all(found)))


def _wrong(message: str) -> ProblemError:
    hint = f"Allowed: a version such as 1.2.0, {NAME}==1.2.0, a wheel, a folder, an address."
    return ProblemError(Problem(Code.INVALID_REQUEST, message, hint))
