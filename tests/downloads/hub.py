"""A stand-in for the hub: enough of its HTTP for pulls, with failures on order.

Runs in a thread on a free port of the loopback. ``hub.requests`` is the list of what was asked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repo:
    """Files of one commit. ``gate``: the status for those without the right token."""

    files: dict[str, bytes]
    gate: int | None = None
    branches: tuple[str, ...] = ("main",)

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


@dataclass
class Hub:
    """What the hub holds, how it misbehaves, and what it was asked."""

    repos: dict[str, Repo] = field(default_factory=dict)
    token: str = "secret"
    down: int | None = None  # answer everything with this status
    stall_after: dict[str, int] = field(default_factory=dict)  # file -> bytes; once
    drop_after: dict[str, int] = field(default_factory=dict)  # file -> bytes; once
    ranges: bool = True
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Range
    stalled: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def asked(self, method: str, ending: str) -> list[str]:
        """The Range headers ("" for none) of the requests for paths that end so."""
        return [r for m, path, r in self.requests if m == method and path.endswith(ending)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        return None

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        if self.hub.down is not None:
            self._error(self.hub.down, "", "the hub is down")
            return
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4:])
        elif len(parts) > 4 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), body=body)
        else:
            self._error(404, "", "no such page")

    def _api(self, name: str, rest: list[str]) -> None:
        repo = self.hub.repos.get(name)
        if repo is None:
            self._error(401, "RepoNotFound", "Repository not found")
            return
        if rest[:1] == ["revision"] and not self._known(repo, "/".join(rest[1:])):
            return
        siblings = [
            {
                "rfilename": file,
                "size": len(data),
                "blobId": "0" * 40,
                "lfs": {"sha256": _digest(data), "size": len(data), "pointerSize": 130},
            }
            for file, data in repo.files.items()
        ]
        self._json(
            {"_id": "1", "id": name, "modelId": name, "sha": repo.commit, "siblings": siblings}
        )

    def _known(self, repo: Repo, revision: str) -> bool:
        if revision in (*repo.branches, repo.commit):
            return True
        self._error(404, "RevisionNotFound", "Invalid rev id")
        return False

    def _resolve(self, name: str, revision: str, file: str, *, body: bool) -> None:
        repo = self.hub.repos.get(name)
        if repo is None:
            self._error(401, "RepoNotFound", "Repository not found")
            return
        if (
            repo.gate is not None
            and self.headers.get("Authorization") != f"Bearer {self.hub.token}"
        ):
            self._error(repo.gate, "GatedRepo", "Access to this model is restricted")
            return
        if not self._known(repo, revision):
            return
        if file not in repo.files:
            self._error(404, "EntryNotFound", "Entry not found")
            return
        self._file(file, repo.files[file], repo.commit, body=body)

    def _file(self, file: str, data: bytes, commit: str, *, body: bool) -> None:
        start, asked = 0, self.headers.get("Range")
        if asked and self.hub.ranges:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{_digest(data)}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if body:
            self._send(file, data[start:])

    def _send(self, file: str, data: bytes) -> None:
        """The body, or as much of it as the hub's mood allows."""
        if file in self.hub.stall_after:
            self.wfile.write(data[: self.hub.stall_after.pop(file)])
            self.hub.stalled.set()
            self.hub.release.wait(30)
            self.close_connection = True
        elif file in self.hub.drop_after:
            self.wfile.write(data[: self.hub.drop_after.pop(file)])
            self.close_connection = True
        else:
            self.wfile.write(data)

    def _error(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def handle_error(self, *_: object) -> None:
        """A client that went away in the middle is part of the tests."""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub for the length of a test; all its threads have ended afterwards."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub, "timeout": 10})
    with _Server(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.release.set()
            server.shutdown()
            thread.join(10)
