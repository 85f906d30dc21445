"""Engines from the package index for real: two versions of one, and mlx-lm, under a whole daemon.

MODELPORT_TEST_INSTALLS=1 runs them: they fetch some hundred megabytes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeHouse
from tests.e2e.house import House

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not os.environ.get("MODELPORT_TEST_INSTALLS"), reason="MODELPORT_TEST_INSTALLS is not set"
    ),
]

OLD, NEW = "2026.9.11063", "2026.10.11549"


def told(house: House, *words: str) -> dict[str, Any]:
    done = house.ctl("engine", *words, "--json", seconds=1500.0)
    assert done.returncode == 0, done
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def version(house: House, model: str) -> str:
    return str(house.backends()[model]["version"])


def restart(house: House, model: str) -> None:
    assert house.ctl("unload", model).returncode == 0
    assert house.chat(model).status == 200


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_two_versions_of_the_embedded_engine(
    make_house: MakeHouse,
    tiny_gguf: Path,
    installer: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if installer == "pip":
        monkeypatch.setenv("MODELPORT_NO_UV", "1")
    config = "".join(
        f'[models.{name}]\npath = "{tiny_gguf}"\nengine = "xllamacpp"\nctx = 512\n'
        'args = ["-t", "1"]\n'
        for name in "ab"
    )
    with make_house(config) as house:
        first = told(house, "install", f"xllamacpp@{OLD}")
        assert first["used"]
        assert first["proven"].startswith("works"), first
        restart(house, "a")
        assert house.chat("b").status == 200
        assert version(house, "a") == version(house, "b") == OLD
        pids = {name: one["pid"] for name, one in house.backends().items()}

        second = told(house, "update", f"xllamacpp@{NEW}")
        assert (second["version"], second["used"]) == (NEW, True)
        assert {name: one["pid"] for name, one in house.backends().items()} == pids
        assert house.chat("b").status == 200, "the old one goes on serving"
        restart(house, "a")
        assert (version(house, "a"), version(house, "b")) == (NEW, OLD)

        told(house, "rollback", "xllamacpp")
        assert version(house, "a") == NEW
        restart(house, "a")
        assert version(house, "a") == OLD
        told(house, "use", f"xllamacpp@{NEW}")
        restart(house, "b")
        assert (version(house, "a"), version(house, "b")) == (OLD, NEW)
        names = [e["version"] for e in told(house, "ls")["engines"] if e["name"] == "xllamacpp"]
        assert {OLD, NEW} <= set(names)


def test_mlx_lm(make_house: MakeHouse, tiny_hf: Path) -> None:
    config = f'[models.m]\npath = "{tiny_hf}"\nengine = "mlx-lm"\nctx = 512\n'
    with make_house(config) as house:
        assert house.chat("m").status >= 400
        done = told(house, "install", "mlx-lm")
        assert done["used"]
        assert done["proven"].startswith("works"), done
        assert house.chat("m").status == 200
        (one,) = [e for e in told(house, "ls")["engines"] if e["name"] == "mlx-lm" and e["used"]]
        assert one["models"] == ["m"]
        assert one["whose"] == "modelport"
