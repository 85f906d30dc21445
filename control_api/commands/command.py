"""What a module of commands tells the command line about each of its verbs."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from control_api.commands.output import Out


def no_arguments(parser: ArgumentParser) -> None:
    """For verbs that take nothing."""


def whole(least: int, most: int, what: str) -> Callable[[str], int]:
    """A type for argparse: a number of ``what``."""

    def read(text: str) -> int:
        digits = text.isascii() and text.isdecimal() and len(text) < 20
        if not (digits and least <= int(text) <= most):
            raise ArgumentTypeError(f"{text[:40]!r}: {what} from {least} to {most} are wanted")
        return int(text)

    return read


LOG_LINES: Final = whole(0, 100_000, "lines")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One verb: ``arguments`` fills its parser, ``run`` does it and gives the exit code.

    ``examples`` are pairs of a command line and what it does; ``subcommands`` (by name) make it a
    group such as ``config``.
    """

    summary: str
    examples: tuple[tuple[str, str], ...]
    run: Callable[[Namespace, Out], int] | None = None
    arguments: Callable[[ArgumentParser], None] = no_arguments
    text: str = ""
    subcommands: Mapping[str, Command] = field(default_factory=dict)
    trailing: bool = False  # words behind `--` are another program's: they become ``args.rest``
