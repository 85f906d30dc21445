"""Looks at real folders, pleasant and hostile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.config.finds import Find
from daemon.config.sections import Discovery
from daemon.config.types import Kind
from daemon.discovery import listing, places
from daemon.discovery import look as looking
from daemon.discovery.header import Known, abilities
from daemon.discovery.look import look, places_of
from daemon.discovery.places import Place, Told
from daemon.weights import describe as describing
from daemon.weights.describe import describe
from daemon.weights.facts import Weights
from tests.discovery.trees import Ollama, hub, llama_cache, lmstudio


@pytest.fixture
def known(tmp_path: Path) -> Known:
    return Known(tmp_path / "cache" / "found.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def names(finds: tuple[Find, ...]) -> list[str]:
    return [find.names[0] for find in finds]


def troubles(finds: tuple[Find, ...]) -> dict[str, str]:
    return {find.names[0]: find.trouble for find in finds}


def test_all_five_kinds(
    tmp_path: Path, known: Known, tiny_gguf: Path, embedding_gguf: Path, rerank_gguf: Path
) -> None:
    hub(tmp_path / "hub", "a/Tiny-GGUF", {"Tiny-F16.gguf": tiny_gguf})
    lmstudio(tmp_path / "lm", "pub/Rank-GGUF", {"Rank-F32.gguf": rerank_gguf})
    llama_cache(tmp_path / "llama", "org/Emb-GGUF", {"emb-f32.gguf": embedding_gguf})
    Ollama(tmp_path / "ollama").add("tiny:1b", tiny_gguf, params={"top_k": 1})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.gguf").write_bytes(tiny_gguf.read_bytes())
    where = [
        Place("folder", tmp_path / "mine"),
        Place("huggingface", tmp_path / "hub"),
        Place("lmstudio", tmp_path / "lm"),
        Place("llama.cpp", tmp_path / "llama"),
        Place("ollama", tmp_path / "ollama"),
        Place("folder", tmp_path / "nowhere"),
    ]
    found = look(where, known)
    told = {f.names[0]: (f.place, f.facts.kind, f.facts.abilities) for f in found if f.facts}
    assert told == {
        "own": ("folder", "chat", ("tools",)),
        "a/Tiny-GGUF:F16": ("huggingface", "chat", ("tools",)),
        "pub/Rank-GGUF:F32": ("lmstudio", "rerank", ("reranking",)),
        "org/Emb-GGUF:F32": ("llama.cpp", "embedding", ("embedding",)),
        "tiny:1b": ("ollama", "chat", ("tools",)),
    }
    assert not any(find.trouble for find in found)


def test_a_second_start_reads_no_header(
    folder: Path, known: Known, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "m.gguf").write_bytes(tiny_gguf.read_bytes())
    read: list[Path] = []

    def counted(path: Path, mmproj: Path | None = None) -> Weights:
        read.append(path)
        return describe(path, mmproj=mmproj)

    monkeypatch.setattr(describing, "describe", counted)
    where = [Place("folder", folder)]
    first = look(where, known)
    again = Known(known.file)
    assert look(where, again, read=False) == look(where, again) == first
    assert len(read) == 1
    (folder / "m.gguf").write_bytes(tiny_gguf.read_bytes()[:-7])
    assert look(where, again, read=False)[0].facts is None, "it is another file now"
    assert "not downloaded completely" in look(where, again)[0].trouble
    assert len(read) == 2


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b'{"version": 9}', b'{"version": 1, "models": {"a": {"size": "big"}}}',
     b'{"version": 1, "models": {"a": {"odd": 1}}}', b'{"version": 1, "models": 7}'],
)  # fmt: skip
def test_a_damaged_cache_is_read_anew(
    known: Known, folder: Path, tiny_gguf: Path, text: bytes
) -> None:
    known.file.parent.mkdir()
    known.file.write_bytes(text)
    known.file.chmod(0o600)
    (folder / "m.gguf").write_bytes(tiny_gguf.read_bytes())
    (found,) = look([Place("folder", folder)], known)
    assert found.facts is not None
    assert found.facts.architecture == "llama"


def test_a_file_that_is_being_copied_is_offered_once_it_is_whole(
    folder: Path, known: Known, tiny_gguf: Path
) -> None:
    data, where = tiny_gguf.read_bytes(), [Place("folder", folder)]
    for amount in (0, 3, 20, len(data) // 2, len(data) - 1):
        (folder / "m.gguf").write_bytes(data[:amount])
        (found,) = look(where, known)
        assert found.trouble, amount
    (folder / "m.gguf").write_bytes(data)
    assert not look(where, known)[0].trouble


def test_parts_are_no_models_and_a_split_one_misses_none(
    folder: Path, known: Known, tiny_gguf: Path
) -> None:
    (folder / "big-00001-of-00003.gguf").write_bytes(tiny_gguf.read_bytes())
    (folder / "big-00003-of-00003.gguf").write_bytes(tiny_gguf.read_bytes())
    (folder / "imatrix.gguf").write_bytes(b"GGUF")
    (folder / "mmproj-big.gguf").write_bytes(b"GGUF")
    found = look([Place("folder", folder)], known)
    assert names(found) == ["big"]
    assert "missing" in found[0].trouble


def test_one_file_in_several_places_is_one_model(
    tmp_path: Path, known: Known, tiny_gguf: Path
) -> None:
    """As tools do that share Ollama's blobs with LM Studio."""
    store = Ollama(tmp_path / "ollama")
    store.add("tiny:1b", tiny_gguf)
    blob = next((tmp_path / "ollama" / "blobs").iterdir())
    (tmp_path / "lm" / "me" / "tiny").mkdir(parents=True)
    (tmp_path / "lm" / "me" / "tiny" / "tiny-f16.gguf").symlink_to(blob)
    where = [Place("lmstudio", tmp_path / "lm"), Place("ollama", tmp_path / "ollama")]
    (found,) = look(where, known)
    assert {"me/tiny:F16", "tiny:1b"} <= set(found.names)


