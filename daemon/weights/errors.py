"""The one error of this package."""

from __future__ import annotations


class WeightsError(ValueError):
    """A model's files cannot be used. The text names the file, what was found and what to do."""
