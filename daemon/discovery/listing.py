"""What is in a folder, as values: bounded, without a loop, without a traceback. Blocks: a thread.

Links to files count as these files (the hub's cache is made of them). Folders that are links are
not entered, so no tree is without end and none leads elsewhere.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from daemon.config.finds import FileId

MAX_ENTRIES: Final = 50_000  # of one place
MAX_DEPTH: Final = 8
MAX_TEXT: Final = 1 << 20  # bytes of a manifest or of a program's settings


@dataclass(frozen=True, slots=True)
class Seen:
    """One file: its path below the place, bytes, time of change (ns), which file it really is."""

    name: str
    size: int
    changed: int
    file: FileId


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a place, in order; ``cut``: there are more than are looked at."""

    root: Path
    files: tuple[Seen, ...] = ()
    cut: bool = False
    by_name: Mapping[str, Seen] = field(default_factory=dict, repr=False, compare=False)

    def path(self, seen: Seen) -> Path:
        return self.root / seen.name


def listed(root: Path, files: list[Seen], *, cut: bool = False) -> Listing:
    """A listing in order."""
    files.sort(key=lambda seen: seen.name)
    return Listing(root, tuple(files), cut, {seen.name: seen for seen in files})


def walk(
    root: Path,
    enter: Callable[[str], bool] = lambda name: True,
    *,
    limit: int = MAX_ENTRIES,
    depth: int = MAX_DEPTH,
) -> Listing:
    """All plain files below ``root``. ``enter``: whether a folder (its path below) is of interest.

    What cannot be read is not there. Names that are no text, and hidden folders, are left out.
    """
    files: list[Seen] = []
    waiting = [""]
    seen = 0
    while waiting:
        at = waiting.pop()
        try:
            with os.scandir(root / at) as entries:
                for entry in entries:
                    seen += 1
                    if seen > limit:
                        return listed(root, files, cut=True)
                    name = f"{at}/{entry.name}" if at else entry.name
                    if not _is_text(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if not entry.name.startswith(".") and name.count("/") < depth:
                            waiting += [name] if enter(name) else []
                    elif (found := _file(entry, name)) is not None:
                        files.append(found)
        except OSError:
            continue
    return listed(root, files)


def _file(entry: os.DirEntry[str], name: str) -> Seen | None:
    try:
        status = entry.stat()
    except OSError:  # a link to nothing, or a loop of links
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return Seen(name, status.st_size, status.st_mtime_ns, (status.st_dev, status.st_ino))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def text_of(path: Path, limit: int = MAX_TEXT) -> str:
    """A small text; "" where there is none, or none that can be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return ""
            data = file.read(limit + 1)
    except (OSError, ValueError):
        return ""
    return data.decode(errors="replace") if len(data) <= limit else ""
