"""What is installed and what is in use, on the disk."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.core.problems import Code, ProblemError
from daemon.engines.install.shelf import (
    FOUND,
    Item,
    Shelf,
    Use,
    Worked,
    back,
    given_up,
    switch,
    take_back,
)

ENGINE = "llama-server"


def put(shelf: Shelf, version: str, path: str = "llama-server") -> Item:
    folder = shelf.place(ENGINE, version)
    return shelf.finish(Item(ENGINE, version, folder, folder / path, "archive", "cuda"))


def test_items_newest_first_and_whole_ones_alone(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "engines")
    assert shelf.items(ENGINE) == []
    for version in ("b9", "b1000", "b999"):
        put(shelf, version)
    shelf.place(ENGINE, "b5000").mkdir()  # an install that was interrupted
    shelf.place(ENGINE, "b4").mkdir()
    (shelf.place(ENGINE, "b4") / "about.json").write_text("{")
    found = shelf.items(ENGINE)
    assert [item.version for item in found] == ["b1000", "b999", "b9"]
    assert found[0].path == shelf.place(ENGINE, "b1000") / "llama-server"
    assert (found[0].how, found[0].build) == ("archive", "cuda")
    assert found[0].installed > 0
    assert shelf.proved(found[0], "works: a stream").proven == "works: a stream"
    kept = shelf.item(ENGINE, "b1000")
    assert kept is not None
    assert (kept.proven, kept.build) == ("works: a stream", "cuda")


def test_switching_and_going_back() -> None:
    use = switch(Use(), "b1", 0)
    use = switch(use, "b2", 8)
    assert (use.version, use.before, use.trial) == ("b2", ("b1", FOUND), 8)
    assert switch(use, "b2", 3) == use
    again = switch(use, "b1", 8)
    assert (again.version, again.before) == ("b1", ("b2", FOUND))
    assert back(use) == Use("b1", (FOUND,), 0)
    assert back(Use()) is None
    gone = take_back(use, "qwen", "it broke", 5.0)
    assert gone is not None
    assert (gone.version, gone.trial) == ("b1", 0)
    assert gone.taken_back is not None
    assert (gone.taken_back.version, gone.taken_back.to) == ("b2", "b1")
    assert take_back(replace(use, trial=0), "qwen", "it broke", 5.0) is None


def test_going_back_passes_over_what_is_gone(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "engines")
    for version in ("b1", "b2"):
        put(shelf, version)
    (shelf.place(ENGINE, "b1") / "llama-server").touch()
    use = Use("b3", ("b2", "b9", "b1", FOUND), 4)
    there = shelf.there(ENGINE)
    assert back(use, there) == Use("b1", (FOUND,), 0)
    gone = take_back(use, "qwen", "it broke", 5.0, there)
    assert gone is not None
    assert gone.version == "b1"
    assert back(Use("b3", ("b2",)), there) is None
    assert back(Use("b3", ("b2", FOUND)), there) == Use(FOUND)


def test_homebrew_has_one_version_only(tmp_path: Path) -> None:
    shelf, program = Shelf(tmp_path / "engines"), tmp_path / "llama-server"
    program.touch()
    for at, version in enumerate(("brew-1", "brew-2"), start=1):
        folder = shelf.place(ENGINE, version)
        shelf.finish(Item(ENGINE, version, folder, program, "brew", installed=float(at)))
    there = shelf.there(ENGINE)
    assert there("brew-2")
    assert not there("brew-1"), "its program is that of the other one"
    assert back(Use("brew-2", ("brew-1", FOUND)), there) == Use(FOUND)


def test_what_was_given_up_is_told_while_it_matters() -> None:
    gone = take_back(Use("b2", ("b1",), 4), "qwen", "it broke", 5.0)
    assert gone is not None
    assert given_up(gone) == gone.taken_back
    assert given_up(switch(gone, "b3", 8)) is None
    assert given_up(Use()) is None


def test_an_environment_ends_with_its_python(tmp_path: Path) -> None:
    folder = tmp_path / "mlx-lm" / "1"
    item = Item("mlx-lm", "1", folder, folder, "packages")
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(tmp_path / "python3")
    assert not item.whole
    (tmp_path / "python3").touch()
    assert item.whole


def test_what_is_in_use_is_kept(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "engines")
    put(shelf, "b1")
    assert shelf.chosen(ENGINE) is None
    shelf.change(ENGINE, lambda use: switch(use, "b1", 8))
    assert Shelf(tmp_path / "engines").use(ENGINE) == Use("b1", (FOUND,), 8)
    chosen = shelf.chosen(ENGINE)
    assert chosen is not None
    assert chosen.version == "b1"
    shelf.change(ENGINE, lambda use: take_back(use, "m", "w", 7.0))
    assert Shelf(tmp_path / "engines").use(ENGINE).taken_back is not None
    assert shelf.change(ENGINE, lambda _: None) is None
    assert shelf.chosen("command.mine") is None


def test_one_that_is_gone_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "engines")
    put(shelf, "b1")
    shelf.change(ENGINE, lambda use: switch(use, "b1", 0))
    (shelf.place(ENGINE, "b1") / "about.json").unlink()
    with pytest.raises(ProblemError, match="not whole") as caught:
        shelf.chosen(ENGINE)
    assert caught.value.problem.code is Code.ENGINE_MISSING
    assert f"ctl engine install {ENGINE}@b1" in caught.value.problem.hint


def test_the_version_insisted_on(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "engines")
    put(shelf, "b1")
    put(shelf, "b2")
    shelf.change(ENGINE, lambda use: switch(use, "b2", 0))
    for wanted in ("b1", "1"):
        chosen = shelf.chosen(ENGINE, wanted)
        assert chosen is not None
        assert chosen.version == "b1"
    assert shelf.chosen(ENGINE, "b7") is None, "perhaps it is found on the machine"


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"version": 2}', '{"version": 1, "engines": {"x": {"use": 5}}}',
             '{"version": 1, "engines": {"x": {"use": "b1", "trial": -1}}}']
)  # fmt: skip
def test_a_file_that_is_broken_is_moved_aside(tmp_path: Path, text: str) -> None:
    shelf = Shelf(tmp_path)
    (tmp_path / "in_use.json").write_text(text)
    (tmp_path / "in_use.json").chmod(0o600)
    assert shelf.use("x") == Use()
    assert list(tmp_path.glob("in_use.json.corrupt-*"))


def test_changes_of_several_at_once_are_all_kept(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "engines")

    def count(use: Use) -> Use:
        return replace(use, trial=use.trial + 1)

    threads = [
        threading.Thread(target=lambda: [shelf.change(ENGINE, count) for _ in range(5)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shelf.use(ENGINE).trial == 20


def test_what_worked() -> None:
    worked = Worked()
    assert worked.put("e", "m", "1")
    assert not worked.put("e", "m", "1")
    assert worked.put("e", "m", "2")
    assert Worked.read(worked.text()).get("e", "m") == "2"
    assert worked.get("e", "other") is None
    for number in range(300):
        worked.put("e", f"m{number}", "1")
    assert len(worked.models["e"]) == 256
    with pytest.raises(ValueError):
        Worked.read(json.dumps({"version": 9}).encode())
