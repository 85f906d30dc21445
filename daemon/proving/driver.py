"""Takes a step over real connections, as a client of the port. Blocks: for a thread or ``ctl``."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from daemon.proving.values import Ask, Ended, Finding, Heard, Subject, Talk

CONNECT_SECONDS = 5.0
_READ = 65536


Dial = Callable[[float], http.client.HTTPConnection]
"""Connects within so many seconds. Raises OSError."""


@dataclass(slots=True)
class _Line:
    """One connection, and the time that is left for it."""

    url: str
    seconds: float
    dial: Dial | None = None
    sock: socket.socket | None = None
    began: float = field(default_factory=time.monotonic)

    def gone(self) -> float:
        return time.monotonic() - self.began

    def wait(self) -> None:
        """Let the next read last as long as there is time. Raises TimeoutError if none is left."""
        left = self.seconds - self.gone()
        if left <= 0:
            raise TimeoutError
        if self.sock is not None:
            self.sock.settimeout(left)

    def open(self) -> http.client.HTTPConnection:
        if self.dial is not None:
            connection = self.dial(CONNECT_SECONDS)
            self.sock = connection.sock
            return connection
        parts = urlsplit(self.url)
        https = parts.scheme == "https"
        kind = http.client.HTTPSConnection if https else http.client.HTTPConnection
        host = parts.hostname or "127.0.0.1"
        connection = kind(host, parts.port, timeout=CONNECT_SECONDS)
        connection.connect()
        self.sock = connection.sock
        return connection


def take(
    step: Callable[[Subject], Talk],
    subject: Subject,
    url: str,
    key: str | None = None,
    dial: Dial | None = None,
) -> Finding:
    """The finding of one step. ``url``: of the port; ``key``: what is sent as the API key;
    ``dial``: how it is connected to, where that is not plain."""
    began = time.monotonic()
    talk = step(subject)
    try:
        asks = next(talk)
        while True:
            asks = talk.send(together(asks, url, key, dial))
    except StopIteration as end:
        finding: Finding = end.value
        return finding.took(time.monotonic() - began)
    finally:
        talk.close()


def together(
    asks: tuple[Ask, ...], url: str, key: str | None = None, dial: Dial | None = None
) -> tuple[Heard, ...]:
    """Send all at the same time and hear each to its end."""
    if len(asks) == 1:
        return (hear(asks[0], url, key, dial),)
    with ThreadPoolExecutor(len(asks), "asking") as pool:
        return tuple(pool.map(lambda ask: hear(ask, url, key, dial), asks))


def hear(ask: Ask, url: str, key: str | None = None, dial: Dial | None = None) -> Heard:
    """Send one request and hear it to its end. Never raises for what the other side does."""
    line = _Line(url, ask.seconds, dial)
    try:
        connection = line.open()
    except OSError as error:
        return Heard(ended=Ended.UNREACHABLE, detail=f"{url}: {error.strerror or error}")
    try:
        return _converse(connection, line, ask, key)
    finally:
        connection.close()


def _converse(
    connection: http.client.HTTPConnection, line: _Line, ask: Ask, key: str | None
) -> Heard:
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
    if ask.path.startswith("/v1/messages"):
        headers["anthropic-version"] = "2023-06-01"
    if key:
        headers["Authorization"] = f"Bearer {key}"
    parts: list[bytes] = []
    arrived: list[float] = []
    status, kind, ended, detail, first, seen = 0, "", Ended.WHOLE, "", None, 0
    try:
        line.wait()
        connection.request("POST", ask.path, json.dumps(ask.body).encode(), headers)
        line.wait()
        response = connection.getresponse()
        status, kind = response.status, response.headers.get("Content-Type", "")
        while True:
            line.wait()
            data = response.read1(_READ)
            if not data:
                break
            first = line.gone() if first is None else first
            arrived.append(line.gone())
            parts.append(data)
            seen += data.count(b"data:")
            if status == 200 and ask.stop_after is not None and seen >= ask.stop_after:
                ended = Ended.STOPPED
                break
        if ended is Ended.WHOLE and response.length:
            raise http.client.IncompleteRead(b"")
    except TimeoutError:
        ended = Ended.LATE if parts else Ended.SILENT
    except (OSError, http.client.HTTPException) as error:
        ended, detail = Ended.BROKEN, _words(error)
    sizes = tuple(map(len, parts))
    data = b"".join(parts)
    return Heard(status, kind, data, ended, detail, first, line.gone(), tuple(arrived), sizes)


def _words(error: Exception) -> str:
    if isinstance(error, (http.client.IncompleteRead, http.client.RemoteDisconnected)):
        return "the connection was closed before its end"
    return str(error)
