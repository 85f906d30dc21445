"""Presets on a given machine: real presets, real figures, made engines and a made cache."""

from __future__ import annotations

from collections.abc import Mapping, Set
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from daemon.backends.prepare import Located
from daemon.backends.sizing import Sizer
from daemon.config.catalog import Catalog
from daemon.config.model import Model
from daemon.config.presets import Preset, load_presets
from daemon.config.settings import Settings
from daemon.core.problems import Code, Problem, ProblemError
from daemon.engines.base import Installed
from daemon.engines.environment import Platform
from daemon.engines.registry import Registry
from daemon.engines.xllamacpp_flags import known_flags
from daemon.settling import Settler

GB = 10**9
MAC = Platform("Darwin", "arm64")
LINUX = Platform("Linux", "x86_64")
PRESETS = load_presets(lambda package, file: None)
SOME = {name: PRESETS[name] for name in ("qwen3-coder", "glm-4.7-flash")}


class Engines(Registry):
    """A machine with some engines, each in a version."""

    def __init__(self, settings: Settings, platform: Platform, found: Mapping[str, str]) -> None:
        super().__init__(settings, {}, None, platform)
        self.there = found

    def find(self, name: str) -> Installed:
        if name not in self.there:
            raise ProblemError(Problem(Code.ENGINE_MISSING, f"no {name}"))
        accelerators = ("metal",) if self.platform is MAC else ()
        flags = known_flags() if name == "xllamacpp" else frozenset()
        return Installed(name, (name,), self.there[name], flags, accelerators)


NEW = {"llama-server": "9999", "mlx-lm": "0.99.0"}


def catalog(
    budget: Mapping[str, int],
    *,
    here: frozenset[str] = frozenset(),
    engines: Mapping[str, str] = NEW,
    platform: Platform = LINUX,
    models: Mapping[str, Any] | None = None,
    kept: dict[str, str] | None = None,
    presets: Mapping[str, Preset] = SOME,
    lazy: bool = False,
    before: Catalog | None = None,
    asked: Set[str] = frozenset(),
) -> Catalog:
    """As a daemon would have it. ``here``: what is in the cache, as ``owner/repo:QUANT``."""
    settings = Settings.from_layers({"models": models or {}})
    registry = Engines(settings, platform, engines)

    def locate(model: Model) -> Located:
        raise ProblemError(Problem(Code.NOT_PULLED, "not here"))

    sizer = Sizer(settings, presets, registry, tuple(budget), locate)
    kept = {} if kept is None else kept

    def held(repo: str) -> dict[str, int]:
        return {name.partition(":")[2]: GB for name in here if name.startswith(f"{repo}:")}

    settler = Settler(sizer.size, registry, budget, lambda model: model.hf in here, kept, held)
    pick = partial(settler.needed, before=before, asked=asked) if lazy else settler.pick
    return Catalog.build(settings, presets, form=settler.form, pick=pick)


def coder(budget: int, **more: Any) -> Model:
    found = catalog({"ram": budget}, **more).find("qwen3-coder")
    assert found is not None
    return found


REPO = "unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF"


def test_the_coder_by_memory() -> None:
    found = {room: coder(room * GB) for room in (64, 32, 24, 16)}
    assert {room: model.quant for room, model in found.items()} == {
        64: "Q8_0", 32: "Q4_K_XL", 24: "Q4_K_XL", 16: "Q2_K_XL",
    }  # fmt: skip
    assert found[64].size == 32_483_935_392
    assert all(model.choice and not model.choice.refusal for model in found.values())
    small = coder(12 * GB).choice
    assert small is not None
    assert small.refusal is not None


def test_what_is_on_the_disk_is_kept() -> None:
    here = frozenset({f"{REPO}:Q3_K_XL"})
    for room in (6, 12, 64):
        assert coder(room * GB, here=here).quant == "Q3_K_XL"
    other = frozenset({f"{REPO}:Q5_K_M"})
    assert coder(64 * GB, here=other).quant == "Q5_K_M", "also one that the preset does not offer"
    mlx = frozenset({"mlx-community/Qwen3-Coder-30B-A3B-Instruct-4bit"})
    assert coder(64 * GB, here=mlx).form == "mlx", "also in the form that is not the usual one"


def test_a_choice_is_remembered_while_it_is_there() -> None:
    kept: dict[str, str] = {}
    first = coder(24 * GB, kept=kept)
    assert kept["qwen3-coder"] == first.hf
    both = frozenset({first.hf or "", f"{REPO}:Q8_0"})
    assert coder(64 * GB, here=both, kept=kept).hf == first.hf
    assert coder(64 * GB, here=both).quant == "Q8_0"


