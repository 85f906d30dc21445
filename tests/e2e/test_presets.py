"""Presets from nothing: no configuration, no weights, a hub that has them; then a real engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.config.presets import load_presets
from tests.downloads.hub import Hub, Repo, running_hub
from tests.e2e.conftest import MakeHouse
from tests.e2e.house import House

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

CODER = load_presets()["qwen3-coder"].gguf
TEN = "one two three four five six seven eight nine ten"


def opened(make_house: MakeHouse, folder: Path, hub: Hub, weights: Path, config: str = "") -> House:
    """A house whose hub has the coder in every quantisation: each a tiny model."""
    pytest.importorskip("xllamacpp")
    assert CODER is not None
    assert CODER.hf is not None
    names = [f"Qwen3-Coder-30B-A3B-Instruct-{quant}.gguf" for quant in CODER.quants]
    hub.repos[CODER.hf.partition(":")[0]] = Repo(dict.fromkeys(names, weights.read_bytes()))
    house = make_house(config)
    house.extra = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "",
    }
    return house


def fetched(hub: Hub) -> set[str]:
    """The names of the weights that were asked for."""
    return {path.rpartition("/")[2] for method, path, _ in hub.requests if path.endswith(".gguf")}


def test_a_preset_loads_without_any_configuration(
    make_house: MakeHouse, short_dir: Path, tiny_gguf: Path
) -> None:
    """It is chosen, fetched, loaded, and kept when the memory is another later."""
    with (
        running_hub() as hub,
        opened(make_house, short_dir, hub, tiny_gguf, '[memory]\nbudget = "16 GiB"\n') as house,
    ):
        shown = house.ctl("show", "qwen3-coder")
        assert "Q2_K_XL (11.0 GiB, GGUF for " in shown.stdout, shown.stdout
        assert "the best that fits 16.0 GiB" in shown.stdout
        assert "not pulled" in shown.stdout
        house.write("")
        house.ctl("reload")
        loaded = house.ctl("load", "qwen3-coder")
        assert loaded.returncode == 0, loaded.stderr
        assert "the best that fits" in loaded.stderr, "it says what it takes, and why"
        assert house.chat("qwen3-coder:30b").json()["choices"][0]["message"]["content"] == TEN
        told = [e.data["text"] for e in house.events() if e.kind == "chosen"]
        assert len(told) == 1
        assert len(fetched(hub)) == 1
        (name,) = fetched(hub)

        house.write('[memory]\nbudget = "6 GiB"\n')
        assert house.ctl("reload").returncode == 0
        kept = house.ctl("show", "qwen3-coder")
        assert "it is on this machine" in kept.stdout, kept.stdout
        assert house.ctl("pull", "qwen3-coder").returncode == 0
        assert fetched(hub) == {name}, "nothing else was fetched"


def test_what_cannot_fit_is_refused_with_another_that_does(
    make_house: MakeHouse, short_dir: Path, tiny_gguf: Path
) -> None:
    with (
        running_hub() as hub,
        opened(make_house, short_dir, hub, tiny_gguf, '[memory]\nbudget = "5 GiB"\n') as house,
    ):
        for verb in ("load", "pull"):
            refused = house.ctl(verb, "qwen3-coder")
            assert refused.returncode == 1, refused.stdout
            assert "even its smallest quantisation, Q2_K_XL (11.0 GiB), needs" in refused.stderr
            assert "there is room for 5.0 GiB" in refused.stderr
            assert "ctl load " in refused.stderr
        assert fetched(hub) == set()
        assert house.ctl("load", "qwen3-coder", "--fit", "ignore").returncode == 0
        assert [name.rpartition("-")[2] for name in fetched(hub)] == ["Q2_K_XL.gguf"]
