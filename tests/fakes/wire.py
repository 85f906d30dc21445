"""HTTP/1.1 over a blocking socket: reads requests, writes answers, notices a client that leaves."""

from __future__ import annotations

import argparse
import json
import select
import socket
import time


class GoneError(Exception):
    """The client closed its connection."""


class RefusalError(Exception):
    """A request is answered with an error."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind


class Request:
    """One parsed request."""

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        self.method, self.headers, self.body = method, headers, body
        self.path, _, self.query = target.partition("?")

    def json(self) -> dict[str, object]:
        """The body; RefusalError if it is no JSON object."""
        try:
            value = json.loads(self.body)
        except ValueError:
            raise RefusalError(400, "the body is not JSON") from None
        if not isinstance(value, dict):
            raise RefusalError(400, "the body is not an object")
        return value


class Connection:
    """One client's socket: reads requests, writes answers, knows when the client has left."""

    def __init__(self, sock: socket.socket, faults: argparse.Namespace) -> None:
        self.sock, self.faults = sock, faults
        self.reader = sock.makefile("rb")
        self.streaming = False

    def read(self) -> Request | None:
        """The next request; None at the end."""
        line = self.reader.readline(65536)
        if not line.strip():
            return None
        method, target, _ = line.decode("latin-1").split(" ", 2)
        headers = {}
        while (line := self.reader.readline(65536)).strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        if headers.get("expect", "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in headers.get("transfer-encoding", ""):
            body = b"".join(iter(self.chunk, b""))
        else:
            body = self.reader.read(int(headers.get("content-length") or 0))
        return Request(method, target, headers, body)

    def chunk(self) -> bytes:
        """One chunk of a request's body; empty at the end."""
        size = int(self.reader.readline(1024).split(b";")[0], 16)
        data = self.reader.read(size)
        self.reader.readline(1024)
        return data

    def send(self, data: bytes) -> None:
        """Write, or raise GoneError."""
        try:
            if not self.faults.drip:
                self.sock.sendall(data)
                return
            for index in range(len(data)):
                self.sock.sendall(data[index : index + 1])
                time.sleep(self.faults.drip)
        except OSError:
            if not self.faults.deaf:
                raise GoneError from None

    def check(self) -> None:
        """Raise GoneError if the client has left (a pipelined request is not leaving)."""
        if self.faults.deaf:
            return
        ready, _, _ = select.select([self.sock], [], [], 0)
        try:
            if ready and not self.sock.recv(1, socket.MSG_PEEK):
                raise GoneError
        except OSError:
            raise GoneError from None

    def wait(self, seconds: float, every: float = 0.01) -> None:
        """Sleep, but raise GoneError as soon as the client leaves."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, every))
            self.check()

    def answer(self, status: int, body: object, kind: str = "application/json") -> None:
        """A whole answer: JSON, or bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"HTTP/1.1 {status} {'OK' if status == 200 else 'Error'}\r\n"
        head += f"Content-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
        self.send(head.encode() + data)

    def event(self, data: object, name: str = "") -> None:
        """One server-sent event, in a chunk of its own."""
        if not self.streaming:
            self.streaming = True
            kind = "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked"
            self.send(f"HTTP/1.1 200 OK\r\n{kind}\r\n\r\n".encode())
        text = data if isinstance(data, str) else json.dumps(data)
        event = f"event: {name}\n" if name else ""
        raw = f"{event}data: {text}\n\n".encode()
        self.send(b"%x\r\n%s\r\n" % (len(raw), raw))

    def finish(self) -> None:
        """The clean end of a stream."""
        self.send(b"0\r\n\r\n")
        self.streaming = False
