"""Locks by both installers, and the programs that are run for them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
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


def test_a_full_disk_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="No space left") as caught:
        children.run(("/bin/false",), os.environ, quiet, "s", "w", tmp_path / "install.log")
    assert caught.value.filename == str(tmp_path)


def test_an_end_of_ours_is_the_end_of_all_that_it_started(tmp_path: Path) -> None:
    """The end-check of each test sees that nothing is left."""
    mark = tmp_path / "began"
    argv = ("/bin/sh", "-c", f"sleep 60 & touch '{mark}'; sleep 60; wait")

    def tell(*_: object) -> None:
        if mark.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        children.run(argv, os.environ, tell, "step", "what", tmp_path / "install.log")


def test_a_kill_of_ours_is_the_end_of_all_that_it_started(tmp_path: Path) -> None:
    """kill -9 leaves nobody to clean up: an install that went on would write into the next."""
    mark = tmp_path / "began"
    script = f"sleep 60 & echo $$ $! > '{mark}.new'; mv '{mark}.new' '{mark}'; wait"
    code = (
        "import os, sys; from pathlib import Path\n"
        "from daemon.engines.install import children\n"
        f"children.run(('/bin/sh', '-c', {script!r}), os.environ, lambda *_: None, 's', 'w',"
        f" Path({str(tmp_path / 'install.log')!r}))\n"
    )
    ours = subprocess.Popen([sys.executable, "-c", code])
    try:
        assert until(mark.exists)
    finally:
        ours.kill()
        ours.wait(10)
    theirs = [int(word) for word in mark.read_text().split()]
    assert until(lambda: not any(map(psutil.pid_exists, theirs)))


def test_nothing_begins_for_one_that_is_killed_before_its_guard_is_there(tmp_path: Path) -> None:
    mark = tmp_path / "began"
    code = (
        "import os, signal, subprocess, sys; from pathlib import Path\n"
        "from daemon.engines.install import children\n"
        "popen, begun = subprocess.Popen, []\n"
        "def start(*argv, **how):\n"
        "    if begun: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    begun.append(popen(*argv, **how)); print(begun[0].pid, flush=True); return begun[0]\n"
        "children.subprocess.Popen = start\n"
        f"children.run(('/bin/touch', {str(mark)!r}), os.environ, lambda *_: None, 's', 'w',"
        f" Path({str(tmp_path / 'install.log')!r}))\n"
    )
    ours = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False)
    assert ours.returncode == -signal.SIGKILL
    assert until(lambda: not psutil.pid_exists(int(ours.stdout)))
    assert not mark.exists()


def until(what: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not (done := what()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return done


@pytest.mark.parametrize(
    ("text", "done"),
    [("", None), ("[1/4] Building C object\n[2/4] Building [9/9]\n", 0.5),
     ("[ 45%] Built target x\n", 0.45), ("-- found 3/4 of [1/2]\n", None)],
)  # fmt: skip
def test_how_far_a_compile_is(text: str, done: float | None) -> None:
    assert children.steps_done(text) == done


def test_how_far_packages_are() -> None:
    done = children.packages_done(4)
    assert done("Using Python 3.11.7\nResolved 4 packages in 1s\n") is None
    said = "Downloading torch (3.0GiB)\nDownloading numpy (1.0GiB)\n"
    assert done(said) == 0.0
    assert done(f"{said} Downloaded numpy\n") == 0.25
    assert done("Collecting a==1\n  Downloading a-1.whl (3 kB)\nCollecting b==2\n") == 0.5


def test_progress_is_no_reason(tmp_path: Path) -> None:
    argv = ("/bin/sh", "-c", "echo 'Downloading x (1.0MiB)' >&2; echo 'error: no' >&2; exit 2")
    with pytest.raises(ProblemError, match="trying failed: error: no"):
        children.run(argv, os.environ, quiet, "step", "trying", tmp_path / "install.log")


def test_two_engines_are_installed_at_the_same_time(tmp_path: Path) -> None:
    """What is asked of one must not be answered with what the other wants."""
    tool = tmp_path / "uv"
    tool.write_text(
        '#!/bin/sh\nfor last; do :; done\nsleep 0.3\necho "$(cat "$last")==1 --hash=sha256:00"\n'
    )
    tool.chmod(0o755)

    def resolve(engine: str) -> str:
        return Installer(str(tool), tmp_path, os.environ, quiet, engine).resolve([engine])

    with ThreadPoolExecutor(2) as pool:
        locks = list(pool.map(resolve, ("vllm", "mlx-lm")))
    assert [lock.strip() for lock in locks] == [
        f"{name}==1 --hash=sha256:00" for name in ("vllm", "mlx-lm")
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mlx-lm.install.log", "uv", "vllm.install.log"
    ]  # fmt: skip


def test_what_would_send_packages_elsewhere_is_not_passed_on(tmp_path: Path) -> None:
    away = ("PIP_TARGET", "PYTHONPATH", "UV_NO_VERIFY_HASHES", "PIP_NO_DEPS", "PIP_DRY_RUN")
    environ = {**os.environ, **dict.fromkeys(away, "1"), "PIP_CERT": "kept"}
    argv = (sys.executable, "-c", "import os; print(sorted(os.environ))")
    said = children.run(argv, environ, quiet, "step", "what", tmp_path / "install.log")
    assert "PIP_CERT" in said
    assert not [name for name in away if f"'{name}'" in said]


def test_pip_is_ours_where_we_have_one(tmp_path: Path) -> None:
    installer = Installer("", tmp_path, os.environ, quiet, "vllm")
    assert installer.pip() == (sys.executable, "-m", "pip")
