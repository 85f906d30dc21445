"""Entries as TOML, with what was not carried over as comments above them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from control_api.commands.local.importing.values import Imported, Item, one_line

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


def render(imported: Imported) -> str:
    """The tables of all models, each followed by an empty line."""
    lines = [f"# Imported from {one_line(imported.source)}."]
    lines += [f"# {remark.text}" for remark in imported.remarks]
    lines += [
        f"# left out: {one_line(name)}: {one_line(why)}" for name, why in imported.skipped.items()
    ]
    lines.append("")
    for engine, path in imported.programs.items():
        lines += [f"[engines.{key(engine)}]", f"path = {value(path)}", ""]
    for item in imported.items:
        lines += [*_item(item), ""]
    return "\n".join(lines)


def _item(item: Item) -> Iterator[str]:
    if item.command is not None:
        yield f"[engines.command.{key(item.keys['engine'].removeprefix('command.'))}]"
        yield from _pairs(item.command)
        yield ""
    yield f"[models.{key(item.name)}]"
    for remark in item.remarks:
        yield f"# {remark.text}"
    yield from _pairs(item.keys)


def _pairs(keys: Mapping[str, Any]) -> Iterator[str]:
    for name, one in keys.items():
        if name == "params":
            for part, fields in one.items():
                yield f"params.{part} = {value(fields)}"
        else:
            yield f"{key(name)} = {value(one)}"


def key(name: str) -> str:
    """A key as TOML writes it."""
    return name if _BARE.fullmatch(name) else value(name)


def value(found: Any) -> str:
    """A value on one line. ValueError for what TOML cannot hold."""
    import tomlkit

    if isinstance(found, Mapping):
        inside = ", ".join(f"{key(str(k))} = {value(v)}" for k, v in found.items())
        return f"{{{inside}}}" if not inside else f"{{ {inside} }}"
    if isinstance(found, list | tuple):
        return "[" + ", ".join(value(one) for one in found) + "]"
    if not isinstance(found, str | int | float):
        raise ValueError(f"TOML has nothing for {type(found).__name__}")
    return tomlkit.item(found).as_string()
