"""What an import gives: entries for our configuration, and what could not be carried over."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from daemon.logs.redact import MARK, redact

MAX_TEXT: Final = 1 << 20  # characters of a file that is imported
MAX_MODELS: Final = 1000
_SHOWN: Final = 120
_SECRET_NAME: Final = re.compile(
    r"key$|keys$|token|secret|passw|credential|authorization|bearer", re.IGNORECASE
)
_PAIR: Final = re.compile(r"(?<![\w.-])([A-Za-z_][\w.-]*)([ \t]?[=:][ \t]?)([^\s\"',;]+)")
_USER: Final = re.compile(r"(://)[^/\s@]*@")
_BAD_NAME: Final = re.compile(r"[^A-Za-z0-9._:/@+-]+")


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing that was not carried over as it was: its ``field`` there, its value without
    secrets, and why, or what to do instead. ``carried``: it was, in other words."""

    field: str
    value: str
    why: str
    carried: bool = False

    @property
    def text(self) -> str:
        found = f"{self.field} = {self.value}" if self.value else self.field
        return one_line(f"{'' if self.carried else 'not carried over: '}{found}: {self.why}")


@dataclass(slots=True)
class Item:
    """One model: the keys of ``[models.NAME]``, and its ``command`` where it has a template of its
    own (``[engines.command.TEMPLATE]``)."""

    name: str
    keys: dict[str, Any] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)
    command: dict[str, Any] | None = None

    def set(self, key: str, value: Any) -> None:
        self.keys[key] = value

    def say(self, where: str, value: object, why: str) -> None:
        """Remark that a field was not carried over."""
        self.remarks.append(Remark(where, told(where, value), why))

    def note(self, where: str, value: object, how: str) -> None:
        """Remark how a field was carried over, where that is not plain."""
        self.remarks.append(Remark(where, told(where, value), how, carried=True))


@dataclass(slots=True)
class Imported:
    """All that one file gave. ``programs``: paths of engines' programs, by engine. ``skipped``:
    models that cannot be served by an entry of ours, with the reason."""

    source: str
    items: list[Item] = field(default_factory=list)
    programs: dict[str, str] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def say(self, where: str, value: object, why: str) -> None:
        self.remarks.append(Remark(where, told(where, value), why))


def one_line(text: str, limit: int = 400) -> str:
    """Printable, on one line, and not endless: what may stand in a comment."""
    flat = " ".join(text[: 4 * limit].split())
    clean = "".join(char if char.isprintable() else "?" for char in flat)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def secret_name(name: str) -> bool:
    """Whether what has this name is nobody's business."""
    return _SECRET_NAME.search(name.strip("-")) is not None


def hide(text: str) -> str:
    """``text`` without secrets: by the names before them, and by their shape."""

    def pair(match: re.Match[str]) -> str:
        return match[1] + match[2] + (MARK if secret_name(match[1]) else match[3])

    return redact(_USER.sub(rf"\g<1>{MARK}@", _PAIR.sub(pair, text)))


def told(where: str, value: object) -> str:
    """A value for a comment: short, without secrets. ``where``: the name of its field."""
    if value is None or value == "":
        return ""
    if secret_name(where.rpartition(".")[2]):
        return MARK
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key}: {told(str(key), one)}" for key, one in list(value.items())[:9])
        return one_line(hide(f"{{{inside}}}"), _SHOWN)
    if isinstance(value, list | tuple):
        return one_line("[" + ", ".join(told(where, one) for one in value[:9]) + "]", _SHOWN)
    return one_line(hide(str(value)[: 8 * _SHOWN]), _SHOWN)


def clean_name(name: str) -> str:
    """The name as a model may be called here; "" where nothing is left of it."""
    return _BAD_NAME.sub("-", name.strip()).lstrip("._:/@+-").rstrip("-")[:200]
