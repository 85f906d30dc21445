"""Finding programs, and asking each of them once what it can do.

Asking costs a process (up to seconds for a Python one), so answers are kept per file, by its path,
size and time of change, in memory and, where a cache file is named, across restarts.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from daemon.config.paths import expanded
from daemon.core.problems import Code, Problem, ProblemError
from daemon.engines.environment import child_environment
from daemon.files import read_private, write_private

ASK_SECONDS: Final = 30.0  # a Python engine's first import from a cold disk; the default
_MAX_OUTPUT: Final = 1 << 20
_MAX_CACHE: Final = 4 << 20  # bytes of what is known of engines

# Where package managers put programs that a service's short PATH leaves out.
USUAL: Final = (
    "/opt/homebrew/bin", "/usr/local/bin", "~/.local/bin", "/home/linuxbrew/.linuxbrew/bin",
)  # fmt: skip

# The line that installs each engine.
INSTALL: Final[Mapping[str, str]] = {
    name: f"ctl engine install {name}"
    for name in ("llama-server", "xllamacpp", "mlx-lm", "vllm-mlx", "vllm")
}


UPDATE: Final = "Update it: ctl engine update {0} (`ctl engine install {0}` if it is not ours)"


def missing(engine: str, why: str) -> ProblemError:
    """ENGINE_MISSING with the line that installs the engine."""
    how = f"Install it: {INSTALL[engine]}" if engine in INSTALL else "Install it"
    hint = f"{how}, or set `path` in [engines.{engine}]."
    return ProblemError(Problem(Code.ENGINE_MISSING, f"{engine}: {why}.", hint))


def named_path(engine: str, settings: Mapping[str, object]) -> Path | None:
    """``path`` of the engine's settings, made absolute; None where unset.

    Raises ProblemError (ENGINE_MISSING) where it does not exist.
    """
    given = settings.get("path")
    if not given:
        return None
    path = expanded(str(given))
    if not path.is_absolute() or not path.exists():
        raise missing(
            engine, f"there is no {path}" if path.is_absolute() else f"{path} is relative"
        )
    return path


def look_up(program: str, environ: Mapping[str, str]) -> Path | None:
    """The program on the PATH of ``environ``, or where package managers put programs."""
    home = environ.get("HOME", "")
    usual = [place.replace("~", home) for place in USUAL if home or not place.startswith("~")]
    # An empty PATH would mean the current folder to `which`.
    places = [*environ.get("PATH", "").split(os.pathsep), *usual]
    found = shutil.which(program, path=os.pathsep.join(place for place in places if place))
    return Path(found) if found else None


def stamp_of(python: Path, settings: Mapping[str, object]) -> Path | None:
    """What changes whenever something is installed beside ``python``: the ``stamp`` of the
    settings, else the folder of its packages; None: nothing is known to."""
    given = settings.get("stamp")
    if given:
        return Path(str(given))
    folders = sorted(python.parent.parent.glob("lib/python3*/site-packages"))
    inside = (python.parent.parent / "pyvenv.cfg").is_file()  # else its packages may lie elsewhere
    return folders[0] if inside and len(folders) == 1 else None


def runnable(engine: str, path: Path) -> Path:
    """``path`` if it is a program, or ProblemError (ENGINE_MISSING)."""
    if not path.is_file() or not os.access(path, os.X_OK):
        raise missing(engine, f"{path} is not a program")
    return path


def python_beside(script: Path) -> Path | None:
    """The interpreter of the environment that a console script is installed in."""
    for folder in (script.parent, script.resolve().parent):
        python = folder / "python"
        if python.is_file() and os.access(python, os.X_OK):
            return python
    return None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a program said of itself."""

    version: str = ""
    flags: tuple[str, ...] = ()
    accelerators: tuple[str, ...] = ()
    sockets: bool = False  # it listens on a unix socket, too


class Inspector:
    """Asks programs, and remembers what they said.

    ``cache``: a file of ours to keep it in, or None; one that cannot be read or written is not an
    error: programs are asked again. ``patience``: seconds for one answer.
    """

    def __init__(self, cache: Path | None = None, patience: float = ASK_SECONDS) -> None:
        self._cache = cache
        self._patience = patience
        self._known: dict[str, Facts] | None = None
        self._mute: set[str] = set()  # a program that hangs must not cost its time at each look

    def facts(self, file: Path, ask: Callable[[], Facts | None], *, of: str = "") -> Facts | None:
        """What ``ask`` says of ``file``, asked once per version of the file. None (it gave no
        answer) is remembered as long as this object lives. ``of``: what is asked about, where a
        file stands for several things."""
        known = self._load()
        key = _identity(file, of)
        if key in known or key in self._mute:
            return known.get(key)
        answer = ask()
        if answer is None:
            self._mute.add(key)
        else:
            # Only the newest version of each file is worth a place.
            before = f"{of}{file}\0"
            known = {old: facts for old, facts in known.items() if not old.startswith(before)}
            self._known = {**known, key: answer}
            self._save(self._known)
        return answer

    def output(self, argv: Sequence[str], environ: Mapping[str, str]) -> str | None:
        """What a program prints, both streams together; None where it cannot be run or takes too
        long.

        Its exit status does not matter: old programs answer ``--version`` with 1.
        """
        try:
            done = subprocess.run(
                list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False, cwd="/",
                stderr=subprocess.STDOUT, timeout=self._patience, env=child_environment(environ),
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout[:_MAX_OUTPUT].decode(errors="replace")

    def _load(self) -> dict[str, Facts]:
        if self._known is None:
            self._known = {}
            if self._cache is not None:
                with contextlib.suppress(
                    OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError
                ):
                    stored = json.loads(read_private(self._cache, _MAX_CACHE))
                    self._known = {str(key): _facts(value) for key, value in stored.items()}
        return self._known

    def _save(self, known: Mapping[str, Facts]) -> None:
        if self._cache is None:
            return
        text = json.dumps({key: asdict(facts) for key, facts in known.items()})
        with contextlib.suppress(OSError):  # then they are asked again
            write_private(self._cache, text.encode())


def _identity(file: Path, of: str = "") -> str:
    """Path, size and time of change of the real file (a link may come to point elsewhere)."""
    status = file.stat()
    return f"{of}{file}\0{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"


def _facts(value: dict[str, object]) -> Facts:
    def texts(name: str) -> tuple[str, ...]:
        found = value[name]
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise TypeError(name)
        return tuple(found)

    return Facts(
        # What an older version of ours wrote has no "sockets": then programs are asked again.
        str(value["version"]),
        texts("flags"),
        texts("accelerators"),
        value["sockets"] is True,
    )
