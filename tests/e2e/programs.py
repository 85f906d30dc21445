"""The real clients at work: each run without a network, in a home of its own."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.house import ROOT, House
from tests.fakes.tools import TEXT

SECONDS = 100.0  # of one run; a few on a quiet machine
TEN = "one two three four five six seven eight nine ten"
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

    def record(self, model: str = "mine") -> list[dict[str, Any]]:
        """What the engine of a model was asked."""
        lines = (self.folder / f"record-{model}").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def asked(self, path: str, model: str = "mine") -> list[dict[str, Any]]:
        """The bodies that came to an engine's path."""
        return [json.loads(one["body"]) for one in self.record(model) if one["path"] == path]

    def run(
        self, *argv: str, seconds: float = SECONDS, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv,
            cwd=self.project,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def ctl(self, *words: str, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-P", str(ROOT / "ctl.py"), *words, seconds=seconds)


def proof(folder: Path, model: str = "mine") -> Path:
    """The file that a model has written by its client, at the desk in this folder."""
    return folder / "project" / f"proof-{model}.txt"


def make_desk(house: House, bins: Path, folder: Path) -> Desk:
    desk = Desk(house, bins, folder)
    for place in (desk.project, desk.home, folder / "tmp"):
        place.mkdir(parents=True, exist_ok=True)
    return desk


def said(done: subprocess.CompletedProcess[str]) -> str:
    """For the message of a failed assertion."""
    return f"status {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def worked(desk: Desk, done: subprocess.CompletedProcess[str]) -> None:
    """The whole round came about, and nothing of the person's went to the engine."""
    assert done.returncode == 0, said(done)
    assert proof(desk.folder).read_text() == TEXT + "\n", said(done)
    assert TEN in done.stdout, said(done)
    assert "REAL" not in (desk.folder / "record-mine").read_text()
