from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.downloads.locate import (
    default_cache,
    held,
    locate,
    locate_file,
    locate_projector,
    snapshots,
    storage,
)

REPO = "owner/name"
OLD, NEW = "a" * 40, "b" * 40


class Cache:
    """A cache of the hub's layout: blobs, links to them, refs."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, name: str, *, commit: str = NEW, repo: str = REPO, text: str = "x") -> Path:
        place = storage(repo, self.root)
        blob = place / "blobs" / f"{commit[:4]}-{name.replace('/', '-')}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_text(text)
        link = place / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
        return link

    def ref(self, commit: str, branch: str = "main", repo: str = REPO) -> None:
        ref = storage(repo, self.root) / "refs" / branch
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def test_an_empty_cache_has_nothing(cache: Cache) -> None:
    assert locate(REPO, cache_dir=cache.root) is None
    assert locate_file(REPO, "t.jinja", cache.root) is None
    assert list(snapshots(REPO, cache.root)) == []


def test_the_quantisations_that_are_here(cache: Cache) -> None:
    assert held(REPO, cache.root) == {}
    cache.put("m-Q8_0.gguf", text="12345678")
    cache.put("m-UD-Q4_K_XL.gguf", text="1234")
    cache.put("m-Q6_K-00001-of-00002.gguf")  # the other half is not here
    cache.put("old-Q2_K.gguf", commit=OLD, text="12")
    assert held(REPO, cache.root) == {"UD-Q4_K_XL": 4, "Q8_0": 8, "Q2_K": 2}


def test_a_file_is_found_by_quantisation_name_and_default(cache: Cache) -> None:
    small, large = cache.put("m-Q4_K_M.gguf"), cache.put("m-Q8_0.gguf")
    cache.ref(NEW)
    assert locate(REPO, "q8_0", cache_dir=cache.root) == large
    assert locate(REPO, file="m-Q8_0.gguf", cache_dir=cache.root) == large
    assert locate(REPO, cache_dir=cache.root) == small
    assert locate(REPO, "Q2_K", cache_dir=cache.root) is None


def test_shards_count_only_when_all_are_here(cache: Cache) -> None:
    first = cache.put("s/m-Q4_0-00001-of-00002.gguf")
    cache.ref(NEW)
    assert locate(REPO, "Q4_0", cache_dir=cache.root) is None
    cache.put("s/m-Q4_0-00002-of-00002.gguf")
    assert locate(REPO, "Q4_0", cache_dir=cache.root) == first


def test_a_link_whose_content_is_gone_does_not_count(cache: Cache) -> None:
    link = cache.put("m-Q4_0.gguf")
    cache.ref(NEW)
    link.resolve().unlink()
    assert locate(REPO, cache_dir=cache.root) is None


def test_the_branch_comes_first_and_other_snapshots_after_it(cache: Cache) -> None:
    old = cache.put("m-Q4_0.gguf", commit=OLD)
    assert locate(REPO, cache_dir=cache.root) == old, "no ref at all"
    new = cache.put("m-Q4_0.gguf", commit=NEW)
    cache.ref(OLD)
    assert locate(REPO, cache_dir=cache.root) == old
    cache.ref(NEW)
    assert locate(REPO, cache_dir=cache.root) == new
    only_old = cache.put("m-Q8_0.gguf", commit=OLD)
    assert locate(REPO, "Q8_0", cache_dir=cache.root) == only_old


def test_the_newest_of_the_other_snapshots_is_preferred(cache: Cache) -> None:
    cache.put("m-Q4_0.gguf", commit=OLD)
    cache.put("m-Q4_0.gguf", commit=NEW)
    folder = storage(REPO, cache.root) / "snapshots"
    os.utime(folder / OLD, (2000, 2000))
    os.utime(folder / NEW, (1000, 1000))
    found = locate(REPO, cache_dir=cache.root)
    assert found is not None
    assert found.parent.name == OLD


def test_a_revision_that_is_named_is_the_only_one_looked_at(cache: Cache) -> None:
    old = cache.put("m-Q4_0.gguf", commit=OLD)
    cache.put("m-Q4_0.gguf", commit=NEW)
    cache.ref(OLD, "v1/beta")
    assert locate(REPO, cache_dir=cache.root, revision="v1/beta") == old
    assert locate(REPO, cache_dir=cache.root, revision=OLD) == old
    assert locate(REPO, cache_dir=cache.root, revision="v2") is None


def test_safetensors_are_a_folder_and_need_all_that_their_index_lists(cache: Cache) -> None:
    cache.put("model-1.safetensors")
    cache.ref(NEW)
    assert locate(REPO, cache_dir=cache.root) is None, "no config.json"
    folder = cache.put("config.json").parent
    assert locate(REPO, cache_dir=cache.root) == folder
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    listing = cache.put("model.safetensors.index.json", text=json.dumps(index))
    assert locate(REPO, cache_dir=cache.root) is None
    cache.put("model-2.safetensors")
    assert locate(REPO, cache_dir=cache.root) == folder
    for broken in ("{", "[]", '{"weight_map": 3}'):
        listing.resolve().write_text(broken)
        assert locate(REPO, cache_dir=cache.root) is None


def test_single_files_by_path_and_by_name(cache: Cache) -> None:
    template = cache.put("templates/chat.jinja", repo="other/repo")
    for name in ("templates/chat.jinja", "chat.jinja"):
        assert locate_file("other/repo", name, cache.root) == template
    assert locate_file("other/repo", "hat.jinja", cache.root) is None


def test_the_projector_beside_the_weights(cache: Cache) -> None:
    weights = cache.put("Q4_0/m-Q4_0.gguf")
    assert locate_projector(weights) is None
    projector = cache.put("mmproj-m-f16.gguf")
    assert locate_projector(weights) == projector


def test_a_projector_beside_a_file_outside_of_any_cache(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    (tmp_path / "mmproj.gguf").touch()
    assert locate_projector(tmp_path / "m.gguf") == tmp_path / "mmproj.gguf"


def test_a_folder_that_cannot_be_read_is_an_empty_one(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put("m-Q4_0.gguf")

    def gone(*_: object) -> None:
        raise OSError("removed meanwhile")

    monkeypatch.setattr(Path, "rglob", gone)
    assert locate(REPO, cache_dir=cache.root) is None


def test_the_default_is_the_cache_of_the_hub(monkeypatch: pytest.MonkeyPatch, cache: Cache) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache.root))
    path = cache.put("m-Q4_0.gguf")
    assert default_cache() == cache.root
    assert locate(REPO) == path
    assert locate_file(REPO, "m-Q4_0.gguf") == path


def test_looking_does_not_import_the_client_of_the_hub() -> None:
    script = "import daemon.downloads.locate, sys; print('huggingface_hub' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "False"
