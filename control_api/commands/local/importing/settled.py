"""The last step of every import: whatever the translators made is what our configuration takes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from control_api.commands.local.importing.reading import sayable
from control_api.commands.local.importing.values import Imported, Item
from daemon.config.checks import DAEMON_LOG
from daemon.config.entry import ENGINES, CommandEntry, ModelEntry
from daemon.config.mistakes import findings
from daemon.config.tree import Node
from daemon.config.types import NAME_PATTERN

_ENTRY = Node.of(ModelEntry)
_COMMAND = Node.of(CommandEntry)


def settle(imported: Imported, taken: Iterable[str] = (), templates: Iterable[str] = ()) -> None:
    """Drop what is not allowed, each with a remark, and what another model has already.

    ``taken``: names and aliases of the configuration as it is, ``templates``: its command engines.
    """
    names = {name.casefold() for name in taken} | {DAEMON_LOG}
    engines = {*templates, *ENGINES}
    kept: list[Item] = []
    for item in imported.items:
        if not NAME_PATTERN.fullmatch(item.name):
            imported.skipped[item.name or "(no name)"] = "nothing of its name is allowed here."
        elif item.name.casefold() in names:
            imported.skipped[item.name] = "there is a model of that name (--rename, --replace)."
        elif _sound(item, imported, engines):
            names.add(item.name.casefold())
            kept.append(item)
    for item in kept:
        _aliases(item, names)
    imported.items = kept


def _aliases(item: Item, names: set[str]) -> None:
    aliases = []
    for alias in item.keys.get("aliases", ()):
        if alias.casefold() in names:
            if alias.casefold() != item.name.casefold():
                item.say("aliases", alias, "another model has this name.")
            continue
        names.add(alias.casefold())
        aliases.append(alias)
    item.keys.pop("aliases", None)
    if aliases:
        item.keys["aliases"] = aliases


def _sound(item: Item, imported: Imported, engines: set[str]) -> bool:
    """Whether there is something left to be served."""
    if item.command is not None:
        _named(item, engines)
        error = _error(CommandEntry, item.command)
        if error is not None:
            found = findings(error, item.command, _COMMAND)[0][0]
            where = ".".join(str(part) for part in found.path) or "cmd"
            imported.skipped[item.name] = f"{where}: {found.allowed}. {found.hint}".strip()
            return False
    params = item.keys.get("params")
    if params:
        for part in ("default", "force", "with_tools"):
            _sayable(item, params, part)
        item.keys["params"] = {key: value for key, value in params.items() if value}
    if not item.keys.get("params", True):
        del item.keys["params"]
    for _ in range(8):  # a value inside may be wrong in several ways
        error = _error(ModelEntry, item.keys)
        if error is None:
            break
        _drop(item, error)
    if item.keys.get("path") and item.keys.get("hf"):
        item.say("hf", item.keys.pop("hf"), "the file on the disk is taken.")
    hf = item.keys.get("hf")
    if "file" in item.keys and (not hf or ":" in hf):
        item.say("hf-file", item.keys.pop("file"), "the repository with its quantisation is taken.")
    _contexts(item)
    if item.command is None and not any(item.keys.get(key) for key in ("path", "hf", "preset")):
        imported.skipped[item.name] = "it names no weights that an entry here can have."
        return False
    return True


def _contexts(item: Item) -> None:
    ctx, least = item.keys.get("ctx"), item.keys.get("min_ctx")
    if isinstance(ctx, int) and isinstance(least, int) and least > ctx:
        item.say("min_ctx", item.keys.pop("min_ctx"), "above the context.")


def _named(item: Item, engines: set[str]) -> None:
    """A name of its own for the template."""
    base = item.name[:190]
    name, number = base, 2
    while name in engines:
        name, number = f"{base}-{number}", number + 1
    engines.add(name)
    item.keys = {"engine": f"command.{name}", **item.keys}


def _error(kind: type[BaseModel], values: dict[str, Any]) -> ValidationError | None:
    try:
        kind.model_validate(values)
    except ValidationError as error:
        return error
    return None


def _drop(item: Item, error: ValidationError) -> None:
    """Take out each key that has something wrong in it; of lists and tables just the wrong part."""
    wrong = sorted(findings(error, item.keys, _ENTRY), key=lambda pair: repr(pair[1]), reverse=True)
    for finding, path in wrong:
        holder: Any = item.keys
        for part in path[:-1]:
            holder = holder[part] if _has(holder, part) else None
        if not path or not _has(holder, path[-1]):
            continue
        where = ".".join(str(part) for part in path)
        item.say(
            where, holder[path[-1]], f"allowed here: {finding.allowed}. {finding.hint}".strip()
        )
        del holder[path[-1]]


def _has(holder: Any, part: Any) -> bool:
    if isinstance(holder, dict):
        return part in holder
    return isinstance(holder, list) and isinstance(part, int) and part < len(holder)


def _sayable(item: Item, params: dict[str, Any], part: str) -> None:
    """Only fields whose values TOML can hold and JSON can say."""
    for key, value in list(params.get(part, {}).items()):
        if not _plain(value):
            item.say(f"{part}.{key}", value, "such a value cannot be written here.")
            del params[part][key]


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(
            isinstance(key, str) and _plain(key) and _plain(one) for key, one in value.items()
        )
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return sayable(value)
    return isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63)
