"""Where to look, in the order in which names are given. Pure.

Sources: huggingface_hub's variables; llama.cpp's ``fs_get_cache_directory``; Ollama's FAQ
(``OLLAMA_MODELS``, the folder of its service user); LM Studio's pointer and ``downloadsFolder``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon.config.finds import PlaceName
from daemon.config.sections import Discovery

SERVICE_STORE: Final = Path("/usr/share/ollama/.ollama/models")
POINTER: Final = ".lmstudio-home-pointer"


@dataclass(frozen=True, slots=True)
class Place:
    """A folder, and how what is in it is laid out."""

    name: PlaceName
    folder: Path


@dataclass(frozen=True, slots=True)
class Told:
    """What small files say of LM Studio: its home, and the text of its settings by home."""

    pointer: str = ""
    settings: Mapping[Path, str] | None = None


def homes(home: Path, pointer: str) -> list[Path]:
    """The folders that may be LM Studio's, the likeliest first."""
    named = pointer.strip().splitlines()[:1]
    told = [Path(named[0].strip())] if named and named[0].strip().startswith("/") else []
    return list(dict.fromkeys([*told, home / ".lmstudio", home / ".cache" / "lm-studio"]))


def places(
    settings: Discovery,
    environ: Mapping[str, str],
    hub: Path,
    told: Told,
    *,
    mac: bool,
) -> list[Place]:
    """Every place that is configured, once. ``hub``: the hub's cache."""
    if not settings.enabled:
        return []
    home = _absolute(environ.get("HOME", ""))
    wanted: list[Place] = [Place("folder", Path(folder)) for folder in settings.folders]
    own: dict[str, Sequence[Path]] = {
        "huggingface": [hub],
        "lmstudio": _lmstudio(home, told) if home is not None else [],
        "llama.cpp": _llama_cache(environ, home, mac=mac),
        "ollama": _ollama(environ, home),
    }
    for name in ("huggingface", "lmstudio", "llama.cpp", "ollama"):
        if name in settings.places:
            wanted += [Place(name, folder) for folder in own[name]]
    once: dict[Path, Place] = {}
    for place in wanted:
        once.setdefault(place.folder, place)
    return list(once.values())


def _absolute(text: str) -> Path | None:
    return Path(text) if text.startswith("/") else None


def _lmstudio(home: Path, told: Told) -> list[Path]:
    found = []
    for folder in homes(home, told.pointer):
        found += [_downloads((told.settings or {}).get(folder, "")), folder / "models"]
    return [folder for folder in found if folder is not None]


def _downloads(settings: str) -> Path | None:
    try:
        folder = json.loads(settings)["downloadsFolder"] if settings else ""
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return _absolute(folder) if isinstance(folder, str) and "\0" not in folder else None


def _llama_cache(environ: Mapping[str, str], home: Path | None, *, mac: bool) -> list[Path]:
    named = _absolute(environ.get("LLAMA_CACHE", ""))
    if named is not None:
        return [named]
    if home is None:
        return []
    if mac:
        return [home / "Library" / "Caches" / "llama.cpp"]
    cache = _absolute(environ.get("XDG_CACHE_HOME", "")) or home / ".cache"
    return [cache / "llama.cpp"]


def _ollama(environ: Mapping[str, str], home: Path | None) -> list[Path]:
    named = _absolute(environ.get("OLLAMA_MODELS", ""))
    own = [named] if named is not None else [home / ".ollama" / "models"] if home else []
    return [*own, SERVICE_STORE]
