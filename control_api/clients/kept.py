"""Changing the user's own files so that the way back is one step.

The text from before is kept beside each file (``NAME.before-modelport``), and a record below the
state directory says what was written. Undoing puts back the very bytes; where somebody has changed
the file since, it says what would be lost, and does it only when told.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from control_api.clients.values import Edit

BEFORE: Final = ".before-modelport"
LATER: Final = ".after-modelport"
_MOST: Final = 4 * 2**20  # bytes of a configuration file; more is none


class KeptError(Exception):
    """It was not done. ``hint`` is the next step."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Written:
    """One file that we have written. ``before``: the copy of what was there, None if nothing was;
    ``edits``: what its owner changed between two of our writes; ``made``: folders that we made."""

    path: str
    before: str | None
    mode: int
    text: str
    edits: str = ""
    made: tuple[str, ...] = ()


class Keeper:
    """The records of one user, below ``folder`` (made when needed)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, client: str, edits: Sequence[Edit]) -> list[Path]:
        """Write all the files of a client, or none. Returns those that changed.

        Raises ``KeptError`` where a file cannot be read or written.
        """
        with self._locked():
            record = self._record(client)
            planned = [(edit, *_read(edit)) for edit in edits]  # all are read before one is written
            done: list[Path] = []
            for _, target, old, new in planned:
                known = record.get(str(target))
                if old == new and known is not None:
                    continue
                entry = _entry(target, old, new, known)
                record[str(target)] = entry
                self._save(client, record)  # before the file: a crash leaves a way back
                _put(target, new, entry.mode)
                done.append(target)
            return done

    def undo(self, client: str, *, consent: Callable[[str], bool]) -> list[Path]:
        """Put back what was there before the first write; [] if nothing was written.

        ``consent`` is asked, with a diff, where files were changed since by others; without it
        nothing is put back, and ``KeptError`` is raised. What is lost so is kept as
        ``NAME.after-modelport``.
        """
        with self._locked():
            record = self._record(client)
            lost = "".join(_lost(entry) for entry in record.values())
            if lost and not consent(lost):
                raise KeptError(
                    "Somebody has changed what was written: nothing was put back.\n" + lost,
                    "--undo --yes puts it back all the same (a copy stays beside it).",
                )
            done: list[Path] = []
            for path in reversed(list(record)):  # folders that we made are empty then
                _restore(record[path])
                done.append(Path(path))
                del record[path]
                self._save(client, record)
            return done

    def written(self, client: str) -> list[Path]:
        """The files of this client that hold our text."""
        return [Path(path) for path in self._record(client)]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _record(self, client: str) -> dict[str, Written]:
        try:
            raw = json.loads((self._folder / f"{client}.json").read_text("utf-8"))
            entries = [Written(**{**one, "made": tuple(one["made"])}) for one in raw["files"]]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError) as error:
            place = self._folder / f"{client}.json"
            raise KeptError(
                f"The record of what was written for {client} cannot be read: {error}.",
                f"The old texts are beside the files (*{BEFORE}); then delete {place}.",
            ) from None
        return {entry.path: entry for entry in entries}

    def _save(self, client: str, record: dict[str, Written]) -> None:
        place = self._folder / f"{client}.json"
        if not record:
            place.unlink(missing_ok=True)
            return
        files: list[dict[str, Any]] = [asdict(entry) for entry in record.values()]
        _put(place, json.dumps({"files": files}, indent=1), 0o600)


def _read(edit: Edit) -> tuple[Path, str | None, str]:
    """The file itself (links followed), its text and the new one."""
    chosen = edit.instead if edit.instead and Path(edit.instead).exists() else edit.path
    target = Path(os.path.realpath(chosen))
    try:
        old = _text(target)
        return target, old, edit.change(old)
    except ValueError as error:
        raise KeptError(
            f"{edit.path} cannot be read: {error}.",
            "Mend it, or move it away; nothing was changed.",
        ) from None
    except OSError as error:
        raise KeptError(f"{edit.path} cannot be read: {error.strerror}.") from None


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST + 1)
    except FileNotFoundError:
        return None
    if len(raw) > _MOST:
        raise ValueError(f"it has more than {_MOST} bytes")
    return raw.decode("utf-8")  # newlines as they are


def _entry(target: Path, old: str | None, new: str, known: Written | None) -> Written:
    """The record of this write; the text from before the first one is copied beside the file."""
    if known is not None:
        edits = known.edits + _diff(known.text, old, str(target))
        return Written(known.path, known.before, known.mode, new, edits, known.made)
    made = _make_folders(target.parent)
    if old is None:
        return Written(str(target), None, 0o600, new, made=made)
    mode = stat.S_IMODE(target.stat().st_mode)
    copy = target.with_name(target.name + BEFORE)
    _put(copy, old, mode)
    return Written(str(target), str(copy), mode, new, made=made)


def _make_folders(folder: Path) -> tuple[str, ...]:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    try:
        for one in reversed(missing):
            one.mkdir(mode=0o700)
    except OSError as error:
        raise KeptError(f"{missing[0]} cannot be made: {error.strerror}.") from None
    return tuple(str(one) for one in missing)


def _lost(entry: Written) -> str:
    """What undoing would take away, as a diff; "" if nothing."""
    try:
        now = _text(Path(entry.path))
        before = _text(Path(entry.before)) if entry.before else None
        if now == before:  # put back already, or the write did not come about
            return ""
    except (OSError, ValueError) as error:
        return f"{entry.path}: {error}\n"
    return entry.edits + _diff(entry.text, now, entry.path)


def _diff(ours: str, theirs: str | None, path: str) -> str:
    if theirs is None:
        return f"{path} was deleted\n"
    pair = (ours.splitlines(keepends=True), theirs.splitlines(keepends=True))
    lines = difflib.unified_diff(*pair, f"{path} (as written)", f"{path} (now)", n=1)
    return "".join(line if line.endswith("\n") else line + "\n" for line in lines)


def _restore(entry: Written) -> None:
    target = Path(entry.path)
    try:
        lost = _lost(entry)
        old = _text(Path(entry.before)) if entry.before else None
        if entry.before and old is None:
            raise KeptError(f"{entry.before} is gone: {entry.path} stays as it is.")
        if lost and target.exists():
            target.replace(target.with_name(target.name + LATER))
        if old is None:
            target.unlink(missing_ok=True)
            for folder in entry.made:
                with contextlib.suppress(OSError):  # something else is in it by now
                    Path(folder).rmdir()
            return
        _put(target, old, entry.mode)
        assert entry.before is not None
        Path(entry.before).unlink()
    except (OSError, ValueError) as error:
        raise KeptError(f"{entry.path} cannot be put back: {error}.") from None


def _put(path: Path, text: str, mode: int) -> None:
    """Whole or not at all. Raises ``KeptError``."""
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        raise KeptError(f"{path} cannot be written: {error.strerror}.") from None
