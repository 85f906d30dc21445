"""What ``ctl service install`` did here, so that it can be compared, upgraded and undone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from daemon.files import read_private, write_private

_LIMIT: Final = 65536
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Record:
    """``files``: path -> digest of what was written there. ``environment``: the one that was made
    for the service ("": its program lies in another's). The flags tell what an uninstall undoes."""

    manager: str
    scope: str
    program: str
    origin: str
    config: str
    installed: str  # version of modelport
    files: Mapping[str, str] = field(default_factory=dict)
    environment: str = ""
    linger: bool = False  # made by us
    user: str = ""  # made by us
    group: str = ""  # made by us
    schema: int = VERSION


def digest(text: str) -> str:
    """How a file's text is remembered."""
    return hashlib.sha256(text.encode()).hexdigest()


def load(path: Path) -> Record | None:
    """The record, or None: there is none, or not one that we can read."""
    with suppress(OSError, ValueError, TypeError, RecursionError):
        data: Any = json.loads(read_private(path, _LIMIT))
        if isinstance(data, dict) and data.get("schema") == VERSION:
            return Record(**data)
    return None


def save(path: Path, record: Record) -> None:
    """Write it, 0600. Raises OSError."""
    write_private(path, (json.dumps(asdict(record), indent=2) + "\n").encode())
