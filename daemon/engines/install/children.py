"""Running the programs that install things: with progress, a log, and an end when we are ended."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from daemon.core.problems import Code, Problem, ProblemError
from daemon.core.units import MIB, format_bytes, parse_bytes
from daemon.engines.binaries import look_up
from daemon.engines.install.plan import Tools

Tell = Callable[[str, str, float | None], None]
"""A step, what is done in it, and how much of it is done (0 to 1; None: not known)."""

Gauge = Callable[[str], float | None]
"""From what a program has printed so far (both streams, the end of each): how much is done."""

_LOOK: Final = 0.2  # seconds between two looks at a child
_GRACE: Final = 5  # seconds from TERM to KILL
_TAIL: Final = 12  # lines of a log that are shown
_READ: Final = 1 << 16  # bytes at the end of an output that tell how far it is
_SPARE: Final = 256 * MIB  # stays free on the disk
_FULL: Final = MIB // 4  # a disk with less than that free

# Of our own process, or of a person's shell: they would send packages elsewhere, install them by
# half, or take them unverified. Where packages come from (an index, a proxy, a cache) stays theirs.
_NOT_FOR_CHILDREN: Final = (
    "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "PIP_TARGET", "PIP_PREFIX",
    "PIP_ROOT", "PIP_PYTHON", "PIP_NO_DEPS", "PIP_DRY_RUN", "PIP_REPORT", "PIP_REQUIRE_HASHES",
    "UV_PROJECT", "UV_WORKING_DIR", "UV_WORKING_DIRECTORY", "UV_SYSTEM_PYTHON", "UV_TARGET",
    "UV_PYTHON", "UV_NO_VERIFY_HASHES", "UV_REQUIRE_HASHES", "UV_NO_PROGRESS",
)  # fmt: skip
# Said, since a person's pip.conf may say otherwise.
_FOR_CHILDREN: Final = {
    "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_USER": "0",
    "PIP_REQUIRE_VIRTUALENV": "0",
}  # fmt: skip

# Begins when it is told to: whoever is to end it is there by then. If we are killed before that,
# the pipe is closed, and it never begins.
_GATE: Final = 'read -r x || exit 125; exec "$@" </dev/null'

# Ends a group of processes once the other end of its stdin is gone: also when we are killed.
_WATCH: Final = (
    'read -r x; kill -TERM "-$1"; left=$2; while [ "$left" -gt 0 ] && kill -0 "-$1"; do sleep 1;'
    ' left=$((left - 1)); done; kill -KILL "-$1"; [ -z "$3" ] || rm -rf -- "$3"'
)


def find_tools(environ: Mapping[str, str]) -> Tools:
    """What is on this machine to install with."""

    def path(*names: str) -> str:
        found = (look_up(name, environ) for name in names)
        return next((str(program) for program in found if program is not None), "")

    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.is_file() else path("uv")
    return Tools(
        uv="" if environ.get("MODELPORT_NO_UV") else uv,
        brew=path("brew"),
        cmake=path("cmake"),
        compiler=path("c++", "g++", "clang++"),
        make=path("ninja", "make"),
        nvcc=path("nvcc"),
        hipcc=path("hipcc"),
        glslc=path("glslc"),
    )


def check_room(folder: Path, need: int, what: str, variable: str = "MODELPORT_STATE_DIR") -> None:
    """Raises ProblemError where ``need`` bytes and some to spare are not free on its disk.
    ``variable``: what moves that folder to another one."""
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < need + _SPARE:
        needs = format_bytes(need + _SPARE)
        text = f"{what} needs about {needs} of free disk; there are {format_bytes(free)}."
        hint = f"Make room on the disk of {folder}, or move it: {variable}."
        raise ProblemError(Problem(Code.PULL_FAILED, text, hint))


def run(
    argv: Sequence[str],
    environ: Mapping[str, str],
    tell: Tell,
    step: str,
    what: str,
    log: Path,
    gauge: Gauge = lambda _: None,
) -> str:
    """Run a program to its end; the result is what it wrote on stdout. ``gauge``: how far it is.

    Whatever ends us (Ctrl-C, a kill -9 too) ends it and all that it started. Raises ProblemError
    with the last lines of its log; OSError where the disk is full.
    """
    env = {name: value for name, value in environ.items() if name not in _NOT_FOR_CHILDREN}
    env |= _FOR_CHILDREN
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    said = log.with_suffix(".out")
    try:
        with (
            log.open("wb") as errors,
            said.open("wb") as output,
            started(argv, env, _GRACE, output, errors) as child,
        ):
            try:
                while (status := _waited(child)) is None:
                    tell(step, what, gauge(_last(log) + "\n" + _last(said)))
            except BaseException:
                _end(child)
                raise
        text = said.read_text("utf-8", "replace")
    except OSError as error:
        what = f"{argv[0]} cannot be run: {error.strerror}."
        raise ProblemError(Problem(Code.PULL_FAILED, what)) from None
    finally:
        said.unlink(missing_ok=True)
    if status:
        if shutil.disk_usage(log.parent).free < _FULL:  # then it could not even say why
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(log.parent))
        raise ProblemError(Problem(Code.PULL_FAILED, *_failed(argv, status, log, text, what)))
    return text


@contextlib.contextmanager
def started(
    argv: Sequence[str],
    environ: Mapping[str, str],
    grace: int,
    output: IO[bytes],
    errors: IO[bytes],
    folder: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program, the first of a group of processes that is ended if we are killed while this
    lasts: first TERM, KILL after ``grace`` seconds; and ``folder`` is removed. A small shell sees
    to it, which a kill of ours does not reach. Else its end is the caller's. Raises OSError."""
    if shutil.which(argv[0], path=environ.get("PATH")) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
    child = subprocess.Popen(
        ("/bin/sh", "-c", _GATE, "sh", *argv),
        stdin=subprocess.PIPE, stdout=output, stderr=errors, env=dict(environ),
        start_new_session=True, cwd="/",
    )  # fmt: skip
    assert child.stdin is not None
    try:
        guard = subprocess.Popen(
            ("/bin/sh", "-c", _WATCH, "sh", str(child.pid), str(grace), str(folder or "")),
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, cwd="/", env={"PATH": "/usr/bin:/bin"},
        )  # fmt: skip
    except BaseException:
        child.stdin.close()  # it never begins
        child.wait()
        raise
    try:
        with contextlib.suppress(ConnectionError), child.stdin:  # killed already: its status tells
            child.stdin.write(b"\n")
        yield child
    finally:
        guard.kill()
        guard.wait(_GRACE)
        assert guard.stdin is not None
        guard.stdin.close()


