"""Text of others, read without trust: YAML within bounds, fields of the kind that they must have.

PyYAML's parser makes the nodes; values are built here, because its own constructor follows aliases
without end, lets the last of two equal keys win, and forgets lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from daemon.config.mistakes import ConfigError, Mistake, shown
from daemon.config.tree import KeyPath, dotted

MAX_NODES: Final = 20_000  # values of a file, aliases counted as often as they stand
MAX_DEPTH: Final = 40
_MERGE: Final = "tag:yaml.org,2002:merge"
_CORE: Final = "tag:yaml.org,2002:"


@dataclass(slots=True)
class Document:
    """A file's values, the lines (from 1) at which they stand, and what is wrong with them."""

    source: str
    values: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def line(self, path: KeyPath) -> int | None:
        """The line of the value, or of what it stands in."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return None

    def wrong(self, path: KeyPath, found: str, allowed: str, hint: str = "") -> None:
        """Keep a mistake; all are told at once."""
        where = dotted(path) if path else "the file"
        self.mistakes.append(
            Mistake(where, found, allowed, hint, line=self.line(path), source=self.source)
        )

    def check(self) -> None:
        """Raises ConfigError with all mistakes, if there are any."""
        if self.mistakes:
            raise ConfigError(self.mistakes, self.source)

    def top(self) -> Table:
        """The fields at the top. Raises ConfigError where there are none."""
        if not isinstance(self.values, dict):
            self.wrong((), shown(self.values), "a table of fields")
            self.check()
        return Table(self, (), self.values)


@dataclass(slots=True)
class Table:
    """Fields that are taken one by one, each of its kind; a wrong one is told and counts as
    absent. :meth:`rest`: those that nobody has asked for."""

    document: Document
    path: KeyPath
    values: Mapping[str, Any]
    _taken: set[str] = field(default_factory=set)

    def any(self, key: str) -> Any:
        self._taken.add(key)
        return self.values.get(key)

    def text(self, key: str) -> str:
        """Text or a number as text; "" if there is none."""
        found = self.any(key)
        if found is None or isinstance(found, str):
            return found or ""
        if isinstance(found, int | float) and not isinstance(found, bool):
            return str(found)
        self._wrong(key, "text")
        return ""

    def whole(self, key: str, least: int = 0) -> int | None:
        found = self.any(key)
        if found is None:
            return None
        if isinstance(found, int) and not isinstance(found, bool) and least <= found < 2**53:
            return found
        self._wrong(key, f"a whole number, {least} or more")
        return None

    def flag(self, key: str) -> bool | None:
        found = self.any(key)
        if found is None or isinstance(found, bool):
            return found
        self._wrong(key, "true or false")
        return None

    def table(self, key: str) -> Table:
        """An empty one if there is none."""
        found = self.any(key)
        if found is None or isinstance(found, dict):
            return Table(self.document, (*self.path, key), found or {})
        self._wrong(key, "a table")
        return Table(self.document, (*self.path, key), {})

    def tables(self) -> Iterator[tuple[str, Table]]:
        """Every field, each of which must be a table."""
        for key in self.values:
            yield key, self.table(key)

    def texts(self, key: str) -> list[str]:
        """A list of texts."""
        found = self.any(key)
        if found is None:
            return []
        if isinstance(found, list) and all(isinstance(one, str) for one in found):
            return list(found)
        self._wrong(key, "a list of texts")
        return []

    def rest(self) -> dict[str, Any]:
        return {key: one for key, one in self.values.items() if key not in self._taken}

    def _wrong(self, key: str, allowed: str) -> None:
        path = (*self.path, key)
        self.document.wrong(path, shown(self.values[key], path), allowed)


def read_yaml(text: str, source: str) -> Document:
    """The values of YAML text. Raises ConfigError with the line where it is none, or is larger
    inside than any configuration."""
    import yaml

    document = Document(source)
    loader = None
    try:
        loader = _bounded(yaml)(text)
        node = loader.get_single_node()
        if node is not None:
            document.values = _Builder(yaml, loader, document).value(node, (), 0)
    except _Refused as error:
        document.lines[()] = error.line
        document.wrong((), error.found, error.allowed)
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        if mark is not None:
            document.lines[()] = mark.line + 1
        reason = getattr(error, "problem", None) or "text that cannot be read"
        document.wrong((), str(reason)[:200], "YAML")
    finally:
        if loader is not None:
            loader.dispose()
    document.check()
    return document


def _bounded(yaml: Any) -> Any:
    """PyYAML's loader, which gives up early: a megabyte of commas would take it a minute."""

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        nodes = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.nodes += 1
            if self.nodes > MAX_NODES:
                raise _Refused(parent, "values without end", f"at most {MAX_NODES} of them")
            return super().compose_node(parent, index)

    return Loader


def sayable(text: str) -> bool:
    """Whether it can be written to a file: escapes may hold half a character."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


class _Refused(Exception):
    def __init__(self, node: Any, found: str, allowed: str) -> None:
        self.line: int = node.start_mark.line + 1
        self.found, self.allowed = found, allowed


class _Builder:
    """Values of nodes, counted."""

    def __init__(self, yaml: Any, loader: Any, document: Document) -> None:
        self._yaml, self._loader, self._document = yaml, loader, document
        self._count = 0

    def value(self, node: Any, path: KeyPath, depth: int) -> Any:
        self._count += 1
        if self._count > MAX_NODES:
            raise _Refused(node, "endless aliases", f"at most {MAX_NODES} values")
        if depth > MAX_DEPTH:
            raise _Refused(node, "endless nesting", f"at most {MAX_DEPTH} levels")
        self._document.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, self._yaml.ScalarNode):
            return self._scalar(node)
        if isinstance(node, self._yaml.SequenceNode):
            return [
                self.value(one, (*path, index), depth + 1) for index, one in enumerate(node.value)
            ]
        return self._mapping(node, path, depth)

    def _scalar(self, node: Any) -> Any:
        kind = node.tag.removeprefix(_CORE)
        if kind in ("timestamp", "value", "merge"):
            return node.value
        if kind not in ("null", "bool", "int", "float", "str"):
            raise _Refused(node, f"the tag {node.tag[:60]}", "plain values")
        try:
            found = self._loader.construct_object(node)
        except (ValueError, OverflowError, KeyError):
            raise _Refused(node, f"{node.value[:40]!r}", f"a value of the kind {kind}") from None
        if isinstance(found, str) and not sayable(found):
            raise _Refused(node, "half a character", "text")
        return found

    def _mapping(self, node: Any, path: KeyPath, depth: int) -> dict[str, Any]:
        under: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                merged = self.value(value_node, path, depth + 1)
                for one in merged if isinstance(merged, list) else [merged]:
                    if not isinstance(one, dict):
                        raise _Refused(value_node, "a merge of something else", "tables after <<")
                    under |= {key: one[key] for key in one if key not in under}
                continue
            if not isinstance(key_node, self._yaml.ScalarNode):
                raise _Refused(key_node, "a key that is no text", "a name")
            key = str(key_node.value)
            if key in found:
                raise _Refused(key_node, f"{key[:60]!r} a second time", "each name once")
            self._document.lines[(*path, key)] = key_node.start_mark.line + 1
            found[key] = self.value(value_node, (*path, key), depth + 1)
        return under | found
