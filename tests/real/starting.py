"""Starting a real engine by its Launch, as a plain child process that surely ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import resource
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.engines.base import Engine, Installed, Launch, LaunchPlan, Probe, Running, Verdict
from tests.ports import free_port

START_SECONDS = 120.0  # also for one long prompt: real engines compute on few cores
STOP_SECONDS = 20.0  # none here needs a tenth; one that hangs needs for ever


def make_plan(folder: Path, path: Path, **changes: Any) -> LaunchPlan:
    """A plan for one small start."""
    fields: dict[str, Any] = {
        "model": "tiny",
        "path": path,
        "running": Running("way", 2048, 1),
        "kind": "chat",
        "port": free_port(),
        "secret": "canary-key",
        "secret_file": folder / "key",
    }
    return LaunchPlan(**{**fields, **changes})


@dataclass
class Answer:
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Started:
    """One engine process."""

    def __init__(
        self, process: subprocess.Popen[bytes], launch: Launch, plan: LaunchPlan, log: Path,
        engine: Engine,
    ) -> None:  # fmt: skip
        self.process, self.launch, self.plan, self.log_path = process, launch, plan, log
        self.engine = engine

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def connect(self, timeout: float = START_SECONDS) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.plan.port, timeout=timeout)

    def send(
        self, connection: http.client.HTTPConnection, method: str, path: str,
        body: bytes | dict[str, Any] | None = None, headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:  # fmt: skip
        sent = json.dumps(body).encode() if isinstance(body, dict) else body
        own = self.launch.headers if headers is None else headers
        connection.request(
            method, path, sent, {"Content-Type": "application/json", **own} if sent else dict(own)
        )
        return connection.getresponse()

    def ask(
        self, method: str, path: str, body: bytes | dict[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:  # fmt: skip
        with contextlib.closing(self.connect()) as connection:
            response = self.send(connection, method, path, body, headers)
            return Answer(response.status, response.read())

    def until_ready(self) -> Answer:
        """Health until it is 200, then the probe's real request."""
        probe = self.engine.probe(self.plan)
        deadline = time.monotonic() + START_SECONDS
        while probe.health is not None and not self._healthy(probe):
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.01)
        return self.ask(probe.method, probe.path, probe.body)

    def _healthy(self, probe: Probe) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            answer = self.ask("GET", probe.health or "")
            return answer.status == 200 and probe.healthy_text in answer.body
        return False

    def stop(self) -> int:
        """SIGTERM, then the exit status; subprocess.TimeoutExpired for one that goes on."""
        self.process.terminate()
        return self.process.wait(STOP_SECONDS)

    def verdict(self, *, ready: bool, asked: bool = False) -> Verdict:
        """What the engine makes of its end, from the lines that a keeper would keep."""
        status = self.process.wait(START_SECONDS)
        pattern = re.compile(self.engine.pattern.encode(), re.IGNORECASE)
        kept = [line for line in self.log_path.read_bytes().splitlines() if pattern.search(line)]
        lines = [line.decode(errors="replace") for line in kept]
        return self.engine.classify(status, lines, ready=ready, asked=asked)


@contextlib.contextmanager
def started(
    engine: Engine, installed: Installed, plan: LaunchPlan, folder: Path,
    *, address_space: int | None = None,
) -> Iterator[Started]:  # fmt: skip
    """Start a plan; kills what is still there at the end. ``address_space``: bytes it may map."""
    launch = engine.launch(plan, installed)
    for path, text in launch.files.items():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(text)
    log = folder / f"{plan.port}.log"

    def limit() -> None:
        if address_space is not None:
            resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))

    with log.open("wb") as out:
        process = subprocess.Popen(
            launch.argv, env=dict(launch.env), stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, cwd=folder, start_new_session=True, preexec_fn=limit,
        )  # fmt: skip
    try:
        yield Started(process, launch, plan, log, engine)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(STOP_SECONDS)


def events(response: http.client.HTTPResponse) -> list[str]:
    """The ``data:`` of each event of a stream, until it ends."""
    lines = response.read().decode().splitlines()
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