@pytest.mark.parametrize(
    ("platform", "engines", "form"),
    [
        (MAC, NEW, "mlx"),
        (MAC, {"llama-server": "9999"}, "gguf"),
        (MAC, {"llama-server": "9999", "mlx-lm": "0.20.0"}, "gguf"),
        (LINUX, NEW, "gguf"),
        (LINUX, {"mlx-lm": "0.99.0"}, "mlx"),
        (LINUX, {}, "gguf"),
    ],
)
def test_the_engine_that_is_there_decides_the_form(
    platform: Platform, engines: Mapping[str, str], form: str
) -> None:
    pool = "unified" if platform is MAC else "ram"
    found = catalog({pool: 64 * GB}, engines=engines, platform=platform).find("glm-4.7-flash")
    assert found is not None
    assert found.form == form
    assert found.choice is not None
    assert not found.choice.refusal


def test_an_engine_that_lacks_a_flag_of_the_preset_does_not_count() -> None:
    """The embedded engine cannot override metadata."""
    embedded = {"xllamacpp": "9999"}
    name = "glm-4.7-flash"
    found = catalog({"ram": 64 * GB}, engines=embedded).find(name)
    assert found is not None
    assert found.choice is not None
    assert found.choice.text.endswith("no engine that is here runs it")
    found = catalog({"ram": 64 * GB}, engines={**embedded, "mlx-lm": "0.99.0"}).find(name)
    assert found is not None
    assert found.form == "mlx"


def test_a_named_engine_decides_the_form() -> None:
    models = {"qwen3-coder": {"preset": "qwen3-coder", "engine": "mlx-lm"}}
    assert coder(64 * GB, models=models).form == "mlx"
    models["qwen3-coder"]["engine"] = "llama-server"
    found = catalog({"unified": 64 * GB}, models=models, platform=MAC).find("qwen3-coder")
    assert found is not None
    assert found.form == "gguf"


def test_an_entry_that_builds_on_a_preset_is_weighed_with_its_own_context() -> None:
    models = {"mine": {"preset": "qwen3-coder", "ctx": 262144, "fit": "refuse"}}
    found = catalog({"ram": 48 * GB}, models=models)
    assert found.models["mine"].quant == "Q4_K_XL", "the whole context is wanted"
    assert found.presets["qwen3-coder"].quant == "Q8_0"


def test_what_the_user_wrote_is_not_chosen_for_him() -> None:
    models = {
        "hub": {"preset": "qwen3-coder", "hf": "mine/x-GGUF:Q5_K_M"},
        "file": {"preset": "qwen3-coder", "file": "Qwen3-Coder-30B-A3B-Instruct-Q5_K_M.gguf"},
        "bare": {"hf": "mine/y-GGUF"},
        "disk": {"preset": "qwen3-coder", "path": "/x.gguf"},
    }
    found = catalog({"ram": 12 * GB}, models=models).models
    assert found["hub"].hf == "mine/x-GGUF:Q5_K_M"
    assert (found["file"].hf, found["file"].file) == (
        f"{REPO}:Q4_K_XL", "Qwen3-Coder-30B-A3B-Instruct-Q5_K_M.gguf",
    )  # fmt: skip
    assert [model.choice for name, model in found.items() if name != "file"] == [None] * 3
    assert found["disk"].path == Path("/x.gguf")


def test_what_nobody_needs_is_left_for_later_and_then_kept() -> None:
    models = {"mine": {"preset": "qwen3-coder"}}
    idle = catalog({"ram": 64 * GB}, lazy=True, models=models)
    assert idle.undecided == set(SOME)
    assert idle.models["mine"].quant == "Q8_0", "which the file names"
    asked = catalog({"ram": 64 * GB}, lazy=True, before=idle, asked={"qwen3-coder"})
    assert asked.undecided == {"glm-4.7-flash"}
    decided = asked.presets["qwen3-coder"]
    assert decided.choice is not None
    later = catalog({"ram": 12 * GB}, lazy=True, before=asked)
    assert later.presets["qwen3-coder"] == decided, "it is not weighed anew"
    assert later.presets["qwen3-coder"].choice == decided.choice
    here = frozenset({f"{REPO}:Q3_K_XL"})
    found = catalog({"ram": 64 * GB}, lazy=True, here=here, before=later)
    assert found.presets["qwen3-coder"].quant == "Q3_K_XL", "others have come to the disk"
    assert found.undecided == {"glm-4.7-flash"}
    both = catalog({"ram": 64 * GB}, lazy=True, here=here | {f"{REPO}:Q8_0"}, before=found)
    assert both.presets["qwen3-coder"].quant == "Q3_K_XL", "its own are here still"


def test_cards() -> None:
    """One card of 24 GB, and main memory beside it that does not count."""
    found = catalog({"gpu0": 24 * GB, "ram": 64 * GB}, engines={"llama-server": "9999"})
    model = found.find("qwen3-coder")
    assert model is not None
    assert model.quant == "Q8_0", "an engine without a GPU uses main memory"


def test_every_preset_fits_a_large_machine() -> None:
    found = catalog({"unified": 128 * GB}, platform=MAC, presets=PRESETS).presets
    too_large = [name for name, model in found.items() if not model.choice or model.choice.refusal]
    assert too_large == []
    assert {"gguf"} == {model.form for model in found.values() if model.kind != "chat"}
