"""The models among the files of one repository, or of one folder. Pure.

A repository's model is called ``OWNER/REPO:QUANT``, as llama.cpp and Ollama refer to it; one in a
plain folder by its file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from daemon.config.finds import Find, PlaceName
from daemon.core.problems import ProblemError
from daemon.discovery.listing import Seen
from daemon.downloads.choose import (
    RepoFile,
    Weights,
    choose_files,
    choose_projector,
    groups,
    is_projector,
    series,
    unsharded,
)

MAX_NAME: Final = 160  # of 200: there may come more behind it
_ODD: Final = re.compile(r"[^A-Za-z0-9._:/@+-]+")
_NO_MODEL: Final = re.compile(
    r"(^|[-_.])(draft|imatrix|lora|adapter|vocab)([-_.]|$)", re.IGNORECASE
)
# What programs add to a file while they bring it.
_PARTIAL: Final = (
    ".part", ".partial", ".incomplete", ".downloading", ".downloadinprogress", ".download",
    ".crdownload", ".tmp", ".aria2",
)  # fmt: skip
_COMING: Final = "it is still being copied or downloaded, or that was broken off"


@dataclass(frozen=True, slots=True)
class Shelf:
    """Some files that belong together. ``files``: by their names in the repository or folder."""

    place: PlaceName
    root: Path  # of what ``Seen.name`` is relative to
    files: Mapping[str, Seen]

    def listed(self) -> list[RepoFile]:
        """Its GGUF files."""
        return [
            RepoFile(name, seen.size)
            for name, seen in self.files.items()
            if name.lower().endswith(".gguf")
        ]

    def path(self, name: str) -> Path:
        return self.root / self.files[name].name

    def find(
        self,
        names: Sequence[str],
        shorts: Sequence[str],
        parts: Sequence[str],
        *,
        path: Path | None = None,
        mmproj: str | None = None,
        problem: str = "",
    ) -> Find:
        """A model of the files ``parts``, given to engines as ``path`` (unset: the first)."""
        seen = [self.files[name] for name in parts]
        beside = [self.files[mmproj]] if mmproj is not None else []
        return Find(
            place=self.place,
            names=tuple(dict.fromkeys(map(name_of, names))),
            shorts=tuple(dict.fromkeys(map(name_of, shorts))),
            path=path if path is not None else self.path(parts[0]),
            files=tuple(self.root / each.name for each in seen),
            size=sum(each.size for each in (*seen, *beside)),
            stamp=stamp_of([*seen, *beside]),
            file=seen[0].file,
            mmproj=self.path(mmproj) if mmproj is not None else None,
            problem=problem,
        )


def stamp_of(files: Iterable[Seen]) -> str:
    """What differs once one of them does."""
    return " ".join(f"{seen.file[1]}:{seen.size}:{seen.changed}" for seen in files)


def name_of(text: str) -> str:
    """A name that can be asked for, like ``text``: odd characters become ``-``."""
    plain = _ODD.sub("-", text).lstrip("._:/@+-")[:MAX_NAME].rstrip("-/:@")
    return plain or "model"


def stem_of(name: str) -> str:
    """A file's name without its folder, its ending and the number of its part."""
    return unsharded(PurePosixPath(name).stem)


def plain_repo(repo: str) -> str:
    """What a repository's model is called in short: without the owner and the format."""
    short = repo.rpartition("/")[2]
    return re.sub(r"[-_.]gguf$", "", short, flags=re.IGNORECASE) or short


def partial(name: str) -> str:
    """The file that this one will be once it is whole; "" for any other."""
    lower = name.lower()
    ending = next((end for end in _PARTIAL if lower.endswith(end)), "")
    whole = name[: -len(ending)] if ending else ""
    return whole if whole.lower().endswith((".gguf", ".safetensors")) else ""


def repository(repo: str, shelf: Shelf) -> list[Find]:
    """The models of a repository, of which the one that a pull would choose has its name."""
    files = shelf.listed()
    models = [model for model in groups(files) if not _NO_MODEL.search(stem_of(_first(model)))]
    found = []
    if models:
        mmproj = choose_projector(files)
        best = _preferred(files, models)
        taken: set[str] = set()
        for model in models:
            first = _first(model)
            own = f"{repo}:{model.quant}" if model.quant else f"{repo}/{stem_of(first)}"
            if own in taken:
                own = f"{repo}/{stem_of(first)}"
            taken.add(own)
            more = [repo] if model is best else []
            more += [f"{repo}@{model.quant.lower()}"] if model.quant else []
            more += [f"{repo}/{first}"]
            found.append(
                shelf.find(
                    [own, *more],
                    [*([plain_repo(repo), plain_repo(repo).lower()] if model is best else []),
                     stem_of(first)],
                    [file.name for file in model.files],
                    mmproj=mmproj.name if mmproj is not None else None,
                )
            )  # fmt: skip
    elif (whole := _checkpoint([repo], [plain_repo(repo)], shelf)) is not None:
        found.append(whole)
    return [*found, *_partials(f"{repo}/", shelf)]


def folder(at: str, shelf: Shelf) -> list[Find]:
    """The models of one folder, ``at`` below its place, that knows no repositories."""
    files = shelf.listed()
    models = [model for model in groups(files) if not _NO_MODEL.search(stem_of(_first(model)))]
    kinds = {series(stem_of(_first(model))) for model in models}
    found = []
    below = f"{at}/" if at else ""
    for model in models:
        stem = stem_of(_first(model))
        mmproj = _projector_for(stem, files, alone=len(kinds) == 1)
        found.append(
            shelf.find(
                [stem, f"{below}{stem}", f"{below}{_first(model)}"],
                [series(stem)],
                [file.name for file in model.files],
                mmproj=mmproj,
            )
        )
    if not models and at:
        whole = _checkpoint([at.rpartition("/")[2], at], [], shelf)
        found += [whole] if whole is not None else []
    return [*found, *_partials("", shelf)]


def _first(model: Weights) -> str:
    return model.files[0].name


def _preferred(files: Sequence[RepoFile], models: Sequence[Weights]) -> Weights:
    try:
        chosen = choose_files(files)[0]
    except ProblemError:
        return models[0]
    return next((model for model in models if chosen in model.files), models[0])


def _projector_for(stem: str, files: Sequence[RepoFile], *, alone: bool) -> str | None:
    """The projector of one model among several: any if it is alone, else that with its name."""
    if alone:
        found = choose_projector(files)
    else:
        mine = _plain(series(stem))
        named = [f for f in files if is_projector(f.name) and mine in _plain(stem_of(f.name))]
        found = choose_projector(named)
    return found.name if found is not None else None


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _checkpoint(names: Sequence[str], shorts: Sequence[str], shelf: Shelf) -> Find | None:
    """A folder of safetensors as a model."""
    weights = [name for name in shelf.files if "/" not in name and name.endswith(".safetensors")]
    config = shelf.files.get("config.json")
    if not weights or config is None or any(_adapter(name) for name in shelf.files):
        return None
    return shelf.find(names, shorts, [*weights], path=(shelf.root / config.name).parent)


def _adapter(name: str) -> bool:
    return name == "adapter_config.json"


def _partials(before: str, shelf: Shelf) -> list[Find]:
    """Files that are on their way here: shown, and served once they are whole."""
    found = []
    for name in shelf.files:
        whole = partial(name)
        if whole and whole not in shelf.files and not is_projector(whole):
            stem = f"{before}{stem_of(whole)}"
            found.append(shelf.find([stem], [], [name], problem=_COMING))
    return found
