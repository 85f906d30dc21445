"""Installing the real clients, with an npm that is none."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e import npm

INSTALLS = "mkdir -p node_modules/.bin && sleep 0.2 && touch node_modules/.bin/claude"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a program ``npm``; each call of it leaves a line in ``calls``."""
    monkeypatch.delenv("MODELPORT_TEST_CLIENTS", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    put(tmp_path, INSTALLS)
    return tmp_path


def put(folder: Path, script: str) -> None:
    program = folder / "npm"
    program.write_text(f"#!/bin/sh\necho called >> {folder}/calls\n{script}\n")
    program.chmod(0o755)


def calls(folder: Path) -> int:
    return len((folder / "calls").read_text().splitlines())


def test_they_are_installed_once(fake: Path) -> None:
    bins = npm.installed(fake / "cache")
    assert (bins / "claude").exists()
    assert npm.installed(fake / "cache") == bins
    assert calls(fake) == 1
    (bins / "claude").unlink()
    assert npm.installed(fake / "cache") == bins, "what is not whole is installed again"
    assert calls(fake) == 2


def test_two_runs_do_not_install_at_once(fake: Path) -> None:
    both = threading.Barrier(2)

    def run(_: int) -> Path:
        both.wait(10)
        return npm.installed(fake / "cache")

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, range(2))
    assert first == second
    assert calls(fake) == 1


def test_without_npm_or_its_registry_they_are_left_out(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(fake, "echo 'npm error code ECONNREFUSED' >&2; exit 1")
    with pytest.raises(pytest.skip.Exception, match=r"registry: .*ECONNREFUSED"):
        npm.installed(fake / "cache")
    put(fake, "echo 'npm error code ERESOLVE' >&2; exit 1")
    with pytest.raises(AssertionError, match="ERESOLVE"):
        npm.installed(fake / "cache")
    monkeypatch.setenv("PATH", str(fake / "cache"))
    with pytest.raises(pytest.skip.Exception, match="no npm"):
        npm.installed(fake / "cache")


def test_versions_that_nobody_uses_go(fake: Path) -> None:
    for name, age in (("old", npm.UNUSED_SECONDS + 60), ("young", 60)):
        done = fake / "cache" / name / "installed.json"
        done.parent.mkdir(parents=True)
        done.touch()
        os.utime(done, (done.stat().st_mtime - age,) * 2)
    npm.installed(fake / "cache")
    assert not (fake / "cache" / "old").exists()
    assert (fake / "cache" / "young").exists()
