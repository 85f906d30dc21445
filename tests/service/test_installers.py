"""uv and pip: what they are asked for, and what their answers mean."""

from __future__ import annotations

import json
import string
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from daemon.core.problems import ProblemError
from daemon.service import installers
from daemon.service.installers import (
    Installer,
    Newest,
    ask_newest,
    extras_of,
    file_of,
    find_installer,
    newer,
    read_newest,
    requirement,
    version_of,
)
from daemon.service.programs import Done

UV, PIP = Installer("uv", ("uv",)), Installer("pip", ("python", "-m", "pip"))
PYTHON = Path("/env/bin/python")
EXTRAS = st.lists(st.sampled_from(["llama", "mlx"]), unique=True)
VERSIONS = st.lists(st.integers(0, 99), min_size=1, max_size=4).map(
    lambda parts: ".".join(map(str, parts))
)


def test_command_lines() -> None:
    assert UV.install(PYTHON, "modelport", offline=True) == [
        "uv", "pip", "install", "--python", "/env/bin/python", "--offline", "--quiet",
        "--upgrade-package", "modelport", "modelport",
    ]  # fmt: skip
    pip = PIP.install(PYTHON, "x", offline=True)
    assert pip[:6] == ["python", "-m", "pip", "--python", "/env/bin/python", "install"]
    assert ("--no-index" in pip, "--no-index" in PIP.install(PYTHON, "x")) == (True, False)
    assert PIP.newest(PYTHON)[-1] == "modelport"
    assert UV.newest(PYTHON)[-1] == "-", "from its input"


def test_the_newest_is_read() -> None:
    assert read_newest("uv", Done(0, "modelport==1.2.0\n")) == Newest("1.2.0")
    report = {"install": [{"metadata": {"name": "modelport", "version": "1.2.0"}}]}
    assert read_newest("pip", Done(0, json.dumps(report))) == Newest("1.2.0")
    gone = Done(1, err="error: Request failed\n  cause: error sending request for url (x)\n")
    assert read_newest("uv", gone).offline
    assert read_newest("pip", Done(124, err="pip did not end within 20 s")).offline
    none = read_newest("pip", Done(1, err="ERROR: No matching distribution found for modelport\n"))
    assert none.trouble.endswith("no answer: No matching distribution found for modelport")
    assert not none.offline
    for odd in ("", "[]", '{"install": []}', "aiohttp==1"):
        for name in ("uv", "pip"):
            assert read_newest(name, Done(0, odd)).version == ""


@pytest.mark.processes
def test_uv_is_asked_through_its_input(tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    uv.write_text('#!/bin/sh\nread name; echo "$name==7.1 # $*" | cut -d" " -f1\n')
    uv.chmod(0o755)
    assert ask_newest(Installer("uv", (str(uv),)), PYTHON) == Newest("7.1")


def test_who_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    uv = tmp_path / "uv"
    uv.write_text("")
    uv.chmod(0o755)
    works = lambda argv: Done(0)  # noqa: E731
    assert find_installer(works, lambda name: str(uv)) == Installer("uv", (str(uv),))
    monkeypatch.setattr(installers, "find_spec", lambda name: None)
    monkeypatch.setattr(installers, "base_python", lambda shared: Path("/usr/bin/python3"))
    found = find_installer(works, lambda name: None)
    assert found == Installer("pip", ("/usr/bin/python3", "-m", "pip"))
    with pytest.raises(ProblemError, match="Neither uv nor pip"):
        find_installer(lambda argv: Done(1), lambda name: str(uv))


FORMS = st.sampled_from(["{}", "modelport=={}", "modelport>={}", "modelport[x]<={}"])


@given(VERSIONS, EXTRAS, FORMS)
def test_what_is_asked_for_is_a_requirement(version: str, extras: list[str], form: str) -> None:
    made = Requirement(requirement(form.format(version), extras))
    assert made.name == "modelport"
    assert set(extras) <= made.extras, "what is installed stays"
    assert version in str(made.specifier)


def test_files_and_addresses(tmp_path: Path) -> None:
    wheel = tmp_path / "a b" / "modelport-1.2-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(b"")
    made = requirement(str(wheel), ["llama"])
    assert made.startswith("modelport[llama] @ file:///")
    assert (file_of(made), version_of(made)) == (wheel, "1.2")
    assert file_of("modelport==1") is None
    assert version_of("modelport[llama]==1.3") == "1.3"
    assert version_of("modelport>=1") == ""
    assert requirement("git+https://example.org/x.git", []).endswith(
        "@ git+https://example.org/x.git"
    )
    other = tmp_path / "other-1.2-py3-none-any.whl"
    other.write_bytes(b"")
    for odd in (
        str(other),
        str(tmp_path / "none.whl"),
        "another",
        "--index-url=x",
        "modelport~=0",
        "~nobody-here/x.whl",
        "1..2",
    ):
        with pytest.raises(ProblemError):
            requirement(odd, [])


@given(st.text(string.printable, max_size=40))
def test_no_text_becomes_an_option(text: str) -> None:
    try:
        made = requirement(text, [])
    except ProblemError:
        return
    assert made.startswith("modelport")


@given(VERSIONS, VERSIONS)
def test_newer_is_an_order(one: str, two: str) -> None:
    assert not (newer(one, two) and newer(two, one))
    assert not newer(one, one)
    assert not newer("no version", one)


def test_extras_are_those_whose_packages_are_here() -> None:
    lines = ["aiohttp>=3", "xllamacpp==1; extra == 'llama'", "mlx-lm; extra == 'mlx'",
             "gone; extra == 'odd' and python_version < '2'"]  # fmt: skip
    assert extras_of(lines, {"aiohttp", "xllamacpp"}.__contains__) == ("llama",)
    assert extras_of(lines, {"mlx-lm", "xllamacpp"}.__contains__) == ("llama", "mlx")
    assert extras_of(lines, [].__contains__) == ()
