"""The way out of the sandbox: a socket that leads to the daemon's port, for inference alone.

Each connection carries one request: its head is read, what is no inference is refused, a key is put
in (so that it need not be known inside), and ``Connection: close`` makes the daemon end it.
The rest is bytes. Nothing of the control API can be asked through it.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Final

from control_api.clients.inside import CHUNK, pump

HEAD_LIMIT: Final = 64 * 1024
HEAD_SECONDS: Final = 30.0
_LINE: Final = re.compile(rb"(GET|HEAD|POST|OPTIONS) (/[!-~]*) HTTP/1\.1")
_ALLOWED: Final = re.compile(
    rb"/(?:v1/(?:chat/completions|completions|messages(?:/count_tokens)?|responses|embeddings"
    rb"|rerank|reranking|models(?:/[^?#]*)?)|models|health|api/(?:hello|tags|ps|show|version"
    rb"|chat|generate|embed))?(?:\?.*)?"
)
_DROPPED: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"upgrade"})
_KEYS: Final = frozenset({b"authorization", b"x-api-key"})
_REFUSED: Final = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"x-should-retry: false\r\nConnection: close\r\n\r\n%s"
)


def passed(head: bytes, key: str | None) -> bytes | None:
    """The head as it goes on; None where it is no request for inference. Pure.

    ``head`` ends with the empty line. ``key`` takes the place of the client's own; None: it stays.
    """
    first, *lines = head[:-4].split(b"\r\n")
    match = _LINE.fullmatch(first)
    if match is None or b"/../" in match[2] or _ALLOWED.fullmatch(match[2]) is None:
        return None
    kept = [first]
    dropped = _DROPPED if key is None else _DROPPED | _KEYS
    for line in lines:
        name, colon, _ = line.partition(b":")
        if not colon or not name or name != name.strip() or b"\n" in line or b"\r" in line:
            return None
        if name.lower() not in dropped:
            kept.append(line)
    kept.append(b"Connection: close")
    if key is not None:
        kept.append(b"Authorization: Bearer " + key.encode("latin-1", "replace"))
    return b"\r\n".join(kept) + b"\r\n\r\n"


class Gate:
    """Listens from ``with`` to its end. ``path``: a unix socket (0600); None: a port of loopback,
    whose number is ``port``."""

    def __init__(self, host: str, port: int, key: str | None, path: Path | None) -> None:
        self._to, self._key = (host, port), key
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            path.chmod(0o600)
            self._listener.listen(128)
        self._path = path
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="gate", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens, without a path."""
        number: int = self._listener.getsockname()[1]
        return number

    def __enter__(self) -> Gate:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._listener.close()
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self._open.add(client)
        try:
            with client:
                self._one(client)
        except OSError:
            return  # one of the two has gone: the other sees it
        finally:
            with self._lock:
                self._open.discard(client)

    def _one(self, client: socket.socket) -> None:
        head, rest = _head(client)
        if not head:
            return
        onward = passed(head, self._key)
        if onward is None:
            body = (
                b'{"error":{"message":"Only models can be asked from inside the sandbox.","type":'
            )
            body += b'"permission_error","code":"forbidden"}}'
            client.sendall(_REFUSED % (len(body), body))
            return
        with socket.create_connection(self._to, 10) as out:
            out.settimeout(None)
            out.sendall(onward + rest)
            back = threading.Thread(target=pump, args=(out, client), daemon=True)
            back.start()
            pump(client, out)
            back.join()


def _head(client: socket.socket) -> tuple[bytes, bytes]:
    """The head with its empty line, and what came behind it; empty where none comes."""
    client.settimeout(HEAD_SECONDS)
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        more = client.recv(CHUNK)
        if not more or len(data) > HEAD_LIMIT:
            return b"", b""
        data += more
    client.settimeout(None)
    return data[: end + 4], data[end + 4 :]
