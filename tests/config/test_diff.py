from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.catalog import Catalog
from daemon.config.diff import Changes, diff
from daemon.config.presets import load_presets
from daemon.config.settings import Settings

PRESETS = load_presets()


def catalog(values: dict[str, Any]) -> Catalog:
    return Catalog.build(Settings.from_layers(values), PRESETS)


def models(**entries: dict[str, Any]) -> Catalog:
    return catalog({"models": {name: {"path": "/x", **entry} for name, entry in entries.items()}})


def test_added_removed_changed() -> None:
    old = models(a={}, b={}, c={})
    new = models(b={}, c={"ctx": 4096}, d={})
    assert diff(old, new) == Changes(added=("d",), removed=("a",), changed=("c",))


@pytest.mark.parametrize(
    "entry",
    [
        {"args": ["-v"]},
        {"env": {"A": "b"}},
        {"path": "/y"},
        {"slots": 2},
        {"engine": "xllamacpp"},
        {"template": "/t"},
        {"pool": "gpu1"},
        {"thinking": False},
        {"kind": "embedding"},
    ],
)
def test_what_the_process_is_started_with_is_a_change(entry: dict[str, Any]) -> None:
    assert diff(models(a={}), models(a=entry)).changed == ("a",)


@pytest.mark.parametrize(
    "entry",
    [
        {"keep_alive": 1},
        {"pin": True},
        {"priority": 1},
        {"params": {"force": {"top_k": 1}}},
        {"tools": False},
        {"allow_tools": ["x"]},
        {"loading_text": True},
        {"tell_cut_calls": True},
        {"max_output": 4096},
        {"conversations": False},
        {"auto_pull": True},
    ],
)
def test_what_is_looked_at_each_time_leaves_the_backend_alone(entry: dict[str, Any]) -> None:
    assert diff(models(a={}), models(a=entry)) == Changes(retuned=("a",))


def test_another_name_is_only_another_label() -> None:
    change = diff(models(a={"aliases": ["x"]}), models(a={"aliases": ["y", "z-*"]}))
    assert change == Changes(relabelled=("a",))
    assert diff(models(a={}), models(a={"aliases": ["x"], "pin": True})).retuned == ("a",)
    assert diff(models(a={}), models(a={"aliases": ["x"], "ctx": 1})).changed == ("a",)


def test_writing_a_preset_down_as_it_is_changes_no_backend() -> None:
    old, new = catalog({}), catalog({"models": {"qwen3-coder": {"preset": "qwen3-coder"}}})
    assert diff(old, new) == Changes(added=("qwen3-coder",))
    assert diff(new, old) == Changes(removed=("qwen3-coder",))


def test_an_entry_in_a_presets_place_is_told_and_reaches_what_runs() -> None:
    entry = {"preset": "qwen3-coder", "ctx": 4096, "pin": True}
    old, new = catalog({}), catalog({"models": {"qwen3-coder": entry}})
    assert diff(old, new) == Changes(added=("qwen3-coder",), changed=("qwen3-coder",))
    assert diff(new, old) == Changes(removed=("qwen3-coder",), changed=("qwen3-coder",))
    entry = {"preset": "qwen3-coder", "pin": True}
    new = catalog({"models": {"qwen3-coder": entry}})
    assert diff(old, new) == Changes(added=("qwen3-coder",))


def test_defaults_reach_the_models_that_they_are_for() -> None:
    old = models(a={"keep_alive": 5}, b={})
    values = {"models": {"a": {"path": "/x", "keep_alive": 5}, "b": {"path": "/x"}}}
    change = diff(old, catalog({**values, "defaults": {"keep_alive": 60}}))
    assert "b" in change.retuned
    assert "a" not in change.retuned
    assert change.keys == ("defaults.keep_alive",)


def test_what_needs_a_restart_of_the_daemon() -> None:
    new = catalog(
        {
            "server": {"port": 9, "hosts": ["x"], "also": [{"port": 1, "as": "ollama"}]},
            "tls": {"enabled": True},
            "timing": {"breaker": "3 in 1m", "settle": 1, "adopt_timeout": 1},
            "lan": {"mdns": False},
            "schedule": [{"cron": "* * * * *", "do": "load", "model": "gpt-oss"}],
        }
    )
    change = diff(catalog({}), new)
    assert change.sections == ("lan", "schedule", "server", "timing", "tls")
    assert change.needs_restart == ("server.port", "timing.adopt_timeout")
    assert {"server.hosts", "timing.breaker.count", "timing.settle"} <= set(change.keys)


def test_engines_are_told_by_name() -> None:
    new = {
        "engines": {
            "llama-server": {"args": ["-v"]},
            "command": {"x": {"argv": ["x", "{port}"]}},
        }
    }
    change = diff(catalog({}), catalog(new))
    assert change == Changes(engines=("llama-server", "command.x"))


entries = st.fixed_dictionaries(
    {"path": st.sampled_from(["/x", "/y"])},
    optional={
        "ctx": st.sampled_from([4096, 8192]),
        "aliases": st.lists(st.sampled_from(["p", "q-*"]), unique=True),
        "pin": st.booleans(),
    },
)
files = st.fixed_dictionaries(
    {"models": st.dictionaries(st.sampled_from("abc"), entries)},
    optional={"server": st.fixed_dictionaries({"port": st.sampled_from([1, 2])})},
)


@given(files, files)
def test_nothing_is_told_of_what_is_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    old, new = catalog(one), catalog(other)
    assert not diff(old, catalog(one))
    there, back = diff(old, new), diff(new, old)
    assert (there.added, there.changed) == (back.removed, back.changed)
    told = {*there.added, *there.removed, *there.changed, *there.retuned, *there.relabelled}
    for name in old.models.keys() | new.models.keys():
        assert (name in told) == (old.models.get(name) != new.models.get(name))
