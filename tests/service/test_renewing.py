"""A new environment beside the one in use."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from daemon.core.problems import ProblemError
from daemon.service import environment as environments
from daemon.service import renewing
from daemon.service.environment import COMPLETE, Environment
from daemon.service.installers import Installer
from daemon.service.programs import Done
from daemon.service.renewing import accepts, extras_in, in_use, inside, renew, tidy, version_in

UV = Installer("uv", ("uv",))


def package(folder: Path, name: str, version: str, more: str = "") -> None:
    """A distribution of one file, as a package manager leaves it."""
    packages = environments.packages_of(folder)
    about = packages / f"{name}-{version}.dist-info"
    about.mkdir()
    (packages / f"{name}.py").write_text(f"VERSION = {version!r}\n")
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}"
    )
    (about / "RECORD").write_text(f"{name}.py,,\n{about.name}/METADATA,,\n{about.name}/RECORD,,\n")


def install(asked: list[list[str]], *, works: bool = True, offline: bool = True, daemon: str = "0"):  # type: ignore[no-untyped-def]
    """A stand-in for uv: another modelport, whose daemon ends with this status."""

    def run(argv: Sequence[str]) -> Done:
        asked.append(list(argv))
        if not works or ("--offline" in argv and not offline):
            return Done(1, err="no such version")
        folder = Path(argv[argv.index("--python") + 1]).parents[1]
        package(folder, "modelport", "9.9")
        program = folder / "bin" / "modelportd"
        program.write_text(f'#!/bin/sh\necho "modelport 9.9"\nexit {daemon}\n')
        program.chmod(0o755)
        return Done(0)

    return run


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = tmp_path / "root" / "env-old"
    environments.fill(folder, [], shared=False)
    package(folder, "other", "1.0")
    package(folder, "modelport", "1.0", "Requires-Dist: other; extra == 'some'\n")
    return folder


@pytest.mark.processes
def test_it_begins_as_a_copy(tmp_path: Path, old: Path) -> None:
    asked: list[list[str]] = []
    told: list[str] = []
    wheel = tmp_path / "modelport-9.9-py3-none-any.whl"
    what = f"modelport @ {wheel.as_uri()}"
    run = install(asked, offline=False)
    made = renew(old.parent, old, what, UV, shared=False, tell=told.append, run=run)
    assert made.version == "9.9"
    assert sorted(inside(made.folder)) == ["modelport", "other"]
    assert (version_in(old), extras_in(old)) == ("1.0", ("some",)), "the old one is as it was"
    assert (made.folder / COMPLETE).exists()
    assert ["--offline" in words for words in asked] == [True, False], "first without a network"
    assert len(told) == 3
    code = "import other; print(other.VERSION)"
    python = [str(made.python), "-c", code]
    done = subprocess.run(python, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "1.0\n"
    assert version_in(tmp_path) == ""
    assert extras_in(tmp_path) == ()


@pytest.mark.processes
@pytest.mark.parametrize("odd", [{"works": False}, {"daemon": "3"}])
def test_nothing_is_left_of_what_is_no_good(old: Path, odd: dict[str, object]) -> None:
    with pytest.raises(ProblemError, match=r"cannot install|does not start"):
        renew(old.parent, old, "modelport==9.9", UV, shared=False, run=install([], **odd))
    assert environments.all_of(old.parent) == [old]


@pytest.mark.processes
def test_what_is_in_use_stays(tmp_path: Path) -> None:
    folders = [tmp_path / f"env-{name}" for name in "abc"]
    for folder in folders:
        (folder / "bin").mkdir(parents=True)
    script = folders[0] / "bin" / "script.py"
    script.write_text("print(flush=True)\ninput()\n")
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        assert in_use(folders) == {folders[0]}
        assert tidy(tmp_path, {folders[1]}) == []
        assert environments.all_of(tmp_path) == folders[:2]
        process.communicate(b"\n", timeout=30)
    assert renewing.tidy(tmp_path, {folders[1]}) == []
    assert environments.all_of(tmp_path) == folders[1:2]


@pytest.mark.processes
def test_the_configuration_is_read_by_its_code(tmp_path: Path) -> None:
    ctl = tmp_path / "bin" / "ctl"
    ctl.parent.mkdir()
    ctl.write_text('#!/bin/sh\necho "$* $MODELPORT_CONFIG"; [ "$3" = /good ]\n')
    ctl.chmod(0o755)
    made = Environment(tmp_path, "9.9")
    assert accepts(made, Path("/good")) == ""
    assert accepts(made, Path("/bad")) == "config check /bad"
