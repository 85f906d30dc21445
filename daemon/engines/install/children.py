"""Running the programs that install things: with progress, a log, and an end when we are ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from daemon.core.problems import Code, Problem, ProblemError
from daemon.engines.binaries import look_up
from daemon.engines.install.plan import MIB, Tools

Tell = Callable[[str, str, float | None], None]
"""A step, what is done in it, and how much of it is done (0 to 1; None: not known)."""

_LOOK: Final = 0.2  # seconds between two looks at a child
_GRACE: Final = 5.0  # seconds from TERM to KILL
_TAIL: Final = 12  # lines of a log that are shown
_SPARE: Final = 256 * MIB  # stays free on the disk

# Of our own process, or of a person's shell: they would send packages elsewhere.
_NOT_FOR_CHILDREN: Final = (
    "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT",
    "PIP_REQUIRE_VIRTUALENV", "UV_PROJECT", "UV_SYSTEM_PYTHON", "UV_TARGET",
)  # fmt: skip


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


def check_room(folder: Path, need: int, what: str) -> None:
    """Raises ProblemError where ``need`` bytes and some to spare are not free on its disk."""
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < need + _SPARE:
        text = f"{what} takes about {need / MIB:,.0f} MiB; {free / MIB:,.0f} MiB are free."
        hint = f"Make room on the disk of {folder}, or move it: MODELPORT_STATE_DIR."
        raise ProblemError(Problem(Code.PULL_FAILED, text, hint))


def run(
    argv: Sequence[str],
    environ: Mapping[str, str],
    tell: Tell,
    step: str,
    what: str,
    log: Path,
    cwd: Path | None = None,
) -> str:
    """Run a program to its end; the result is what it wrote on stdout.

    Whatever ends us (Ctrl-C too) ends it and all that it started. Raises ProblemError with the
    last lines of its log.
    """
    env = {name: value for name, value in environ.items() if name not in _NOT_FOR_CHILDREN}
    env |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "UV_NO_PROGRESS": "1"}
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    said = log.with_suffix(".out")
    try:
        with log.open("wb") as errors, said.open("wb") as output:
            child = subprocess.Popen(
                list(argv), stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=env,
                start_new_session=True, cwd=cwd or "/",
            )  # fmt: skip
            try:
                while (status := _waited(child)) is None:
                    tell(step, what, None)
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
        raise ProblemError(Problem(Code.PULL_FAILED, *_failed(argv, status, log, text, what)))
    return text


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


def _failed(argv: Sequence[str], status: int, log: Path, said: str, what: str) -> tuple[str, str]:
    lines = log.read_text("utf-8", "replace").splitlines() or said.splitlines()
    tail = [line.strip() for line in lines if line.strip()][-_TAIL:]
    program = Path(argv[0]).name
    why = " / ".join(tail)[-1500:] or f"{program} ended with status {status}"
    return f"{what} failed: {why}", f"The whole log: {log}"
