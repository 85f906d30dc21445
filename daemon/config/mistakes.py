"""What is wrong in a configuration, told all at once: where, what was found, what is allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any, Final

import annotated_types
from pydantic import ValidationError

from daemon.config.tree import KeyPath, Node, lookup
from daemon.core.problems import Code, Problem, ProblemError

_SECRET: Final = re.compile(r"api_?key|token$|secret|password|credential", re.IGNORECASE)
_LISTED_KEYS: Final = 14  # a longer list of keys hides the hint
_WORDS: Final = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text in quotes",
    "tuple_type": 'a list such as ["a", "b"]',
    "mapping_type": "a table",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "finite_number": "a finite number",
}


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong, or in a warning: doubtful.

    ``where`` is the key as TOML writes it, ``source`` the file, variable or flag that holds it,
    ``line`` its line in the file, from 1.
    """

    where: str
    found: str
    allowed: str
    hint: str = ""
    line: int | None = None
    source: str = ""

    def text(self) -> str:
        """The mistake in two or three lines, for a terminal."""
        # Without its folder the file is shorter, and there is only one.
        place = self.source
        if self.line is not None:
            place = f"{PurePath(self.source).name}:{self.line}"
        head = f"{self.where}  ({place})" if place else self.where
        lines = [head, f"    found {self.found}; allowed: {self.allowed}"]
        return "\n".join([*lines, f"    {self.hint}"] if self.hint else lines)


class ConfigError(ProblemError):
    """The configuration cannot be used; ``mistakes`` holds every reason at once."""

    def __init__(self, mistakes: Sequence[Mistake], source: str = "the configuration") -> None:
        self.mistakes = tuple(mistakes)
        self.source = source
        count = f"{len(self.mistakes)} mistake" + ("" if len(self.mistakes) == 1 else "s")
        first = self.mistakes[0] if self.mistakes else None
        detail = f" First: {first.where}: found {first.found}." if first else ""
        super().__init__(
            Problem(
                Code.CONFIG_INVALID,
                f"{source} has {count}.{detail}",
                "`ctl config check` shows them all.",
                facts={"mistakes": self.to_json()},
            )
        )

    def report(self) -> str:
        """All mistakes for people, in the order of the file."""
        count = "1 mistake" if len(self.mistakes) == 1 else f"{len(self.mistakes)} mistakes"
        return "\n".join([f"{self.source} has {count}:", *(m.text() for m in self.mistakes)])

    def to_json(self) -> list[dict[str, object]]:
        """All mistakes for programs."""
        return [asdict(mistake) for mistake in self.mistakes]


def shown(value: object, path: KeyPath = ()) -> str:
    """A found value in one short line; what may be a secret is not shown."""
    if any(part == "env" or (isinstance(part, str) and _SECRET.search(part)) for part in path):
        return f"a value of type {_type_word(value)} (not shown)"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, str | int | float | bool | list | tuple):
        try:
            text = json.dumps(value, ensure_ascii=True, default=str)
        except (ValueError, RecursionError):  # an int too long to print, or endless nesting
            return f"a very long {_type_word(value)}"
        return text if len(text) <= 70 else text[:67] + "..."
    return f"{_type_word(value)} {value}" if value is not None else "nothing"


def _type_word(value: object) -> str:
    names = {str: "text", bool: "switch", int: "number", float: "number", dict: "table"}
    return names.get(type(value), type(value).__name__)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` was probably meant to be."""
    by_fold = {name.casefold(): name for name in known}
    import difflib  # read when somebody has mistyped

    found = difflib.get_close_matches(word.casefold()[:100], list(by_fold), n=1, cutoff=0.6)
    return by_fold[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint, or an empty string where nothing is near."""
    near = nearest(word, known)
    return f'Did you mean "{near}"?' if near else ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake before its line is known. ``path`` is where it stands."""

    path: KeyPath
    found: str
    allowed: str
    hint: str = ""


def findings(error: ValidationError, values: object, root: Node) -> list[tuple[Finding, KeyPath]]:
    """Every mistake in a validation error, with the path to drop for the rest to be valid."""
    return [_finding(details, values, root) for details in error.errors(include_url=False)]


def _finding(details: Any, values: object, root: Node) -> tuple[Finding, KeyPath]:
    kind, context = details["type"], details.get("ctx") or {}
    path = _existing(tuple(details["loc"]), values)
    if kind == "missing":
        missing = (*path, str(details["loc"][-1]))
        node = root.at(missing)
        meaning = node.field.description if node and node.field else ""
        return Finding(missing, "nothing", f"a value: {meaning}"), path
    if kind == "extra_forbidden":
        return _unknown_key(path, root), path
    value = lookup(values, path)[1]
    found = shown(value, path) if details["loc"][-1:] != ("[key]",) else json.dumps(path[-1])
    if kind == "setting":
        return Finding(path, found, context["allowed"], context["hint"]), path
    if kind == "literal_error":
        words = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        hint = did_you_mean(value, words) if isinstance(value, str) else ""
        return Finding(path, found, " | ".join(f'"{word}"' for word in words), hint), path
    allowed = _WORDS.get(kind, "")
    limits = _limits(root.at(path))
    if kind in {"greater_than_equal", "less_than_equal", "int_parsing_size"} or (
        allowed == "a whole number" and limits
    ):
        allowed = f"a whole number{limits}"
    return Finding(path, found, allowed or str(details["msg"])), path


def _existing(loc: KeyPath, values: object) -> KeyPath:
    """The longest beginning of ``loc`` that the values hold; pydantic adds parts of its own."""
    path: KeyPath = ()
    for part in loc:
        if not lookup(values, (*path, part))[0]:
            break
        path = (*path, part)
    return path


def _limits(node: Node | None) -> str:
    low = high = None
    for mark in _marks(node.metadata) if node else ():
        low = getattr(mark, "ge", low)
        high = getattr(mark, "le", high)
    if low is not None and high is not None and high < 10**9:
        return f" from {low} to {high}"
    return f", {low} or more" if low is not None else ""


def _marks(metadata: Iterable[Any]) -> Iterable[Any]:
    for mark in metadata:
        if isinstance(mark, annotated_types.Ge | annotated_types.Le):
            yield mark
        elif getattr(mark, "metadata", None):
            yield from _marks(mark.metadata)


def _unknown_key(path: KeyPath, root: Node) -> Finding:
    key = str(path[-1])
    node = root.at(path[:-1])
    known = node.keys() if node else ()
    hint = did_you_mean(key, known)
    if not hint:
        homes = [section for section in root.keys() if key in _keys_of(root, section)]  # noqa: SIM118
        hint = f"It belongs in [{homes[0]}]." if homes and len(path) <= 2 else ""
    some = known if len(known) <= _LISTED_KEYS else ()
    allowed = ", ".join(some) if some else "a key that exists (`ctl config schema` lists them)"
    return Finding(path, f"the unknown key {json.dumps(key)}", allowed, hint)


def _keys_of(root: Node, section: str) -> tuple[str, ...]:
    node = root.step(section)
    return node.keys() if node else ()
