"""What differs on battery."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.catalog import Catalog
from daemon.config.load import load_text
from daemon.config.powered import on_battery, shorter, told

TEXT = """
[server]
default_model = "big"
[defaults]
keep_alive = "15m"
[models.big]
path = "/big.gguf"
[models.small]
path = "/small.gguf"
keep_alive = "1m"
[models.kept]
path = "/kept.gguf"
keep_alive = -1
pin = true
"""


def catalog(power: str) -> Catalog:
    return Catalog.build(on_battery(load_text(TEXT + power, name="x").settings), {})


def test_shorter_keep_alives_and_another_default() -> None:
    found = catalog('[power.on_battery]\nkeep_alive = "2m"\nmodel = "small"\n')
    assert {name: model.keep_alive for name, model in found.models.items()} == {
        "big": 120.0,
        "small": 60.0,
        "kept": 120.0,
    }
    assert found.models["kept"].pin
    assert found.default is found.models["small"]


def test_each_alone() -> None:
    found = catalog('[power.on_battery]\nmodel = "small"\n')
    assert found.models["big"].keep_alive == 900.0
    assert found.default_model == "small"
    found = catalog("[power.on_battery]\nkeep_alive = 0\n")
    assert (found.models["small"].keep_alive, found.default_model) == (0.0, "big")


def test_nothing_written_changes_nothing() -> None:
    settings = load_text(TEXT, name="x").settings
    assert on_battery(settings) is settings
    assert told(settings) == ""


@pytest.mark.parametrize(
    ("power", "text"),
    [
        ('model = "small"', "small is the default model"),
        ("keep_alive = 120", "idle models leave after 120 s at the latest"),
        ("keep_alive = -1", ""),
    ],
)
def test_in_words(power: str, text: str) -> None:
    assert told(load_text(f"{TEXT}[power.on_battery]\n{power}\n", name="x").settings) == text


KEEP_ALIVE = st.just(-1.0) | st.floats(0, 1e6)


@given(KEEP_ALIVE, KEEP_ALIVE)
def test_never_longer(usual: float, most: float) -> None:
    found = shorter(usual, most)
    assert found in (usual, most)
    assert found == shorter(found, most), "twice is once"
    endless = float("inf")
    as_time = {each: endless if each < 0 else each for each in (usual, most, found)}
    assert as_time[found] == min(as_time[usual], as_time[most])
