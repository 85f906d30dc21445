from __future__ import annotations

import inspect

import pytest
from pydantic import ValidationError

from daemon.config import entry, sections, timing
from daemon.config.base import Part

PARTS = [
    part
    for module in (entry, sections, timing)
    for _, part in inspect.getmembers(module, inspect.isclass)
    if issubclass(part, Part) and part is not Part
]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_table_is_frozen_closed_and_described(part: type[Part]) -> None:
    assert part.model_config.get("frozen")
    assert part.model_config.get("extra") == "forbid"
    for name, field in part.model_fields.items():
        assert field.description, f"{part.__name__}.{name} has no description"
        assert len(field.description) > 8


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError):
        Part.model_validate({"x": 1})
