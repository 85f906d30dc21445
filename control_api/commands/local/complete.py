"""``__complete``, which the shells' completion scripts call: what may come next. Never fails."""

from __future__ import annotations

import argparse
import os
import shlex
from argparse import Namespace
from collections.abc import Iterable, Sequence
from typing import Any, Final

from control_api.client import Client, RefusedError, UnreachableError
from control_api.commands.command import Command
from control_api.commands.output import Out

DAEMON_SECONDS: Final = 1.0  # a person is waiting with a finger on the tab key


def complete(args: Namespace, out: Out) -> int:
    words = list(args.words)
    shell, words = (words[0], words[1:]) if words else ("", [])
    if shell == "bash":
        words = split(words[0] if words else "")[1:]
    *before, current = words or [""]
    found = [word for word in candidates(before) if word.startswith(current)]
    if not found and _wants_path(before, current):
        found = paths(current)
    for word in found:
        out.line(_after_break(word, current) if shell == "bash" else word)
    return 0


def split(line: str) -> list[str]:
    """The words of an unfinished command line; the last is the one under the cursor."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    try:
        words.extend(lexer)
    except ValueError:  # an open quote: what is inside is the word
        words = line.replace("'", " ").replace('"', " ").split()
    if not words or line[-1:].isspace():
        words.append("")
    return words


def candidates(before: Sequence[str]) -> list[str]:
    """What may follow these words (without the program's own name)."""
    from control_api.commands.main import VERBS, find, parser

    words = [word for word in before if word != "--json"]
    if not words:
        return [*VERBS, "help", "--help", "--version"]
    if words[0] == "help":
        return list(VERBS)
    command = find(words[0]) if words[0] in VERBS else None
    if command is None:
        return []
    made = parser(words[0], command)
    rest = words[1:]
    if command.subcommands:
        if not rest:
            return [*command.subcommands, "--help"]
        command = command.subcommands.get(rest[0], command)
        made, rest = parser(f"{words[0]} {rest[0]}", command), rest[1:]
    return list(_of_parser(made, rest))


def _of_parser(made: argparse.ArgumentParser, rest: Sequence[str]) -> Iterable[str]:
    """Values of the option before, else the flags, and models or choices for the next argument."""
    actions: list[argparse.Action] = made._actions  # no public way to ask a parser
    if rest and rest[-1].startswith("-"):
        for action in actions:
            if rest[-1] in action.option_strings and action.nargs != 0:
                return _values(action, made, rest) if action.dest == "engine" else _choices(action)
    used = _positionals_used(actions, rest)
    positional = [action for action in actions if not action.option_strings]
    found: list[str] = []
    for index, action in enumerate(positional):
        if index == used or (action.nargs in {"*", "+"} and index <= used):
            found += _values(action, made, rest)
            break
    flags = [o for action in actions for o in action.option_strings if o.startswith("--")]
    return [*found, *(flag for flag in flags if flag not in rest)]


def _positionals_used(actions: Sequence[argparse.Action], rest: Sequence[str]) -> int:
    takes_value = {o for a in actions for o in a.option_strings if a.nargs != 0}
    count, skip = 0, False
    for word in rest:
        if skip:
            skip = False
        elif word.startswith("-"):
            skip = word in takes_value
        else:
            count += 1
    return count


def _values(
    action: argparse.Action, made: argparse.ArgumentParser, rest: Sequence[str]
) -> list[str]:
    if action.choices is not None:
        return _choices(action)
    if action.dest == "model" and made.prog == "ctl pull":
        return pull_names() if "--cancel" in rest else pullable_names()
    if action.dest == "model":
        return model_names()
    if action.dest == "key":
        from control_api.commands.local.key import names

        return names()
    if action.dest == "bench":
        return ["ls", *model_names()]
    if action.dest == "engine":
        return engine_words(str(action.metavar))
    if action.dest == "log":
        return ["daemon", *model_names()]
    return []


def _choices(action: argparse.Action) -> list[str]:
    return [str(choice) for choice in action.choices or ()]


def engine_words(wanted: str) -> list[str]:
    """Engines, and their installed versions where ``wanted`` (as the help shows it) has one."""
    from control_api.commands.local.engine_put import shelf_of
    from daemon.engines.install.versions import ENGINES

    names = list(ENGINES)
    try:
        shelf = shelf_of(None)
        here = {name: [item.version for item in shelf.items(name)] for name in names}
        before = [name for name in names if shelf.use(name).before]
    except (RefusedError, OSError, ValueError):
        return names
    if wanted == "NAME":
        return before or names
    if "@VERSION" not in wanted:
        return names
    versions = [f"{name}@{version}" for name in names for version in here[name]]
    found = [f"{name}@found" for name in names if here[name]]
    return [*names, *versions, *(found if wanted == "NAME@VERSION" else [])]


def pull_names() -> list[str]:
    """What is being pulled just now."""
    try:
        data: Any = Client().get("/pulls", seconds=DAEMON_SECONDS)
        return [str(one["name"]) for one in data["pulls"]]
    except (UnreachableError, RefusedError, KeyError, TypeError):
        return []


def pullable_names() -> list[str]:
    """Models, and presets that could be pulled."""
    from daemon.config.presets import load_presets

    return sorted({*model_names(), *load_presets()})


def model_names() -> list[str]:
    """Names and aliases, from the daemon, else from the configuration, else none."""
    try:
        data: Any = Client().get("/models", seconds=DAEMON_SECONDS, found=True)
        models = data["models"]
    except (UnreachableError, RefusedError, KeyError, TypeError):
        return _configured_names()
    names = [name for model in models for name in (model["name"], *model["aliases"])]
    return sorted({str(name) for name in names if "*" not in str(name)})


def _configured_names() -> list[str]:
    import tomllib

    from control_api.commands.local.settings import config_file

    try:
        models = tomllib.loads(config_file(None).read_text("utf-8")).get("models", {})
    except (OSError, ValueError):
        return []
    return sorted(models) if isinstance(models, dict) else []


def _wants_path(before: Sequence[str], current: str) -> bool:
    files = (["--config"], ["--sandbox"], ["--output"], ["--from"])
    wants = before[-1:] in files or before[:1] in (["add"], ["import"])
    wants = wants or (before[:2] == ["engine", "use"] and len(before) == 3)
    return wants and not current.startswith(("-", "hf:"))


def paths(current: str) -> list[str]:
    """Files and folders that begin like this."""
    folder, _, start = current.rpartition("/")
    place = os.path.expanduser(folder or ("/" if current.startswith("/") else "."))  # noqa: PTH111
    try:
        with os.scandir(place) as entries:
            found = [e.name + ("/" if e.is_dir() else "") for e in entries]
    except OSError:
        return []
    shown = sorted(n for n in found if n.startswith(start) and (start or not n.startswith(".")))
    return [f"{folder}/{name}" if "/" in current else name for name in shown]


def _after_break(word: str, current: str) -> str:
    """What bash wants: it has broken the word at each ``:``, ``=`` and ``@`` (COMP_WORDBREAKS)."""
    cut = max(current.rfind(mark) for mark in ":=@")
    return word[cut + 1 :]


COMMANDS: Final = {"__complete": Command(summary="for the shells", examples=(), run=complete)}
