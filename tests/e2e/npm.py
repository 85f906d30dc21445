"""The real clients from npm: installed once per user, not once per clone."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest

PACKAGES = {
    "@anthropic-ai/claude-code": "2.1.329",
    "@openai/codex": "0.169.0",
    "opencode-ai": "1.18.33",
    "@earendil-works/pi-coding-agent": "0.87.1",
    "node": "22",  # what some of them need, whatever the system has
}
# Read at import: a test has a HOME of its own.
CACHE = Path(platformdirs.user_cache_dir("modelport-tests")) / "clients"
INSTALL_SECONDS = 600.0
UNUSED_SECONDS = 30 * 86400.0  # what other versions were installed for is gone by then: over 1 GB
# npm's codes and words for a registry that is not reached; anything else is an error of ours.
_UNREACHED = re.compile(
    r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|E5\d\d"
    r"|ERR_SOCKET|network (?:request|aborted|timeout)|code E40[37]"
)


def installed(cache: Path = CACHE) -> Path:
    """The folder of their programs: in MODELPORT_TEST_CLIENTS, or in the user's cache, a folder for
    these versions; they are installed into it if need be. Skips where npm is missing or does not
    reach its registry."""
    wanted = json.dumps({"private": True, "dependencies": PACKAGES}, indent=1)
    given = os.environ.get("MODELPORT_TEST_CLIENTS")
    folder = Path(given) if given else cache / hashlib.sha256(wanted.encode()).hexdigest()[:8]
    if not _complete(folder, wanted):
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("no npm here: the real clients are not driven")
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder.with_name(folder.name + ".lock")):
            if not _complete(folder, wanted):  # else another run has just installed them
                _install(npm, folder, wanted)
    if not given:
        (folder / "installed.json").touch()
        _prune(folder)
    return folder / "node_modules" / ".bin"


def _complete(folder: Path, wanted: str) -> bool:
    done = folder / "installed.json"
    program = folder / "node_modules" / ".bin" / "claude"
    return done.exists() and done.read_text() == wanted and program.exists()


def _install(npm: str, folder: Path, wanted: str) -> None:
    (folder / "installed.json").unlink(missing_ok=True)
    (folder / "package.json").write_text(wanted)
    try:
        done = subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--loglevel", "error", "--fetch-retries=1"],
            cwd=folder,
            env={**os.environ, "HOME": pwd.getpwuid(os.getuid()).pw_dir},  # npm is configured there
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not install the clients within {INSTALL_SECONDS:.0f} s")
    if done.returncode and _UNREACHED.search(done.stderr):
        pytest.skip(f"npm does not reach its registry: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, f"npm install in {folder}: {done.stderr[-3000:]}"
    (folder / "installed.json").write_text(wanted)  # last: what is half there does not count


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One installs; the others wait for it, and no longer than it may take."""
    deadline = time.monotonic() + INSTALL_SECONDS
    with lock.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    pytest.skip(f"another run holds {lock}")
                time.sleep(0.2)
        yield


def _prune(kept: Path) -> None:
    """Other versions that no run has used for long."""
    for done in kept.parent.glob("*/installed.json"):
        if done.parent != kept and time.time() - done.stat().st_mtime > UNUSED_SECONDS:
            shutil.rmtree(done.parent, ignore_errors=True)
