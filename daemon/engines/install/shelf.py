"""What modelport has installed, and which of it is in use.

``<state>/engines/ENGINE/VERSION/`` holds one installation that nothing ever changes; its
``about.json`` is written last, so a folder without one is not finished. ``in_use.json`` says which
is used, which were before, and whether the present one is still on trial. ``ctl`` and the daemon
write it, each change under a lock and in one step.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from daemon.core.problems import Code, Problem, ProblemError
from daemon.engines.install.versions import ENGINES, bring, order
from daemon.files import move_aside, read_private, write_private

VERSION: Final = 1
ABOUT: Final = "about.json"
FOUND: Final = ""
"""In place of a version: what is found on the machine is used, as if we had installed nothing."""
MAX_FILE: Final = 1 << 20  # bytes
MAX_BEFORE: Final = 8
MAX_TEXT: Final = 400
MAX_PATH: Final = 4096


@dataclass(frozen=True, slots=True)
class Item:
    """One installation. ``path``: what ``path`` in the engine's settings would say."""

    engine: str
    version: str
    folder: Path
    path: Path
    how: str = ""  # "packages", "archive", "brew", "compiled", "named"
    build: str = ""  # of a program: "metal", "cuda", …
    installed: float = 0.0  # seconds since the epoch
    proven: str = ""  # what the proof on the side came to; "": it was not made

    @property
    def stamp(self) -> Path:
        """A file that changes whenever the installation does."""
        return self.folder / ABOUT

    @property
    def whole(self) -> bool:
        """Its program is there still: an environment ends with the Python that it was made of."""
        program = self.folder / "bin" / "python" if self.how == "packages" else self.path
        return program.exists()


@dataclass(frozen=True, slots=True)
class TakenBack:
    """A version that was given up by itself, because a model that the one before served did not
    load with it."""

    version: str
    to: str
    model: str
    why: str
    at: float

    @property
    def text(self) -> str:
        """For people, after the engine's name."""
        return f"{self.version} was taken back: {self.model} did not load with it ({self.why})"


@dataclass(frozen=True, slots=True)
class Use:
    """What is used of one engine. ``before``: the newest first. ``trial``: loads that it has still
    to do well before it is trusted."""

    version: str = FOUND
    before: tuple[str, ...] = ()
    trial: int = 0
    taken_back: TakenBack | None = None


def switch(use: Use, version: str, trial: int) -> Use:
    """Another version is used from now on; the present one can be gone back to."""
    if version == use.version:
        return use
    before = (use.version, *(old for old in use.before if old not in (use.version, version)))
    return Use(version, before[:MAX_BEFORE], trial, use.taken_back)


There = Callable[[str], bool]
"""Whether that version is there to be used."""


def back(use: Use, there: There = lambda _: True) -> Use | None:
    """What was used before, and is there, is used again; None: nothing was."""
    for index, old in enumerate(use.before):
        if old == FOUND or there(old):
            return replace(use, version=old, before=use.before[index + 1 :], trial=0)
    return None


def take_back(
    use: Use, model: str, why: str, now: float, there: There = lambda _: True
) -> Use | None:
    """As :func:`back`, for a version that does not stand its trial."""
    gone = back(use, there)
    if gone is None or not use.trial:
        return None
    told = TakenBack(use.version, gone.version, model[:MAX_TEXT], why[:MAX_TEXT], now)
    return replace(gone, taken_back=told)


def given_up(use: Use) -> TakenBack | None:
    """What was taken back, as long as the version that it gave way to is the one in use."""
    told = use.taken_back
    return told if told is not None and told.to == use.version else None


