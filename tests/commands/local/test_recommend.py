"""``recommend``: what it says on recorded machines, by a kept file, and what it refuses.

``UPDATE_KEPT=1`` writes that file again: read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from control_api.commands.local import recommend as verb
from control_api.commands.local import sizes
from daemon.core.problems import Code, Problem, ProblemError
from daemon.engines.base import Installed
from daemon.engines.environment import Platform
from daemon.engines.registry import choose
from daemon.machine.base import MachineFacts, PoolFacts
from daemon.machine.budget import budget
from tests.commands.conftest import Ctl
from tests.control_api.fake import FakeControl, FakeDaemon
from tests.machine.samples import MACHINES, Machine, cards, mac

GIB = 1 << 30
UPDATE = bool(os.environ.get("UPDATE_KEPT"))
KEPT = Path(__file__).with_name("recommended.txt")
MAC = frozenset({"llama-server", "mlx-lm"})
LINUX = frozenset({"llama-server"})

RECORDED: dict[str, tuple[Machine, frozenset[str]]] = {
    "Mac 8 GB": (mac(8, 5726.63, 0.6), MAC),
    "Mac 16 GB": (MACHINES["Mac 16 GB"], MAC),
    "Mac 24 GB": (MACHINES["Mac 24 GB"], MAC),
    "Mac 36 GB": (MACHINES["Mac 36 GB"], MAC),
    "Mac 64 GB": (MACHINES["Mac 64 GB"], MAC),
    "Mac 128 GB": (MACHINES["Mac 128 GB"], MAC),
    "Mac 24 GB without any engine": (MACHINES["Mac 24 GB"], frozenset()),
    "RTX 4060, 8 GB": (cards(32, 8188), LINUX),
    "RTX 4090, 24 GB": (MACHINES["RTX 4090, 24 GB"], LINUX),
    "RTX 4090, 24 GB, without any engine": (MACHINES["RTX 4090, 24 GB"], frozenset()),
    "2 x RTX 3090": (MACHINES["2 x RTX 3090"], LINUX),
    "processor alone, 16 GB": (
        Machine((PoolFacts("ram", 16 * GIB, 13 * GIB, None, "MemAvailable"),)),
        LINUX,
    ),
}
CHATTING = ("Mac 8 GB", "Mac 128 GB")
EACH = [(name, verb.TASKS[i % len(verb.TASKS)]) for i, name in enumerate(RECORDED)]


class Engines:
    """A registry of engines that are said to be there."""

    def __init__(self, names: frozenset[str], platform: Platform, accelerated: bool) -> None:
        self.names, self.platform, self.accelerated = names, platform, accelerated

    def find(self, name: str) -> Installed:
        if name not in self.names:
            raise ProblemError(Problem(Code.ENGINE_MISSING, f"{name} is not installed."))
        gpus = ("gpu",) if self.accelerated else ()
        return Installed(name, (name,), "b99999", accelerators=gpus)

    def choose(self, form: str, kind: str = "chat") -> str | Problem:
        return choose(form, self.platform, lambda name: name in self.names, kind)

    def unfit(self, installed: Installed, oldest: object, architecture: str) -> Problem | None:
        return None


@pytest.fixture(autouse=True)
def empty(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration, an empty cache of the hub, and no packages with weights."""
    (home / "config.toml").write_text("", "utf-8")
    monkeypatch.setattr("daemon.downloads.locate.default_cache", lambda: tmp_path / "hub")
    monkeypatch.setattr("daemon.config.presets.packaged_file", lambda package, file: None)


def stand_on(name: str, monkeypatch: pytest.MonkeyPatch) -> MachineFacts:
    """From now on this is that machine."""
    machine, engines = RECORDED[name]
    facts = machine.facts()
    amounts = dict(budget(None, "balanced", facts))
    found = sizes.Budget(amounts, sizes._main(amounts), "machine")
    apple = machine.platform == "darwin"
    platform = Platform("Darwin", "arm64") if apple else Platform("Linux", "x86_64")
    registry = Engines(engines, platform, accelerated=len(amounts) > 1 or apple)
    monkeypatch.setattr(sizes, "_budget", lambda settings, file: found)
    monkeypatch.setattr(sizes.Here, "registry", lambda self: registry)
    return facts


