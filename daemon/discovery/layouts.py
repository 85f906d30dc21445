"""How the programs that keep models lay them out: listings in, found models out. Pure.

The hub: ``models--OWNER--NAME/snapshots/COMMIT/FILE`` (links into ``blobs``), ``refs/main`` holds a
commit. LM Studio: ``PUBLISHER/REPO/FILE``. llama.cpp: the hub's layout since spring 2026; before,
``OWNER_REPO_FILE`` beside ``manifest=OWNER=REPO=TAG.json`` (pull requests 13202, 19828, 20775 and
21009 of ggml-org/llama.cpp).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from daemon.config.finds import Find, PlaceName
from daemon.discovery.listing import Listing, Seen
from daemon.discovery.repos import Shelf, folder, repository
from daemon.downloads.locate import MARK, repo_of


def hub_folder(name: str) -> bool:
    """Whether this folder of the hub's cache is worth a look: its blobs are seen by their links."""
    parts = name.split("/")
    return parts[0].startswith(MARK) and (len(parts) == 1 or parts[1] in ("snapshots", "refs"))


def any_folder(name: str) -> bool:
    """The same for a place that may be laid out like the hub's cache in part."""
    return not name.startswith(MARK) or hub_folder(name)


def hub_refs(listing: Listing) -> list[str]:
    """The files of which the text is needed: they say which snapshot is the newest."""
    return [s.name for s in listing.files if s.name.startswith(MARK) and "/refs/main" in s.name]


def hub(listing: Listing, texts: Mapping[str, str], place: PlaceName) -> list[Find]:
    """The models of the hub's cache."""
    repos: dict[str, dict[str, dict[str, Seen]]] = {}
    for seen in listing.files:
        parts = seen.name.split("/", 3)
        if len(parts) == 4 and parts[0].startswith(MARK) and parts[1] == "snapshots":
            repos.setdefault(parts[0], {}).setdefault(parts[2], {})[parts[3]] = seen
    found: list[Find] = []
    for kept, snapshots in repos.items():
        main = texts.get(f"{kept}/refs/main", "").strip()
        order = sorted(snapshots, key=lambda commit: _age(commit, main, snapshots[commit]))
        known: set[tuple[str, ...]] = set()
        repo = repo_of(kept)
        for commit in order:
            for find in repository(repo, Shelf(place, listing.root, snapshots[commit])):
                if find.names[:1] not in known:  # an older one of the same file
                    known.add(find.names[:1])
                    found.append(find)
    return found


def _age(commit: str, main: str, files: Mapping[str, Seen]) -> tuple[bool, int]:
    return (commit != main, -max((seen.changed for seen in files.values()), default=0))


def lmstudio(listing: Listing) -> list[Find]:
    """The models of LM Studio's folder; what does not lie two folders deep is as anywhere."""
    repos: dict[str, dict[str, Seen]] = {}
    rest = []
    for seen in listing.files:
        parts = seen.name.split("/", 2)
        if len(parts) == 3:
            repos.setdefault(f"{parts[0]}/{parts[1]}", {})[parts[2]] = seen
        else:
            rest.append(seen)
    return [*_repositories(listing, "lmstudio", repos), *folders(listing, "lmstudio", rest)]


def llama_cache(listing: Listing, texts: Mapping[str, str]) -> list[Find]:
    """The models of llama.cpp's own cache, in its older and its newer layout."""
    place: PlaceName = "llama.cpp"
    prefixes = {}
    for seen in listing.files:
        parts = seen.name.removesuffix(".json").split("=")
        if seen.name.startswith("manifest=") and len(parts) == 4:
            prefixes[f"{parts[1]}_{parts[2]}_"] = f"{parts[1]}/{parts[2]}"
    repos: dict[str, dict[str, Seen]] = {}
    rest = []
    for seen in listing.files:
        mine = [prefix for prefix in prefixes if seen.name.startswith(prefix)]
        if mine:
            prefix = max(mine, key=len)
            repos.setdefault(prefixes[prefix], {})[seen.name[len(prefix) :]] = seen
        elif not seen.name.startswith(MARK):
            rest.append(seen)
    found = _repositories(listing, place, repos)
    return [*found, *hub(listing, texts, place), *folders(listing, place, rest)]


def _repositories(
    listing: Listing, place: PlaceName, repos: Mapping[str, Mapping[str, Seen]]
) -> list[Find]:
    shelves = {repo: Shelf(place, listing.root, files) for repo, files in repos.items()}
    return [find for repo, shelf in shelves.items() for find in repository(repo, shelf)]


def anything(listing: Listing, texts: Mapping[str, str]) -> list[Find]:
    """The models of a folder that the user has named; a hub's cache in it is read as one."""
    rest = [seen for seen in listing.files if not seen.name.startswith(MARK)]
    return [*hub(listing, texts, "folder"), *folders(listing, "folder", rest)]


def folders(listing: Listing, place: PlaceName, files: Iterable[Seen]) -> list[Find]:
    """Models by the folders that they lie in."""
    each: dict[str, dict[str, Seen]] = {}
    for seen in files:
        at, _, name = seen.name.rpartition("/")
        each.setdefault(at, {})[name] = seen
    shelves = {at: Shelf(place, listing.root, inside) for at, inside in each.items()}
    return [find for at, shelf in shelves.items() for find in folder(at, shelf)]
