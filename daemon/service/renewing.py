"""A new environment beside the one in use: a copy of it, brought to another version.

Since it begins as a copy, only what differs is fetched; a wheel whose needs are met already needs
no network at all.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Final

from daemon.core.problems import Code, Problem, ProblemError
from daemon.service import environment as environments
from daemon.service.environment import NAME, Environment, normal
from daemon.service.installers import INSTALL_SECONDS, Installer, extras_of, file_of
from daemon.service.programs import Done, Run, run_program

_CHECK_SECONDS: Final = 60.0
Tell = Callable[[str], None]


def inside(folder: Path) -> dict[str, metadata.Distribution]:
    """What an environment holds, by normal name. Raises OSError."""
    packages = environments.packages_of(folder)
    found = metadata.distributions(path=[str(packages)])
    return {normal(one.name): one for one in found if one.name}


def version_in(folder: Path) -> str:
    """The version of modelport in an environment; "" if there is none."""
    with suppress(OSError):
        if (one := inside(folder).get(NAME)) is not None:
            return one.version
    return ""


def extras_in(folder: Path) -> tuple[str, ...]:
    """The extras of modelport that an environment has."""
    with suppress(OSError):
        found = inside(folder)
        if NAME in found:
            return extras_of(found[NAME].requires or (), found.__contains__)
    return ()


def renew(
    root: Path,
    old: Path,
    what: str,
    installer: Installer,
    *,
    shared: bool,
    tell: Tell = lambda text: None,
    run: Run | None = None,
) -> Environment:
    """The environment of ``what``, complete, below ``root``; ``old`` is not touched.

    Raises ProblemError where it cannot be made or does not start: then nothing of it is left.
    """
    folder = root / f"env-{secrets.token_hex(6)}"
    before = os.umask(0o022 if shared else 0o077)
    try:
        tell("copying the environment in use")
        others = [one for name, one in inside(old).items() if name != NAME]
        environments.fill(folder, others, shared=shared)
        tell(f"installing {what}")
        _install(folder, what, installer, run)
        version = version_in(folder)
        if not version:
            raise _cannot(f"{installer.name} has installed no {NAME} from {what}.")
        made = Environment(folder, version)
        tell(f"starting modelportd {version} once")
        if not environments.answers(made):
            raise _cannot(f"The daemon of {version} does not start: modelportd --version fails.")
        environments.complete(folder, version)
    except (OSError, subprocess.SubprocessError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise _cannot(f"An environment in {root} cannot be made: {error}.") from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.umask(before)
    return made


def _install(folder: Path, what: str, installer: Installer, run: Run | None) -> None:
    python = folder / "bin" / "python"
    start = run or (lambda argv: run_program(argv, INSTALL_SECONDS))
    if file_of(what) is not None and start(installer.install(python, what, offline=True)).code == 0:
        return
    done = start(installer.install(python, what))
    if done.code != 0:
        raise _cannot(f"{installer.name} cannot install {what}: {done.said}")


def accepts(environment: Environment, config: Path) -> str:
    """What its code says against a configuration; "" if it takes it. Never raises."""
    ctl = str(environment.folder / "bin" / "ctl")
    home = os.environ.get("HOME", "/")
    clean = ["env", "-i", f"PATH={os.defpath}", f"HOME={home}", "NO_COLOR=1"]
    done: Done = run_program([*clean, ctl, "config", "check", str(config)], _CHECK_SECONDS)
    return "" if done.code == 0 else (done.out.strip() or done.said)[-1500:]


def in_use(folders: Sequence[Path]) -> set[Path]:
    """Those of them from which a process runs: an engine that was taken over, or another ctl."""
    import psutil

    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            found |= {one for one in folders if any(word.startswith(f"{one}/") for word in words)}
    return found


def tidy(root: Path, keep: set[Path]) -> list[str]:
    """Remove all environments but these, and those in use; what could not be removed, in words."""
    wanted = {path.resolve() for path in keep}
    wanted |= in_use([path.resolve() for path in environments.all_of(root)])
    troubles = []
    for folder in environments.all_of(root):
        if folder.resolve() not in wanted:
            try:
                shutil.rmtree(folder)
            except OSError as error:
                troubles.append(f"{folder} stays: {error}")
    return troubles


def _cannot(message: str) -> ProblemError:
    hint = "Nothing was changed: the version in use goes on."
    return ProblemError(Problem(Code.INVALID_REQUEST, message, hint))
