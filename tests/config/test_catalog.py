from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from daemon.config.catalog import Catalog, foreign, matches
from daemon.config.presets import load_presets
from daemon.config.settings import Settings

PRESETS = load_presets()


def catalog(models: dict[str, Any] | None = None, **server: Any) -> Catalog:
    settings = Settings.from_layers({"models": models or {}, "server": server})
    return Catalog.build(settings, PRESETS)


def name_of(found: Catalog, name: str) -> str | None:
    model = found.resolve(name)
    return model.name if model is not None else None


FILE = catalog(
    {
        "coder": {"preset": "qwen3-coder", "aliases": ["claude-*", "gpt-5.1"]},
        "Writer": {"path": "/w.gguf", "aliases": ["claude-sonnet-*", "*-mini"]},
        "ollama/odd": {"path": "/o.gguf"},
        "qwen3-vl": {"path": "/mine.gguf"},
    }
)


DEFAULT = catalog(default_model="qwen3-coder", small_model="smollm2-135m")


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("coder", "coder"),
        ("CODER", "coder"),
        ("writer", "Writer"),
        ("gpt-5.1", "coder"),
        ("openai/coder", "coder"),
        ("ollama/openai/Coder", "coder"),
        ("ollama/odd", "ollama/odd"),
        ("coder:latest", "coder"),
        (" coder ", "coder"),
        ("claude-opus-5-5", "coder"),
        ("claude-sonnet-5", "Writer"),
        ("anthropic/claude-sonnet-5", "Writer"),
        ("gpt-4o-mini", "Writer"),
        ("claude-x-mini", "coder"),
        ("qwen3-coder", "qwen3-coder"),
        ("qwen3-coder:30b", "qwen3-coder"),
        ("qwen3-vl:30b", "qwen3-vl"),
        ("nothing", None),
        ("", None),
        ("coder/x", None),
        ("x" * 5000, None),
    ],
)
def test_names(asked: str, name: str | None) -> None:
    assert name_of(FILE, asked) == name


def test_an_entry_with_a_presets_name_replaces_it() -> None:
    model = FILE.resolve("qwen3-vl")
    assert model is not None
    assert model.listed
    assert str(model.path) == "/mine.gguf"
    assert "qwen3-vl" not in FILE.presets


def test_presets_work_without_a_configuration_and_are_listed_apart() -> None:
    found = catalog()
    assert found.models == {}
    assert set(found.presets) == set(PRESETS)
    model = found.resolve("qwen3-coder")
    assert model is not None
    assert (model.listed, model.ctx, model.ctx_written) == (False, 131072, False)


def test_an_alias_of_the_file_goes_before_a_preset() -> None:
    found = catalog({"mine": {"path": "/x", "aliases": ["qwen3-coder", "GPT-OSS:20b"]}})
    assert name_of(found, "qwen3-coder") == "mine"
    assert name_of(found, "qwen3-coder:30b") == "mine"
    assert name_of(found, "gpt-oss:20b") == "mine"
    assert name_of(found, "gpt-oss-20b") == "gpt-oss-20b"


def test_the_default_answers_what_nobody_has() -> None:
    found = catalog(default_model="qwen3-coder", small_model="smollm2:135m")
    assert name_of(found, "claude-opus-5-5") == "qwen3-coder"
    assert name_of(found, "whatever") == "qwen3-coder"
    assert name_of(found, "") == "qwen3-coder"
    assert name_of(found, "claude-haiku-4-5-20251001") == "smollm2-135m"
    assert name_of(found, "anthropic/claude-3-5-haiku-latest") == "smollm2-135m"
    assert name_of(found, "gpt-4o-mini") == "smollm2-135m"
    assert name_of(found, "gpt-oss-20b") == "gpt-oss-20b"
    assert found.small is not None


def test_small_calls_go_to_the_default_where_there_is_no_small_model() -> None:
    assert name_of(catalog(default_model="gpt-oss"), "claude-haiku-4-5") == "gpt-oss-20b"
    assert name_of(catalog(), "claude-haiku-4-5") is None
    assert catalog().default is None


def test_nearest() -> None:
    assert FILE.nearest("codr")[0] == "coder"
    assert FILE.nearest("openai/CODR")[0] == "coder"
    assert len(FILE.nearest("qwen3")) <= 3
    assert FILE.nearest("zzzzzzzzzzzz") == []
    assert FILE.nearest("") == []


def test_the_catalog_keeps_the_order_of_the_file() -> None:
    assert list(FILE.models) == ["coder", "Writer", "ollama/odd", "qwen3-vl"]


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("claude-*", "claude-", True),
        ("claude-*", "claude", False),
        ("*-mini", "gpt-mini", True),
        ("a*b*c", "abc", True),
        ("a*b*c", "axxbyyc", True),
        ("a*b*c", "ac", False),
        ("aa*aa", "aaa", False),
        ("a*b*b", "ab", False),
        ("plain", "plain", True),
        ("plain", "plainer", False),
        ("*", "", True),
    ],
)
def test_patterns(pattern: str, name: str, fits: bool) -> None:
    assert matches(pattern, name) is fits


@given(st.text(alphabet="ab*", max_size=8), st.text(alphabet="ab", max_size=12))
def test_patterns_mean_what_regular_expressions_say(pattern: str, name: str) -> None:
    import re

    said = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name)
    assert matches(pattern, name) is (said is not None)


@profile(max_examples=150)
@given(
    st.text(max_size=40)
    | st.text(alphabet="aclude-*/:onpith.", max_size=30)
    | st.sampled_from(["anthropic/" * 20, "/", "//", ":latest", "\ud800", "\x00"])
)
def test_any_name_gets_an_answer(name: str) -> None:
    for found in (FILE, DEFAULT):
        assert found.resolve(name) is None or name_of(found, name)
        assert all(found.resolve(near) for near in found.nearest(name))


def test_resolving_is_the_same_for_every_way_to_write_a_name() -> None:
    for name, model in FILE.models.items():
        for form in (name, name.upper(), f"openai/{name}", f"{name}:latest"):
            assert FILE.resolve(form) is model


def test_another_default_by_path() -> None:
    models = {"embed": {"path": "/e.gguf"}, "chat": {"path": "/c.gguf"}}
    by_path = {"embeddings": "EMBED", "infill": "chat"}
    found = catalog(models, default_model="chat", default_for=by_path)
    for name in ("whatever", "", "gpt-4o", "claude-haiku-4-5"):
        model = found.resolve(name, "embeddings")
        assert model is not None
        assert model.name == "embed"
    assert found.resolve("chat", "embeddings") is found.models["chat"], "who names one gets it"
    assert found.resolve("whatever", "chat") is found.models["chat"]


@pytest.mark.parametrize(
    ("name", "is_so"),
    [("claude-opus-5-5", True), ("openai/GPT-5.1", True), ("qwen3", False), ("my-gpt-x", False)],
)
def test_names_of_hosted_services(name: str, is_so: bool) -> None:
    assert foreign(name) is is_so


def test_models_that_the_calendar_keeps() -> None:
    usual = catalog({"mine": {"path": "/a.gguf", "aliases": ["m", "x-*"], "keep_alive": 60}})
    kept = usual.kept(["M", "nobody"])
    for name in ("mine", "m", "MINE", "x-y"):
        found = kept.meant(name)
        assert found is not None
        assert found.keep_alive == -1
    assert usual.models["mine"].keep_alive == 60
    assert usual.kept([]) is usual
    preset = next(iter(usual.presets))
    assert kept.presets[preset].keep_alive >= 0
    assert usual.kept([preset]).presets[preset].keep_alive == -1
