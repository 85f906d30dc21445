"""The file of keys in the state directory: read, and changed under a lock by whoever is there.

The daemon and a ``ctl`` without one change it in the same way, and the daemon reads it again when
it has changed. What cannot be read is moved aside, and then there are no keys: nobody comes in.

Everything here blocks: for a thread.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from daemon.access.keys import MOST_KEYS, SCOPES, Key, Ring, Wanted, is_name, make
from daemon.core.problems import Code, Problem, ProblemError
from daemon.files import Kept, move_aside, write_private

VERSION: Final = 1
MAX_FILE: Final = 1 << 20  # bytes; 256 keys with 64 models each take about as much
LOCK_SECONDS: Final = 5.0
"""Longest wait for whoever else changes the file, which takes milliseconds. No setting: ``ctl``
waits so without a configuration."""
_LOCK_POLL: Final = 0.02

Stamp = tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class KeyStore:
    """The keys in ``path``. ``clock``: Unix seconds."""

    path: Path
    clock: Callable[[], float] = time.time

    def read(self) -> Ring:
        """The keys that there are. Raises ProblemError where a newer modelport has written them."""
        return Ring(self._read())

    def any_key(self) -> bool:
        """Is there one that opens anything now?"""
        return bool(self.read().live(self.clock()))

    def stamp(self) -> Stamp:
        """Changes whenever the file does."""
        try:
            about = self.path.stat()
        except OSError:
            return None
        return about.st_mtime_ns, about.st_size, about.st_ino

    def add(self, wanted: Wanted) -> tuple[Key, str]:
        """Make a key and keep it; the text is to be shown once. Raises ProblemError: a field will
        not do, the name is taken, the file cannot be written."""
        key, text = make(wanted, self.clock())
        with self._changing():
            keys = self._read()
            if any(one.name == key.name for one in keys):
                hint = f"Remove that one first: ctl key rm {key.name}"
                raise ProblemError(
                    Problem(Code.KEY_EXISTS, f"There is a key named {key.name} already.", hint)
                )
            if len(keys) >= MOST_KEYS:
                message = f"There are {MOST_KEYS} keys, which is the most."
                raise ProblemError(Problem(Code.INVALID_REQUEST, message, "ctl key rm NAME"))
            self._write([*keys, key])
        return key, text

    def remove(self, name: str) -> Key:
        """It opens nothing any more. Raises ProblemError: there is none, the file cannot be
        written."""
        with self._changing():
            keys = self._read()
            gone = next((one for one in keys if one.name == name), None)
            if gone is None:
                raise ProblemError(
                    Problem(
                        Code.KEY_UNKNOWN,
                        f"There is no key named {name[:80]!r}.",
                        "`ctl key ls` shows which there are.",
                    )
                )
            self._write([one for one in keys if one is not gone])
        return gone

    def used(self, uses: Mapping[str, float]) -> None:
        """Keep when keys were used last (Unix seconds, by name). Raises ProblemError."""
        with self._changing():
            keys = self._read()
            newer = [_newer(key, uses.get(key.name)) for key in keys]
            if newer != keys:
                self._write(newer)

    # ------------------------------------------------------------ the file

    def _read(self) -> list[Key]:
        data = Kept(self.path, MAX_FILE).read()
        if data is None:
            return []
        try:
            found = json.loads(data)
            version = _of(int, found["version"])
            if version > VERSION:
                raise ProblemError(
                    Problem(
                        Code.CONFIG_INVALID,
                        f"{self.path} was written by a newer modelport (format {version}).",
                        "Use that version, or move the file away and make keys anew: ctl key add",
                    )
                )
            if version != VERSION:
                raise ValueError(f"the version {version!r}")
            keys = [_key(one) for one in _of(list, found["keys"])]
            if len({key.name for key in keys}) < len(keys):
                raise ValueError("a name that stands there twice")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            move_aside(self.path, f"it is no list of keys: {type(error).__name__}")
            return []
        return keys

    def _write(self, keys: list[Key]) -> None:
        text = json.dumps({"version": VERSION, "keys": [_plain(key) for key in keys]}, indent=1)
        try:
            write_private(self.path, text.encode() + b"\n")
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> ProblemError:
        reason = error.strerror or str(error)
        message = f"{self.path} cannot be written: {reason}."
        return ProblemError(
            Problem(Code.CONFIG_INVALID, message, "Free space, or mend its rights.")
        )

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Alone with the file: its lock is a file of its own, since the file itself is replaced."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path.with_suffix(".lock"), flags, 0o600)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            _lock(descriptor)
            yield
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                message = "The keys are being changed by another program, which does not end."
                raise ProblemError(Problem(Code.CONFIG_INVALID, message, "Try again.")) from None
            time.sleep(_LOCK_POLL)
        else:
            return


def _newer(key: Key, used: float | None) -> Key:
    if used is None or (key.used is not None and key.used >= used):
        return key
    return replace(key, used=round(used))


def _plain(key: Key) -> dict[str, Any]:
    return {
        "name": key.name,
        "sha256": key.digest.hex(),
        "scopes": sorted(key.scopes),
        "created": round(key.created),
        "expires": key.expires,
        "models": list(key.models),
        "priority": key.priority,
        "at_once": key.at_once,
        "per_minute": key.per_minute,
        "default_model": key.default_model,
        "used": key.used,
    }


def _key(found: Any) -> Key:
    """Raises ValueError, KeyError, TypeError: whatever is not as we write it is not believed."""
    digest = bytes.fromhex(_of(str, found["sha256"]))
    scopes = frozenset(_texts(found["scopes"]))
    if len(digest) != 32 or not scopes <= set(SCOPES):
        raise ValueError("no key")
    name = _of(str, found["name"])
    if not is_name(name):
        raise ValueError("no name")
    return Key(
        name=name,
        digest=digest,
        scopes=scopes,
        created=_number(found["created"]),
        expires=_time(found["expires"]),
        models=_texts(found["models"]),
        priority=_of(int, found["priority"]),
        at_once=_of(int, found["at_once"]),
        per_minute=_of(int, found["per_minute"]),
        default_model=_of(str, found["default_model"]),
        used=_time(found["used"]),
    )


def _of(kind: type[Any], value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"no {kind.__name__}")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or value != value:
        raise TypeError("no number")
    return float(value)


def _time(value: Any) -> float | None:
    return None if value is None else _number(value)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_of(str, one) for one in _of(list, value))
