"""The history: numbers of what was measured, in one SQLite file of the state directory.

A table per kind of record; today there is one, of measurements (``bench``). Its columns are those
that are asked for; all else of a record is JSON, so that a new field needs no migration. What a
table cannot do without is a migration: the next of :data:`MIGRATIONS`.

The daemon is its only reader and writer, one call at a time, so there is no write-ahead log: it
would bring two more files and nothing else. The file is opened for each call, and SQLite imported
with the first: an idle daemon keeps nothing of it. Everything blocks: for a thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from daemon.files import check_private, move_aside
from daemon.views import BenchView

if TYPE_CHECKING:
    import sqlite3

log = logging.getLogger("modelport.history")
T = TypeVar("T")

APPLICATION: Final = 0x6D706F72  # "mpor": what `file` and SQLite's header say whose file it is
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        "CREATE TABLE bench (id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL,"
        " model TEXT NOT NULL, record TEXT NOT NULL)",
        "CREATE INDEX bench_model ON bench (model, id)",
    ),
)
"""Statements that make each version of the schema of the one before."""

MAX_PER_MODEL: Final = 100  # measurements that are kept
MAX_ROWS: Final = 2000
MAX_RECORD: Final = 16 << 10  # bytes of one
BUSY_SECONDS: Final = 5.0  # that a program which looks at the file may hold us up
_DAMAGED: Final = frozenset({1, 11, 26})  # SQLITE_ERROR (no such table), _CORRUPT, _NOTADB


class HistoryError(Exception):
    """The disk or somebody else refuses; the words say why. The file stays as it is."""


class _NotOursError(Exception):
    """The file is another program's, or of a newer version of this one."""


@dataclass(slots=True)
class History:
    """The file. One that is damaged or not ours is moved aside, and a new one begun."""

    path: Path

    def add_bench(self, bench: BenchView) -> BenchView:
        """Keep a measurement; it is given its id. The oldest go where there are too many. Raises
        HistoryError."""
        record = msgspec.json.encode(asdict(bench))
        if len(record) > MAX_RECORD:
            raise HistoryError(f"a measurement of {len(record)} bytes is too large")

        def add(db: sqlite3.Connection) -> int:
            row = (bench.at, bench.model, record.decode())
            done = db.execute("INSERT INTO bench (at, model, record) VALUES (?, ?, ?)", row)
            db.execute(
                "DELETE FROM bench WHERE model = ?1 AND id NOT IN"
                " (SELECT id FROM bench WHERE model = ?1 ORDER BY id DESC LIMIT ?2)",
                (bench.model, MAX_PER_MODEL),
            )
            db.execute(
                "DELETE FROM bench WHERE id NOT IN (SELECT id FROM bench ORDER BY id DESC LIMIT ?)",
                (MAX_ROWS,),
            )
            return int(done.lastrowid or 0)

        return replace(bench, id=self._with(add))

    def benches(self, model: str | None, limit: int) -> list[BenchView]:
        """The last measurements of one model, or (None) of all, newest first. Rows that are not as
        we write them are left out. Raises HistoryError."""

        def read(db: sqlite3.Connection) -> list[tuple[object, object]]:
            return db.execute(
                "SELECT id, record FROM bench WHERE ?1 IS NULL OR model = ?1"
                " ORDER BY id DESC LIMIT ?2",
                (model, limit),
            ).fetchall()

        rows = self._with(read) if self.path.exists() else []
        return [bench for row in rows if (bench := _bench(*row)) is not None]

    # ------------------------------------------------------------ the file

    def _with(self, do: Callable[[sqlite3.Connection], T]) -> T:
        """Do it in one transaction: on the file that is there, else (where it is damaged) on a new
        one."""
        import sqlite3

        for last in (False, True):
            try:
                with self._open() as db:
                    return do(db)
            except _NotOursError as error:
                self._aside(str(error), last=last)
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", None)
                if code is None or code & 0xFF not in _DAMAGED:
                    raise HistoryError(str(error)) from error
                self._aside(str(error), last=last)
            except OSError as error:
                raise HistoryError(error.strerror or str(error)) from error
        raise AssertionError("the second try returns or raises")

    def _aside(self, why: str, *, last: bool) -> None:
        if last or move_aside(self.path, why) is None:
            raise HistoryError(why)
        # A journal that is left would be played into the next file of this name.
        with contextlib.suppress(OSError):
            self.path.with_name(f"{self.path.name}-journal").unlink()

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        import sqlite3

        _prepare(self.path)
        db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute("BEGIN IMMEDIATE")
            try:
                _migrate(db)
                yield db
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
        finally:
            db.close()


def _prepare(path: Path) -> None:
    """A plain file of ours that nobody else can write to; it is made where it is missing."""
    try:
        about = path.lstat()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(path, flags, 0o600))
        return
    try:
        check_private(about)
    except ValueError as error:
        raise _NotOursError(str(error)) from None


def _migrate(db: sqlite3.Connection) -> None:
    """Bring the file to our version. Raises _NotOursError."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if version == 0 and application == 0:
        if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise _NotOursError("it is another program's database")
        db.execute(f"PRAGMA application_id = {APPLICATION}")
    elif application != APPLICATION:
        raise _NotOursError("it is another program's database")
    if version > len(MIGRATIONS):
        raise _NotOursError(f"its version is {version}, this program writes {len(MIGRATIONS)}")
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            db.execute(statement)
    if version < len(MIGRATIONS):
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _bench(number: object, record: object) -> BenchView | None:
    """A row, if it is as we would have written it."""
    try:
        if not isinstance(record, str) or not isinstance(number, int):
            raise ValueError("a row has other types")
        if len(record) > MAX_RECORD:
            raise ValueError("it is too long")
        return replace(msgspec.json.decode(record, type=BenchView), id=number)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        log.warning("a measurement of the history is left out: %s", error)
        return None
