"""Starting a stand-in from a test: ``with running("engine", "--load-s", "0.2") as fake: ...``."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent
Program = Literal["engine", "vllm", "vllm_mlx"]


def argv(program: Program = "engine") -> list[str]:
    """The command line that starts a stand-in, without its flags."""
    isolated = ["-I", "-S"] if program == "engine" else []
    return [sys.executable, *isolated, str(HERE / f"{program}.py")]


def install(folder: Path, program: Program, name: str) -> Path:
    """Put the stand-in into ``folder`` as an executable of that name, e.g. ``vllm-mlx``."""
    path = folder / name
    words = " ".join(f"'{word}'" for word in argv(program))
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    path.chmod(0o755)
    return path


class Fake:
    """One running stand-in."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log_path = process, log

    def log(self) -> str:
        """What it has printed so far."""
        return self.log_path.read_text(errors="replace")

    def wait_log(self, pattern: str, timeout: float = 20.0) -> re.Match[str]:
        """Wait until the log matches; AssertionError after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not (match := re.search(pattern, self.log())):
            assert time.monotonic() < deadline, f"no {pattern!r} in the log:\n{self.log()}"
            assert self.process.poll() is None or re.search(pattern, self.log()), self.log()
            time.sleep(0.005)
        return match

    @property
    def port(self) -> int:
        """The port it listens on, once it does."""
        return int(self.wait_log(r"listening on http://.*:(\d+)")[1])

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def wait_ready(self, timeout: float = 20.0) -> None:
        """Wait for the end of the load."""
        self.wait_log("model loaded", timeout)

    def wait_exit(self, timeout: float = 20.0) -> int:
        """Wait for the exit status; negative for a signal."""
        return self.process.wait(timeout)

    def request(
        self, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """GET, or POST with a body: the status, and the answer as JSON where it is JSON."""
        data = None if body is None else json.dumps(body).encode()
        given = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.url + path, data, given)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                status, raw = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, raw = error.code, error.read()
        try:
            return status, json.loads(raw)
        except ValueError:
            return status, raw.decode()

    def statistics(self) -> dict[str, Any]:
        """What it has counted: see ``Server.statistics``."""
        _, body = self.request("/fake")
        assert isinstance(body, dict)
        return body

    def terminate(self) -> None:
        """SIGTERM."""
        self.process.send_signal(signal.SIGTERM)


@contextlib.contextmanager
def running(
    program: Program, *flags: str, env: Mapping[str, str] | None = None, ready: bool = True
) -> Iterator[Fake]:
    """Run a stand-in on a free port (``ready``: wait for its load); kill it at the end."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*argv(program), *flags, "--port", "0"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        fake = Fake(process, log)
        try:
            if ready:
                fake.wait_ready()
            yield fake
        finally:
            process.kill()
            process.wait(5)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
