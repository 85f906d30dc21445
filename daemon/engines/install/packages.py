"""Environments of packages: one for each engine and version, pinned by hash, shared with nobody."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from daemon.core.problems import Code, Problem, ProblemError
from daemon.engines.install.children import Gauge, Tell, packages_done, run

LOCK: Final = "lock.txt"
_PIN: Final = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", re.MULTILINE)
_HASH: Final = "--hash=sha256:"


@dataclass(frozen=True, slots=True)
class Installer:
    """uv where there is one, else pip. ``folder``: for its log, and a pip of our own; ``engine``:
    whose, since two of them may be installed at the same time."""

    uv: str
    folder: Path
    environ: Mapping[str, str]
    tell: Tell
    engine: str

    @property
    def log(self) -> Path:
        return log_of(self.folder, self.engine)

    def resolve(self, requirements: Sequence[str]) -> str:
        """A lock: every package that these need, in one version, with its hashes."""
        what = f"choosing versions for {requirements[0]}"
        argv: tuple[str, ...]
        if self.uv:
            wanted = self.folder / f".{self.engine}.wanted.txt"
            wanted.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            wanted.write_text("\n".join(requirements) + "\n")
            try:
                argv = (
                    self.uv, "pip", "compile", "--quiet", "--generate-hashes", "--no-header",
                    "--no-annotate", "--python", sys.executable, str(wanted),
                )  # fmt: skip
                lock = self._run(argv, "choose", what)
            finally:
                wanted.unlink(missing_ok=True)
        else:
            argv = (
                *self.pip(), "install", "--quiet", "--dry-run", "--ignore-installed",
                "--report", "-", *requirements,
            )  # fmt: skip
            lock = _from_report(self._run(argv, "choose", what))
        if _HASH not in lock:
            text = f"{requirements[0]} cannot be pinned: no hash is known of it."
            raise ProblemError(Problem(Code.PULL_FAILED, text))
        return lock

    def make(self, folder: Path, lock: str) -> None:
        """An environment there with what the lock names, and a copy of the lock."""
        argv: tuple[str, ...]
        if self.uv:
            argv = (self.uv, "venv", "--quiet", "--python", sys.executable, str(folder))
        else:
            argv = (sys.executable, "-m", "venv", "--without-pip", str(folder))
        self._run(argv, "prepare", f"making {folder.name}")
        file, python = folder / LOCK, str(folder / "bin" / "python")
        file.write_text(lock)
        if self.uv:
            argv = (
                self.uv, "pip", "install", "--python", python, "--require-hashes", "-r", str(file),
            )  # fmt: skip
        else:
            argv = (
                *self.pip(), "--python", python, "install", "--require-hashes", "--no-deps",
                "-r", str(file),
            )  # fmt: skip
        count = len(_PIN.findall(lock))
        what = f"installing {count} package{'s' * (count != 1)}"
        self._run(argv, "install", what, packages_done(count))

    def source(self, requirement: str) -> str:
        """A lock for the source of a package; "": nothing here can tell before it is fetched."""
        return self.resolve([requirement]) if self.uv else ""

    def sdist(self, requirement: str, folder: Path, lock: str) -> Path:
        """The source of a package, by the hash that :meth:`source` has told."""
        file = folder / LOCK
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        argv = (*self.pip(), "download", "--quiet", "--no-deps", "--no-binary", ":all:")
        pinned: tuple[str, ...] = (requirement,)
        if lock:
            file.write_text(_only(lock, re.split(r"[=<>]", requirement)[0]))
            pinned = ("--require-hashes", "-r", str(file))
        self._run((*argv, "--dest", str(folder), *pinned), "fetch", f"fetching {requirement}")
        found = sorted(folder.glob("*.tar.gz"))
        if len(found) != 1:
            raise ProblemError(Problem(Code.PULL_FAILED, f"{requirement} has no source archive."))
        return found[0]

    def pip(self) -> tuple[str, ...]:
        """A pip to run: ours, or one in an environment made for it (uv's have none)."""
        if importlib.util.find_spec("pip") is not None:
            return (sys.executable, "-m", "pip")
        python = self.folder / f".{self.engine}.pip" / "bin" / "python"
        if not python.with_name("pip").exists():  # which comes last
            argv = (sys.executable, "-m", "venv", "--clear", str(python.parent.parent))
            self._run(argv, "prepare", "making an environment for pip")
        return (str(python), "-m", "pip")

    def _run(self, argv: Sequence[str], step: str, what: str, gauge: Gauge = lambda _: None) -> str:
        return run(argv, self.environ, self.tell, step, what, self.log, gauge)


def log_of(folder: Path, engine: str) -> Path:
    """What the programs of its install said."""
    return folder / f"{engine}.install.log"


def version_in(lock: str, package: str) -> str:
    """The version that a lock pins of a package. Raises ProblemError (PULL_FAILED)."""
    plain = _plain(package)
    for name, version in _PIN.findall(lock):
        if _plain(name) == plain:
            return str(version)
    raise ProblemError(Problem(Code.PULL_FAILED, f"{package} is not among what was chosen."))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _only(lock: str, package: str) -> str:
    """The entry of one package."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", lock.strip())
    kept = [one for one in entries if _plain(one.partition("==")[0]) == _plain(package)]
    return "\n".join(kept) + "\n"


def _from_report(text: str) -> str:
    """pip's report of what it would install, as a lock. Raises ProblemError (PULL_FAILED)."""
    try:
        told: list[Any] = json.loads(text)["install"]
        lines = []
        for one in told:
            name, version = one["metadata"]["name"], one["metadata"]["version"]
            hashes = one["download_info"]["archive_info"]["hashes"]
            lines.append(f"{name}=={version} {_HASH}{hashes['sha256']}")
    except (ValueError, LookupError, TypeError) as error:
        what = f"What pip chose is not understood: {error!r:.100}."
        raise ProblemError(Problem(Code.PULL_FAILED, what, "Install uv and try again.")) from None
    return "\n".join(sorted(lines)) + "\n"
