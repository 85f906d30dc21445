from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from control_api.client import RefusedError
from control_api.commands.local import engine, engine_change
from control_api.commands.local.settings import find_paths
from daemon.core.problems import Code, Problem, ProblemError
from daemon.engines.base import Installed
from daemon.engines.install.known import others
from daemon.engines.install.shelf import Item, Shelf, switch
from daemon.engines.llama_server import LlamaServer
from tests.commands.conftest import Ctl


class FakeRegistry:
    def __init__(self, installed: Mapping[str, Installed]) -> None:
        self._installed = installed

    def get(self, name: str) -> LlamaServer:
        return LlamaServer()

    def at(self, name: str, place: Mapping[str, str]) -> Installed:
        path = place.get("path", "/usr/bin/llama-server")
        return Installed(name, (path,), "7000", accelerators=("vulkan",))

    def names(self) -> tuple[str, ...]:
        return ("llama-server", "mlx-lm")

    def find(self, name: str) -> Installed:
        if name in self._installed:
            return self._installed[name]
        raise ProblemError(Problem(Code.ENGINE_MISSING, f"{name}: it is not there.", "brew it"))


@pytest.fixture(autouse=True)
def nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own engines are nothing to these tests."""
    monkeypatch.setattr("daemon.engines.install.known.PLACES", {})


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


def test_ours_and_those_of_others(
    ctl: Ctl, installed: dict[str, Installed], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(find_paths(None).engines_dir)
    for version in ("b1", "b2"):
        place = shelf.place("llama-server", version)
        shelf.finish(
            Item("llama-server", version, place, place / "llama-server", "archive", "cuda")
        )
    shelf.change("llama-server", lambda use: switch(use, "b2", 8))
    program = str(shelf.place("llama-server", "b2") / "llama-server")
    installed["llama-server"] = Installed("llama-server", (program,), "2", accelerators=("cuda",))
    theirs = home / ".lmstudio" / "llama-server"
    theirs.parent.mkdir()
    theirs.write_text("#!/bin/sh\n")
    theirs.chmod(0o755)
    monkeypatch.setenv("HOME", str(home))
    known = {"llama-server": (("LM Studio", ".lmstudio/llama-server"),)}
    monkeypatch.setattr("daemon.engines.install.known.PLACES", known)
    found = [e for e in ctl("engine", "ls", "--json").json["engines"] if e["found"]]
    told = [(e["used"], e["whose"], e["trial"]) for e in found]
    assert told == [
        (True, "modelport", 8), (False, "modelport", 0), (False, "found", 0),
        (False, "LM Studio", 0),
    ]  # fmt: skip
    assert found[0]["dialects"][:2] == ["chat", "completions"]
    text = ctl("engine", "ls").out
    assert "trusted after 8 more loads" in text
    assert "(LM Studio)" in text
    assert others("llama-server", home, [str(theirs)]) == [], "the one in use is not told twice"


def on_shelf(engine: str, version: str, how: str = "packages") -> Item:
    """One that is in use."""
    shelf = Shelf(find_paths(None).engines_dir)
    place = shelf.place(engine, version)
    item = shelf.finish(Item(engine, version, place, place / "bin" / "python", how))
    shelf.change(engine, lambda use: switch(use, version, 0))
    return item


def test_update_of_all_goes_on_where_one_cannot_be_had(
    ctl: Ctl, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "config.toml").write_text('[engines.vllm]\npath = "/opt/vllm"\n')
    for name, how in (("llama-server", "archive"), ("vllm", "packages"), ("mlx-lm", "packages")):
        on_shelf(name, "1", how)
    own = on_shelf("xllamacpp", "1-at-00000000", "named")

    def put(config: object, engine: str, *_: object, **__: object) -> Item:
        if engine == "llama-server":
            raise RefusedError("pull_failed", "Nobody is there.", "Try again later.")
        return on_shelf(engine, "1")

    monkeypatch.setattr(engine_change, "put", put)
    result = ctl("engine", "update")
    assert result.code == 1
    assert result.out.splitlines() == ["mlx-lm 1 is installed and in use."]
    for words in ("llama-server: Nobody is there.\n  Try again later.", "[engines.vllm] says",
                  f"xllamacpp is your own, at {own.path}"):  # fmt: skip
        assert words in result.err
    told = ctl("engine", "update", "--json").json
    assert [one["engine"] for one in told["engines"]] == ["mlx-lm"]
    assert told["failed"] == [
        {"engine": "llama-server", "message": "Nobody is there.", "hint": "Try again later."}
    ]


@pytest.mark.parametrize(
    "words", [("rollback", "mlx-lm"), ("use", "mlx-lm@found"), ("use", "mlx-lm@1")]
)
def test_a_version_in_the_file_wins(ctl: Ctl, home: Path, words: tuple[str, ...]) -> None:
    (home / "config.toml").write_text('[engines.mlx-lm]\nversion = "2"\n')
    on_shelf("mlx-lm", "1")
    result = ctl("engine", *words)
    assert result.code == 1
    assert "insists on version 2" in result.err
    assert "ctl config edit" in result.err


@pytest.mark.parametrize("verb", ["use", "install"])
def test_one_that_does_not_run_is_not_used(ctl: Ctl, home: Path, verb: str) -> None:
    (home / "config.toml").touch()
    on_shelf("xllamacpp", "2026.1.1")
    shelf = Shelf(find_paths(None).engines_dir)
    shelf.change("xllamacpp", lambda use: switch(use, "", 0))
    if verb == "install":  # its Python is there, and it cannot be imported
        place = shelf.place("xllamacpp", "2026.1.1") / "bin"
        place.mkdir()
        (place / "python").write_text("#!/bin/sh\nexit 1\n")
        (place / "python").chmod(0o755)
    result = ctl("engine", verb, "xllamacpp@2026.1.1")
    assert result.code == 1
    assert "is installed, but does not run" in result.err
    hint = "engine ls" if verb == "install" else "ctl engine install xllamacpp@2026.1.1"
    assert hint in result.err
    assert shelf.use("xllamacpp").version == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [(("install", "ollama"), "cannot install 'ollama'"), (("install", "vllm@/x"), "is no version"),
     (("use", "llama-server"), "Which version"), (("use", "llama-server@b7"), "is not installed"),
     (("rollback", "vllm"), "No version of vllm was used before"),
     (("update",), "has installed no engine to update"),
     (("install", "mlx-lm", "--from", "brew"), "package index only"),
     (("use", "llama-server", "/no/such"), "there is no /no/such")],
)  # fmt: skip
def test_what_cannot_be_done_is_told(
    ctl: Ctl, home: Path, words: tuple[str, ...], message: str
) -> None:
    (home / "config.toml").touch()
    result = ctl("engine", *words)
    assert result.code == 1
    assert message in result.err
    assert len(result.err.splitlines()) > 1, "and what to do"
