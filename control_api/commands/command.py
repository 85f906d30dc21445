"""What a module of commands tells the command line about each of its verbs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from control_api.commands.output import Out


def no_arguments(parser: ArgumentParser) -> None:
    """For verbs that take nothing."""


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
