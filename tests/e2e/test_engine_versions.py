"""Versions of an engine under a whole daemon: used, gone back from, taken back by themselves."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeHouse
from tests.e2e.house import House, Watch
from tests.engines.install.wheels import make_engine

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

NEW = "2099.1.99999"


def model(name: str, path: Path, more: str = "") -> str:
    return (
        f'[models.{name}]\npath = "{path}"\nengine = "xllamacpp"\nctx = 512\n'
        f'args = ["-t", "1"]\n{more}\n'
    )


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages come from this folder alone, for both installers."""
    folder = tmp_path / "wheels"
    make_engine(folder, NEW, "raise RuntimeError(\"unknown model architecture: 'llama'\")")
    for name, value in (
        ("UV_FIND_LINKS", str(folder)), ("UV_NO_INDEX", "1"), ("UV_OFFLINE", "1"),
        ("UV_CACHE_DIR", str(tmp_path / "cache")), ("PIP_FIND_LINKS", str(folder)),
        ("PIP_NO_INDEX", "1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    return folder


def told(house: House, *words: str, seconds: float = 120.0) -> tuple[int, dict[str, Any]]:
    done = house.ctl("engine", *words, "--json", seconds=seconds)
    text = done.stdout or done.stderr
    return done.returncode, json.loads(text)


def used(house: House) -> dict[str, Any]:
    _, listed = told(house, "ls")
    (one,) = [e for e in listed["engines"] if e["name"] == "xllamacpp" and e["used"]]
    found: dict[str, Any] = one
    return found


def test_a_broken_new_version_is_taken_back(
    make_house: MakeHouse, tiny_gguf: Path, wheels: Path
) -> None:
    with make_house(model("a", tiny_gguf) + model("b", tiny_gguf)) as house:
        assert house.chat("a").status == house.chat("b").status == 200
        watch = Watch(house)
        old = used(house)["version"]
        assert {"a", "b"} <= set(used(house)["models"])
        before = house.backends()

        # proven on the side: it is not good enough to be used
        code, said = told(house, "install", f"xllamacpp@{NEW}")
        assert code == 1, said
        assert "installed, but not used" in said["error"]["message"]
        assert "unknown model architecture" in said["error"]["message"]
        assert used(house)["version"] == old

        # used all the same: what runs goes on
        code, said = told(house, "use", f"xllamacpp@{NEW}")
        assert code == 0, said
        assert used(house)["version"] == NEW
        assert house.chat("a").status == house.chat("b").status == 200
        after = house.backends()
        assert {n: b["pid"] for n, b in after.items()} == {n: b["pid"] for n, b in before.items()}

        # the next start takes the new one, fails where the old one worked, and it is taken back
        assert house.ctl("unload", "a").returncode == 0
        assert house.chat("a").status >= 400
        watch.wait("engine_taken_back", "a")
        watch.wait("reload", "", count=2)
        assert house.chat("a").status == 200
        assert used(house)["version"] == old
        assert house.backends()["b"]["pid"] == before["b"]["pid"]
        why = house.ctl("why", "a").stdout
        assert f"xllamacpp {NEW} was taken back" in why, why
        doctor = house.ctl("doctor").stdout
        assert f"xllamacpp {NEW} was taken back: a did not load with it" in doctor, doctor
        code, said = told(house, "install", f"xllamacpp@{NEW}")
        assert code == 1
        assert "was taken back: a did not load with it" in said["error"]["message"]
        assert "was taken back" in used(house)["taken_back"]


def test_used_and_gone_back_from(make_house: MakeHouse, tiny_gguf: Path, wheels: Path) -> None:
    with make_house(model("a", tiny_gguf)) as house:
        code, said = told(house, "install", f"xllamacpp@{NEW}", "--no-use")
        assert (code, said["used"]) == (0, False)
        again = house.ctl("engine", "install", f"xllamacpp@{NEW}", "--no-use")
        assert again.returncode == 0, again
        assert "install " not in again.stderr, "what is there is left alone"
        code, said = told(house, "use", f"xllamacpp@{NEW}")
        assert code == 0
        assert house.chat("a").status >= 400, "nobody knows whether it ever worked"
        assert house.client.get("/models/a")["state"] == "failed"
        code, said = told(house, "rollback", "xllamacpp")
        assert code == 0
        assert house.chat("a").status == 200, "what it was given up for is no more"
        assert house.ctl("unload", "a").returncode == 0
        code, said = told(house, "rollback", "xllamacpp")
        assert code == 1
        assert "No version of xllamacpp was used before" in said["error"]["message"]
        code, said = told(house, "use", "xllamacpp", sys.executable)
        assert code == 0, said
        assert house.chat("a").status == 200
        assert "-at-" in said["version"]
        code, said = told(house, "use", "xllamacpp@found")
        assert code == 0
        code, said = told(house, "rollback", "xllamacpp")
        assert code == 0
        assert used(house)["program"][0] == sys.executable
        lock = house.folder / "state" / "engines" / "xllamacpp" / NEW / "lock.txt"
        assert f"xllamacpp=={NEW}" in lock.read_text()
        assert "--hash=sha256:" in lock.read_text()


def test_the_file_wins(make_house: MakeHouse, tiny_gguf: Path) -> None:
    config = f'[engines.xllamacpp]\npath = "{sys.executable}"\n' + model("a", tiny_gguf)
    with make_house(config) as house:
        for verb in ("install", "update", "rollback"):
            code, said = told(house, verb, "xllamacpp")
            assert code == 1
            assert "path = " in said["error"]["message"]


def test_what_an_older_version_runs_outlives_a_restart_of_the_daemon(
    make_house: MakeHouse, tiny_gguf: Path, wheels: Path
) -> None:
    with make_house(model("a", tiny_gguf), service=True) as house:
        assert house.chat("a").status == 200
        before = house.backends()["a"]["pid"]
        assert told(house, "install", f"xllamacpp@{NEW}", "--no-use")[0] == 0
        assert told(house, "use", f"xllamacpp@{NEW}")[0] == 0
        house.stop()
        house.start()
        assert house.chat("a").status == 200
        assert house.backends()["a"]["pid"] == before
        assert house.backends()["a"]["version"] != NEW
        assert house.ctl("unload", "a").returncode == 0
