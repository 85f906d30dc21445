"""The hub's cache as things that can go: models, old commits, downloads that were given up.

Works on the documented layout (see ``locate``) file by file: one repository holds several models
(quantisations), and the hub's client removes whole commits only. A content (``blobs/``) goes with
the last link to it. The cache is shared with other programs: nothing else in it is touched.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from daemon.downloads.choose import groups, is_projector
from daemon.downloads.locate import MARK, PART, Snapshot, repo_of, snapshots, storage


@dataclass(frozen=True, slots=True)
class Holding:
    """One model in one commit: the files that only go together. ``quant``: "" for what has none.

    ``size``: bytes; ``seen``: when the disk saw it used or written last (Unix seconds);
    ``current``: a branch or tag points to its commit.
    """

    repo: str
    quant: str
    files: tuple[Path, ...]
    size: int
    seen: float
    current: bool

    @property
    def name(self) -> str:
        """As a pull calls it."""
        return f"hf:{self.repo}:{self.quant}" if self.quant else f"hf:{self.repo}"


@dataclass(frozen=True, slots=True)
class Partial:
    """A download that has not come to its end. ``seen``: when a byte came last; ``ours``: nobody
    else goes on with it."""

    repo: str
    file: Path
    size: int
    seen: float
    ours: bool = False


def repositories(cache: Path) -> list[str]:
    """All repositories of models in the cache, by name."""
    try:
        names = [one.name for one in cache.iterdir() if one.name.startswith(MARK) and one.is_dir()]
    except OSError:
        return []
    return sorted(map(repo_of, names))


def holdings(repo: str, cache: Path) -> list[Holding]:
    """The models that are here of one repository, those of commits in use first."""
    refs = _refs(storage(repo, cache))
    found = list(snapshots(repo, cache))
    current = [one for one in found if one.folder.name in refs]
    shared = {one.path(file).resolve() for one in current for file in one.files}
    made = [holding for one in current for holding in _of(repo, one)]
    old = (one for one in found if one not in current)
    return [*made, *(holding for one in old for holding in _of(repo, one, shared))]


def _of(repo: str, snapshot: Snapshot, shared: set[Path] | None = None) -> Iterator[Holding]:
    """Each GGUF model by itself, else the commit as a whole. ``shared``, of a commit that is not in
    use: contents that stay with those that are, and are not counted."""
    models = [(model.quant, model.files) for model in groups(snapshot.files)]
    for quant, names in models or [("", snapshot.files)]:
        files = tuple(snapshot.path(file) for file in names)
        own = [path for path in files if path.resolve() not in (shared or ())]
        yield Holding(repo, quant, files, _bytes(own), _seen(files), shared is None)


def partials(repo: str, cache: Path) -> list[Partial]:
    """What is left of downloads of this repository: ours, and those of the hub's client."""
    found = []
    with suppress(OSError):
        for path in sorted((storage(repo, cache) / "blobs").glob("*.incomplete")):
            about = path.stat()
            ours = path.name.endswith(PART)
            found.append(Partial(repo, path, about.st_size, about.st_mtime, ours))
    return found


def with_projectors(files: Iterable[Path], keep: Container[Path] = ()) -> set[Path]:
    """The files, and the projectors beside them where no model is left that could use them, but
    not those in ``keep``."""
    gone = set(files)
    for folder in {_snapshot(path) for path in gone} - {None}:
        assert folder is not None
        rest = [path for path in folder.rglob("*") if path.is_file() and path not in gone]
        if not any(path.suffix in (".gguf", ".safetensors") and _model(path) for path in rest):
            gone.update(p for p in rest if is_projector(p.name) and p not in keep)
    return gone


def _model(path: Path) -> bool:
    return not is_projector(path.name)


def remove(files: Iterable[Path], cache: Path) -> int:
    """Remove these files of the cache, contents that nothing links to any more, and folders that
    are empty then. Gives the bytes that were freed. Raises OSError; what is gone already is no
    error. Files outside the cache are refused (ValueError)."""
    freed, touched = 0, set()
    root = cache.resolve()
    for path in sorted(set(files)):
        place = path.parent.resolve()
        if root not in place.parents:
            raise ValueError(f"{path} is not in {cache}")
        repo = root / place.relative_to(root).parts[0]
        freed += _unlink(path, repo)
        touched.add(repo)
    for repo in touched:
        _tidy(repo, root)
    return freed


def _unlink(path: Path, repo: Path) -> int:
    """One file, and its content if this was the last link to it."""
    target = path.resolve() if path.is_symlink() else None
    size = 0
    with suppress(FileNotFoundError):
        size = path.lstat().st_size if target is None else 0
        path.unlink()
    if target is None or target.parent != repo / "blobs" or target in _linked(repo):
        return size
    with suppress(FileNotFoundError):
        size = target.stat().st_size
        target.unlink()
    return size


def _linked(repo: Path) -> set[Path]:
    """All contents that some commit of the repository has."""
    links = (path for path in (repo / "snapshots").rglob("*") if path.is_symlink())
    return {link.resolve() for link in links}


def _tidy(repo: Path, root: Path) -> None:
    """Folders without files, and the whole repository where no commit is left of it."""
    _drop_empty(repo / "snapshots")
    left = (repo / "snapshots").exists() or any((repo / "blobs").glob("*"))
    if left:
        with suppress(OSError):
            _drop_lost_refs(repo)
        return
    for path in sorted((repo / "refs").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    for name in ("refs", "blobs", ".no_exist"):
        _drop_empty(repo / name)
    _drop_empty(repo)
    locks = root / ".locks" / repo.name
    for lock in locks.glob("*.lock"):
        with suppress(OSError):
            lock.unlink()
    _drop_empty(locks)


def _drop_lost_refs(repo: Path) -> None:
    """Branches whose commit is gone would be told as something that is here."""
    for ref in [path for path in (repo / "refs").rglob("*") if path.is_file()]:
        if not (repo / "snapshots" / ref.read_text("utf-8", "replace").strip()).exists():
            ref.unlink()


def _drop_empty(folder: Path) -> None:
    for inner, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # it is not empty
            Path(inner).rmdir()


def _snapshot(path: Path) -> Path | None:
    return next((p for p in path.parents if p.parent.name == "snapshots"), None)


def _refs(place: Path) -> set[str]:
    found = set()
    for path in (place / "refs").rglob("*"):
        with suppress(OSError):
            if path.is_file():
                found.add(path.read_text("utf-8", "replace").strip())
    return found


def _bytes(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def _seen(files: Iterable[Path]) -> float:
    """The latest of reading and writing; a copy that keeps old times was made when its link was."""
    times = [0.0]
    for path in files:
        about, link = path.stat(), path.lstat()
        times += [about.st_atime, about.st_mtime, link.st_mtime]
    return max(times)
