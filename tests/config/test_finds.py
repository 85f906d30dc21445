"""Which name is whose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from daemon.config.catalog import Catalog
from daemon.config.finds import Find, HeaderFacts
from daemon.config.presets import read_presets
from daemon.config.settings import Settings


def find(name: str, place: Any = "huggingface", number: int = 0, **more: Any) -> Find:
    path = Path(f"/{place}/{name}{number}.gguf")
    values: dict[str, Any] = {"names": (name,), "path": path, "files": (path,), "size": 1}
    return Find(place=place, stamp="1", file=(1, number or hash(path)), **{**values, **more})


def catalog(**models: dict[str, Any]) -> Catalog:
    settings = Settings.from_layers({"models": models, "defaults": {"keep_alive": 60}})
    presets = read_presets(
        {"small": {"description": "s", "kind": "chat", "gguf": {"hf": "o/small"}}}
    )
    return Catalog.build(settings, presets)


def test_a_find_is_a_model_with_the_defaults() -> None:
    facts = HeaderFacts(format="gguf", kind="chat", template=True)
    one = find("m:1b", "ollama", params={"top_k": 1}, ctx=2048, facts=facts, mmproj=Path("/p"))
    model = catalog().with_found([one], {}).resolve("M:1B")
    assert model is not None
    assert (model.name, model.path, model.mmproj) == ("m:1b", one.path, "/p")
    assert (model.keep_alive, model.ctx, model.min_ctx, model.listed) == (60.0, 2048, 2048, False)
    assert model.params.default == {"top_k": 1}
    assert (model.fit, model.engine_args, model.kind) == ("shrink", {}, None)


def test_without_a_template_of_its_own_it_gets_that_of_its_store() -> None:
    facts = HeaderFacts(format="gguf", kind="completion")
    bare = find("m", "ollama", facts=facts, built_in="chatml", adapters=(Path("/lora"),))
    model = catalog().with_found([bare], {}).found["m"]
    assert model.kind == "chat"
    assert model.args_for("llama-server") == ("--lora", "/lora", "--chat-template", "chatml")
    assert model.args_for("mlx-lm") == ()
    encoder = replace(bare, facts=HeaderFacts(format="gguf", kind="embedding"), adapters=())
    assert catalog().with_found([encoder], {}).found["m"].engine_args == {}


def test_the_file_presets_and_patterns_come_first() -> None:
    own = catalog(mine={"path": "/x.gguf", "aliases": ["nick", "claude-*"]})
    names = ("mine", "nick", "small", "claude-3", "daemon", "free")
    got = own.with_found([find(name, "lmstudio", i + 1) for i, name in enumerate(names)], {})
    assert sorted(got.found) == [
        "claude-3@lmstudio", "daemon@lmstudio", "free", "mine@lmstudio", "nick@lmstudio",
        "small@lmstudio",
    ]  # fmt: skip
    meant = {"mine": "mine", "NICK": "mine", "small": "small", "claude-3": "mine"}
    for name, owner in meant.items():
        model = got.resolve(name)
        assert model is not None
        assert model.name == owner
    assert got.clashes["nick@lmstudio"] == "mine"
    assert got.models == own.models


def test_clashes_between_finds_are_resolved_in_their_order() -> None:
    finds = [find("a/b:Q4", "huggingface", 1), find("A/B:Q4", "lmstudio", 2),
             find("a/b:Q4", "lmstudio", 3)]  # fmt: skip
    got = catalog().with_found(finds, {})
    assert list(got.found) == ["a/b:Q4", "A/B:Q4@lmstudio", "a/b:Q4@lmstudio-2"]
    assert got.clashes == {"A/B:Q4@lmstudio": "a/b:Q4", "a/b:Q4@lmstudio-2": "a/b:Q4"}


def test_short_names_are_given_where_only_one_has_them() -> None:
    finds = [
        find("a/x:Q4", number=1, shorts=("x", "y")),
        find("b/x:Q4", number=2, shorts=("X", "z")),
    ]
    got = catalog().with_found(finds, {})
    assert got.meant("x") is None
    assert [got.meant(name) for name in ("y", "z")] == [got.found["a/x:Q4"], got.found["b/x:Q4"]]
    assert "a/x:Q4" in got.nearest("a/x:Q5")


def test_a_configured_models_file_is_no_second_model() -> None:
    own = catalog(mine={"path": "/x.gguf"})
    one = find("o/r:Q4", number=7, shorts=("r",))
    got = own.with_found([one], {one.file: "mine"})
    assert got.found == {}
    for name in ("o/r:Q4", "r"):
        model = got.resolve(name)
        assert model is not None
        assert model.name == "mine"


def test_nothing_found_changes_nothing() -> None:
    one = catalog()
    assert one.with_found([], {}) is one
