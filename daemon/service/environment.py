"""An environment of its own for the service, where the one that we run from does not last.

It is made of the files of the running one: modelport and what it needs, exactly the versions that
run now, without a network, a package manager or a compiler. What pip and uv keep about packages
comes along, so that an upgrade can work on it.

``root/env-VERSION-DIGEST`` is an environment, ``root/current`` a link to the one in use: units call
``root/current/bin/modelportd``, so an upgrade (or its undoing) moves one link.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from daemon.core.problems import Code, Problem, ProblemError

NAME: Final = "modelport"
SCRIPTS: Final = {"ctl": "ctl:main", NAME: "ctl:main", "modelportd": "daemon.__main__:main"}
COMPLETE: Final = "modelport-environment.json"  # written last: without it the folder is half made
_TOPS: Final = ("daemon", "control_api", "ctl.py")
_DATA: Final = ("units", "launchd")  # in a checkout beside the packages, in a wheel within
_NEED: Final = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_ASK_SECONDS: Final = 60.0  # the first start of a Python compiles what it imports
_METADATA: Final = "Metadata-Version: 2.1\nName: modelport\nVersion: {}\n"


@dataclass(frozen=True, slots=True)
class Environment:
    """One that is complete. ``program`` is its daemon's console script."""

    folder: Path
    version: str

    @property
    def program(self) -> Path:
        return self.folder / "bin" / "modelportd"

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"


def normal(name: str) -> str:
    """A distribution's name as all of its spellings have it (the packaging guide's rule)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(start: str = NAME) -> dict[str, metadata.Distribution]:
    """``start`` and all that it needs, as far as it is installed here, extras of ``start`` too.

    Extras of others are left out: they would bring what nobody asked for.
    """
    found: dict[str, metadata.Distribution] = {}
    todo = [start]
    while todo:
        name = normal(todo.pop())
        if name in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = distribution
        for line in distribution.requires or ():
            wanted, _, marker = line.partition(";")
            if ("extra" not in marker or name == normal(start)) and (m := _NEED.match(wanted)):
                todo.append(m[1])
    return found


def fingerprint(version: str, code: Path, others: Iterable[metadata.Distribution]) -> str:
    """What would be in it, in twelve characters: the same again is not made again."""
    told = hashlib.sha256(f"{version} {sys.version}".encode())
    for one in sorted(f"{normal(d.name)}=={d.version}" for d in others):
        told.update(one.encode() + b"\n")
    for path, name in sorted(_code(code), key=lambda pair: pair[1]):
        told.update(name.encode() + b"\0" + path.read_bytes())
    return told.hexdigest()[:12]


def make(root: Path, version: str, *, shared: bool = False) -> Environment:
    """The environment for this very program below ``root``, made if it is not there.

    ``shared``: other users must be able to run it. Raises ProblemError where it cannot be made.
    """
    code = Path(__file__).resolve().parents[2]
    distributions = needed()
    distributions.pop(NAME, None)
    try:
        made = fingerprint(version, code, distributions.values())
        folder = root / f"env-{_plain(version)}-{made}"
        environment = Environment(folder, version)
        if (folder / COMPLETE).exists() and answers(environment):
            return environment
        if folder.exists():
            shutil.rmtree(folder)
        before = os.umask(0o022 if shared else 0o077)
        try:
            _fill(folder, code, version, distributions.values(), shared=shared)
        finally:
            os.umask(before)
    except (OSError, subprocess.SubprocessError) as error:
        raise _cannot(f"An environment in {root} cannot be made: {error}.") from None
    if not answers(environment):
        shutil.rmtree(folder, ignore_errors=True)
        raise _cannot(f"The environment in {folder} does not run.")
    return environment


def answers(environment: Environment, seconds: float = _ASK_SECONDS) -> bool:
    """Whether its daemon can at least say its version. For a thread."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [str(environment.program), "--version"],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            cwd="/",
            env={"PATH": os.defpath, "HOME": os.environ.get("HOME", "/")},
        )
        return done.returncode == 0 and environment.version in done.stdout
    return False


def switch(root: Path, environment: Environment) -> Path | None:
    """Let ``current`` be this one, in one step; the one before it (None: there was none).

    Raises OSError.
    """
    link = root / "current"
    before = current(root)
    fresh = root / f".current.{os.getpid()}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(environment.folder.name)
    fresh.replace(link)
    return before


def current(root: Path) -> Path | None:
    """The folder that ``current`` leads to, if there is one."""
    link = root / "current"
    return link.resolve() if link.is_symlink() and link.exists() else None


def all_of(root: Path) -> list[Path]:
    """Every environment below ``root``, half made ones too."""
    return sorted(path for path in root.glob("env-*") if path.is_dir() and not path.is_symlink())


def base_python(*, shared: bool) -> Path:
    """The Python that it is made with: ours, or (``shared``) one like it that everybody can run.

    Raises ProblemError where there is none.
    """
    ours = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    if not shared or open_to_all(ours):
        return ours
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for folder in ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"):
        other = Path(folder, name)
        if other.exists() and open_to_all(other.resolve()) and _alike(other):
            return other
    raise ProblemError(
        Problem(
            Code.INVALID_REQUEST,
            f"{ours} cannot be run by other users, and there is no {name} that can.",
            f"Install {name} for the whole machine, or install the service for yourself alone: "
            "ctl service install",
        )
    )


