"""A whole daemon for a test: a real process, its own directories, a port of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from control_api.app import OPERATIONS
from control_api.client import Client, RefusedError, SseEvent, UnreachableError
from control_api.operation import JSON
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
START_SECONDS = 30.0
STOP_SECONDS = 40.0
MIB = 1 << 20


@dataclass
class Answer:
    """One HTTP answer, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class StreamCutError(Exception):
    """A stream ended with an error event; the code is its text."""


@dataclass
class House:
    """See the module. ``config`` is TOML without ``[server]``; folder must have a short path."""

    folder: Path
    config: str
    service: bool = False
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    started_in: float = 0.0
    extra: dict[str, str] = field(default_factory=dict)  # of the daemon's own environment
    wrapper: tuple[str, ...] = ()  # words before the command line: a program that becomes it
    server: str = ""  # more lines of [server]
    flags: tuple[str, ...] = ()  # more words of the command line

    def __post_init__(self) -> None:
        for name in ("state", "logs", "cache", "run"):
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)
        self.write(self.config)

    @property
    def config_file(self) -> Path:
        return self.folder / "config.toml"

    @property
    def log_file(self) -> Path:
        return self.folder / "logs" / "modelportd.log"

    def write(self, config: str) -> None:
        fresh = self.config_file.with_suffix(".new")  # in one step: a reload may be under way
        fresh.write_text(f"[server]\nport = {self.port}\n{self.server}\n{config}")
        fresh.replace(self.config_file)

    @property
    def environ(self) -> dict[str, str]:
        places = {
            f"MODELPORT_{name.upper()}_DIR": str(self.folder / folder)
            for name, folder in (
                ("state", "state"),
                ("log", "logs"),
                ("cache", "cache"),
                ("runtime", "run"),
            )
        }
        return {**os.environ, **places, "MODELPORT_CONFIG": str(self.config_file)}

    # ------------------------------------------------------------ life

    def launch(self) -> None:
        """Start the process and do not wait for it."""
        command = [sys.executable, "-P", "-m", "daemon"]
        with (self.folder / "stderr").open("ab") as said:
            self.process = subprocess.Popen(
                [*self.wrapper, *command, *(["--service"] if self.service else []), *self.flags],
                cwd=ROOT,
                env={**self.environ, **self.extra},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )

    def start(self) -> House:
        began = time.monotonic()
        self.launch()
        assert self.process is not None
        while time.monotonic() - began < START_SECONDS:
            assert self.process.poll() is None, f"the daemon ended: {self.stderr()}"
            if not self.started_in:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                    self.started_in = time.monotonic() - began
            with contextlib.suppress(UnreachableError):
                self.client.get("/status")
                return self
            time.sleep(0.01)
        raise AssertionError(f"the daemon did not start: {self.stderr()}")

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """End it and return its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signum)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
            raise AssertionError(f"the daemon did not stop: {self.stderr()}") from None

    def __enter__(self) -> House:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()

    def stderr(self) -> str:
        return (self.folder / "stderr").read_text("utf-8", "replace")[-4000:]

    # ------------------------------------------------------------ asking

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> Client:
        return Client(environ=self.environ)

    def ctl(self, *words: str, seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", str(ROOT / "ctl.py"), *words],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        seconds: float = 120.0,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            sent = {"Content-Type": "application/json", **(headers or {})}
            connection.request(method, path, raw, sent)
            answer = connection.getresponse()
            return Answer(
                answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
            )
        finally:
            connection.close()

    def chat(self, model: str, text: str = "hi", **more: Any) -> Answer:
        messages = [{"role": "user", "content": text}]
        body = {"model": model, "messages": messages, "max_tokens": 32, **more}
        return self.request("POST", "/v1/chat/completions", body)

    def stream(self, model: str, text: str = "hi", **more: Any) -> Iterator[str]:
        """The pieces of a streamed chat answer, as they come."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        messages = [{"role": "user", "content": text}]
        body = {"model": model, "messages": messages, "max_tokens": 32, "stream": True, **more}
        try:
            connection.request(
                "POST",
                "/v1/chat/completions",
                json.dumps(body),
                {"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            for line in answer:
                data = line.removeprefix(b"data: ").strip()
                if line.startswith(b"data: ") and data != b"[DONE]":
                    event = json.loads(data)
                    if "error" in event:
                        raise StreamCutError(event["error"]["code"])
                    for choice in event["choices"]:
                        yield choice["delta"].get("content") or ""
        finally:
            connection.close()

    # ------------------------------------------------------------ looking

    def backends(self) -> dict[str, dict[str, Any]]:
        return {b["model"]: b for b in self.client.get("/backends")["backends"]}

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.get("/status")
        return answer

    def told(self) -> dict[str, bytes]:
        """All that the control API tells, by path: of the model ``a`` and the request ``canary-1``.
        Logs, which are no JSON, are left to ``ctl``."""
        found = {}
        for one in OPERATIONS:
            if one.method != "GET" or one.media != JSON:
                continue
            path = one.path.replace("{name}", "a").replace("{id}", "canary-1")
            try:
                found[path] = repr(self.client.get(path)).encode()
            except RefusedError as error:
                assert one.path == "/pulls/{name}", "nothing is being pulled; all else answers"
                found[path] = f"{error} {error.hint} {error.facts}".encode()
        return found

    def events(self) -> list[SseEvent]:
        return list(self.client.events(since=0, follow=False))

    def kinds(self, model: str) -> list[str]:
        """What happened to a model, in order."""
        return [e.kind for e in self.events() if e.data["model"] == model]


class Watch:
    """Follows the daemon's events in a thread; ``wait`` for one that is still to come."""

    def __init__(self, house: House) -> None:
        self.seen: list[SseEvent] = []
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._follow, args=(house.client,), daemon=True)
        self._thread.start()

    def _follow(self, client: Client) -> None:
        with contextlib.suppress(UnreachableError, RefusedError):
            for event in client.events(since=0):
                with self._news:
                    self.seen.append(event)
                    self._news.notify_all()

    def wait(self, kind: str, model: str, *, count: int = 1, seconds: float = 20.0) -> SseEvent:
        """The ``count``-th event of this kind for this model."""

        def matching() -> list[SseEvent]:
            return [e for e in self.seen if e.kind == kind and e.data["model"] == model]

        with self._news:
            found = self._news.wait_for(lambda: len(matching()) >= count, seconds)
            told = [f"{e.kind}:{e.data['model']}" for e in self.seen]
            assert found, f"no {kind} of {model} within {seconds} s; told: {told}"
            return matching()[count - 1]


def process_exists(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
