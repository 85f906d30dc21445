"""What of a machine a client needs to see, to run at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from control_api.client import RefusedError
from control_api.clients import cage
from control_api.commands.local import caged


def script(path: Path, line: str = "#!/bin/sh") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line + "\n")
    path.chmod(0o755)
    return path


def test_a_package_of_npm_brings_its_tree(tmp_path: Path) -> None:
    tree = tmp_path / "v22" / "lib" / "node_modules"
    real = script(tree / "@a" / "b" / "cli.js", "#!/usr/bin/env node")
    link = tmp_path / "v22" / "bin" / "b"
    link.parent.mkdir()
    link.symlink_to(real)
    assert caged.programs([link]) == [str(tree)]


def test_one_program_brings_itself_alone(tmp_path: Path) -> None:
    real = script(tmp_path / "share" / "versions" / "2.1")
    assert caged.programs([real]) == [str(real)]
    assert caged.programs([script(tmp_path / "bin" / "tool")]) == [str(tmp_path / "bin" / "tool")]


def test_an_environment_brings_its_python(tmp_path: Path) -> None:
    python = script(tmp_path / "python-3.12" / "bin" / "python3.12")
    (tmp_path / "python-3.12" / "lib" / "python3.12").mkdir(parents=True)
    venv = tmp_path / "tools" / "aider"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(python)
    (venv / "pyvenv.cfg").touch()
    real = script(venv / "bin" / "aider", f"#!{venv}/bin/python")
    assert caged.programs([real]) == [str(venv), str(tmp_path / "python-3.12")]


def test_what_the_system_has_is_seen_anyway() -> None:
    assert caged.programs([Path("/usr/bin/env"), Path("/bin/sh")]) == []


def test_the_interpreter_of_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = script(tmp_path / "bin" / "node")
    monkeypatch.setenv("PATH", str(node.parent))
    for line, found in (
        ("#!/usr/bin/env node", [node]),
        ("#!/usr/bin/env -S node --flag", [node]),
        ("#!/usr/bin/env none", []),
        ("#!/opt/python", [Path("/opt/python")]),
        ("\x7fELF", []),
    ):
        assert caged._interpreter(script(tmp_path / "s", line)) == found
    assert caged._interpreter(tmp_path / "missing") == []


@pytest.mark.parametrize(("system", "tool"), [("linux", "bwrap"), ("darwin", "sandbox-exec")])
def test_a_missing_tool_is_named(
    system: str, tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(RefusedError, match=tool) as error:
        caged.check(tmp_path, system)
    assert error.value.hint


def test_other_systems_have_none(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="no sandbox for win32"):
        caged.check(tmp_path, "win32")


def test_every_protected_place_has_its_kind() -> None:
    """What is mounted over a missing one is a file or a folder by its name."""
    folders = {name for name in cage.PROTECTED if name.endswith("/")}
    assert folders == {".claude/", ".git/", ".git/hooks/"}
    assert Path(caged._python()).is_file()
    assert caged._python() != sys.executable or sys.prefix == sys.base_prefix
