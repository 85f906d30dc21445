"""Where other programs keep their configurations and models: the disk's part of an import."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

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
from control_api.places import absolute

if TYPE_CHECKING:
    from daemon.config.finds import Find

_SETTINGS: Final = Path(".internal") / "user-concrete-model-default-config"


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
    path = absolute(source)
    if not path.is_file():
        raise refuse(f"There is no file {path}.")
    return path


# ---------------------------------------------------------------- Ollama


def ollama(source: str, name: str | None) -> Imported:
    """A Modelfile, or a model that Ollama has pulled. Raises ``RefusedError``."""
    path = absolute(source)
    if path.is_file():
        short = path.parent.name if path.name.lower() == "modelfile" else path.stem
        text = read_text(path)
        return modelfile.translate(
            text, path.name, name or suggest_name(short), path.parent, ollama_recipe
        )
    recipe = ollama_recipe(source)
    if recipe is None:
        stores = " and ".join(map(str, _folders("ollama")))
        raise refuse(
            f"There is no file {path}, and Ollama has no model {source[:100]!r} on this machine.",
            f"`ollama list` shows its models; they are looked for in {stores}.",
        )
    called = name or clean_name(source.removesuffix(":latest"))
    return modelfile.of_recipe(recipe, f"Ollama's {source}", called, path.parent, ollama_recipe)


def _folders(program: Literal["lmstudio", "ollama"]) -> list[Path]:
    """Where a program's models are, as they are found without an import, too."""
    from daemon.config.sections import Discovery
    from daemon.discovery.look import places_of

    found = places_of(Discovery(places=(program,)), os.environ, Path())
    return [place.folder for place in found]


def ollama_recipe(name: str) -> modelfile.Recipe | None:
    """What Ollama knows of a model of its own; None: it is not there. Raises ``RefusedError``."""
    from daemon.discovery import ollama as store
    from daemon.discovery.listing import text_of, walk

    for folder in _folders("ollama"):
        listing = walk(folder, store.ollama_folder)
        manifest = store.manifest_of(name, listing)
        if manifest is not None:
            break
    else:
        return None
    layers = store.layers(text_of(folder / manifest))
    if layers is None:
        raise refuse(f"{folder / manifest} is no manifest.", f"`ollama pull {name}` mends it.")
    if not layers.get("model"):
        raise refuse(f"{name} has no weights here in a form that other programs read.")
    paths: dict[str, list[Path]] = {}
    for kind in modelfile.KINDS:
        for digest in layers.get(kind, ()):
            seen = store.blob(digest, listing)
            if seen is None:
                raise refuse(f"A part of {name} is missing: `ollama pull {name}` brings it again.")
            paths.setdefault(kind, []).append(listing.path(seen))
    recipe = modelfile.of_files(paths)
    for kind in modelfile.SMALL:
        for path in paths.get(kind, ()):
            modelfile.add_small(recipe, kind, read_text(path), f"{kind} of {name}")
    return recipe


# ---------------------------------------------------------------- LM Studio


def lm_studio_models(source: str | None) -> Imported:
    """The models of LM Studio's folder with their settings, or that of one file of settings.
    Raises ``RefusedError``."""
    homes = _homes()
    if source is None:
        there = [folder for folder in _folders("lmstudio") if folder.is_dir()]
        return _studio(homes, there or [homes[0] / "models"], None)
    path = absolute(source)
    if path.is_file() and path.suffix == ".json":
        found = next((p.parent.parent for p in path.parents if p.name == _SETTINGS.name), None)
        if found is None:
            hint = f"Settings lie in {homes[0] / _SETTINGS}."
            raise refuse(f"{path} is none of LM Studio's settings of a model.", hint)
        return _studio([found], [found / "models"], path)
    if not path.is_dir():
        raise refuse(f"There is no folder {path}.", "LM Studio's own, or that of its models.")
    if (path / "models").is_dir():
        return _studio([path], [path / "models"], None)
    return _studio([path.parent, *homes], [path], None)


def _homes() -> list[Path]:
    """LM Studio's own folders, the likeliest first."""
    from daemon.discovery.listing import text_of
    from daemon.discovery.places import POINTER, homes

    found = homes(Path.home(), text_of(Path.home() / POINTER))
    return [home for home in found if home.is_dir()] or found[:1]


def _studio(homes: Sequence[Path], folders: Sequence[Path], only: Path | None) -> Imported:
    """``only``: the settings of the one model that is wanted."""
    found = Imported("LM Studio")
    names: set[str] = set()
    for models in folders:
        for find in _finds(models):
            path, gguf = find.path, find.path.suffix.lower() == ".gguf"
            file = _settings(path.relative_to(models), homes)
            if only is not None and file != only:
                continue
            name = suggest_name(path.stem if gguf else path.name)
            if name in names:
                name = clean_name((path.stem if gguf else path.name).lower())
            names.add(name)
            if find.problem:
                found.skipped[name] = find.problem
                continue
            item = Item(name, {"path": str(path)})
            if find.mmproj is not None:
                item.set("mmproj", str(find.mmproj))
            if file is not None:
                lm_studio.apply(item, read_text(file), file.name, gguf=gguf)
            found.items.append(item)
            if len(found.items) > MAX_MODELS:
                raise refuse(f"There are more than {MAX_MODELS} models in {models}.")
    if not found.items and not found.skipped:
        what = f"the model of {only.name}" if only is not None else "a model"
        hint = "Name LM Studio's folder, or its models'."
        raise refuse(f"{' and '.join(map(str, folders))} has not {what}.", hint)
    return found


def _settings(model: Path, homes: Sequence[Path]) -> Path | None:
    """Those of a model, by where it is among the models."""
    files = [home / _SETTINGS / model.with_name(f"{model.name}.json") for home in homes]
    return next((file for file in files if file.is_file()), None)


def _finds(models: Path) -> list[Find]:
    """The models of a folder as it is laid out by LM Studio, by path. A lone later part of one is
    left out."""
    from daemon.discovery.layouts import any_folder, lmstudio
    from daemon.discovery.listing import MAX_ENTRIES, walk

    if not models.is_dir():
        raise refuse(f"There is no folder {models}.", "Name LM Studio's folder, or its models'.")
    listing = walk(models, any_folder)
    if listing.cut:
        raise refuse(f"{models} has more than {MAX_ENTRIES} files.", "Name a folder inside it.")
    found = sorted(lmstudio(listing), key=lambda find: find.path)
    return [find for find in found if _first(find.path)]


def _first(path: Path) -> bool:
    from daemon.weights.errors import WeightsError
    from daemon.weights.gguf import shard_paths

    try:
        return shard_paths(path)[0] == path
    except WeightsError:
        return False


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
