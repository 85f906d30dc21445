"""The hub's cache, in its real layout: links into blobs, branches, several commits."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from daemon.downloads.cache import holdings, partials, remove, repositories, with_projectors
from daemon.downloads.locate import locate


class Cache:
    """Writes commits as the hub's client does."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def repo(self, name: str) -> Path:
        return self.root / f"models--{name.replace('/', '--')}"

    def add(self, name: str, commit: str, files: dict[str, bytes], ref: str = "main") -> Path:
        repo = self.repo(name)
        for file, data in files.items():
            blob = repo / "blobs" / hashlib.sha256(data).hexdigest()
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(data)
            link = repo / "snapshots" / commit / file
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
        if ref:
            (repo / "refs").mkdir(exist_ok=True)
            (repo / "refs" / ref).write_text(commit)
        return repo / "snapshots" / commit

    def left(self) -> list[str]:
        return sorted(
            path.relative_to(self.root).as_posix()
            for path in self.root.rglob("*")
            if not path.is_dir()
        )


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "hub")


def test_each_quantisation_is_a_thing_of_its_own(cache: Cache) -> None:
    shards = {f"Q8_0/m-Q8_0-0000{n}-of-00002.gguf": b"x" * n for n in (1, 2)}
    folder = cache.add("o/n", "c1", {"m-Q4_K_M.gguf": b"four", **shards, "README.md": b"read"})
    cache.add("o/safe", "c1", {"config.json": b"{}", "model.safetensors": b"12345"})
    assert repositories(cache.root) == ["o/n", "o/safe"]
    found = {one.name: one for one in holdings("o/n", cache.root)}
    assert set(found) == {"hf:o/n:Q4_K_M", "hf:o/n:Q8_0"}
    assert found["hf:o/n:Q8_0"].size == 3
    assert found["hf:o/n:Q4_K_M"].files == (folder / "m-Q4_K_M.gguf",)
    (whole,) = holdings("o/safe", cache.root)
    assert (whole.name, whole.size, whole.current) == ("hf:o/safe", 7, True)
    assert repositories(cache.root / "none") == []


def test_an_old_commit_counts_what_is_its_own(cache: Cache) -> None:
    cache.add("o/n", "c1", {"m-Q4_K_M.gguf": b"old!", "m-Q8_0.gguf": b"same"})
    cache.add("o/n", "c2", {"m-Q4_K_M.gguf": b"new", "m-Q8_0.gguf": b"same"})
    sizes = {(one.name, one.current): one.size for one in holdings("o/n", cache.root)}
    assert sizes == {
        ("hf:o/n:Q4_K_M", True): 3,
        ("hf:o/n:Q8_0", True): 4,
        ("hf:o/n:Q4_K_M", False): 4,
        ("hf:o/n:Q8_0", False): 0,
    }


def test_removing_one_of_two_leaves_the_other(cache: Cache) -> None:
    folder = cache.add("o/n", "c1", {"m-Q4_K_M.gguf": b"four", "m-Q8_0.gguf": b"eight!"})
    assert remove([folder / "m-Q4_K_M.gguf"], cache.root) == 4
    assert locate("o/n", "Q8_0", cache_dir=cache.root) == folder / "m-Q8_0.gguf"
    assert locate("o/n", "Q4_K_M", cache_dir=cache.root) is None
    assert len(cache.left()) == 3, "a link, its content, a branch"
    assert remove([folder / "m-Q8_0.gguf"], cache.root) == 6
    assert cache.left() == []
    assert not cache.repo("o/n").exists()


def test_a_content_stays_as_long_as_a_commit_has_it(cache: Cache) -> None:
    old = cache.add("o/n", "c1", {"m-Q4_K_M.gguf": b"same"})
    new = cache.add("o/n", "c2", {"m-Q4_K_M.gguf": b"same"})
    assert remove([old / "m-Q4_K_M.gguf"], cache.root) == 0
    assert (new / "m-Q4_K_M.gguf").read_bytes() == b"same"
    assert not old.exists()
    assert remove([new / "m-Q4_K_M.gguf", new / "m-Q4_K_M.gguf"], cache.root) == 4


def test_a_branch_of_a_commit_that_is_gone_goes_too(cache: Cache) -> None:
    cache.add("o/n", "c1", {"m-Q4_K_M.gguf": b"old"}, ref="v1")
    cache.add("o/n", "c2", {"m-Q4_K_M.gguf": b"new"})
    remove([cache.repo("o/n") / "snapshots/c1/m-Q4_K_M.gguf"], cache.root)
    assert [p.name for p in (cache.repo("o/n") / "refs").iterdir()] == ["main"]


def test_a_cache_without_links(cache: Cache) -> None:
    """As it is where the file system has none."""
    folder = cache.repo("o/n") / "snapshots" / "c1"
    folder.mkdir(parents=True)
    (folder / "m-Q4_K_M.gguf").write_bytes(b"four")
    assert remove([folder / "m-Q4_K_M.gguf", folder / "gone.gguf"], cache.root) == 4
    assert not cache.repo("o/n").exists()


def test_nothing_outside_the_cache_is_touched(cache: Cache, tmp_path: Path) -> None:
    own = tmp_path / "mine.gguf"
    own.write_bytes(b"mine")
    cache.add("o/n", "c1", {"m-Q4_K_M.gguf": b"four"})
    link = cache.repo("o/n") / "snapshots" / "c1" / "linked-Q8_0.gguf"
    link.symlink_to(own)
    for path in (own, cache.root / "x" / ".." / ".." / "mine.gguf", cache.root / "file"):
        with pytest.raises(ValueError, match="is not in"):
            remove([path], cache.root)
    assert remove([link], cache.root) == 0, "the link alone goes"
    assert own.read_bytes() == b"mine"


def test_projectors_go_with_the_last_model(cache: Cache) -> None:
    files = {"m-Q4_K_M.gguf": b"4", "m-Q8_0.gguf": b"8", "mmproj-f16.gguf": b"eyes"}
    folder = cache.add("o/n", "c1", files)
    four, eight, eyes = (folder / name for name in files)
    assert with_projectors([four]) == {four}
    assert with_projectors([four, eight]) == {four, eight, eyes}
    assert with_projectors([four, eight], {eyes}) == {four, eight}


def test_downloads_that_did_not_end(cache: Cache) -> None:
    cache.add("o/n", "c1", {"m-Q4_K_M.gguf": b"four"})
    blobs = cache.repo("o/n") / "blobs"
    for name in ("aa.modelport.incomplete", "bb.incomplete"):
        (blobs / name).write_bytes(b"12345")
    found = partials("o/n", cache.root)
    assert [(one.file.name, one.size) for one in found] == [
        ("aa.modelport.incomplete", 5),
        ("bb.incomplete", 5),
    ]
    assert remove([one.file for one in found], cache.root) == 10
    assert locate("o/n", cache_dir=cache.root) is not None
    assert partials("no/such", cache.root) == []
