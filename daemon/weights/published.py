"""What a preset's weights take before any of them is here: from published figures.

The figures (``published.toml`` beside this file) are what a header or a ``config.json`` says, and
go through the same arithmetic. Presets are known here by their names only.
"""

from __future__ import annotations

import functools
import importlib.resources
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

from daemon.weights import gguf_layers, hf_config
from daemon.weights.facts import Kind, Weights

Form = Literal["gguf", "mlx"]

FORMS: Final[tuple[Form, ...]] = ("gguf", "mlx")


@dataclass(frozen=True, slots=True)
class Figures:
    """One form of a preset. ``keys``: GGUF metadata by their full names, or a ``config.json``.
    ``tensor_bytes``: None where the preset's own size is good enough."""

    form: Form
    architecture: str
    keys: Mapping[str, Any]
    tensor_bytes: int | None = None
    gated: bool = True

    def weights(self, name: str, kind: Kind, quant: str, size: int) -> Weights:
        """A model of these figures whose tensors take ``size`` bytes; it has no files."""
        shape = (
            gguf_layers.network(self.keys, self.architecture, gated=self.gated)
            if self.form == "gguf"
            else hf_config.network(self.keys)
        )
        return Weights(
            format="gguf" if self.form == "gguf" else "safetensors",
            files=(),
            tensor_bytes=size,
            architecture=self.architecture,
            n_ctx_train=shape.n_ctx_train,
            n_embd=shape.n_embd,
            n_ff=shape.n_ff,
            graph_width=shape.width,
            layers=shape.layers,
            kind=kind,
            template=None,
            quantisation=quant,
            name=name,
            disk_bytes=size,
            exact=shape.exact,
            n_vocab=self.keys.get(f"{self.architecture}.vocab_size", 0),
            heads=shape.heads,
            logits=shape.logits,
            recurrence=shape.recurrence,
        )


def figures(preset: str, form: str) -> Figures | None:
    """What is published of a preset's form; None where that is nothing."""
    return _shipped().get((preset, form))


def known() -> frozenset[tuple[str, str]]:
    """(preset, form) of all that there are figures of."""
    return frozenset(_shipped())


@functools.cache
def _shipped() -> Mapping[tuple[str, str], Figures]:
    data = importlib.resources.files("daemon.weights").joinpath("published.toml").read_bytes()
    tables = tomllib.loads(data.decode())
    return MappingProxyType(
        {
            (preset, form): _read(form, forms[form])
            for preset, forms in tables.items()
            for form in FORMS
            if form in forms
        }
    )


def _read(form: Form, table: Mapping[str, Any]) -> Figures:
    keys: dict[str, Any] = table["keys"]
    name: str = table["architecture"] if form == "gguf" else keys["model_type"]
    if form == "gguf":  # as a header gives them: full names, and lists that cannot change
        keys = {f"{name}.{k}": tuple(v) if isinstance(v, list) else v for k, v in keys.items()}
    size = table.get("tensor_bytes")
    return Figures(form, name, MappingProxyType(keys), size, table.get("gated", True))
