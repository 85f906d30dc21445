"""What is told of a backend's end, in one line: how it ended and what it said. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from daemon.core.messages import ExitClass
from daemon.engines.base import Verdict
from daemon.engines.signatures import ended
from daemon.logs.lines import escape
from daemon.logs.redact import redact

MAX_WORDS: Final = 1000  # characters: an error of a request carries them
MAX_LAST: Final = 300  # characters of a line that nobody knows


def with_last(verdict: Verdict, last: str) -> Verdict:
    """With the line that it said last (``last``) as evidence, where no other is known."""
    if verdict.exit_class is ExitClass.CLEAN or verdict.lines or not last:
        return verdict
    return replace(verdict, lines=(f"its last line: {escape(last[:MAX_LAST])}",))


def words(verdict: Verdict, status: int | None, secrets: Iterable[str] = ()) -> str:
    """The end of one backend: exit status or signal, what decided, and the lines that matched.

    ``status`` as in subprocess; None: it lives. ``secrets``: those of this start. Fit to be shown
    to any client: no secret, no line break, bounded.
    """
    detail = verdict.detail
    parts = [detail]
    if verdict.exit_class is not ExitClass.CLEAN:
        parts += [line for line in verdict.lines if line not in detail]
        how = ended(status)
        if status is not None and how not in detail:
            parts[0] = f"{how}: {detail}"
    text = redact(" / ".join(parts), secrets)
    return text if len(text) <= MAX_WORDS else text[: MAX_WORDS - 1] + "…"
