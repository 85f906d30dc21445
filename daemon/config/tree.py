"""The settings as a tree: which keys exist where, what a key takes, and text read for it."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

KeyPath = tuple[str | int, ...]
"""Where a value stands: ``("models", "qwen", "args", 0)``."""

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def dotted(path: KeyPath) -> str:
    """``models."a.b".args[0]``: the path as TOML would write it."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = _BARE_KEY.fullmatch(part)
            text += ("." if text else "") + (part if bare else json.dumps(part, ensure_ascii=True))
    return text


def key_name(name: str, field: FieldInfo) -> str:
    """How a field is called in the file."""
    return field.alias or name


@dataclass(frozen=True, slots=True)
class Node:
    """One place of the tree: its type without ``Annotated`` and ``None``, and its field."""

    annotation: Any
    field: FieldInfo | None = None
    metadata: tuple[Any, ...] = ()

    @classmethod
    def of(cls, annotation: Any, field: FieldInfo | None = None) -> Node:
        """The node of a type annotation, or of a field of a model."""
        metadata: list[Any] = list(field.metadata) if field is not None else []
        while True:
            origin = get_origin(annotation)
            if origin is Annotated:
                inner, *more = get_args(annotation)
                metadata += more
                annotation = inner
            elif origin in (Union, types.UnionType):
                rest = [arg for arg in get_args(annotation) if arg is not type(None)]
                if len(rest) != 1:
                    return cls(annotation, field, tuple(metadata))
                annotation = rest[0]
            else:
                return cls(annotation, field, tuple(metadata))

    @property
    def model(self) -> type[BaseModel] | None:
        """The table of known keys that stands here, if it is one."""
        kind = self.annotation
        return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None

    @property
    def is_mapping(self) -> bool:
        """A table whose keys the user chooses."""
        return get_origin(self.annotation) in (Mapping, dict)

    @property
    def is_list(self) -> bool:
        """A list of any length."""
        return get_origin(self.annotation) is tuple

    def keys(self) -> tuple[str, ...]:
        """The keys that are known here; empty where the user chooses them."""
        model = self.model
        return tuple(key_name(*item) for item in model.model_fields.items()) if model else ()

    def step(self, part: str | int) -> Node | None:
        """The node below, or None where there is none."""
        model = self.model
        if model is not None:
            for name, field in model.model_fields.items():
                if key_name(name, field) == part:
                    return Node.of(field.annotation, field)
            return None
        if self.is_mapping and isinstance(part, str):
            return Node.of(get_args(self.annotation)[1])
        if self.is_list and isinstance(part, int):
            return Node.of(get_args(self.annotation)[0])
        return None

    def at(self, path: KeyPath) -> Node | None:
        """The node at ``path`` below this one, or None."""
        node: Node | None = self
        for part in path:
            if node is None:
                return None
            node = node.step(part)
        return node


def lookup(values: Any, path: KeyPath) -> tuple[bool, Any]:
    """Whether nested tables hold something at ``path``, and what."""
    for part in path:
        if isinstance(values, Mapping):
            if part not in values:
                return False, None
            values = values[part]
        elif isinstance(values, list | tuple) and isinstance(part, int):
            if not 0 <= part < len(values):
                return False, None
            values = values[part]
        else:
            return False, None
    return True, values


def leaves(values: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """The paths of everything in nested tables that is not a table itself."""
    if isinstance(values, Mapping) and (values or not path):
        for key, value in values.items():
            yield from leaves(value, (*path, key))
    else:
        yield path


def read_text(node: Node | None, text: str, *, words: bool = False) -> Any:
    """The value that ``text`` from the environment or a command line means at ``node``.

    Numbers, switches, lists and tables are read as TOML; whatever is not stays text, for the
    validation to say what was expected. A list may be given plainly: separated by commas, or with
    ``words`` as on a command line.
    """
    if node is None or node.annotation is str or get_origin(node.annotation) is Literal:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if node.annotation is bool:
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    if node.is_list and not text.lstrip().startswith(("[", "{")):
        return _plain_list(text, words=words)
    return text


def _plain_list(text: str, *, words: bool) -> Any:
    if not words:
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return shlex.split(text)
    except ValueError:  # an open quote: the validation says that a list was expected
        return text
