"""An environment of its own, made of the files that run now."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from control_api.version import version
from daemon.core.problems import ProblemError
from daemon.service import environment
from daemon.service.environment import (
    COMPLETE,
    Environment,
    all_of,
    answers,
    base_python,
    current,
    fingerprint,
    make,
    needed,
    normal,
    open_to_all,
    shebang,
    switch,
)


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the large engine: a second less."""
    found = needed()
    found.pop("xllamacpp", None)
    monkeypatch.setattr(environment, "needed", lambda: dict(found))


def run(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.defpath, "HOME": os.environ["HOME"]}
    return subprocess.run(
        [str(word) for word in argv], cwd="/", env=environ, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.processes
@pytest.mark.timeout(300)  # sixteen seconds of copying on a busy machine
def test_it_runs_by_itself_and_is_made_once(tmp_path: Path, light: None) -> None:
    root = tmp_path / "a place with blanks"
    root.mkdir()
    made = make(root, version())
    assert run(made.program, "--version").stdout.strip() == f"modelport {version()}"
    code = "import control_api, daemon.assembly, os; print(os.path.dirname(control_api.__file__))"
    where = run(made.python, "-P", "-c", code)
    assert where.stdout.startswith(str(made.folder)), where.stderr
    reading = "from daemon.service.render import template as t; t('units', 'modelport.service')"
    templates = run(made.python, "-P", "-c", reading)
    assert templates.returncode == 0, templates.stderr
    assert stat.S_IMODE(made.folder.stat().st_mode) & 0o077 == 0, "nobody else looks into it"
    stamp = (made.folder / COMPLETE).stat().st_mtime_ns
    assert make(root, version()) == made
    assert (made.folder / COMPLETE).stat().st_mtime_ns == stamp
    (made.folder / COMPLETE).unlink()  # half made: it was interrupted
    assert (make(root, version()).folder / COMPLETE).exists()
    assert all_of(root) == [made.folder]
    listing = (
        "from importlib.metadata import distribution as d; x = d('modelport'); "
        "print(x.version, len(x.files) > 50, all(f.locate().exists() for f in x.files))"
    )
    listed = run(made.python, "-P", "-c", listing)
    assert listed.stdout.split() == [version(), "True", "True"], listed.stderr


def test_what_is_needed_is_known_with_its_own_needs() -> None:
    found = needed()
    assert {"modelport", "aiohttp", "pydantic-core", "xllamacpp"} <= set(found)
    assert not {"pytest", "ruff", "mypy"} & set(found), "what only developers need stays behind"
    assert normal("Foo._Bar") == "foo-bar"
    assert needed("no-such-distribution") == {}


def test_other_code_is_another_environment(tmp_path: Path) -> None:
    (tmp_path / "ctl.py").write_text("one")
    first = fingerprint("1", tmp_path, [])
    assert fingerprint("1", tmp_path, []) == first
    assert fingerprint("2", tmp_path, []) != first
    (tmp_path / "ctl.py").write_text("two")
    assert fingerprint("1", tmp_path, []) != first


def test_current_moves_in_one_step_and_back(tmp_path: Path) -> None:
    one, two = (Environment(tmp_path / f"env-{n}", str(n)) for n in (1, 2))
    for each in (one, two):
        each.folder.mkdir()
    assert current(tmp_path) is None
    assert switch(tmp_path, one) is None
    assert switch(tmp_path, two) == one.folder.resolve()
    assert current(tmp_path) == two.folder.resolve()
    assert switch(tmp_path, one) == two.folder.resolve()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "env-1", "env-2"]


def test_one_that_does_not_run_does_not_answer(tmp_path: Path) -> None:
    broken = Environment(tmp_path, "1.0")
    assert not answers(broken)
    broken.program.parent.mkdir()
    broken.program.write_text("#!/bin/sh\necho modelport 0.9\n")
    broken.program.chmod(0o755)
    assert not answers(broken), "another version"
    assert answers(Environment(tmp_path, "0.9"))


def test_where_it_cannot_be_made_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProblemError, match="cannot be made"):
        make(tmp_path / "file" / "root", version())


def test_scripts_find_their_python_whatever_its_path() -> None:
    assert shebang(Path("/a/python")) == "#!/a/python\n"
    for odd in ("/a b/python", "/" + "x" * 200 + "/python"):
        assert shebang(Path(odd)).startswith("#!/bin/sh\n'''exec' ")


def test_a_python_for_all_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    python = private / "python"
    python.write_text("")
    python.chmod(0o755)
    assert not open_to_all(python)
    assert not open_to_all(tmp_path / "none")
    assert open_to_all(Path("/bin/sh"))
    assert base_python(shared=False).is_relative_to(Path(sys.base_prefix).resolve())
    monkeypatch.setattr(environment, "open_to_all", lambda path: False)
    with pytest.raises(ProblemError, match="cannot be run by other users"):
        base_python(shared=True)
