"""``ctl launch --sandbox DIR``: preparing the sandbox, running a client in it, clearing up."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from control_api.client import RefusedError
from control_api.clients import cage, inside
from control_api.clients.cage import Cage
from control_api.clients.gate import Gate
from control_api.clients.values import Plan
from control_api.commands.local import child
from control_api.commands.local.aside import own_folder
from control_api.commands.output import Out

SHORT: Final = Path("/tmp")  # noqa: S108 - for the path of the socket; the folder is ours alone
PREFIX: Final = "mp-box-"
_SYSTEM_PATH: Final = ("/usr/local/bin", "/usr/bin", "/bin")
INSTALL: Final = (
    "Install it: apt install bubblewrap, dnf install bubblewrap, or pacman -S bubblewrap."
)


def check(folder: Path, system: str = sys.platform) -> Path:
    """The real path of a folder that may be a sandbox. Raises ``RefusedError``."""
    tool = {"linux": "bwrap", "darwin": "sandbox-exec"}.get(system)
    if tool is None:
        raise _refused(f"There is no sandbox for {system}.", "Leave --sandbox out.")
    if shutil.which(tool) is None:
        hint = INSTALL if tool == "bwrap" else "It comes with macOS: look at your PATH."
        raise _refused(f"--sandbox needs {tool}, which is not installed.", hint)
    if not folder.is_dir():
        raise _refused(f"{folder} is no folder.", f"mkdir -p {folder}")
    real = folder.resolve()
    home = Path.home().resolve()
    if real == home or real in home.parents or _in_system(str(real)):
        text = f"{real} would give the client more than one project."
        raise _refused(text, "Name the folder of a project, below your home.")
    return real


@contextlib.contextmanager
def shell_of(folder: Path, real_program: Path, home: Path, url: str) -> Iterator[Cage]:
    """Everything the sandbox needs besides its command; what was made is gone afterwards.

    Raises ``RefusedError`` where something in the folder cannot be protected.
    """
    parts = urlsplit(url)
    with contextlib.ExitStack() as stack:
        aside = stack.enter_context(own_folder(SHORT, PREFIX))
        (aside / "empty").mkdir(mode=0o755)
        (aside / "nothing").touch(0o444)
        host, port, key = parts.hostname or "127.0.0.1", parts.port or 80, os.environ.get(_KEY)
        on_linux = sys.platform == "linux"
        path = aside / "inference.sock" if on_linux else None
        # a port is open to everybody on this machine: no key is put in there
        given = key if key and on_linux else None
        gate = stack.enter_context(Gate(host, port, given, path))
        missing, watched = stack.enter_context(_guarded(folder))
        yield Cage(
            folder=str(folder),
            home=str(home),
            socket=str(path or ""),
            inside=str(Path(inside.__file__).resolve()),
            python=_python(),
            port=port if on_linux else gate.port,
            empty_file=str(aside / "nothing"),
            empty_folder=str(aside / "empty"),
            programs=tuple(programs([real_program, Path(_python()), *_interpreter(real_program)])),
            missing=missing,
            watched=watched,
        )


_KEY: Final = "MODELPORT_API_KEY"


def run(made: Cage, argv: Sequence[str], plan: Plan, out: Out) -> int:
    """Run the client in it; the result is its exit status."""
    before = _fingerprints(Path(made.folder), made.watched)
    path = os.pathsep.join([*_bins(made.programs, argv[0]), *_SYSTEM_PATH])
    env = cage.environment(os.environ, plan.env, path)
    try:
        if sys.platform == "darwin":
            return _run_darwin(made, argv, env)
        return _run_linux(made, argv, env)
    finally:
        _tell_news(Path(made.folder), before, made.watched, out)


def _run_linux(made: Cage, argv: Sequence[str], env: Mapping[str, str]) -> int:
    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.TemporaryFile() as filter_file:
        program = cage.no_typing(platform.machine())
        fds = [theirs.fileno()]
        if program is not None:
            filter_file.write(program)
            filter_file.flush()
            filter_file.seek(0)
            fds.append(filter_file.fileno())
        words = cage.bubblewrap(
            made,
            argv,
            env,
            wire=theirs.fileno(),
            seccomp=filter_file.fileno() if program is not None else None,
        )
        return child.run(words, os.environ, pass_fds=fds, wire=ours.fileno())


def _run_darwin(made: Cage, argv: Sequence[str], env: Mapping[str, str]) -> int:
    with tempfile.NamedTemporaryFile("w", suffix=".sb") as profile:
        profile.write(cage.seatbelt(made))
        profile.flush()
        words = ["sandbox-exec", "-f", profile.name, *argv]
        env = {**env, "HOME": made.home, "PWD": made.folder}
        return child.run(words, env, folder=made.folder)


@contextlib.contextmanager
def _guarded(folder: Path) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """What is missing of PROTECTED and there of WATCHED. Bubblewrap makes empty places for the
    missing ones in the folder itself: they are taken away at the end."""
    for name in cage.PROTECTED:
        place = folder / name.rstrip("/")
        if place.is_symlink() or any((folder / p).is_symlink() for p in Path(name).parents):
            target = os.path.realpath(place)
            raise _refused(
                f"{place} is a link (to {target}): the sandbox cannot protect it.",
                "Put the file itself in its place, or use a clone of the project.",
            )
    if (folder / ".git").is_file():
        text = f"{folder} is a worktree or submodule: its repository lies outside."
        raise _refused(text, "Use a clone of the project.")
    missing = tuple(n for n in cage.PROTECTED if not (folder / n.rstrip("/")).exists())
    watched = tuple(
        n for n in cage.WATCHED if (folder / n).exists() and not (folder / n).is_symlink()
    )
    try:
        yield missing, watched
    finally:
        for name in missing:
            _take_away(folder / name.rstrip("/"))


def _take_away(place: Path) -> None:
    """An empty place that bubblewrap has made; whatever is not empty stays."""
    with contextlib.suppress(OSError):
        if place.is_dir():
            place.rmdir()
        elif place.is_file() and place.stat().st_size == 0:
            place.unlink()


def _fingerprints(folder: Path, watched: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """What is not mounted over and would be taken for orders outside, as it is now."""
    found: dict[str, tuple[int, ...]] = {}
    for name in cage.WATCHED:
        if name not in watched:
            with contextlib.suppress(OSError):
                about = (folder / name).lstat()
                found[name] = (about.st_ino, about.st_size, about.st_mtime_ns)
    return found


def _tell_news(
    folder: Path, before: Mapping[str, tuple[int, ...]], watched: Sequence[str], out: Out
) -> None:
    after = _fingerprints(folder, watched)
    for name in sorted(name for name, about in after.items() if before.get(name) != about):
        out.note(
            f"! The client has made {folder / name}, which programs outside may take for orders:"
            " look at it before you go on."
        )


# ------------------------------------------------------------ what it needs to run


def programs(paths: Sequence[Path]) -> list[str]:
    """The smallest read-only places outside the system's folders that these programs need: the
    tree of packages of npm, the virtual environment and the Python below it, else the file."""
    found: list[str] = []
    for path in paths:
        for place in _places(path.resolve()):
            if not _in_system(place) and place not in found:
                found.append(place)
    return found


def _places(real: Path) -> list[str]:
    parts = real.parts
    if "node_modules" in parts:
        top = Path(*parts[: parts.index("node_modules") + 1])
        return [str(top)]
    prefix = real.parent.parent
    if real.parent.name != "bin":
        return [str(real)]
    if (prefix / "pyvenv.cfg").is_file():
        return [str(prefix), *_base_of(prefix)]
    if any((prefix / "lib").glob("python3*")):
        return [str(prefix)]
    return [str(real)]


def _base_of(venv: Path) -> list[str]:
    """The Python that a virtual environment was made from."""
    python = (venv / "bin" / "python").resolve()
    return _places(python) if python.parent != venv / "bin" else []


def _python() -> str:
    """A Python without an environment around it: the forwarder needs the standard library alone."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _interpreter(program: Path) -> list[Path]:
    """What runs the program, if it is a script: node, or the Python of an environment."""
    line = b""
    with contextlib.suppress(OSError), program.open("rb") as file:
        line = file.readline(300)
    words = line[2:].decode("utf-8", "replace").split() if line.startswith(b"#!") else []
    if words and Path(words[0]).name == "env":
        found = next((shutil.which(word) for word in words[1:] if not word.startswith("-")), None)
        return [Path(found)] if found else []
    return [Path(words[0])] if words else []


def _bins(places: Sequence[str], program: str) -> list[str]:
    """Folders of programs inside those places, for the PATH: node's own among them."""
    found = [str(Path(program).parent)]
    for place in places:
        one = Path(place)
        if one.name == "node_modules":
            found += [str(one / ".bin")] if (one / ".bin").is_dir() else []
        elif one.is_dir():
            found.append(str(one / "bin"))
        else:
            found.append(str(one.parent))
    return list(dict.fromkeys(f for f in found if f not in _SYSTEM_PATH))


def _in_system(place: str) -> bool:
    roots = (*cage.SYSTEM, "/etc", "/proc", "/dev", "/sys", "/run", "/System", "/Library")
    return place in {"/", "/tmp", "/var", "/home", "/Users"} or any(  # noqa: S108
        place == root or place.startswith(root + "/") for root in roots
    )


def _refused(message: str, hint: str) -> RefusedError:
    return RefusedError("sandbox", message, hint)
