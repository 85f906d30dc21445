"""The user's own files: written, written again, and put back to the byte."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_api.clients.kept import Keeper, KeptError
from control_api.clients.values import Edit


def never(_: str) -> bool:
    return False


def edit(path: Path, mark: str = "ours") -> Edit:
    def change(old: str | None) -> str:
        lines = [line for line in (old or "").splitlines(keepends=True) if "ours" not in line]
        return "".join(lines) + f"{mark}\n"

    return Edit(str(path), change)


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    return Keeper(tmp_path / "records")


@pytest.mark.parametrize("old", [None, "", "a\r\nb", "# mine\nx = 1\n", "ä\n" * 1000])
def test_back_to_the_byte_after_any_number_of_writes(
    old: str | None, keeper: Keeper, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "deep" / "config"
    if old is not None:
        path.parent.mkdir(parents=True)
        path.write_bytes(old.encode())
        path.chmod(0o640)
    for mark in ("ours 1", "ours 2", "ours 2", "ours 3"):
        keeper.write("c", [edit(path, mark)])
    assert path.read_text().endswith("ours 3\n")
    assert keeper.undo("c", consent=never) == [path]
    if old is None:
        assert not (tmp_path / "new").exists(), "folders that we made are gone too"
    else:
        assert path.read_bytes() == old.encode()
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert [one.name for one in path.parent.iterdir()] == ["config"]
    assert keeper.undo("c", consent=never) == []


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(["ours a", "ours b"])), max_size=6))
def test_any_writes_of_any_files(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, str]]
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    files = [folder / "one", folder / "two"]
    files[0].write_text("before\n")
    keeper = Keeper(folder / "records")
    for which, mark in writes:
        keeper.write("c", [edit(files[which], mark)])
    keeper.undo("c", consent=never)
    assert files[0].read_text() == "before\n"
    assert not files[1].exists()


def test_the_old_text_lies_beside(keeper: Keeper, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("old\n")
    keeper.write("c", [edit(path)])
    assert (tmp_path / "config.before-modelport").read_text() == "old\n"
    assert keeper.written("c") == [path]


def test_nothing_is_written_that_says_so_already(keeper: Keeper, tmp_path: Path) -> None:
    path = tmp_path / "config"
    assert keeper.write("c", [edit(path)]) == [path]
    stamp = path.stat().st_mtime_ns
    assert keeper.write("c", [edit(path)]) == []
    assert path.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("again", [False, True], ids=["then undone", "then written again"])
def test_later_edits_are_not_undone_without_consent(
    again: bool, keeper: Keeper, tmp_path: Path
) -> None:
    path = tmp_path / "config"
    path.write_text("old\n")
    keeper.write("c", [edit(path)])
    path.write_text("old\nmine, later\nours\n")
    if again:
        keeper.write("c", [edit(path, "ours 2")])
        assert "mine, later" in path.read_text(), "edits are kept by a second write"
    shown: list[str] = []

    def ask(lost: str) -> bool:
        shown.append(lost)
        return False

    now = path.read_text()
    with pytest.raises(KeptError, match="mine, later"):
        keeper.undo("c", consent=ask)
    assert "+mine, later" in shown[0]
    assert path.read_text() == now
    assert keeper.undo("c", consent=lambda _: True) == [path]
    assert path.read_text() == "old\n"
    assert (tmp_path / "config.after-modelport").read_text() == now, "nothing is lost for good"


def test_a_deleted_file_is_told(keeper: Keeper, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("old\n")
    keeper.write("c", [edit(path)])
    path.unlink()
    with pytest.raises(KeptError, match="was deleted"):
        keeper.undo("c", consent=never)
    keeper.undo("c", consent=lambda _: True)
    assert path.read_text() == "old\n"


def test_links_are_followed_and_stay(keeper: Keeper, tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles", tmp_path / "config"
    real.write_text("old\n")
    link.symlink_to(real)
    keeper.write("c", [edit(link)])
    assert link.is_symlink()
    assert "ours" in real.read_text()
    keeper.undo("c", consent=never)
    assert link.is_symlink()
    assert real.read_text() == "old\n"


def test_the_other_file_where_it_would_win(keeper: Keeper, tmp_path: Path) -> None:
    plain, other = tmp_path / "c.json", tmp_path / "c.jsonc"
    other.write_text("old\n")
    both = Edit(str(plain), edit(plain).change, instead=str(other))
    assert keeper.write("c", [both]) == [other]
    assert not plain.exists()


def unreadable(old: str | None) -> str:
    raise ValueError("line 3: no colon")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(b"\xff\xfe"), "cannot be read"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: path.write_bytes(b"x" * (5 << 20)), "more than"),
    ],
)
def test_all_or_nothing(
    spoil: Callable[[Path], object], said: str, keeper: Keeper, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    spoil(bad)
    with pytest.raises(KeptError, match=said):
        keeper.write("c", [edit(good), edit(bad)])
    assert not good.exists()
    with pytest.raises(KeptError, match="line 3: no colon"):
        keeper.write("c", [edit(good), Edit(str(tmp_path / "x"), unreadable)])
    assert not good.exists()


def test_a_write_that_did_not_come_about_is_undone_quietly(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is there before the file: as after a crash between the two."""
    path = tmp_path / "config"
    path.write_text("old\n")
    keeper.write("c", [edit(path)])
    path.write_text("old\n")
    assert keeper.undo("c", consent=never) == [path]
    assert path.read_text() == "old\n"


def test_a_broken_record_says_what_to_do(keeper: Keeper, tmp_path: Path) -> None:
    keeper.write("c", [edit(tmp_path / "config")])
    (tmp_path / "records" / "c.json").write_text("{")
    with pytest.raises(KeptError, match="cannot be read") as error:
        keeper.undo("c", consent=never)
    assert "c.json" in error.value.hint
    (tmp_path / "records" / "c.json").write_text(json.dumps({"files": [{"path": 1}]}))
    with pytest.raises(KeptError, match="cannot be read"):
        keeper.write("c", [])
