"""Ollama's store: manifests that name blobs. Pure.

``manifests/HOST/NAMESPACE/NAME/TAG`` is JSON with layers by media type; a layer's bytes are in
``blobs/sha256-HEX``. Source: the documentation of ``server/internal/manifest`` in ollama/ollama.
Newer versions keep manifests in ``manifests-v2``, under the host ``ollama.com``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from pydantic import JsonValue

from daemon.config.finds import Find
from daemon.discovery.listing import Listing, Seen
from daemon.discovery.repos import name_of, stamp_of

MAX_MANIFESTS: Final = 2000
MAX_LAYER: Final = 1 << 18  # bytes of a template or of parameters
_FOLDERS: Final = ("manifests-v2/", "manifest-v2/", "manifests/")
_HOME: Final = frozenset({"registry.ollama.ai", "ollama.com"})
_MEDIA: Final = "application/vnd.ollama.image."
_DIGEST: Final = re.compile(r"sha256[:-]([0-9a-f]{64})")
SAME: Final = {
    "temperature": float, "top_p": float, "min_p": float, "typical_p": float, "top_k": int,
    "seed": int, "repeat_penalty": float, "repeat_last_n": int, "presence_penalty": float,
    "frequency_penalty": float,
}  # fmt: skip
"""Numbers that mean the same in a chat completion for llama.cpp."""
# By what a template of Ollama's own form contains, llama.cpp's name of the same one.
_BUILT_IN: Final = (
    ("<|start_header_id|>", "llama3"),
    ("<start_of_turn>", "gemma"),
    ("<|im_start|>", "chatml"),
    ("<|assistant|>", "phi3"),
    ("[INST]", "llama2"),
)


def ollama_folder(name: str) -> bool:
    """Whether this folder of the store is worth a look."""
    return name == "blobs" or f"{name}/".startswith(_FOLDERS)


def manifests(listing: Listing) -> list[str]:
    """The files of which the text is needed."""
    return [s.name for s in listing.files if s.name.startswith(_FOLDERS)][:MAX_MANIFESTS]


def manifest_of(name: str, listing: Listing) -> str | None:
    """Of the model that Ollama calls so, where it is told as itself tells it or in full."""
    named = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
    for host in _HOME:
        named = named.removeprefix(f"{host}/")
    named = named.removeprefix("library/")
    for folder in _FOLDERS:
        for path in manifests(listing):
            if path.startswith(folder) and named in names_of(path.removeprefix(folder))[0]:
                return path
    return None


def ollama(
    listing: Listing, texts: Mapping[str, str], read: Callable[[Seen], str] = lambda seen: ""
) -> list[Find]:
    """The models of the store. ``texts``: of its manifests; ``read``: a small blob's text."""
    found: dict[tuple[object, ...], list[Find]] = {}
    named: set[str] = set()
    for folder in _FOLDERS:
        for name in texts:
            if not name.startswith(folder):
                continue
            find = _model(name.removeprefix(folder), texts[name], listing, read)
            if find is not None and find.names[0] not in named:
                named.add(find.names[0])
                same = (find.file, find.mmproj, find.adapters, repr(find.params), find.ctx)
                found.setdefault(same, []).append(find)
    return [_joined(finds) for finds in found.values()]


def _joined(finds: list[Find]) -> Find:
    """Tags of one and the same model: one model with several names, the plainest first."""
    finds.sort(key=lambda f: (f.names[0].endswith(":latest"), len(f.names[0]), f.names[0]))
    names = dict.fromkeys(name for find in finds for name in find.names)
    shorts = dict.fromkeys(name for find in finds for name in find.shorts)
    return replace(finds[0], names=tuple(names), shorts=tuple(shorts))


