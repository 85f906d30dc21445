from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from control_api.commands.main import run
from tests.control_api.conftest import LIMITS
from tests.control_api.fake import FakeControl, FakeDaemon, short_folder

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Result:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Ctl = Callable[..., Result]

# How long ctl waits where it can do without the daemon: short for people, and a machine that is
# busy with other tests may take longer.
SHORT_WAITS = (
    "daemon.PING_SECONDS",
    "local.checks.STATUS_SECONDS",
    "local.complete.DAEMON_SECONDS",
    "local.handover.PING_SECONDS",
    "local.launch.PING_SECONDS",
    "local.logs.PING_SECONDS",
    "local.removing.PING_SECONDS",
    "local.sizes.STATUS_SECONDS",
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def answering(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A person at a terminal who types this."""
    monkeypatch.setattr(sys, "stdin", Terminal(text))


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user without a daemon: all folders and variables are the test's own."""
    with short_folder() as folder:
        for name in list(os.environ):
            if name.startswith(("MODELPORT_", "XDG_")):
                monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(folder))
        for kind in ("STATE", "LOG", "CACHE", "RUNTIME"):
            (folder / kind.lower()).mkdir(mode=0o700)
            monkeypatch.setenv(f"MODELPORT_{kind}_DIR", str(folder / kind.lower()))
        monkeypatch.setenv("MODELPORT_CONFIG", str(folder / "config.toml"))
        monkeypatch.setenv("NO_COLOR", "1")
        yield folder


@pytest.fixture
def fake() -> FakeControl:
    return FakeControl()


@pytest.fixture
def daemon(home: Path, fake: FakeControl, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    path = home / "c.sock"
    with FakeDaemon(fake, path, LIMITS) as running:
        monkeypatch.setenv("MODELPORT_CONTROL_SOCKET", str(path))
        for wait in SHORT_WAITS:
            monkeypatch.setattr(f"control_api.commands.{wait}", 30.0)
        fake.on_shutdown = running.stop
        monkeypatch.setattr("control_api.commands.daemon.process_alive", lambda pid: running.alive)
        yield running


@pytest.fixture
def ctl(home: Path, capsys: pytest.CaptureFixture[str]) -> Ctl:
    """Run a command line in this process."""

    def call(*argv: str) -> Result:
        capsys.readouterr()
        code = run(argv)
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return call


def argv_of(*words: str) -> list[str]:
    """The command line as a process of its own."""
    return [sys.executable, "-P", str(ROOT / "ctl.py"), *words]


def process_env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def ctl_process(home: Path) -> Ctl:
    """Run a command line as a process of its own."""

    def call(*words: str, stdin: str | None = None) -> Result:
        done = subprocess.run(
            argv_of(*words),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            env=process_env(),
            timeout=50,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return call
