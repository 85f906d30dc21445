"""Presets: models that work by name, as data (``presets.toml`` beside this file)."""

from __future__ import annotations

import functools
import importlib.resources
import importlib.util
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from daemon.config.base import Part
from daemon.config.entry import Arg, EnvTable, Params
from daemon.config.types import (
    Alias,
    Bytes,
    Companion,
    HfRef,
    Kind,
    Line,
    Name,
    RepoFile,
    Template,
    Tokens,
    Whole,
)

FormName = Literal["gguf", "mlx"]


class Form(Part):
    """The weights of a preset in one format, and how they are run."""

    hf: HfRef | None = Field(default=None, description="Where they are on the hub.")
    file: RepoFile | None = Field(default=None, description="The file to take of it.")
    package: Line | None = Field(default=None, description="A Python package that holds them.")
    package_file: RepoFile | None = Field(default=None, description="The file inside it.")
    path: Path | None = Field(default=None, description="Where that lies; found when loaded.")
    install: Line | None = Field(default=None, description="What installs that package.")
    mmproj: Companion | None = Field(
        default=None, description="Vision projector in the repository."
    )
    draft: Companion | None = Field(default=None, description="Draft model.")
    template: Template | None = Field(default=None, description="Chat template, as in [models].")
    size: Bytes | None = Field(default=None, description="About the bytes of the weights.")
    quants: Mapping[str, Bytes] = Field(
        default={}, description="Other quantisations of hf and their bytes, best first."
    )
    min_memory: Bytes | None = Field(default=None, description="Memory a machine should have.")
    min_engine: Mapping[str, Line] = Field(
        default={}, description="The oldest version of each engine family that runs it."
    )
    args: tuple[Arg, ...] = Field(default=(), description="Arguments for the engine.")
    engine_args: Mapping[str, tuple[Arg, ...]] = Field(
        default={}, description="Arguments for one engine alone."
    )
    engine_env: Mapping[str, EnvTable] = Field(
        default={}, description="Environment for one engine alone."
    )
    params: Params = Field(default=Params(), description="Over the preset's own.")
    warnings: tuple[Line, ...] = Field(default=(), description="What users should know.")


class Preset(Part):
    """A model that works by name, in one or two formats."""

    description: Line = Field(description="One line about it.")
    kind: Kind = Field(description="What it answers.")
    aliases: tuple[Alias, ...] = Field(default=(), description="Other names, Ollama's among them.")
    ctx: Tokens | None = Field(default=None, description="Tokens of one conversation.")
    slots: Annotated[Whole, Field(ge=1, le=256)] | None = Field(
        default=None, description="Requests that it serves at once."
    )
    thinking: bool | None = Field(default=None, description="Thinking on or off.")
    tools: bool | None = Field(default=None, description="Whether it can call tools.")
    params: Params = Field(default=Params(), description="Fields of request bodies.")
    warnings: tuple[Line, ...] = Field(default=(), description="What users should know.")
    gguf: Form | None = Field(default=None, description="For llama-server and xllamacpp.")
    mlx: Form | None = Field(default=None, description="For mlx-lm and vllm-mlx.")

    @model_validator(mode="after")
    def _has_weights(self) -> Preset:
        if self.gguf is None and self.mlx is None:
            raise ValueError("a preset needs the form gguf or mlx")
        return self

    def form(self, wanted: FormName) -> tuple[FormName, Form]:
        """The wanted form where there is one, else the other."""
        order: tuple[FormName, FormName] = ("gguf", "mlx") if wanted == "gguf" else ("mlx", "gguf")
        for name in order:
            form = self.gguf if name == "gguf" else self.mlx
            if form is not None:
                return name, form
        raise AssertionError("a preset has a form: its validator saw to it")


def load_presets(find: Callable[[str, str], Path | None] | None = None) -> Mapping[str, Preset]:
    """All presets by name, from the package's data.

    ``find`` says where a file of an installed Python package lies (:func:`packaged_file`); it is
    asked each time, so that a package installed in the meantime is seen.
    """
    find = find or packaged_file
    return MappingProxyType({name: _located(p, find) for name, p in _shipped().items()})


def read_presets(tables: Mapping[str, Any]) -> Mapping[str, Preset]:
    """Presets from nested tables. Raises pydantic's ValidationError: wrong data is a bug."""
    return Presets.model_validate({"presets": tables}).presets


@functools.cache
def _shipped() -> Mapping[str, Preset]:
    data = importlib.resources.files("daemon.config").joinpath("presets.toml").read_bytes()
    return read_presets(tomllib.loads(data.decode()))


def _located(preset: Preset, find: Callable[[str, str], Path | None]) -> Preset:
    form = preset.gguf
    if form is None or form.package is None or form.package_file is None:
        return preset
    located = form.model_copy(update={"path": find(form.package, form.package_file)})
    return preset.model_copy(update={"gguf": located})


class Presets(Part):
    """All presets of a file."""

    presets: Mapping[Name, Preset] = Field(description="By name.")


def packaged_file(package: str, file: str) -> Path | None:
    """Where ``file`` of an installed ``package`` lies, or None. Imports nothing of it."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / file
        if path.is_file():
            return path
    return None
