"""What every part of the settings has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A table of the file: frozen, and without room for keys that nobody reads."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=False,
        hide_input_in_errors=True,  # an input may hold a secret; the report shows what it must
        use_attribute_docstrings=False,
    )
