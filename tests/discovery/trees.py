"""Folders as other programs lay them out, with real small models in them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

MEDIA = "application/vnd.ollama.image."
REGISTRY = "registry.ollama.ai/library"


def hub(root: Path, repo: str, files: Mapping[str, Path], commit: str = "c0ffee") -> Path:
    """A repository in the hub's cache: links into blobs. Returns the snapshot's folder."""
    kept = root / f"models--{repo.replace('/', '--')}"
    snapshot = kept / "snapshots" / commit
    for folder in (kept / "blobs", kept / "refs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    (kept / "refs" / "main").write_text(commit)
    for name, source in files.items():
        blob = kept / "blobs" / hashlib.sha256(name.encode()).hexdigest()
        shutil.copy(source, blob)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def lmstudio(root: Path, repo: str, files: Mapping[str, Path]) -> Path:
    """A repository in LM Studio's folder."""
    folder = root / repo
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in files.items():
        shutil.copy(source, folder / name)
    return folder


def llama_cache(root: Path, repo: str, files: Mapping[str, Path]) -> None:
    """A repository in llama.cpp's cache as it was until spring 2026."""
    root.mkdir(parents=True, exist_ok=True)
    owner, _, name = repo.partition("/")
    (root / f"manifest={owner}={name}=latest.json").write_text("{}")
    for file, source in files.items():
        shutil.copy(source, root / f"{owner}_{name}_{file}")
        (root / f"{owner}_{name}_{file}.etag").write_text("etag")


class Ollama:
    """A store of Ollama's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs").mkdir(parents=True)

    def blob(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        (self.root / "blobs" / f"sha256-{digest}").write_bytes(data)
        return f"sha256:{digest}"

    def add(
        self,
        name: str,
        weights: Path | None,
        folder: str = "manifests",
        **layers: bytes | Mapping[str, object],
    ) -> Path:
        """``name``: ``model:tag``, or a whole path of a manifest. Returns the manifest."""
        listed = []
        if weights is not None:
            listed.append({"mediaType": f"{MEDIA}model", "digest": self.blob(weights.read_bytes())})
        for kind, content in layers.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            listed.append({"mediaType": MEDIA + kind, "digest": self.blob(data)})
        model, _, tag = name.partition(":")
        place = name if "/" in name else f"{REGISTRY}/{model}/{tag or 'latest'}"
        manifest = self.root / folder / place
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text(json.dumps({"schemaVersion": 2, "layers": listed}))
        return manifest
