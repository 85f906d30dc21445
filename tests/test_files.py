"""Small files of our own: what is read, what is moved aside, and a disk that takes nothing."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_api.client import daemon_facts
from daemon import files
from daemon.backends.learned import Learned
from daemon.backends.leftovers import records
from daemon.engines.binaries import Inspector
from daemon.files import ASIDE, Disk, Kept, move_aside, read_private, write_private
from daemon.telemetry.incident_file import IncidentFile

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


# ---------------------------------------------------------------- every reader


def learned(path: Path) -> object:
    return Learned(path).need("k", {"ram": 1})


def incidents(path: Path) -> object:
    return IncidentFile(path).load(0.0)


def backends(path: Path) -> object:
    return records(path.parent)


def engines(path: Path) -> object:
    return Inspector(path, 1.0)._load()


def facts(path: Path) -> object:
    return daemon_facts({"MODELPORT_STATE_DIR": str(path.parent)})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
).map(lambda value: json.dumps(value).encode("utf-8", "surrogateescape"))
READERS = {
    "learned.json": learned,
    "incidents.jsonl": incidents,
    "a-1.json": backends,
    "engines.json": engines,
    "daemon.json": facts,
}


@pytest.mark.parametrize("name", READERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.binary(max_size=400) | JSON | st.just(b"[" * 100_000) | st.just(b"9" * 5000))
def test_no_bytes_are_too_strange(name: str, data: bytes, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        path.chmod(0o600)
        READERS[name](path)
        left = [p for p in path.parent.iterdir() if ".corrupt-" in p.name or p == path]
        assert [p.read_bytes() for p in left] == [data], "and nothing of it is lost"


@pytest.mark.parametrize("name", READERS)
def test_no_reader_waits_for_a_fifo(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    READERS[name](tmp_path / name)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 2, "names": []}', '{"version": 1}', "[" * 5000]
)
def test_what_is_not_ours_to_understand_is_kept_for_people(tmp_path: Path, text: str) -> None:
    kept = Kept(tmp_path / "x.json", 1 << 16)
    write_private(kept.path, text.encode())
    assert kept.load(1, lambda stored: stored["names"], mend=False) is None
    assert kept.path.exists()
    assert kept.load(1, lambda stored: stored["names"]) is None
    (aside,) = tmp_path.glob("x.json.corrupt-*")
    assert aside.read_text() == text
    assert kept.load(1, lambda stored: stored["names"]) is None, "nothing is there"
    write_private(kept.path, b'{"version": 1, "names": ["a"]}')
    assert kept.load(1, lambda stored: stored["names"]) == ["a"]
