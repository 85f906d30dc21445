"""Whether a command line is the one of today, but for where an upgrade has put our own programs.

An embedded engine runs from the environment of the daemon that started it. After an upgrade another
environment lies beside that one, with the same engine in it: the running one need not be replaced.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

# What has a version in its path: an environment of the service, a formula of Homebrew.
_VERSIONED: Final = re.compile(r"(?<=/service/)env-[^/]+(?=/)|(?<=/Cellar/modelport/)[^/]+(?=/)")
_SYSTEM: Final = re.compile(r"(?<=^/usr/local/lib/modelport/)env-[^/]+(?=/)")


def same_command(running: Sequence[str], wanted: Sequence[str], program: Sequence[str]) -> bool:
    """``program``: how many of the first words name what is run. All others must be the same."""
    size = len(program)
    if len(running) != len(wanted) or list(running[size:]) != list(wanted[size:]):
        return False
    return [_plain(word) for word in running[:size]] == [_plain(word) for word in wanted[:size]]


def _plain(word: str) -> str:
    return _SYSTEM.sub("env", _VERSIONED.sub("env", word))
