"""Small files of our own: what is read, what is moved aside, and a disk that takes nothing."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from pathlib import Path

import pytest

from daemon import files
from daemon.files import ASIDE, Disk, Kept, move_aside, read_private, write_private

LIMIT = 64


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def disk() -> Disk:
    return Disk()


# ---------------------------------------------------------------- reading and writing


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state"
    write_private(path, b"one")
    path.chmod(0o644)
    write_private(path, b"two\n")
    assert read_private(path, LIMIT) == b"two\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_writing_follows_no_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = tmp_path / "state"
    (tmp_path / f".state.{os.getpid()}").symlink_to(victim)
    path.symlink_to(victim)
    write_private(path, b"new\n")
    assert victim.read_text() == "precious"
    assert path.read_bytes() == b"new\n"
    assert not path.is_symlink()


@pytest.mark.parametrize("where", ["fsync", "write", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    write_private(path, b"old")
    if where == "write":
        taken = os.open("/dev/full", os.O_WRONLY)
        monkeypatch.setattr(files.os, "open", lambda *_: taken)
        monkeypatch.setattr(files.os, "fsync", lambda _: None)
    elif where == "replace":
        monkeypatch.setattr(Path, "replace", full)
    else:
        monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_private(path, b"new")
    monkeypatch.undo()
    assert read_private(path, LIMIT) == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["fifo", "socket", "link", "folder", "large", "open", "foreign"])
def test_no_other_thing_is_read_and_it_is_moved_aside(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "state", tmp_path / "other"
    other.write_bytes(b"{}")
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as made:
                here = Path.cwd()
                os.chdir(tmp_path)  # a socket's path is short
                made.bind("state")
                os.chdir(here)
        case "link":
            path.symlink_to(other)
        case "folder":
            path.mkdir()
        case _:
            path.write_bytes(b"x" * (LIMIT + 1 if kind == "large" else 1))
            path.chmod(0o622 if kind == "open" else 0o600)
    if kind == "foreign":
        uid = os.geteuid() + 1
        monkeypatch.setattr(files.os, "geteuid", lambda: uid)
    with pytest.raises((OSError, ValueError)):
        read_private(path, LIMIT)
    kept = Kept(path, LIMIT, Disk())
    assert kept.read(mend=False) is None
    assert os.path.lexists(path)
    assert kept.read(now=12.9) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "state.corrupt-12"]
    monkeypatch.undo()
    assert kept.write(b"anew")
    assert kept.read() == b"anew"
    assert other.read_bytes() == b"{}"


def test_few_are_kept_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "state"
    for second in range(ASIDE + 2):
        path.write_bytes(b"?")
        assert move_aside(path, "it is odd", 1000.0 + second) is not None
    assert len(list(tmp_path.iterdir())) == ASIDE
    assert caplog.text.count("it is odd") == ASIDE + 2
    assert move_aside(path, "it is not there") is None
    assert "is in the way: it is not there" in caplog.text


def test_a_file_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert Kept(tmp_path / "none", LIMIT, Disk()).read() is None
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- a full disk


def test_a_full_disk_is_said_once_and_written_later(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "modelport.files")
    told: list[str] = []
    disk.on_trouble = lambda: told.append("again")
    a, b = tmp_path / "a", tmp_path / "b"
    assert disk.write(a, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        for turn in range(5):
            assert not disk.write(a, b"new %d" % turn)
        assert not disk.write(b, b"b")
        assert not disk.again()
        assert a.read_bytes() == b"old"
        assert told == ["again", "again"]
        assert caplog.text.count("cannot be written") == 2
        assert [line.split(" cannot")[0] for line in disk.troubles()] == [str(a), str(b)]
        assert "No space left on device" in disk.troubles()[0]
        disk.forget(b)
    assert disk.again()
    assert a.read_bytes() == b"new 4", "the newest"
    assert not b.exists()
    assert disk.troubles() == []
    assert caplog.text.count("the disk takes it again") == 1


def test_a_later_write_makes_it_good(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        assert not disk.write(path, b"1")
    assert disk.write(path, b"2")
    assert disk.again()
    assert (path.read_bytes(), disk.troubles()) == (b"2", [])