def names_of(path: str) -> tuple[list[str], list[str]]:
    """Full and short names by a manifest's place, as Ollama itself writes them; the tag ``latest``
    may be left out, any other where there is but one. Empty for what is no manifest's place."""
    parts = path.split("/")
    if len(parts) != 4 or not all(parts):
        return [], []
    host, space, model, tag = parts
    home = host in _HOME
    whole = model if home and space == "library" else f"{space}/{model}"
    full = whole if home else f"{host}/{whole}"
    names = [f"{full}:{tag}", *([full] if tag == "latest" else [])]
    if not home:
        names += [f"{whole}:{tag}", *([whole] if tag == "latest" else [])]
    return names, [model]


def _model(path: str, text: str, listing: Listing, read: Callable[[Seen], str]) -> Find | None:
    names, shorts = names_of(path)
    kinds = layers(text)
    if not names or not kinds:
        return None
    weights = kinds.get("model", [])
    packed = kinds.get("tensor", [])
    if not weights and not packed:
        return None  # one that is served elsewhere, or none of ours
    blobs = {kind: [blob(d, listing) for d in digests] for kind, digests in kinds.items()}
    problem = ""
    if not weights:
        problem = "its weights are in Ollama's own form, which no other program reads"
    main = [seen for seen in blobs.get("model", blobs.get("tensor", [])) if seen is not None]
    if not main or None in blobs.get("model", []):
        problem = problem or "a part of it is missing: ollama pull brings it again"
        main = main or [s for s in listing.files if s.name.endswith(path)][:1]
    if not main:
        return None
    projector = next((seen for seen in blobs.get("projector", []) if seen is not None), None)
    adapters = [seen for seen in blobs.get("adapter", []) if seen is not None]
    params, ctx = _params(_text(blobs.get("params", []), read))
    all_of_it = [*main, *([projector] if projector else []), *adapters]
    return Find(
        place="ollama",
        names=tuple(dict.fromkeys(map(name_of, names))),
        shorts=tuple(dict.fromkeys(map(name_of, shorts))),
        path=listing.path(main[0]),
        files=tuple(listing.path(seen) for seen in main),
        size=sum(seen.size for seen in all_of_it),
        stamp=stamp_of(all_of_it),
        file=main[0].file,
        mmproj=listing.path(projector) if projector is not None else None,
        adapters=tuple(listing.path(seen) for seen in adapters),
        params=params,
        ctx=ctx,
        built_in=_built_in(_text(blobs.get("template", []), read)),
        problem=problem,
    )


def layers(text: str) -> dict[str, list[str]] | None:
    """Digests by what they are (``model``, ``template``, …); None where it is no manifest."""
    try:
        listed = json.loads(text)["layers"]
        found: dict[str, list[str]] = {}
        for layer in listed[:10_000]:
            kind = str(layer["mediaType"])
            if kind.startswith(_MEDIA):
                plain = kind.removeprefix(_MEDIA).partition(";")[0]
                found.setdefault(plain, []).append(str(layer["digest"]))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return found


def blob(digest: str, listing: Listing) -> Seen | None:
    match = _DIGEST.fullmatch(digest)
    if match is None:
        return None
    by_name = listing.by_name
    return by_name.get(f"blobs/sha256-{match[1]}") or by_name.get(f"blobs/sha256:{match[1]}")


def _text(blobs: list[Seen | None], read: Callable[[Seen], str]) -> str:
    first = next((seen for seen in blobs if seen is not None and seen.size <= MAX_LAYER), None)
    return read(first) if first is not None else ""


def _params(text: str) -> tuple[dict[str, JsonValue], int | None]:
    """Fields of requests, and the context in tokens."""
    try:
        given: Any = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}, None
    if not isinstance(given, dict):
        return {}, None
    params = {name: given[name] for name in (*SAME, "stop") if _plain(given.get(name))}
    ctx = given.get("num_ctx")
    sound = isinstance(ctx, int) and not isinstance(ctx, bool) and 256 <= ctx <= 1 << 24
    return params, ctx if sound else None


def _plain(value: object) -> bool:
    """A number, or some texts to stop at."""
    if isinstance(value, list):
        return 0 < len(value) <= 16 and all(isinstance(item, str) and item for item in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _built_in(template: str) -> str:
    return next((name for mark, name in _BUILT_IN if mark in template), "")
