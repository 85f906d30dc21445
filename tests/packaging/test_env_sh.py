"""scripts/env.sh with a Python that only notes what it is asked: what is installed, and when."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]

# Makes an environment with itself inside, answers its version, and notes each call of pip.
PYTHON = """#!/bin/sh
case "$*" in
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
*ensurepip*) ;;
*sys.executable*) echo "12 $0" ;;
*sys.version*) echo 3.12.0 ;;
*"pip install"*)
    echo "$*" >>"$CALLS"
    case "$*" in *"$BROKEN"*) echo "no such package" && exit 1 ;; esac ;;
esac
"""


class Project:
    """A copy of what env.sh reads, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("scripts", "locks"):
            shutil.copytree(ROOT / name, folder / name)
        shutil.copy(ROOT / "pyproject.toml", folder)
        self.calls = folder / "calls"
        (folder / "bin").mkdir()
        python = folder / "bin" / "python3.12"
        python.write_text(PYTHON)
        python.chmod(0o755)

    def make(self, *groups: str, broken: str = "nothing") -> tuple[int, list[str], str]:
        """Exit status, the calls of pip, and what was said."""
        self.calls.write_text("")
        result = subprocess.run(
            ["/bin/sh", str(self.folder / "scripts" / "env.sh"), *groups],
            env={
                "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
                "PYTHON": "python3.12",
                "MODELPORT_NO_UV": "1",
                "CALLS": str(self.calls),
                "BROKEN": broken,
            },
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        calls = [
            call.split("no-build-isolation ")[1]
            for call in self.calls.read_text().split("\n")
            if call
        ]
        return result.returncode, calls, result.stderr


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


RUN = [
    "--require-hashes -r locks/build.txt",
    "--require-hashes -r locks/run.txt",
    "--require-hashes --no-deps -r locks/demo.txt",
    "--no-deps --editable .",
]


def test_the_first_run_installs_and_the_second_has_nothing_to_do(project: Project) -> None:
    code, calls, said = project.make("run")
    assert (code, calls) == (0, RUN), said
    assert project.make("run") == (0, [], "")


def test_a_group_adds_its_lock_alone(project: Project) -> None:
    project.make("run")
    assert project.make("run", "test")[1] == ["--require-hashes -r locks/test.txt"]
    assert project.make("test")[1] == []


def test_a_changed_lock_is_installed_again(project: Project) -> None:
    project.make("run", "check")
    lock = project.folder / "locks" / "check.txt"
    lock.write_text(lock.read_text() + "\n")
    assert project.make("run", "check")[1] == ["--require-hashes -r locks/check.txt"]


def test_what_failed_is_shown_and_tried_again(project: Project) -> None:
    code, _, said = project.make("run", broken="demo.txt")
    assert code == 1
    assert "no such package" in said
    assert project.make("run")[1] == RUN


def test_mlx_has_an_environment_of_its_own(project: Project) -> None:
    code, calls, _ = project.make("mlx")
    assert (code, calls) == (0, [RUN[0], "--require-hashes -r locks/mlx.txt"])
    assert (project.folder / ".venv-mlx" / "bin" / "python").exists()
    assert not (project.folder / ".venv").exists()


def test_an_unknown_group_is_named(project: Project) -> None:
    code, calls, said = project.make("tests")
    assert (code, calls) == (1, [])
    assert "no group 'tests': run, test, check or mlx" in said