def said(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> str:
    parts = []
    for name in RECORDED:
        stand_on(name, monkeypatch)
        for task in ("code", "chat") if name in CHATTING else ("code",):
            result = ctl("recommend", "--task", task)
            assert result.err == ""
            parts.append(f"# {name}\n$ ctl recommend --task {task}\n{result.out}")
    return "\n".join(parts)


@pytest.mark.timeout(300)  # thirteen seconds where it has a processor to itself
def test_what_it_says_on_recorded_machines(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    text = said(ctl, monkeypatch)
    if UPDATE:
        KEPT.write_text(text, "utf-8")
    assert text == KEPT.read_text("utf-8"), "UPDATE_KEPT=1 writes it anew: read the difference"


@pytest.mark.parametrize(("machine", "task"), EACH)
def test_it_fits_and_says_how(
    machine: str, task: str, ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_on(machine, monkeypatch)
    result = ctl("recommend", "--task", task, "--json")
    found = result.json
    assert result.code == (0 if found["models"] else 1)
    for row in found["models"]:
        for pool, amount in row["need"].items():
            assert amount <= found["budget"][pool]
        assert row["try"][-1].startswith(f"ctl load {row['model']}")
        assert row["pull_bytes"] > 0
        assert row["speed"] is None, "nobody has measured"
    if found["models"] and task == "code":
        assert found["models"][0]["tools"]


def first(ctl: Ctl, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = ctl("recommend", "--json", *words).json["models"][0]
    return found


def test_a_context_that_is_asked_for_is_kept(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_on("Mac 36 GB", monkeypatch)
    row = first(ctl, "--ctx", "64k")
    assert row["context"] == 65536
    assert row["try"][-1].endswith(" --ctx 65536") or "@65536:" in row["try"][-2]
    assert ctl("recommend", "--ctx", "900k").code == 1, "none was trained for that"
    assert ctl("recommend", "--ctx", "many").code == 2


def test_what_stays_beside_it_takes_its_room(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_on("Mac 24 GB", monkeypatch)
    alone = first(ctl, "--task", "chat")
    row = first(ctl, "--task", "chat", "--with", "llama3.1-8b")
    assert row["model"] != "llama3.1-8b"
    assert set(row["beside"]) == {"llama3.1-8b"}
    assert alone["need"]["unified"] + row["beside"]["llama3.1-8b"]["unified"] > 16 * GIB
    assert row["need"]["unified"] + row["beside"]["llama3.1-8b"]["unified"] <= 16 * GIB
    result = ctl("recommend", "--with", "llama3.1-70b")
    assert result.code == 1
    assert "nothing that is known fits" in result.out
    assert "Without --with there is more room." in result.out
    assert ctl("recommend", "--with", "nobody").code == 1


def test_for_another_machine(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_on("Mac 8 GB", monkeypatch)
    assert first(ctl, "--memory", "80GiB")["need"]["unified"] > 8 * GIB
    assert "(--memory)" in ctl("recommend", "--memory", "80GiB").out
    assert "--memory" in ctl("recommend", "--memory", "lots").err
    stand_on("2 x RTX 3090", monkeypatch)
    refused = ctl("recommend", "--memory", "20GiB")
    assert refused.code == 1
    assert "--memory gpu0=20GiB,gpu1=20GiB" in refused.err


def test_an_engine_that_is_missing_is_the_first_step(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_on("RTX 4090, 24 GB, without any engine", monkeypatch)
    row = first(ctl)
    assert row["need"]["gpu0"] > 8 * GIB, "as an engine that uses the GPU would run it"
    assert row["try"][0] == "ctl engine install llama-server"
    assert all(not one["model"].startswith("gemma") for one in [row]), "MLX is for Macs"


def test_speeds_are_those_that_were_measured_here(
    ctl: Ctl, daemon: FakeDaemon, fake: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.control_api.fake import bench_view

    stand_on("Mac 64 GB", monkeypatch)
    name = first(ctl)["model"]
    fake.benches = [bench_view(model=name), bench_view(model=name, id=2)]
    assert first(ctl)["speed"] == "40.0 tokens/s"
    out = ctl("recommend").out
    assert "SPEED" in out
    assert "measured speeds" not in out
