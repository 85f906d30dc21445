"""Asking a person on the terminal."""

from __future__ import annotations

import sys

from control_api.commands.output import Out


def nobody(out: Out) -> bool:
    """Is nobody there to be asked: no terminal, or a program that wants JSON?"""
    return sys.stdin is None or not sys.stdin.isatty() or out.json


def agreed(question: str, out: Out) -> bool:
    """What a person says; where there is none: no."""
    if nobody(out):
        return False
    print(f"{question} [y/N] ", end="", file=out.err, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
