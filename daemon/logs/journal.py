"""Lines as the journal likes them: a priority in front, no time and no level, which it has."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TextIO

from daemon.logs.lines import clip, escape
from daemon.logs.redact import redact

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def is_journal(environ: Mapping[str, str], stream: TextIO) -> bool:
    """Whether this output goes to the journal (systemd.exec(5), ``JOURNAL_STREAM``)."""
    with suppress(OSError, ValueError):  # closed, or no file at all
        about = os.fstat(stream.fileno())
        return environ.get("JOURNAL_STREAM") == f"{about.st_dev}:{about.st_ino}"
    return False


class JournalFormatter(logging.Formatter):
    """``<4>text``: sd-daemon(3). Each line of a traceback has the priority of the first; secrets
    are taken out."""

    def format(self, record: logging.LogRecord) -> str:
        number = next((n for level, n in _PRIORITIES if record.levelno >= level), 7)
        lines = redact(super().format(record)).splitlines() or [""]
        return "\n".join(f"<{number}>{clip(escape(line))}" for line in lines)
