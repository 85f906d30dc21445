"""Values without secrets, however deep the texts lie in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

_T = TypeVar("_T")


def redacted(value: _T, redact: Callable[[str], str]) -> _T:
    """The same value with ``redact`` done to every text of it: a text itself, the items of lists
    and mappings, the fields of dataclasses. Names of fields and keys stay."""
    return _redacted(value, redact)  # type: ignore[no-any-return]


def _redacted(value: Any, redact: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: _redacted(item, redact) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item, redact) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        inner = {field.name: getattr(value, field.name) for field in fields(value)}
        return replace(value, **{name: _redacted(item, redact) for name, item in inner.items()})
    return value
