"""Asking a person on the terminal."""

from __future__ import annotations

import sys

from control_api.client import RefusedError
from control_api.commands.output import Out


def terminal() -> bool:
    """Can a person type something here?"""
    return sys.stdin is not None and sys.stdin.isatty()


def nobody(out: Out) -> bool:
    """Is nobody there to be asked: no terminal, or a program that wants JSON?"""
    return out.json or not terminal()


def need_somebody(text: str, hint: str, out: Out) -> None:
    """Raises ``RefusedError`` where nobody can be asked. ``text``: what would be done."""
    if nobody(out):
        message = f"{text}, and nobody is here to be asked."
        raise RefusedError("invalid_request", message, hint)


def agreed(question: str, out: Out, *, usual: bool = False) -> bool:
    """What a person says (``usual``: what Enter means); where there is none: no."""
    if nobody(out):
        return False
    print(f"{question} [{'Y/n' if usual else 'y/N'}] ", end="", file=out.err, flush=True)
    line = sys.stdin.readline()
    if not line.strip():
        return usual and bool(line)  # the end of the input is no answer
    return line.strip().lower() in {"y", "yes"}
