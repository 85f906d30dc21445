"""scripts/python.sh on made-up machines: a PATH of small scripts stands for what is installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "python.sh"
DEBIAN = 'ID=debian\nVERSION_ID="12"\n'


class Machine:
    """A folder of programs, and an os-release file."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.release = folder / "os-release"
        self.release.write_text(DEBIAN)
        self.add("id", "echo 0")
        self.add("uname", "echo Linux")

    def add(self, name: str, body: str) -> Path:
        """Install a program."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    def python(self, name: str, minor: int, *, venv: bool = True) -> Path:
        """Install a Python 3 that runs; without ``venv`` it cannot make environments."""
        modules = "exit 0" if venv else "exit 1"
        return self.add(
            name,
            f'case "$2" in *ensurepip*) {modules} ;; *) echo "{minor} {self.bin / name}" ;; esac',
        )

    def run(self, *args: str, **env: str) -> tuple[int, str, str]:
        """Exit status, standard output, standard error of the script here."""
        result = subprocess.run(
            ["/bin/sh", str(SCRIPT), *args],
            env={"PATH": str(self.bin), "MODELPORT_OS_RELEASE": str(self.release), **env},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        return result.returncode, result.stdout.strip(), result.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_newest_python_is_taken(machine: Machine) -> None:
    machine.python("python3.11", 11)
    newest = machine.python("python3.13", 13)
    machine.python("python3", 11)
    assert machine.run() == (0, f"venv {newest}", "")


def test_a_shim_that_fails_is_passed_over(machine: Machine) -> None:
    machine.add("python3.14", "echo 'pyenv: python3.14: command not found' >&2; exit 127")
    machine.add("python3.13", "echo nonsense")
    real = machine.python("python3.11", 11)
    assert machine.run() == (0, f"venv {real}", "")


def test_the_executable_behind_a_shim_is_named(machine: Machine) -> None:
    real = machine.add("elsewhere", "exit 0")
    machine.add("python3.12", f"case $2 in *ensurepip*) exit 0 ;; *) echo 12 {real} ;; esac")
    assert machine.run() == (0, f"venv {real}", "")


def test_a_plain_python3_will_do(machine: Machine) -> None:
    path = machine.python("python3", 15)
    assert machine.run() == (0, f"venv {path}", "")


def test_an_older_python_without_its_venv_module_loses_to_one_that_has_it(machine: Machine) -> None:
    machine.python("python3.13", 13, venv=False)
    whole = machine.python("python3.11", 11)
    assert machine.run() == (0, f"venv {whole}", "")


def test_below_leaves_out_newer_pythons(machine: Machine) -> None:
    machine.python("python3.14", 14)
    older = machine.python("python3.12", 12)
    assert machine.run("--below", "3.14") == (0, f"venv {older}", "")


def test_python_names_the_only_one_to_look_at(machine: Machine) -> None:
    machine.python("python3.13", 13)
    chosen = machine.python("mine", 11)
    assert machine.run(PYTHON=str(chosen)) == (0, f"venv {chosen}", "")


def test_uv_steps_in_with_the_python_that_lacks_venv(machine: Machine) -> None:
    bare = machine.python("python3.12", 12, venv=False)
    uv = machine.add("uv", "echo uv 0.13")
    assert machine.run() == (0, f"uv {uv} {bare}", "")


def test_uv_steps_in_where_there_is_no_python(machine: Machine) -> None:
    machine.python("python3", 9)
    uv = machine.add("uv", "echo uv 0.13")
    assert machine.run() == (0, f"uv {uv} 3.13", "")


def test_only_ensurepip_missing_on_debian_names_that_package(machine: Machine) -> None:
    machine.python("python3.11", 11, venv=False)
    code, out, err = machine.run()
    assert (code, out) == (1, "")
    assert "Run:  apt install python3.11-venv\n" in err
    assert "ensurepip" in err


@pytest.mark.parametrize(
    ("release", "command"),
    [
        (DEBIAN, "apt install python3 python3-venv"),
        ("ID=linuxmint\nID_LIKE='ubuntu debian'\n", "apt install python3 python3-venv"),
        ("ID=fedora\n", "dnf install python3.13"),
        ("ID='rocky'\nID_LIKE='rhel centos fedora'\n", "dnf install python3.13"),
        ("ID=arch\n", "pacman -S python"),
    ],
)
def test_nothing_fits_names_this_systems_command(
    machine: Machine, release: str, command: str
) -> None:
    machine.release.write_text(release)
    machine.python("python3", 8)
    code, out, err = machine.run()
    assert (code, out) == (1, "")
    assert f"Run:  {command}\n" in err


def test_sudo_is_named_to_those_who_need_it(machine: Machine) -> None:
    machine.add("id", "echo 1000")
    assert "Run:  sudo apt install" in machine.run()[2]


def test_macos_is_told_of_brew(machine: Machine) -> None:
    machine.add("uname", "echo Darwin")
    assert "Run:  brew install python@3.13\n" in machine.run()[2]


def test_an_unknown_system_is_told_what_is_needed(machine: Machine) -> None:
    machine.release.unlink()
    code, _, err = machine.run()
    assert code == 1
    assert "Install Python 3.11 or newer with its venv module, or uv." in err
