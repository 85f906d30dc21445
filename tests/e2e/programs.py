"""The real clients from npm: installed once, run without a network."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.house import ROOT, House

PACKAGES = {
    "@anthropic-ai/claude-code": "2.1.329",
    "@openai/codex": "0.169.0",
    "opencode-ai": "1.18.33",
    "@earendil-works/pi-coding-agent": "0.87.1",
    "node": "22",  # what some of them need, whatever the system has
}
INSTALL_SECONDS = 600.0
SECONDS = 100.0  # of one run; a few on a quiet machine
_NEWNET = 0x40000000


@dataclass(frozen=True)
class Client:
    """One client: the words for one prompt that may write files, without a person."""

    name: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return self.name


CLIENTS = (
    Client("claude", ("-p", "--permission-mode", "acceptEdits")),
    Client("codex", ("exec", "--skip-git-repo-check", "-s", "workspace-write")),
    Client("opencode", ("run",)),
    Client("pi", ("-p",)),
)


def installed() -> Path:
    """The folder of their programs (MODELPORT_TEST_CLIENTS, or .clients); they are installed into
    it if need be. Skips where npm is missing."""
    folder = Path(os.environ.get("MODELPORT_TEST_CLIENTS", ROOT / ".clients"))
    bins = folder / "node_modules" / ".bin"
    wanted = json.dumps({"private": True, "dependencies": PACKAGES}, indent=1)
    done = folder / "installed.json"
    if done.exists() and done.read_text() == wanted and (bins / "claude").exists():
        return bins
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm here")
    folder.mkdir(exist_ok=True)
    (folder / "package.json").write_text(wanted)
    subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "--loglevel", "error"],
        cwd=folder,
        env={**os.environ, "HOME": pwd.getpwuid(os.getuid()).pw_dir},  # where npm is configured
        timeout=INSTALL_SECONDS,
        check=True,
    )
    done.write_text(wanted)
    return bins


@contextlib.contextmanager
def loopback_alone() -> Iterator[bool]:
    """This thread, and what it starts, in a network of its own: False where that is not allowed.

    Loopback is up in it; there is nothing else.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as before:
        if libc.unshare(_NEWNET) != 0:
            yield False
            return
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=10)
            yield True
        finally:
            assert libc.setns(before.fileno(), _NEWNET) == 0


@dataclass
class Desk:
    """Where a client works: ``project``, with a home of its own, at a daemon."""

    house: House
    bins: Path
    folder: Path

    @property
    def project(self) -> Path:
        return self.folder / "project"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def environ(self) -> dict[str, str]:
        """A person's environment, with the keys that must never be sent."""
        path = os.pathsep.join([str(self.bins), os.environ["PATH"]])
        keys = {"ANTHROPIC_API_KEY": "sk-ant-REAL", "OPENAI_API_KEY": "sk-REAL"}
        closed = "http://127.0.0.1:9"  # also where no namespace could be made
        proxies = {"HTTPS_PROXY": closed, "NO_PROXY": "127.0.0.1,localhost"}
        own = {"HOME": str(self.home), "TMPDIR": str(self.folder / "tmp"), "PATH": path}
        return {**self.house.environ, **keys, **proxies, **own, "PWD": str(self.project)}

    def run(self, *argv: str, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv,
            cwd=self.project,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-P", str(ROOT / "ctl.py"), *words)


def make_desk(house: House, bins: Path, folder: Path) -> Desk:
    desk = Desk(house, bins, folder)
    for place in (desk.project, desk.home, folder / "tmp"):
        place.mkdir(parents=True, exist_ok=True)
    return desk