# Hostile trees


def test_loops_links_and_what_is_no_file(folder: Path, known: Known, tiny_gguf: Path) -> None:
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "theirs.gguf").write_bytes(tiny_gguf.read_bytes())
    (folder / "loop").symlink_to(folder)
    (folder / "a.gguf").symlink_to(folder / "b.gguf")
    (folder / "b.gguf").symlink_to(folder / "a.gguf")
    (folder / "gone.gguf").symlink_to("/nowhere/at/all.gguf")
    (folder / "away").symlink_to(outside)
    (folder / "linked.gguf").symlink_to(outside / "theirs.gguf")
    (folder / "zero.gguf").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.gguf")
    (folder / "folder.gguf").mkdir()
    assert names(look([Place("folder", folder)], known)) == ["linked"]


def test_odd_names(folder: Path, known: Known, tiny_gguf: Path) -> None:
    data = tiny_gguf.read_bytes()
    (folder / "new\nline\x1b[2J.gguf").write_bytes(data)
    Path(os.fsdecode(os.fsencode(folder) + b"/no-text-\xff.gguf")).write_bytes(data)
    (folder / "-m --flag.gguf").write_bytes(data)
    found = look([Place("folder", folder)], known)
    assert sorted(names(found)) == ["m---flag", "new-line-2J"]
    assert not any(find.trouble for find in found)


def test_what_cannot_be_entered_is_not_there(
    folder: Path, known: Known, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "shut").mkdir()
    (folder / "m.gguf").write_bytes(tiny_gguf.read_bytes())
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert names(look([Place("folder", folder)], known)) == ["m"]


