"""Which folders of the hub's cache are here because of us: the cache is shared with others.

A repository is written down before its pull begins, and only if it was not there: what others have
brought is never taken for ours.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from daemon.downloads.locate import MARK, default_cache, storage
from daemon.downloads.protocol import PullRequest
from daemon.files import Kept

FILE: Final = "pulled.json"
VERSION: Final = 1
_LIMIT: Final = 1 << 20  # bytes


def repositories(request: PullRequest) -> set[str]:
    """All that a pull may write to."""
    refs = (request.mmproj, request.draft, request.template)
    return {request.repo, *(ref.repo for ref in refs if ref is not None and ref.repo is not None)}


@dataclass(slots=True)
class Pulled:
    """The record, in the state directory. All of it blocks."""

    path: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, request: PullRequest, cache_dir: Path | None = None) -> None:
        """Write down those that are not there yet."""
        cache = cache_dir or default_cache()
        found = (storage(repo, cache) for repo in repositories(request))
        fresh = [str(folder.absolute()) for folder in found if not folder.exists()]
        with self._lock:
            known = [str(folder) for folder in self.folders(mend=True)]
            if every := sorted({*known, *fresh}):
                value = {"version": VERSION, "folders": every}
                Kept(self.path, _LIMIT).write(json.dumps(value).encode())

    def folders(self, *, mend: bool = False) -> list[Path]:
        """Those that were written down, whether they are still there or not."""

        def made(stored: dict[str, Any]) -> list[Path]:
            return [Path(one) for one in _texts(stored["folders"]) if _plausible(Path(one))]

        return Kept(self.path, _LIMIT).load(VERSION, made, mend=mend) or []


def _texts(value: object) -> Iterable[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _plausible(folder: Path) -> bool:
    """A folder of one repository, as the hub's cache has it, and nothing else."""
    return folder.is_absolute() and folder.name.startswith(MARK) and ".." not in folder.parts
