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
from urllib.parse import parse_qs, unquote, urlsplit

_PIECE = 1 << 18  # bytes sent at a time


class Big:
    """A large file that is nowhere: the same block over and over, its number in front of each."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._block = bytes(range(256)) * 4096  # 1 MiB
        digest, at = hashlib.sha256(), 0
        while at < size:
            digest.update(piece := self[at : at + len(self._block)])
            at += len(piece)
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self.size)
        out = bytearray()
        while start < stop:
            number, offset = divmod(start, len(self._block))
            piece = (number.to_bytes(8, "big") + self._block[8:])[offset : offset + stop - start]
            out += piece
            start += len(piece)
        return bytes(out)


@dataclass
class Repo:
    """Files of one commit. ``gate``: the status for those without the right token. ``tags``: what a
    search asks for."""

    files: dict[str, bytes | Big]
    gate: int | None = None
    branches: tuple[str, ...] = ("main",)
    tags: tuple[str, ...] = ("gguf",)
    downloads: int = 0

    @property
    def commit(self) -> str:
        told = sorted((name, _digest(data)) for name, data in self.files.items())
        return hashlib.sha1(repr(told).encode()).hexdigest()


@dataclass
class Hub:
    """What the hub holds, how it misbehaves, and what it was asked."""

    repos: dict[str, Repo] = field(default_factory=dict)
    token: str = "secret"
    down: int | None = None  # answer everything with this status
    stall_after: dict[str, int] = field(default_factory=dict)  # file -> bytes; once
    drop_after: dict[str, int] = field(default_factory=dict)  # file -> bytes; once
    damaged: dict[str, int] = field(default_factory=dict)  # file -> how often it is sent wrong
    crowded: int = 0  # so many requests are answered with 429
    retry_after: str = "1"  # what such an answer says
    ranges: bool = True
    sent: int = 0  # bytes of files
    pace: float = 0.0  # bytes a second of each connection; 0: as fast as it goes
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Range
    stalled: threading.Event = field(default_factory=threading.Event)
    stalling: int = 0  # connections that do just now
    release: threading.Event = field(default_factory=threading.Event)
    slowed: threading.Event = field(default_factory=threading.Event)  # set it: no longer
    url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, size: int) -> None:
        """So many bytes of a file have been sent."""
        with self._lock:
            self.sent += size

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
        if self.hub.crowded:
            self.hub.crowded -= 1
            self._error(429, "", "slow down", {"Retry-After": self.hub.retry_after})
            return
        if self.hub.down is not None:
            self._error(self.hub.down, "", "the hub is down")
            return
        parts = path.strip("/").split("/")
        if parts == ["api", "models"]:
            self._search(parse_qs(urlsplit(self.path).query))
        elif parts[:2] == ["api", "models"]:
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

    def _search(self, query: dict[str, list[str]]) -> None:
        words, wanted = query.get("search", [""])[0].lower().split(), query.get("filter", [])
        found = [
            {"_id": "1", "id": name, "modelId": name, "downloads": repo.downloads, "likes": 3}
            | {"gated": "auto" if repo.gate else False, "tags": list(repo.tags), "private": False}
            for name, repo in self.hub.repos.items()
            if all(word in name.lower() for word in words) and set(wanted) <= set(repo.tags)
        ]
        found.sort(key=lambda one: -int(str(one["downloads"])))
        self._json(found[: int(query.get("limit", ["1000"])[0])])

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

    def _file(self, file: str, data: bytes | Big, commit: str, *, body: bool) -> None:
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
            self._send(file, data, start)

    def _send(self, file: str, data: bytes | Big, start: int) -> None:
        """The body from ``start``, or as much of it as the hub's mood allows."""
        stop = len(data)
        stalls, drops = file in self.hub.stall_after, file in self.hub.drop_after
        if stalls:
            stop = min(stop, start + self.hub.stall_after.pop(file))
        elif drops:
            stop = min(stop, start + self.hub.drop_after.pop(file))
        wrong = self.hub.damaged.get(file, 0) > 0
        if wrong:
            self.hub.damaged[file] -= 1
        while start < stop:
            piece = data[start : min(stop, start + _PIECE)]
            self.wfile.write(bytes(len(piece)) if wrong else piece)
            self.hub.count(len(piece))
            if self.hub.pace and self.hub.slowed.wait(len(piece) / self.hub.pace):
                self.hub.pace = 0.0  # let go
            start += len(piece)
        if stalls:
            self.hub.stalling += 1
            self.hub.stalled.set()
            self.hub.release.wait(30)
            self.hub.stalling -= 1
        if stalls or drops:
            self.close_connection = True

    def _error(
        self, status: int, code: str, message: str, more: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        for name, value in (more or {}).items():
            self.send_header(name, value)
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


def _digest(data: bytes | Big) -> str:
    if isinstance(data, Big):
        return data.digest
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
            hub.slowed.set()
            server.shutdown()
            thread.join(10)
