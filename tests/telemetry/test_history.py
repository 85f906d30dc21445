"""The history's file: what it keeps, what it does with one that is damaged or not ours."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from daemon.telemetry import history as module
from daemon.telemetry.history import APPLICATION, MIGRATIONS, History, HistoryError
from tests.conftest import ROOT
from tests.control_api.fake import bench_view


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history.db"


def sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)


def aside(path: Path) -> list[Path]:
    return sorted(path.parent.glob("history.db.corrupt-*"))


def test_what_is_kept_comes_back_newest_first(path: Path) -> None:
    history = History(path)
    assert history.benches(None, 9) == []
    assert not path.exists(), "asking makes no file"
    first = history.add_bench(bench_view())
    second = history.add_bench(bench_view(model="qwen", version="b9001"))
    assert (first.id, second.id) == (1, 2)
    assert History(path).benches(None, 9) == [second, first]
    assert history.benches("qwen", 9) == [second]
    assert history.benches("nobody", 9) == []
    assert history.benches(None, 1) == [second]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["history.db"]


def test_it_says_whose_it_is(path: Path) -> None:
    History(path).add_bench(bench_view())
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION,)
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


def test_it_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PER_MODEL", 3)
    monkeypatch.setattr(module, "MAX_ROWS", 5)
    history = History(path)
    for _ in range(5):
        history.add_bench(bench_view())
    assert [one.id for one in history.benches(None, 99)] == [5, 4, 3]
    for number in range(4):
        history.add_bench(bench_view(model=f"m{number}"))
    kept = history.benches(None, 99)
    assert [one.id for one in kept] == [9, 8, 7, 6, 5]
    with pytest.raises(HistoryError, match="too large"):
        history.add_bench(bench_view(source="x" * module.MAX_RECORD))


def test_a_later_version_of_the_program_adds_to_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = History(path).add_bench(bench_view())
    more = ("CREATE TABLE request (id INTEGER PRIMARY KEY, record TEXT NOT NULL)",)
    monkeypatch.setattr(module, "MIGRATIONS", (*MIGRATIONS, more))
    assert History(path).benches(None, 9) == [old]
    sql(path, "INSERT INTO request (record) VALUES ('{}')")
    new = History(path).add_bench(bench_view())
    assert [one.id for one in History(path).benches(None, 9)] == [new.id, old.id]
    monkeypatch.setattr(module, "MIGRATIONS", MIGRATIONS)
    assert History(path).benches(None, 9) == [], "the earlier program cannot read it"
    assert len(aside(path)) == 1


def truncated(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 + 100])


def scribbled(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)


def no_database(path: Path) -> None:
    path.write_bytes(b"this is no database at all" * 500)


def without_its_table(path: Path) -> None:
    sql(path, "DROP TABLE bench")


def anothers(path: Path) -> None:
    sql(path, "PRAGMA application_id = 42")


def of_no_one(path: Path) -> None:
    path.unlink()
    sql(path, "CREATE TABLE recipes (name TEXT)")


def writable_by_others(path: Path) -> None:
    path.chmod(0o666)


def a_link(path: Path) -> None:
    other = path.with_name("elsewhere.db")
    path.rename(other)
    path.symlink_to(other)


@pytest.mark.parametrize(
    "damage",
    [
        truncated, scribbled, no_database, without_its_table, anothers, of_no_one,
        writable_by_others, a_link,
    ],
)  # fmt: skip
def test_one_that_is_not_ours_to_understand_is_moved_aside(
    path: Path, damage: Callable[[Path], None]
) -> None:
    for number in range(30):
        History(path).add_bench(bench_view(model=f"m{number}"))
    damage(path)
    journal = path.with_name("history.db-journal")
    journal.write_bytes(b"")
    assert History(path).benches(None, 99) == []
    assert len(aside(path)) == 1
    assert not journal.exists()
    new = History(path).add_bench(bench_view())
    assert History(path).benches(None, 99) == [new]


def test_a_row_that_makes_no_sense_is_left_out(path: Path) -> None:
    good = History(path).add_bench(bench_view())
    records = ("'{}'", "'nonsense'", "12", "x'00ff'", "'[[[[[['", f"'{'x' * 20_000}'")
    for record in records:
        sql(path, f"INSERT INTO bench (at, model, record) VALUES (0, 'gemma', {record})")
    assert History(path).benches("gemma", 99) == [good]
    assert aside(path) == []


def test_a_disk_that_refuses_is_said_and_the_file_stays(path: Path) -> None:
    History(path).add_bench(bench_view())
    before = path.read_bytes()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "BUSY_SECONDS", 0.01)
            with pytest.raises(HistoryError, match="locked"):
                History(path).add_bench(bench_view())
        db.execute("ROLLBACK")
    assert path.read_bytes() == before
    blocked = path.parent / "file" / "history.db"
    blocked.parent.write_text("in the way")
    with pytest.raises(HistoryError):
        History(blocked).add_bench(bench_view())
    assert aside(path) == []


def test_half_a_record_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    History(path).add_bench(bench_view())
    monkeypatch.setattr(module, "MAX_ROWS", "no number")
    with pytest.raises(HistoryError):
        History(path).add_bench(bench_view(model="half"))
    monkeypatch.undo()
    assert [one.model for one in History(path).benches(None, 9)] == ["gemma"]


def test_sqlite_is_read_when_it_is_needed() -> None:
    code = "import sys, daemon.control, daemon.telemetry.history; print('sqlite3' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-P", "-c", code]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout.strip() == "False"
