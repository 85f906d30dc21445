"""Listings in, found models out: nothing here is on a disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemon.config.finds import Find
from daemon.discovery import layouts, ollama
from daemon.discovery.listing import Listing, Seen, listed
from daemon.discovery.repos import name_of, partial, plain_repo

ROOT = Path("/place")


def listing(*names: str, size: int = 100) -> Listing:
    return listed(ROOT, [Seen(name, size, 1, (1, i)) for i, name in enumerate(names)])


def called(finds: list[Find]) -> list[str]:
    return [find.names[0] for find in finds]


def test_a_repository_of_several_quantisations() -> None:
    at = "models--a--Big-GGUF/snapshots/c1"
    found = layouts.hub(
        listing(
            "models--a--Big-GGUF/refs/main",
            f"{at}/Big-Q8_0.gguf",
            f"{at}/Big-Q4_K_M.gguf",
            f"{at}/UD-Q2_K_XL/Big-UD-Q2_K_XL-00001-of-00002.gguf",
            f"{at}/UD-Q2_K_XL/Big-UD-Q2_K_XL-00002-of-00002.gguf",
            f"{at}/mmproj-Big-F16.gguf",
            f"{at}/imatrix.gguf",
            f"{at}/Big-draft-Q4_0.gguf",
            f"{at}/README.md",
        ),
        {"models--a--Big-GGUF/refs/main": "c1\n"},
        "huggingface",
    )
    by_name = {find.names[0]: find for find in found}
    assert set(by_name) == {"a/Big-GGUF:Q8_0", "a/Big-GGUF:Q4_K_M", "a/Big-GGUF:UD-Q2_K_XL"}
    best = by_name["a/Big-GGUF:Q4_K_M"]
    assert best.names[1] == "a/Big-GGUF", "the one that a pull would choose has the plain name"
    assert best.shorts[0] == "Big"
    assert "a/Big-GGUF@q8_0" in by_name["a/Big-GGUF:Q8_0"].names
    split = by_name["a/Big-GGUF:UD-Q2_K_XL"]
    assert [path.name[-18:] for path in split.files] == [
        "00001-of-00002.gguf"[-18:],
        "00002-of-00002.gguf"[-18:],
    ]
    assert {find.mmproj for find in found} == {ROOT / at / "mmproj-Big-F16.gguf"}
    assert split.size == 300, "the parts and the projector"


def test_the_snapshot_of_main_comes_first_and_older_ones_add_what_it_lacks() -> None:
    kept = "models--a--b/snapshots"
    found = layouts.hub(
        listing(f"{kept}/new/m-Q4_0.gguf", f"{kept}/old/m-Q4_0.gguf", f"{kept}/old/m-Q8_0.gguf"),
        {"models--a--b/refs/main": "new"},
        "huggingface",
    )
    assert {find.names[0]: find.path.parent.name for find in found} == {
        "a/b:Q4_0": "new",
        "a/b:Q8_0": "old",
    }


def test_safetensors_are_a_model_by_their_folder() -> None:
    at = "models--mlx--m-4bit/snapshots/c"
    (found,) = layouts.hub(
        listing(f"{at}/config.json", f"{at}/model.safetensors", f"{at}/tokenizer.json"),
        {},
        "huggingface",
    )
    assert (found.names, found.path) == (("mlx/m-4bit",), ROOT / at)
    adapter = listing(f"{at}/config.json", f"{at}/adapter_config.json", f"{at}/a.safetensors")
    assert layouts.hub(adapter, {}, "huggingface") == []


def test_lm_studio() -> None:
    found = layouts.lmstudio(
        listing("pub/Tiny-GGUF/Tiny-Q8_0.gguf", "pub/Tiny-GGUF/mmproj-x.gguf", "loose.gguf")
    )
    assert called(found) == ["pub/Tiny-GGUF:Q8_0", "loose"]
    assert {"pub/Tiny-GGUF", "pub/Tiny-GGUF/Tiny-Q8_0.gguf"} <= set(found[0].names)
    assert {"Tiny", "tiny"} <= set(found[0].shorts)
    assert found[0].mmproj == ROOT / "pub/Tiny-GGUF/mmproj-x.gguf"


def test_llama_cache_in_both_layouts() -> None:
    found = layouts.llama_cache(
        listing(
            "manifest=ggml-org=a_b-GGUF=latest.json",
            "ggml-org_a_b-GGUF_a_b-Q4_0.gguf",
            "ggml-org_a_b-GGUF_a_b-Q4_0.gguf.etag",
            "ggml-org_a_b-GGUF_mmproj-a_b-F16.gguf",
            "by-url-Q8_0.gguf",
            "models--c--d/snapshots/x/d-Q4_0.gguf",
            "other.gguf.downloadInProgress",
        ),
        {},
    )
    assert called(found) == ["ggml-org/a_b-GGUF:Q4_0", "c/d:Q4_0", "by-url-Q8_0", "other"]
    assert found[0].mmproj is not None
    assert "still being" in found[3].problem


def test_a_plain_folder() -> None:
    found = layouts.anything(
        listing(
            "a-Q4_0.gguf",
            "b-Q8_0.gguf",
            "mmproj-a-F16.gguf",
            "deep/c.gguf",
            "mlx/config.json",
            "mlx/model.safetensors",
            "lora-x.gguf",
            "coming.gguf.part",
        ),
        {},
    )
    by_name = {find.names[0]: find for find in found}
    assert set(by_name) == {"a-Q4_0", "b-Q8_0", "c", "mlx", "coming"}
    assert by_name["a-Q4_0"].mmproj == ROOT / "mmproj-a-F16.gguf"
    assert by_name["b-Q8_0"].mmproj is None, "it is another model's"
    assert "deep/c" in by_name["c"].names
    assert by_name["b-Q8_0"].shorts == ("b",)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Qwen 3 (copy)", "Qwen-3-copy"),
        ("a\nb\x1b[31m", "a-b-31m"),
        ("../../etc/passwd", "etc/passwd"),
        ("--flag", "flag"),
        ("模型", "model"),
        ("x" * 500, "x" * 160),
    ],
)
def test_every_file_gets_a_name_that_can_be_asked_for(text: str, name: str) -> None:
    assert name_of(text) == name


def test_small_things() -> None:
    assert plain_repo("o/Model-GGUF") == "Model"
    assert partial("a.gguf.crdownload") == "a.gguf"
    assert partial("a.gguf") == partial("notes.part") == ""


# Ollama


D = "sha256:" + "a" * 64
P = "sha256:" + "b" * 64


def manifest(*layers: tuple[str, str]) -> str:
    media = "application/vnd.ollama.image."
    return json.dumps({"layers": [{"mediaType": media + k, "digest": d} for k, d in layers]})


def store(*paths: str) -> Listing:
    return listing(f"blobs/sha256-{'a' * 64}", f"blobs/sha256-{'b' * 64}", *paths)


@pytest.mark.parametrize(
    ("path", "names", "shorts"),
    [
        ("registry.ollama.ai/library/qwen3/8b", ["qwen3:8b"], ["qwen3"]),
        ("registry.ollama.ai/library/qwen3/latest", ["qwen3:latest", "qwen3"], ["qwen3"]),
        ("ollama.com/me/mine/q4", ["me/mine:q4"], ["mine"]),
        ("hf.co/a/b-GGUF/Q4_K_M", ["hf.co/a/b-GGUF:Q4_K_M", "a/b-GGUF:Q4_K_M"], ["b-GGUF"]),
        ("too/short", [], []),
        ("a//b/c", [], []),
    ],
)
def test_names_as_ollama_writes_them(path: str, names: list[str], shorts: list[str]) -> None:
    assert ollama.names_of(path) == (names, shorts)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("m:1b", "registry.ollama.ai/library/m/1b"),
        ("library/m:1b", "registry.ollama.ai/library/m/1b"),
        ("registry.ollama.ai/library/m:1b", "registry.ollama.ai/library/m/1b"),
        ("hf.co/a/b", "hf.co/a/b/latest"),
        ("a/b:latest", "hf.co/a/b/latest"),
        ("m", None),
        ("", None),
        ("../library/m:1b", None),
        ("m:../m/1b", None),
    ],
)
def test_a_manifest_by_the_name_that_ollama_gives_it(name: str, found: str | None) -> None:
    there = store("manifests/registry.ollama.ai/library/m/1b", "manifests/hf.co/a/b/latest")
    assert ollama.manifest_of(name, there) == (f"manifests/{found}" if found else None)


def test_a_manifest_names_all_that_belongs_to_a_model() -> None:
    text = manifest(("model", D), ("projector", P), ("params", P), ("template", P), ("adapter", P))
    path = "manifests/registry.ollama.ai/library/m/1b"
    (found,) = ollama.ollama(
        store(path),
        {path: text},
        lambda seen: '{"temperature": 0.5, "num_ctx": 8192, "stop": ["<|im_start|>"], "odd": {}}',
    )
    assert found.names == ("m:1b",)
    assert found.path == ROOT / f"blobs/sha256-{'a' * 64}"
    assert found.mmproj == found.adapters[0] == ROOT / f"blobs/sha256-{'b' * 64}"
    assert found.params == {"temperature": 0.5, "stop": ["<|im_start|>"]}
    assert found.ctx == 8192
    assert found.built_in == "chatml"


def test_two_tags_of_one_model_are_one_and_other_parameters_another() -> None:
    base = "manifests/registry.ollama.ai/library/m"
    texts = {
        f"{base}/8b": manifest(("model", D)),
        f"{base}/latest": manifest(("model", D)),
        f"{base}/warm": manifest(("model", D), ("params", P)),
    }
    found = ollama.ollama(store(*texts), texts, lambda seen: '{"temperature": 2}')
    assert [find.names for find in found] == [("m:8b", "m:latest", "m"), ("m:warm",)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (manifest(("model", "sha256:" + "c" * 64)), "ollama pull"),
        (manifest(("tensor", D)), "Ollama's own form"),
    ],
)
def test_what_cannot_be_served_is_told(text: str, said: str) -> None:
    path = "manifests/registry.ollama.ai/library/m/1b"
    (found,) = ollama.ollama(store(path), {path: text})
    assert said in found.problem


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"layers": 5}',
        '{"layers": [1]}',
        '{"layers": [{"mediaType": "x"}]}',
        manifest(),
        manifest(("model", "../../../etc/passwd")),
        "[" * 100_000,
    ],
)
def test_a_hostile_manifest_is_no_model_or_one_with_a_reason(text: str) -> None:
    path = "manifests/registry.ollama.ai/library/m/1b"
    for find in ollama.ollama(store(path), {path: text}):
        assert find.problem
        assert find.path.is_relative_to(ROOT)
