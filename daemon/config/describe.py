"""Telling the settings: the schema of the file, and each value with where it came from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from daemon.config.layers import Sources
from daemon.config.settings import Settings
from daemon.config.tree import KeyPath, Node, dotted, key_name
from daemon.config.types import Share, Unit

_SECRET: Final = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)
_SECRET_FLAG: Final = re.compile(r"api-?key$|token$|secret|password", re.IGNORECASE)
_BYTE_STEPS: Final = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_TIME_STEPS: Final = ((86400, "d"), (3600, "h"), (60, "m"))


@dataclass(frozen=True, slots=True)
class Row:
    """One setting: its key, its value as the file would say it, and where it came from."""

    key: str
    value: str
    source: str
    description: str = ""

    @property
    def is_default(self) -> bool:
        """Whether nobody wrote it."""
        return self.source == "default"


def schema() -> dict[str, Any]:
    """The JSON schema of the file, with a description for every key."""
    made = Settings.model_json_schema(by_alias=True)
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    made["title"] = "modelport configuration"
    return made


def show(settings: Settings, sources: Sources, *, everything: bool = True) -> tuple[Row, ...]:
    """Every setting in the order of the schema; without ``everything`` only those written.

    What may be a secret is not shown.
    """
    rows = _rows(settings, Node.of(Settings), (), sources)
    return tuple(row for row in rows if everything or not row.is_default)


def _rows(value: Any, node: Node, path: KeyPath, sources: Sources) -> Iterator[Row]:
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            here = (*path, key_name(name, field))
            yield from _rows(getattr(value, name), Node.of(field.annotation, field), here, sources)
    elif isinstance(value, Mapping) and node.is_mapping and _holds_tables(node):
        for key, inner in value.items():
            below = node.step(str(key))
            if below is not None:
                yield from _rows(inner, below, (*path, str(key)), sources)
    else:
        source = str(sources.origin(path))
        description = (node.field.description or "") if node.field is not None else ""
        yield Row(dotted(path), display(value, node, path), source, description)


def _holds_tables(node: Node) -> bool:
    below = node.step("")
    return below is not None and below.model is not None


def display(value: Any, node: Node | None = None, path: KeyPath = ()) -> str:
    """A value as the file would say it, with units; nothing for one that is unset."""
    if value is None:
        return ""
    unit = next((m.name for m in _metadata(node) if isinstance(m, Unit)), None)
    if unit == "bytes" and not isinstance(value, Mapping):
        return show_bytes(value)
    if unit == "seconds" and isinstance(value, float):
        return show_seconds(value)
    return json.dumps(_plain(value, path), ensure_ascii=False)


def _metadata(node: Node | None) -> tuple[Any, ...]:
    return node.metadata if node is not None else ()


def _plain(value: Any, path: KeyPath = ()) -> Any:
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(by_alias=True, exclude_none=True), path)
    if isinstance(value, Mapping):
        return {
            key: "(not shown)" if _hidden((*path, key)) else _plain(inner, (*path, key))
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_hide_flag(item, before) for item, before in zip(value, ("", *value), strict=False)]
    if isinstance(value, Share):
        return f"{value.percent:g}%"
    return value


def _hide_flag(item: Any, before: Any) -> Any:
    """An argument of a command line; what follows a flag such as ``--api-key`` is not shown."""
    if not isinstance(item, str):
        return _plain(item)
    flag, equals, _ = item.partition("=")
    if equals and flag.startswith("-") and _SECRET_FLAG.search(flag):
        return f"{flag}=(not shown)"
    after_flag = isinstance(before, str) and before.startswith("-") and "=" not in before
    return "(not shown)" if after_flag and _SECRET_FLAG.search(before) else item


def _hidden(path: KeyPath) -> bool:
    return "env" in path and bool(_SECRET.search(str(path[-1])))


def show_bytes(value: int | Share) -> str:
    """``18GiB``; a number that no unit divides stays a number of bytes."""
    if isinstance(value, Share):
        return f"{value.percent:g}%"
    for step, name in _BYTE_STEPS:
        if value and value % step == 0:
            return f"{value // step}{name}"
    return str(value)


def show_seconds(value: float) -> str:
    """``15m``, ``90s``, ``0.5s``; -1 is ``never``."""
    if value < 0:
        return "never"
    for step, name in _TIME_STEPS:
        if value and value % step == 0:
            return f"{value / step:g}{name}"
    return f"{value:g}s"