def open_to_all(path: Path) -> bool:
    """Whether every user may read a file and walk to it."""
    try:
        folders = all(folder.stat().st_mode & 0o001 for folder in path.parents)
        return folders and bool(path.stat().st_mode & 0o004)
    except OSError:
        return False


def _alike(python: Path) -> bool:
    """Whether compiled modules of ours run there, too."""
    code = "import sysconfig; print(sysconfig.get_config_var('SOABI'))"
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [str(python), "-I", "-c", code],
            capture_output=True,
            text=True,
            timeout=_ASK_SECONDS,
            check=False,
        )
        return done.stdout.strip() == str(sysconfig.get_config_var("SOABI"))
    return False


def _fill(
    folder: Path,
    code: Path,
    version: str,
    others: Iterable[metadata.Distribution],
    *,
    shared: bool,
) -> None:
    packages = fill(folder, others, shared=shared)
    lines = _copy_code(code, packages)
    lines += _write_metadata(packages, version)
    lines += [_write_script(folder, name, target) for name, target in SCRIPTS.items()]
    record = packages / f"{NAME}-{version}.dist-info" / "RECORD"
    with record.open("w", newline="") as file:
        csv.writer(file).writerows([*lines, (_below(record, packages), "", "")])
    complete(folder, version)


def fill(folder: Path, others: Iterable[metadata.Distribution], *, shared: bool) -> Path:
    """A new environment with copies of these distributions; its folder of packages.

    Raises OSError, subprocess.SubprocessError, ProblemError (no Python that others can run).
    """
    python = base_python(shared=shared)
    done = subprocess.run(
        [str(python), "-I", "-m", "venv", "--without-pip", str(folder)],
        capture_output=True,
        text=True,
        timeout=_ASK_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise OSError(f"{python} -m venv says: {(done.stderr or done.stdout).strip()[-300:]}")
    packages = packages_of(folder)
    for distribution in others:
        _copy(distribution, packages)
    return packages


def packages_of(folder: Path) -> Path:
    """Where an environment has its packages. Raises OSError."""
    for found in folder.glob("lib/python*/site-packages"):
        return found
    raise FileNotFoundError(f"{folder} is no environment of Python")


def complete(folder: Path, version: str) -> None:
    """Say that it is whole. Raises OSError."""
    (folder / COMPLETE).write_text(json.dumps({"version": version}) + "\n")


def _copy(distribution: metadata.Distribution, packages: Path) -> None:
    """Its files as its own list names them; scripts and what lies outside stay behind."""
    for file in distribution.files or ():
        if file.is_absolute() or ".." in file.parts or "__pycache__" in file.parts:
            continue
        source = Path(str(distribution.locate_file(file)))
        if source.is_file():
            target = packages / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _code(code: Path) -> Iterator[tuple[Path, str]]:
    """Our own files, with their place in an environment."""
    for top in _TOPS:
        place = code / top
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path, path.relative_to(code).as_posix()
    for top in _DATA:
        for path in sorted((code / top).glob("*")):
            if path.is_file():
                yield path, f"daemon/service/{top}/{path.name}"


def _copy_code(code: Path, packages: Path) -> list[tuple[str, str, str]]:
    lines = []
    for path, name in _code(code):
        target = packages / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        lines.append(_line(name, path.read_bytes()))
    return lines


def _write_metadata(packages: Path, version: str) -> list[tuple[str, str, str]]:
    """What a package manager must know of modelport itself."""
    folder = packages / f"{NAME}-{version}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"INSTALLER": "modelport\n", "METADATA": _METADATA.format(version)}
    with suppress(metadata.PackageNotFoundError):
        ours = metadata.distribution(NAME)
        if ours.version == version:
            for name in ("METADATA", "WHEEL"):
                texts[name] = ours.read_text(name) or texts.get(name, "")
    points = "".join(f"{name} = {target}\n" for name, target in SCRIPTS.items())
    texts["entry_points.txt"] = f"[console_scripts]\n{points}"
    texts["top_level.txt"] = "control_api\nctl\ndaemon\n"
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [_line(f"{folder.name}/{name}", text.encode()) for name, text in texts.items()]


def _write_script(folder: Path, name: str, target: str) -> tuple[str, str, str]:
    module, _, function = target.partition(":")
    text = f"{shebang(folder / 'bin' / 'python')}import sys\nfrom {module} import {function}\n"
    text += f"sys.exit({function}())\n"
    path = folder / "bin" / name
    path.write_text(text)
    path.chmod(0o755)
    return _line(f"../../../bin/{name}", text.encode())


def shebang(python: Path) -> str:
    """The first lines of a script: a kernel takes no blanks there and only so many characters."""
    plain = f"#!{python}"
    if " " not in plain and len(plain.encode()) <= 120:
        return plain + "\n"
    quoted = str(python).replace("\\", "\\\\").replace('"', '\\"')
    return f"#!/bin/sh\n'''exec' \"{quoted}\" \"$0\" \"$@\"\n' '''\n"


def _line(name: str, data: bytes) -> tuple[str, str, str]:
    """One line of RECORD (the packaging guide's *recording installed projects*)."""
    told = urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return name, f"sha256={told}", str(len(data))


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _plain(version: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "_", version)


def _cannot(message: str) -> ProblemError:
    hint = "See that there is room, and that the folder is yours; then run it again."
    return ProblemError(Problem(Code.INVALID_REQUEST, message, hint))
