"""A listener between a client and the daemon: what the client is told is kept, as bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Tap:
    """Hands every connection on to a port of this machine."""

    def __init__(self, port: int) -> None:
        self.heard = b""  # what the clients were told, over all connections
        self._to = port
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._run(self._accept)

    def _run(self, what: object, *args: object) -> None:
        # A thread is in the network of the one that makes it.
        thread = threading.Thread(target=what, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open += [near, far]
                self._run(self._carry, near, far, False)
                self._run(self._carry, far, near, True)

    def _carry(self, source: socket.socket, to: socket.socket, kept: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if kept:
                    with self._lock:
                        self.heard += piece
                to.sendall(piece)
        with contextlib.suppress(OSError):
            to.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Nothing of it is left."""
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(10)


@contextlib.contextmanager
def tapped(port: int) -> Iterator[Tap]:
    """A tap before this port, for as long as the block runs."""
    tap = Tap(port)
    try:
        yield tap
    finally:
        tap.close()
