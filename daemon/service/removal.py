"""Removing what is ours, and nothing else: which files those are, and how they go.

A folder at its default place goes whole. One that was moved by a variable may hold anything: there
only what we know goes. No link is followed, no other file system entered, nothing of another user's
touched.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from daemon.config.paths import Paths

KNOWN: Final = {
    "state": (
        "daemon.json", "learned.json", "ladder.json", "incidents.jsonl*", "tests.json", "keys.json",
        "keys.lock", "worked.json", "gpu-limit.json", "pulled.json", "pulls.json", "used.json",
        "schedule.json", "upgrade.json", "upgrade.lock", "clients", "engines", "tls", "run",
        "history.db*", "*.json.corrupt-*", "*.jsonl.corrupt-*",
    ),
    "log": ("modelportd.log*", "launchd.log*", "models"),
    "cache": ("engines", "engines.json", "found.json", "*.json.corrupt-*"),
    "runtime": ("lock", "control.sock", "front.sock", "public.json", "b"),
}  # fmt: skip
"""What we write into a folder that may be another's, too (patterns)."""


class Role(StrEnum):
    """What a place is."""

    RUNTIME = "runtime"
    LOG = "log"
    CACHE = "cache"
    STATE = "state"
    DATA = "data"
    CONFIG = "config"
    MODELS = "models"


@dataclass(frozen=True, slots=True)
class Target:
    """``only``: the names in the folder that go (None: the folder goes, whole)."""

    role: Role
    path: Path
    only: tuple[str, ...] | None = None


def targets(paths: Paths, usual: Paths, data: Path, *, home: Path, purge: bool) -> list[Target]:
    """Where something of ours lies, in the order in which it goes. ``usual``: the places without
    any variable of ours; ``data``: of environments; ``home``: never removed, nor what it is in."""
    found = [
        _target(Role.RUNTIME, paths.runtime_dir, usual.runtime_dir, home),
        _target(Role.LOG, paths.log_dir, usual.log_dir, home),
        _target(Role.CACHE, paths.cache_dir, usual.cache_dir, home),
        Target(Role.DATA, data),
        _target(Role.STATE, paths.state_dir, usual.state_dir, home),
    ]
    if purge:
        whole = paths.config_file == usual.config_file and not _holds(paths.config_dir, home)
        only = None if whole else (paths.config_file.name, "hosts.json")
        found.append(Target(Role.CONFIG, paths.config_dir, only))
    return found


def _target(role: Role, path: Path, usual: Path, home: Path) -> Target:
    whole = path == usual and not _holds(path, home)
    return Target(role, path, None if whole else KNOWN[role.value])


def _holds(path: Path, other: Path) -> bool:
    return path == other or path in other.parents


def matching(names: Iterable[str], patterns: tuple[str, ...]) -> list[str]:
    """The names that are ours, with what ``files.write_private`` was killed over."""
    ours = [*patterns, *(f".{one}.[0-9]*" for one in patterns)]
    return sorted(name for name in names if any(fnmatchcase(name, one) for one in ours))


def present(target: Target) -> list[Path]:
    """What of it is there. Follows no link."""
    if target.only is None:
        return [target.path] if target.path.is_symlink() or target.path.exists() else []
    return [target.path / name for name in matching(_names(target.path), target.only)]


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def size(paths: Iterable[Path]) -> int:
    """Bytes on the disk, as far as they can be seen."""
    total = 0
    for path in paths:
        with suppress(OSError):
            total += path.lstat().st_size
        if path.is_dir() and not path.is_symlink():
            for folder, _, files in os.walk(path):
                for name in files:
                    with suppress(OSError):
                        total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118
    return total


@dataclass(slots=True)
class Remover:
    """``owners``: users whose files may go. ``troubles``: what stays, and why; it goes on."""

    owners: frozenset[int]
    troubles: list[str] = field(default_factory=list)

    def remove(self, target: Target, *, spare: frozenset[str] = frozenset()) -> list[Path]:
        """Remove what of it is there, but for the names of ``spare``; what is gone then."""
        gone = []
        for path in present(target) if not spare else _inner(target, spare):
            before = len(self.troubles)
            self._path(path)
            if len(self.troubles) == before:
                gone.append(path)
        if target.only is not None:
            with suppress(OSError):  # another's things are in it
                target.path.rmdir()
        return gone

    def _path(self, path: Path) -> None:
        try:
            about = path.lstat()
            if about.st_uid not in self.owners:
                self.troubles.append(f"{path} stays: it belongs to user {about.st_uid}")
                return
            if stat.S_ISDIR(about.st_mode):
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = os.open(path, flags)
                try:
                    self._inside(descriptor, path, about.st_dev)
                finally:
                    os.close(descriptor)
                path.rmdir()
            else:
                path.unlink()  # a link goes, what it leads to stays
        except FileNotFoundError:
            return
        except OSError as error:
            if not self._told(path):
                self.troubles.append(f"{path} stays: {error.strerror or error}")

    def _told(self, path: Path) -> bool:
        """Whether something in it has been told of: then that it is not empty is no news."""
        return any(one.startswith(f"{path}/") for one in self.troubles)

    def _inside(self, folder: int, path: Path, device: int) -> None:
        """All that is in an open folder, by its descriptor: nobody can put a link in between."""
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            place = path / name
            try:
                about = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if not stat.S_ISDIR(about.st_mode):
                    os.unlink(name, dir_fd=folder)
                    continue
                if about.st_dev != device:
                    self.troubles.append(f"{place} stays: it is another file system")
                    continue
                if about.st_uid not in self.owners:
                    self.troubles.append(f"{place} stays: it belongs to user {about.st_uid}")
                    continue
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                inner = os.open(name, flags, dir_fd=folder)
                try:
                    self._inside(inner, place, device)
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=folder)
            except FileNotFoundError:
                continue
            except OSError as error:
                if not self._told(place):
                    self.troubles.append(f"{place} stays: {error.strerror or error}")


def _inner(target: Target, spare: frozenset[str]) -> list[Path]:
    """As :func:`present`, but the folder itself stays, with what is spared."""
    names = _names(target.path) if not target.path.is_symlink() else []
    if target.only is not None:
        names = matching(names, target.only)
    return [target.path / name for name in sorted(names) if name not in spare]


def links_into(root: Path, folders: Iterable[str]) -> Iterator[Path]:
    """Links in these folders (of PATH) that lead below ``root``: nothing is there once it goes."""
    for folder in dict.fromkeys(folders):
        with suppress(OSError), os.scandir(folder or ".") as entries:
            for entry in entries:
                if entry.is_symlink():
                    lead = Path(folder, os.readlink(entry.path))  # noqa: PTH115
                    if root in Path(os.path.normpath(lead)).parents:
                        yield Path(entry.path)


def away(kind: str, program: str) -> str:
    """The line that removes the program itself, by how it was installed; "": nothing is left."""
    lines = {
        "uv tool": "uv tool uninstall modelport",
        "pipx": "pipx uninstall modelport",
        "homebrew": "brew uninstall modelport",
        "venv": f"{program} -m pip uninstall modelport",
        "system": f"{program} -m pip uninstall modelport",
        "checkout": "the folder of the repository is yours",
    }
    return lines.get(kind, "")
