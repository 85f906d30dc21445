"""Machines beside this one, for tests: network namespaces of Linux, joined by cables."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.house import ROOT

_ASKER = Path(__file__).with_name("asker.py")
SECONDS = 90.0


def ip(*words: str) -> None:
    """One command of ``ip``. Raises CalledProcessError."""
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


def why_not() -> str:
    """Why no machine can be made here; "" if one can."""
    if sys.platform != "linux" or shutil.which("ip") is None:
        return "there is no `ip` here (iproute2, Linux)"
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    name = f"mp{uuid.uuid4().hex[:6]}"
    try:
        ip("netns", "add", name)
        ip("netns", "del", name)
    except subprocess.SubprocessError:
        return "network namespaces cannot be made here"
    return ""


@dataclass
class Machine:
    """One namespace, with its own loopback."""

    name: str
    addresses: list[str] = field(default_factory=list)

    @property
    def inside(self) -> tuple[str, ...]:
        """The words before a command that is to run there."""
        return ("ip", "netns", "exec", self.name)

    def ip(self, *words: str) -> None:
        ip("-n", self.name, *words)

    def address(self, device: str, text: str) -> None:
        """Give an interface an address, usable at once."""
        more = ("nodad",) if ":" in text else ()
        self.ip("addr", "add", text, "dev", device, *more)
        self.addresses.append(text.partition("/")[0])

    def run(
        self, *words: str, environ: Mapping[str, str], text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.inside, *words],
            cwd=ROOT,
            env=dict(environ),
            input=text,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def ctl(
        self, *words: str, environ: Mapping[str, str], text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-P", "ctl.py", *words, environ=environ, text=text)

    def ask(
        self, host: str, port: int, *asks: Sequence[Any], ca: str | None = None
    ) -> list[tuple[int, str]]:
        """``(method, path, headers, body)`` each on a connection of its own; see ``asker``."""
        filled = [[*ask, *({}, None)[len(ask) - 2 :]] for ask in asks]
        wanted = json.dumps({"host": host, "port": port, "ca": ca, "asks": filled})
        done = self.run(sys.executable, "-I", str(_ASKER), environ=os.environ, text=wanted)
        assert done.returncode == 0, done.stderr
        return [(status, body) for status, body in json.loads(done.stdout)]


@contextmanager
def machines(count: int) -> Iterator[list[Machine]]:
    """So many, without a cable; gone afterwards with all that is in them. Skips where there can be
    none."""
    if why := why_not():
        pytest.skip(why)
    made: list[Machine] = []
    try:
        for _ in range(count):
            one = Machine(f"mp{uuid.uuid4().hex[:6]}")
            ip("netns", "add", one.name)
            made.append(one)
            one.ip("link", "set", "lo", "up")
        yield made
    finally:
        for one in made:
            ip("netns", "del", one.name)


def cable(one: Machine, here: str, other: Machine, there: str) -> None:
    """Join the two by interfaces of these names, without addresses."""
    one.ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", other.name)
    one.ip("link", "set", here, "up")
    other.ip("link", "set", there, "up")