class Shelf:
    """See the module. Everything here blocks on the disk: for a thread."""

    def __init__(self, folder: Path) -> None:
        """``folder``: ``<state>/engines``; it need not exist."""
        self.folder = folder

    # ------------------------------------------------------------ looking

    def place(self, engine: str, version: str) -> Path:
        """Where an installation lies, or would."""
        return self.folder / engine / version

    def item(self, engine: str, version: str) -> Item | None:
        """One finished installation."""
        return _item(engine, version, self.place(engine, version))

    def items(self, engine: str) -> list[Item]:
        """All finished ones of an engine, the newest version first."""
        with contextlib.suppress(OSError):
            names = [entry.name for entry in (self.folder / engine).iterdir() if entry.is_dir()]
            found = [self.item(engine, name) for name in names if not name.startswith(".")]
            items = [item for item in found if item is not None]
            return sorted(items, key=lambda one: order(engine, one.version), reverse=True)
        return []

    def called(self, engine: str, version: str) -> Item | None:
        """The installation of a version as people write it, with or without llama.cpp's ``b``. Of
        several builds of one version the last that was installed, which is the better one."""
        names = (version, f"b{version}")
        found = [
            item
            for item in self.items(engine)
            if item.version in names or item.version.removesuffix(f"-{item.build}") in names
        ]
        return max(found, key=lambda item: item.installed, default=None)

    def there(self, engine: str) -> There:
        """Which versions of an engine can be used. Homebrew replaces a program in its place: only
        the version that it brought last is there."""
        items = self.items(engine)
        newest = max((item.installed for item in items if item.how == "brew"), default=0.0)

        def usable(version: str) -> bool:
            item = self.item(engine, version)
            if item is None or (item.how == "brew" and item.installed < newest):
                return False
            return item.whole

        return usable

    def use(self, engine: str) -> Use:
        """What is in use of it."""
        return self._read().get(engine, Use())

    def chosen(self, engine: str, version: str | None = None) -> Item | None:
        """The installation that is to be used; None: what is found on the machine. ``version``:
        the one that the configuration insists on, where we have it.

        Raises ProblemError (ENGINE_MISSING): the one in use is not there any more.
        """
        if engine not in ENGINES:
            return None
        if version is not None:
            return self.called(engine, version)
        wanted = self.use(engine).version
        if wanted == FOUND:
            return None
        item = self.item(engine, wanted)
        if item is None:
            what = f"{engine} {wanted} is in use, but {self.place(engine, wanted)} is not whole."
            hint = f"`{bring(engine, wanted)}`, or `ctl engine rollback {engine}`"
            raise ProblemError(Problem(Code.ENGINE_MISSING, what, hint))
        return item

    # ------------------------------------------------------------ changing

    def finish(self, item: Item, more: Mapping[str, object] | None = None) -> Item:
        """An installation is whole now. Raises OSError."""
        at = item.installed or time.time()
        path = item.path
        if path.is_relative_to(item.folder):
            path = path.relative_to(item.folder)
        told = {
            "version": VERSION,
            "path": str(path),
            "how": item.how,
            "build": item.build,
            "installed": at,
            "proven": item.proven,
            **(more or {}),
        }
        write_private(item.stamp, json.dumps(told, indent=1).encode())
        return replace(item, installed=at)

    def sweep(self, engine: str) -> None:
        """Remove what installs left that were killed. For who holds the lock of the engine. Raises
        OSError."""
        with contextlib.suppress(FileNotFoundError):
            for entry in (self.folder / engine).iterdir():
                if entry.is_dir() and not entry.is_symlink() and not (entry / ABOUT).exists():
                    shutil.rmtree(entry)

    def proved(self, item: Item, what: str) -> Item:
        """Remember what the proof on the side came to. Raises OSError."""
        told = json.loads(read_private(item.stamp, MAX_FILE))
        told["proven"] = what[:MAX_TEXT]
        write_private(item.stamp, json.dumps(told, indent=1).encode())
        return replace(item, proven=told["proven"])

    def change(self, engine: str, how: Callable[[Use], Use | None]) -> Use | None:
        """Apply ``how`` to what is in use, in one step; None from it changes nothing. Raises
        OSError."""
        with self.locked(".in-use"):
            every = self._read()
            after = how(every.get(engine, Use()))
            if after is not None:
                write_private(self._file, _text({**every, engine: after}))
            return after

    @contextlib.contextmanager
    def locked(self, name: str, *, wait: bool = True) -> Iterator[None]:
        """One at a time, over all processes. Raises BlockingIOError where another has it and
        ``wait`` is False; else OSError."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.folder / f"{name}.lock", flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield
        finally:
            os.close(descriptor)

    @property
    def _file(self) -> Path:
        return self.folder / "in_use.json"

    def _read(self) -> dict[str, Use]:
        try:
            stored = json.loads(read_private(self._file, MAX_FILE))
            if stored["version"] != VERSION:
                raise ValueError(f"its version is {stored['version']!r:.20}, ours is {VERSION}")
            return {str(name): _use(value) for name, value in stored["engines"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            move_aside(self._file, str(error))
            return {}


@dataclass(slots=True)
class Worked:
    """With which version of an engine each model was last loaded well: ``<state>/worked.json``'s
    value. The daemon alone writes it."""

    models: dict[str, dict[str, str]] = field(default_factory=dict)  # engine -> model -> version

    def put(self, engine: str, model: str, version: str) -> bool:
        """Whether that is news."""
        known = self.models.setdefault(engine, {})
        if known.get(model) == version:
            return False
        known.pop(model, None)
        known[model] = version
        while len(known) > _MAX_MODELS:
            del known[next(iter(known))]
        return True

    def get(self, engine: str, model: str) -> str | None:
        return self.models.get(engine, {}).get(model)

    def text(self) -> bytes:
        return json.dumps({"version": VERSION, "models": self.models}).encode()

    @classmethod
    def read(cls, data: bytes) -> Worked:
        """Raises ValueError, TypeError, LookupError, AttributeError for what is not ours."""
        stored = json.loads(data)
        if stored["version"] != VERSION:
            raise ValueError(f"its version is {stored['version']!r:.20}, ours is {VERSION}")
        models = {
            _word(engine): {_word(name): _word(at) for name, at in known.items()}
            for engine, known in stored["models"].items()
        }
        return cls(models)


_MAX_MODELS: Final = 256


def _item(engine: str, version: str, folder: Path) -> Item | None:
    try:
        told = json.loads(read_private(folder / ABOUT, MAX_FILE))
        if told["version"] != VERSION:
            return None
        path = folder / _word(told["path"], MAX_PATH)  # an absolute one stays as it is
        at = float(told["installed"])
        words = [_word(told.get(name, "")) for name in ("how", "build", "proven")]
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None
    how, build, proven = words
    return Item(engine, version, folder, path, how, build, at, proven)


def _use(value: Mapping[str, Any]) -> Use:
    trial = value.get("trial", 0)
    if type(trial) is not int or not 0 <= trial < 1000:
        raise ValueError(f"a count is {trial!r:.40}")
    taken = value.get("taken_back")
    told = None
    if taken is not None:
        gone, to, model, why = (_word(taken[name]) for name in ("version", "to", "model", "why"))
        told = TakenBack(gone, to, model, why, float(taken["at"]))
    before = tuple(_word(old) for old in value.get("before", ()))[:MAX_BEFORE]
    return Use(_word(value["use"]), before, trial, told)


def _text(every: Mapping[str, Use]) -> bytes:
    def told(use: Use) -> dict[str, object]:
        taken = use.taken_back
        gone = None if taken is None else {
            "version": taken.version, "to": taken.to, "model": taken.model, "why": taken.why,
            "at": taken.at,
        }  # fmt: skip
        return {"use": use.version, "before": use.before, "trial": use.trial, "taken_back": gone}

    engines = {name: told(use) for name, use in every.items()}
    return json.dumps({"version": VERSION, "engines": engines}, indent=1).encode()


def _word(value: object, most: int = MAX_TEXT) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is {value!r:.40}")
    return value[:most]
