"""One look at the disk: every place listed, every model found, its header known. For a thread."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from daemon.config.finds import FileId, Find
from daemon.config.sections import Discovery
from daemon.discovery.header import Known, read_header
from daemon.discovery.listing import text_of, walk
from daemon.discovery.places import POINTER, Place, Told, homes, places

log = logging.getLogger("modelport.discovery")

MAX_FOUND: Final = 2000  # models of all places together


def places_of(settings: Discovery, environ: Mapping[str, str], hub: Path) -> list[Place]:
    """Where to look on this machine, as configured."""
    home = Path(environ.get("HOME", "") or "/nonexistent")
    pointer = text_of(home / POINTER)
    told = Told(pointer, {each: text_of(each / "settings.json") for each in homes(home, pointer)})
    return places(settings, environ, hub, told, mac=sys.platform == "darwin")


def look(where: Sequence[Place], known: Known, *, read: bool = True) -> tuple[Find, ...]:
    """All models there, in the order in which they get names; parts of models are left out.

    ``read``: also the headers that are not known yet (milliseconds each, the first time).
    """
    found: list[Find] = []
    for place in where:
        finds = _found_in(place)
        room = MAX_FOUND - len(found)
        if len(finds) > room:
            log.warning("%s holds more models than are shown (%d)", place.folder, MAX_FOUND)
        found += finds[: max(0, room)]
    once = _once(found)
    shown = [find for find in (_with_facts(f, known, read=read) for f in once) if find is not None]
    if read:
        known.tidy(once)
    return tuple(shown)


def _found_in(place: Place) -> list[Find]:
    """The models of one place. Readers are read when there is something for them: most people
    have one or two of these programs, and an idle daemon is to stay small."""
    root = place.folder
    if not root.is_dir():
        return []
    if place.name == "ollama":
        from daemon.discovery import ollama

        store = walk(root, ollama.ollama_folder)
        told = {name: text_of(root / name) for name in ollama.manifests(store)}
        return ollama.ollama(store, told, lambda seen: text_of(store.path(seen)))
    from daemon.discovery import layouts

    hub = place.name == "huggingface"
    listing = walk(root, layouts.hub_folder if hub else layouts.any_folder)
    if listing.cut:
        log.warning("%s holds more files than are looked at", root)
    texts = {name: text_of(root / name, 200) for name in layouts.hub_refs(listing)}
    if hub:
        return layouts.hub(listing, texts, "huggingface")
    if place.name == "lmstudio":
        return layouts.lmstudio(listing)
    if place.name == "llama.cpp":
        return layouts.llama_cache(listing, texts)
    return layouts.anything(listing, texts)


def _once(finds: Iterable[Find]) -> list[Find]:
    """One model for the same file in several places, which has all its names. What Ollama serves
    otherwise than its file says is a model of its own."""
    kept: dict[tuple[FileId, str, int | None], Find] = {}
    for find in finds:
        key = (find.file, repr((find.params, find.adapters)), find.ctx)
        plain = (find.file, repr(({}, ())), None)
        first = kept.get(key)
        if first is None:
            kept[key] = find
        elif key == plain:
            kept[key] = replace(
                first,
                names=(*first.names, *find.names),
                shorts=(*first.shorts, *find.shorts),
                mmproj=first.mmproj or find.mmproj,
            )
    return list(kept.values())


def _with_facts(find: Find, known: Known, *, read: bool) -> Find | None:
    if find.problem:
        return find
    facts = known.get(find)
    if facts is None and read:
        facts = read_header(find)
        known.put(find, facts)
    return None if facts is not None and facts.part else replace(find, facts=facts)
