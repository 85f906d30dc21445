from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from control_api.commands.local import engine
from daemon.core.problems import Code, Problem, ProblemError
from daemon.engines.base import Installed
from tests.commands.conftest import Ctl


class FakeRegistry:
    def __init__(self, installed: Mapping[str, Installed]) -> None:
        self._installed = installed

    def names(self) -> tuple[str, ...]:
        return ("llama-server", "mlx-lm")

    def find(self, name: str) -> Installed:
        if name in self._installed:
            return self._installed[name]
        raise ProblemError(Problem(Code.ENGINE_MISSING, f"{name}: it is not there.", "brew it"))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Installed]:
    found: dict[str, Installed] = {}
    monkeypatch.setattr(engine, "registry_of", lambda config: FakeRegistry(found))
    return found


def test_none(ctl: Ctl, installed: dict[str, Installed]) -> None:
    result = ctl("engine", "ls")
    assert result.code == 0
    assert "No engine was found." in result.out
    assert "brew it" in result.out


def test_some(ctl: Ctl, installed: dict[str, Installed]) -> None:
    installed["llama-server"] = Installed(
        "llama-server",
        ("/usr/bin/llama-server",),
        "8123",
        accelerators=("cuda",),
        warning="It is old.",
    )
    result = ctl("engine", "ls")
    assert "/usr/bin/llama-server" in result.out
    assert "! It is old." in result.out
    first, second = ctl("engine", "ls", "--json").json["engines"]
    assert (first["found"], first["accelerators"]) == (True, ["cuda"])
    assert (second["found"], second["hint"]) == (False, "brew it")


def test_the_real_registry(home: Path) -> None:
    (home / "config.toml").touch()
    names = engine.registry_of(None).names()
    assert {"llama-server", "mlx-lm", "vllm"} <= set(names)
