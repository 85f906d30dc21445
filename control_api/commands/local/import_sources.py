"""Where other programs keep their configurations and models: the disk's part of an import."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from control_api.client import RefusedError
from control_api.commands.local.catalog import suggest_name
from control_api.commands.local.importing import llama_cpp, llama_swap, lm_studio, modelfile
from control_api.commands.local.importing.values import (
    MAX_MODELS,
    MAX_TEXT,
    Imported,
    Item,
    clean_name,
)

MOST_FILES: Final = 20_000  # looked at below a folder of models
_SETTINGS: Final = Path(".internal") / "user-concrete-model-default-config"
_REGISTRY: Final = "registry.ollama.ai"


def read_text(path: Path) -> str:
    """A text file, within bounds. Raises ``RefusedError``."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEXT + 1)
    except OSError as error:
        raise refuse(f"{path} cannot be read: {error.strerror or error}.") from None
    if len(data) > MAX_TEXT:
        raise refuse(f"{path} has more than {MAX_TEXT >> 20} MiB.", "Is it the right file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise refuse(f"{path} is no text: line {line} is not UTF-8.") from None


def refuse(message: str, hint: str = "") -> RefusedError:
    return RefusedError("invalid_request", message, hint)


def llama_swap_file(source: str) -> Imported:
    path = _file(source)
    return llama_swap.translate(read_text(path), path.name, path.parent, os.environ)


def llama_cpp_file(source: str) -> Imported:
    path = _file(source)
    return llama_cpp.translate(read_text(path), path.name, path.parent)


def _file(source: str) -> Path:
    path = Path(source).expanduser().absolute()
    if not path.is_file():
        raise refuse(f"There is no file {path}.")
    return path


# ---------------------------------------------------------------- Ollama


def ollama(source: str, name: str | None) -> Imported:
    """A Modelfile, or a model that Ollama has pulled. Raises ``RefusedError``."""
    path = Path(source).expanduser().absolute()
    if path.is_file():
        short = path.parent.name if path.name.lower() == "modelfile" else path.stem
        text = read_text(path)
        return modelfile.translate(
            text, path.name, name or suggest_name(short), path.parent, ollama_recipe
        )
    recipe = ollama_recipe(source)
    if recipe is None:
        raise refuse(
            f"There is no file {path}, and Ollama has no model {source[:100]!r} on this machine.",
            f"`ollama list` shows its models; they are looked for in {ollama_folder()}.",
        )
    called = name or clean_name(source.removesuffix(":latest"))
    return modelfile.of_recipe(recipe, f"Ollama's {source}", called, path.parent, ollama_recipe)


def ollama_folder() -> Path:
    """Where Ollama keeps its models, by OLLAMA_MODELS, else in the user's home or the service's."""
    named = os.environ.get("OLLAMA_MODELS")
    if named:
        return Path(named).expanduser().absolute()
    own = Path.home() / ".ollama" / "models"
    service = Path("/usr/share/ollama/.ollama/models")
    return own if own.is_dir() or not os.access(service, os.R_OK | os.X_OK) else service


def ollama_recipe(name: str) -> modelfile.Recipe | None:
    """What Ollama knows of a model of its own; None: it is not there. Raises ``RefusedError``."""
    folder = ollama_folder()
    whole, _, tag = name.partition(":")
    parts = whole.split("/")
    if any(part in ("", ".", "..") for part in parts) or len(parts) > 3 or "/" in tag:
        return None
    if len(parts) < 3:
        parts = [_REGISTRY, *(["library"] if len(parts) == 1 else []), *parts]
    manifest = folder.joinpath("manifests", *parts, tag or "latest")
    if not manifest.is_file():
        return None
    blobs = folder / "blobs"
    recipe, small = modelfile.layers(read_text(manifest), name, lambda digest: blobs / digest)
    for kind, path in small.items():
        modelfile.add_small(recipe, kind, read_text(path), f"{kind} of {name}")
    return recipe


# ---------------------------------------------------------------- LM Studio


def lm_studio_models(source: str | None) -> Imported:
    """The models of LM Studio's folder with their settings, or that of one file of settings.
    Raises ``RefusedError``."""
    if source is None:
        home = lm_studio_home()
        return _studio(home, home / "models", None)
    path = Path(source).expanduser().absolute()
    if path.is_file() and path.suffix == ".json":
        found = next((p.parent.parent for p in path.parents if p.name == _SETTINGS.name), None)
        if found is None:
            hint = f"Settings lie in {lm_studio_home() / _SETTINGS}."
            raise refuse(f"{path} is none of LM Studio's settings of a model.", hint)
        return _studio(found, found / "models", path)
    if not path.is_dir():
        raise refuse(f"There is no folder {path}.", "LM Studio's own, or that of its models.")
    if (path / "models").is_dir():
        return _studio(path, path / "models", None)
    home = path.parent if (path.parent / _SETTINGS).is_dir() else lm_studio_home()
    return _studio(home, path, None)


def lm_studio_home() -> Path:
    """LM Studio's folder: as its pointer says, else where it usually is."""
    try:
        named = (Path.home() / ".lmstudio-home-pointer").read_text("utf-8")[:4096].strip()
    except (OSError, ValueError):
        named = ""
    for place in (named, str(Path.home() / ".lmstudio"), str(Path.home() / ".cache/lm-studio")):
        if place.startswith("/") and Path(place).is_dir():
            return Path(place)
    return Path.home() / ".lmstudio"


def _studio(home: Path, models: Path, only: Path | None) -> Imported:
    found = Imported("LM Studio")
    if not models.is_dir():
        raise refuse(f"There is no folder {models}.", "Name LM Studio's folder, or its models'.")
    settings = home / _SETTINGS
    names: set[str] = set()
    for path in _weights(models):
        file = settings / path.relative_to(models)
        file = file.with_name(f"{file.name}.json")
        if only is not None and file != only:
            continue
        gguf = path.suffix == ".gguf"
        name = suggest_name(path.stem if gguf else path.name)
        if name in names:
            name = clean_name((path.stem if gguf else path.name).lower())
        names.add(name)
        item = Item(name, {"path": str(path)})
        projector = next(iter(sorted(path.parent.glob("*mmproj*.gguf"))), None) if gguf else None
        if projector is not None:
            item.set("mmproj", str(projector))
        if file.is_file():
            lm_studio.apply(item, read_text(file), file.name, gguf=gguf)
        found.items.append(item)
        if len(found.items) > MAX_MODELS:
            raise refuse(f"There are more than {MAX_MODELS} models in {models}.")
    if not found.items:
        what = f"the model of {only.name}" if only is not None else "a model"
        raise refuse(f"{models} has not {what}.", "Name LM Studio's folder, or its models'.")
    return found


def _weights(models: Path) -> Iterator[Path]:
    """GGUF files (of several parts the first) and folders of MLX, by name."""
    seen = 0
    for folder, inner, files in os.walk(models):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if len(Path(folder).relative_to(models).parts) >= 3:
            inner.clear()
        seen += len(files)
        if seen > MOST_FILES:
            raise refuse(f"{models} has more than {MOST_FILES} files.", "Name a folder inside it.")
        if "config.json" in files and any(name.endswith(".safetensors") for name in files):
            yield Path(folder)
        for name in sorted(files):
            first = "-of-" not in name or "-00001-of-" in name
            if name.endswith(".gguf") and first and "mmproj" not in name.lower():
                yield Path(folder) / name


def taken(values: Mapping[str, object]) -> tuple[set[str], set[str], set[str]]:
    """Of a configuration as it stands: its models with their aliases, its command engines, and the
    engines that have a table."""
    models, engines = values.get("models"), values.get("engines")
    names: set[str] = set()
    for name, entry in models.items() if isinstance(models, dict) else ():
        aliases = entry.get("aliases") if isinstance(entry, dict) else None
        names |= {name, *(map(str, aliases) if isinstance(aliases, list) else ())}
    engines = engines if isinstance(engines, dict) else {}
    command = engines.get("command")
    return names, set(command if isinstance(command, dict) else ()), set(engines)
