"""Where downloaded files lie, so that an engine can start on a local path without the network.

Reads the layout of the hub's cache, which is documented and shared with other programs:
``models--OWNER--NAME/snapshots/COMMIT/FILE`` (links into ``blobs/``) and ``refs/BRANCH``, which
holds a commit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon.core.problems import ProblemError
from daemon.downloads.choose import RepoFile, choose_files, choose_projector, groups, quants

MARK: Final = "models--"
"""With which folders of models begin."""
PART: Final = ".modelport.incomplete"
"""What a download of ours is called behind the name of its content, until it is whole."""


def default_cache() -> Path:
    """The hub's cache of this user (``HF_HOME``, ``HF_HUB_CACHE`` and their defaults)."""
    # Imported late: the import costs 50 times what a look into the cache does.
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def storage(repo: str, cache_dir: Path) -> Path:
    """The folder of one repository in the cache."""
    return cache_dir / f"{MARK}{repo.replace('/', '--')}"


def repo_of(folder: str) -> str:
    """The repository that such a folder is called after."""
    return folder.removeprefix(MARK).replace("--", "/", 1)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One commit of a repository, as far as its files are on the disk."""

    folder: Path
    files: tuple[RepoFile, ...]

    def path(self, file: RepoFile) -> Path:
        return self.folder / file.name


def snapshots(repo: str, cache_dir: Path, revision: str | None = None) -> Iterator[Snapshot]:
    """The snapshots of a repository, that of ``revision`` (default ``main``) first.

    A given revision is the only one that is looked at. Never raises for a missing folder.
    """
    place = storage(repo, cache_dir)
    root = place / "snapshots"
    wanted = _commit(place, revision or "main")
    folders = [root / wanted]
    if revision is None and root.is_dir():
        others = [f for f in root.iterdir() if f.is_dir() and f.name != wanted]
        folders += sorted(others, key=lambda f: (f.stat().st_mtime, f.name), reverse=True)
    for folder in folders:
        files = tuple(_files(folder))
        if files:
            yield Snapshot(folder, files)


def locate(
    repo: str,
    quant: str | None = None,
    file: str | None = None,
    cache_dir: Path | None = None,
    revision: str | None = None,
) -> Path | None:
    """The weights of a model, if all is here: a GGUF file (the first shard), or a folder.

    Chooses among what is on the disk as a pull chooses among what is on the hub. None if nothing
    matches or something is missing; never raises for what is or is not in the cache.
    """
    for snapshot in snapshots(repo, cache_dir or default_cache(), revision):
        try:
            chosen = choose_files(snapshot.files, quant, file)
        except ProblemError:
            continue
        if chosen[0].name.lower().endswith(".gguf"):
            return snapshot.path(chosen[0])
        if _complete(snapshot):
            return snapshot.folder
    return None


def locate_file(
    repo: str, file: str, cache_dir: Path | None = None, revision: str | None = None
) -> Path | None:
    """One file of a repository (a template, a projector, a draft), if it is here."""
    for snapshot in snapshots(repo, cache_dir or default_cache(), revision):
        for known in snapshot.files:
            if file in (known.name, Path(known.name).name):
                return snapshot.path(known)
    return None


def held(repo: str, cache_dir: Path | None = None) -> dict[str, int]:
    """The quantisations of a repository that are here whole, and their bytes."""
    found: dict[str, int] = {}
    for snapshot in snapshots(repo, cache_dir or default_cache()):
        found = {**quants(snapshot.files), **found}
    return found


def locate_projector(weights: Path) -> Path | None:
    """The projector beside located weights, as a pull with ``find_mmproj`` would have chosen it."""
    folder = next((p for p in weights.parents if p.parent.name == "snapshots"), weights.parent)
    chosen = choose_projector(tuple(_files(folder)))
    return folder / chosen.name if chosen else None


def shards(weights: Path) -> list[Path]:
    """All files of a GGUF model whose first one this is, in order; itself, where it is in one."""
    beside = [RepoFile(path.name, 0) for path in weights.parent.glob("*.gguf")]
    for group in groups(beside):
        if any(file.name == weights.name for file in group.files):
            return [weights.parent / file.name for file in group.files]
    return [weights]


def _commit(place: Path, revision: str) -> str:
    try:
        return (place / "refs" / revision).read_text(encoding="utf-8").strip() or revision
    except (OSError, ValueError):
        return revision


def _files(folder: Path) -> Iterator[RepoFile]:
    """What is really here: a link whose blob is gone is not."""
    try:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                yield RepoFile(path.relative_to(folder).as_posix(), path.stat().st_size)
    except OSError:  # it is being removed under our eyes
        return


def _complete(snapshot: Snapshot) -> bool:
    """Whether a folder of safetensors can be loaded: its settings, and each file of its index."""
    names = {file.name for file in snapshot.files}
    if "config.json" not in names:
        return False
    indices = [name for name in names if name.endswith(".safetensors.index.json")]
    for index in indices:
        try:
            listed = json.loads((snapshot.folder / index).read_text(encoding="utf-8"))
            needed = set(listed["weight_map"].values())
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return False
        if not needed <= names:
            return False
    return True
