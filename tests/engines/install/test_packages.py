"""Locks by both installers, and the programs that are run for them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from daemon.core.problems import Code, ProblemError
from daemon.engines.install import children, packages
from daemon.engines.install.packages import Installer, version_in

REPORT = {
    "install": [
        {"metadata": {"name": "Mlx_LM", "version": "0.32.2"},
         "download_info": {"archive_info": {"hashes": {"sha256": "aa"}}}},
        {"metadata": {"name": "numpy", "version": "2.4"},
         "download_info": {"archive_info": {"hashes": {"sha256": "bb"}}}},
    ]
}  # fmt: skip


def quiet(*_: object) -> None:
    """Nobody looks."""


def test_what_pip_would_install_as_a_lock() -> None:
    lock = packages._from_report(json.dumps(REPORT))
    assert lock.splitlines() == ["Mlx_LM==0.32.2 --hash=sha256:aa", "numpy==2.4 --hash=sha256:bb"]
    assert version_in(lock, "mlx-lm") == "0.32.2"
    with pytest.raises(ProblemError, match="not among"):
        version_in(lock, "vllm")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"install": [{"metadata": {"name": "x", "version": "1"}}]}',
             '{"install": [{"metadata": {"name": "x", "version": "1"},'
             ' "download_info": {"vcs_info": {}}}]}']
)  # fmt: skip
def test_what_has_no_hash_is_not_installed(text: str) -> None:
    with pytest.raises(ProblemError, match="not understood"):
        packages._from_report(text)


def test_one_entry_of_a_lock() -> None:
    lock = "a==1 \\\n    --hash=sha256:aa\nb-c==2 \\\n    --hash=sha256:bb\n"
    assert packages._only(lock, "b_c") == "b-c==2 \\\n    --hash=sha256:bb\n"


def test_a_program_that_fails_is_told_by_its_last_words(tmp_path: Path) -> None:
    argv = ("/bin/sh", "-c", "echo said; echo 'error: no such package' >&2; exit 3")
    with pytest.raises(ProblemError, match="trying failed: error: no such package") as caught:
        children.run(argv, os.environ, quiet, "step", "trying", tmp_path / "install.log")
    assert caught.value.problem.code is Code.PULL_FAILED
    assert "install.log" in caught.value.problem.hint
    with pytest.raises(ProblemError, match="cannot be run"):
        children.run(("/no/such",), os.environ, quiet, "s", "w", tmp_path / "install.log")


def test_an_end_of_ours_is_the_end_of_all_that_it_started(tmp_path: Path) -> None:
    """The end-check of each test sees that nothing is left."""
    mark = tmp_path / "began"
    argv = ("/bin/sh", "-c", f"sleep 60 & touch '{mark}'; sleep 60; wait")

    def tell(*_: object) -> None:
        if mark.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        children.run(argv, os.environ, tell, "step", "what", tmp_path / "install.log")


def test_what_would_send_packages_elsewhere_is_not_passed_on(tmp_path: Path) -> None:
    environ = {**os.environ, "PIP_TARGET": "/elsewhere", "PYTHONPATH": "/x", "PIP_CERT": "kept"}
    argv = (sys.executable, "-c", "import os; print(sorted(os.environ))")
    said = children.run(argv, environ, quiet, "step", "what", tmp_path / "install.log")
    assert "PIP_CERT" in said
    assert "PIP_TARGET" not in said
    assert "PYTHONPATH" not in said


def test_pip_is_ours_where_we_have_one(tmp_path: Path) -> None:
    installer = Installer("", tmp_path, os.environ, quiet)
    assert installer.pip() == (sys.executable, "-m", "pip")
