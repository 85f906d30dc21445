"""The errors of this package."""

from __future__ import annotations


class WeightsError(ValueError):
    """A model's files cannot be used. The text names the file, what was found and what to do."""


class PartError(WeightsError):
    """The file is sound, but a part of a model (a projector, an adapter, …) and none by itself."""