def steps_done(text: str) -> float | None:
    """How much of a compile is done: ninja's last ``[12/206]``, make's last ``[ 45%]``."""
    found = re.findall(r"^\[\s*(\d+)(?:/(\d+)|%)\]", text, re.MULTILINE)
    if not found:
        return None
    done, of = found[-1]
    return min(1.0, int(done) / max(1, int(of or 100)))


def packages_done(count: int) -> Gauge:
    """How much of ``count`` packages is there: by uv's announcements of large files, or by the
    packages that pip has come to."""

    def done(text: str) -> float | None:
        sizes = dict(re.findall(r"^\s*Downloading (\S+) \(([\d.]+[KMG]iB)\)$", text, re.MULTILINE))
        if sizes:
            here = re.findall(r"^\s*Downloaded (\S+)$", text, re.MULTILINE)
            whole = sum(map(parse_bytes, sizes.values()))
            return sum(parse_bytes(sizes[name]) for name in here if name in sizes) / max(1, whole)
        begun = len(re.findall(r"^Collecting ", text, re.MULTILINE))
        return min(1.0, begun / max(1, count)) if begun else None

    return done


def _last(file: Path) -> str:
    with contextlib.suppress(OSError), file.open("rb") as data:
        data.seek(max(0, file.stat().st_size - _READ))
        return data.read(_READ).decode(errors="replace")
    return ""


def _waited(child: subprocess.Popen[bytes]) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return child.wait(_LOOK)
    return None


def _end(child: subprocess.Popen[bytes]) -> None:
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # what it started and left behind


_PROGRESS: Final = re.compile(r"\s*(?:Using Python|Resolved|Downloading|Downloaded|Prepared) ")


def _failed(argv: Sequence[str], status: int, log: Path, said: str, what: str) -> tuple[str, str]:
    lines = log.read_text("utf-8", "replace").splitlines() or said.splitlines()
    tail = [line.strip() for line in lines if line.strip() and not _PROGRESS.match(line)][-_TAIL:]
    program = Path(argv[0]).name
    why = " / ".join(tail)[-1500:] or f"{program} ended with status {status}"
    return f"{what} failed: {why}", f"The whole log: {log}"