def test_very_many_files_and_folders(
    folder: Path, known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(100):
        (folder / f"d{i}").mkdir()
        for j in range(100):
            (folder / f"d{i}" / f"f{j}.txt").touch()
    seen = listing.walk(folder)
    assert (len(seen.files), seen.cut) == (10_000, False)
    assert look([Place("folder", folder)], known) == ()
    assert len(listing.walk(folder, limit=500).files) <= 500
    assert listing.walk(folder, limit=500).cut
    deep = folder / "/".join("d" for _ in range(40))
    deep.mkdir(parents=True)
    (deep / "deep.gguf").touch()
    assert "deep" not in names(look([Place("folder", folder)], known))
    monkeypatch.setattr(looking, "MAX_FOUND", 3)
    for i in range(10):
        (folder / f"m{i}.gguf").touch()
    assert len(look([Place("folder", folder)], known)) == 3


@pytest.mark.parametrize(
    "data",
    [b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 16, b"GGUF" + b"\xff" * 400, b"PK\x03\x04",
     b"version https://git-lfs", b"\x00" * 4096, b"<!DOCTYPE html>"],
)  # fmt: skip
def test_hostile_headers_are_listed_with_a_reason(folder: Path, known: Known, data: bytes) -> None:
    (folder / "m.gguf").write_bytes(data)
    (folder / "st").mkdir()
    (folder / "st" / "config.json").write_bytes(data)
    (folder / "st" / "model.safetensors").write_bytes(data)
    found = troubles(look([Place("folder", folder)], known))
    assert set(found) == {"m", "st"}
    assert all(found.values())


# Places


def test_where_is_looked(tmp_path: Path) -> None:
    home = tmp_path
    (home / ".lmstudio").mkdir()
    (home / ".lmstudio" / "settings.json").write_text('{"downloadsFolder": "/big/lm"}')
    environ = {"HOME": str(home)}
    found = places_of(Discovery(folders=("/mine",)), environ, home / "hub")
    assert [(p.name, str(p.folder).replace(str(home), "~")) for p in found] == [
        ("folder", "/mine"),
        ("huggingface", "~/hub"),
        ("lmstudio", "/big/lm"),
        ("lmstudio", "~/.lmstudio/models"),
        ("lmstudio", "~/.cache/lm-studio/models"),
        ("llama.cpp", "~/.cache/llama.cpp"),
        ("ollama", "~/.ollama/models"),
        ("ollama", "/usr/share/ollama/.ollama/models"),
    ]


@pytest.mark.parametrize(
    ("environ", "mac", "wanted"),
    [
        ({"LLAMA_CACHE": "/c"}, False, "/c"),
        ({"XDG_CACHE_HOME": "/x"}, False, "/x/llama.cpp"),
        ({"LLAMA_CACHE": "relative"}, True, "/h/Library/Caches/llama.cpp"),
    ],
)
def test_the_cache_of_llama_cpp(environ: dict[str, str], mac: bool, wanted: str) -> None:
    settings = Discovery(places=("llama.cpp",))
    found = places.places(settings, {"HOME": "/h", **environ}, Path("/hub"), Told(), mac=mac)
    assert [str(place.folder) for place in found] == [wanted]


def test_switches() -> None:
    def count(settings: Discovery, environ: dict[str, str]) -> int:
        return len(places.places(settings, environ, Path("/hub"), Told(), mac=False))

    assert count(Discovery(enabled=False), {"HOME": "/h"}) == 0
    assert count(Discovery(places=()), {"HOME": "/h"}) == 0
    assert count(Discovery(places=("ollama",)), {"OLLAMA_MODELS": "/o"}) == 2
    assert count(Discovery(), {}) == 2, "no home: the hub's cache and the service's store"


@pytest.mark.parametrize(
    "text", ["{", '{"downloadsFolder": 5}', '{"downloadsFolder": "rel"}', "[]"]
)
def test_settings_of_lm_studio_that_say_nothing(text: str) -> None:
    told = Told("relative\n", {Path("/h/.lmstudio"): text})
    found = places.places(
        Discovery(places=("lmstudio",)), {"HOME": "/h"}, Path("/hub"), told, mac=False
    )
    assert [str(p.folder) for p in found] == ["/h/.lmstudio/models", "/h/.cache/lm-studio/models"]


@pytest.mark.parametrize(
    ("kind", "template", "sees", "able"),
    [
        ("chat", "{% if tools %}{{ tools | tojson }}{% endif %}", False, ("tools",)),
        ("chat", "{% if enable_thinking %}<think>{% endif %}", True, ("vision", "thinking")),
        ("chat", None, False, ()),
        ("embedding", "{{ tools }}", True, ("embedding",)),
        ("rerank", None, False, ("reranking",)),
    ],
)
def test_what_a_model_can_do(
    kind: Kind, template: str | None, sees: bool, able: tuple[str, ...]
) -> None:
    assert abilities(kind, template, sees=sees) == able


def test_a_broken_projector_is_told(
    folder: Path, known: Known, sparse_gguf: Callable[[int], Path], tiny_gguf: Path
) -> None:
    (folder / "m.gguf").write_bytes(tiny_gguf.read_bytes())
    (folder / "mmproj-m.gguf").write_bytes(b"GGUF")
    (found,) = look([Place("folder", folder)], known)
    assert "mmproj-m.gguf" in found.trouble
