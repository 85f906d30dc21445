"""The keeper's process as the daemon's child: made, given its ends, reaped."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

from daemon.backends import keeper as program
from daemon.backends.keeper_messages import KeeperError, Order
from daemon.core.problems import Code

# Seconds from bye to the end of the keeper. No setting: a program of ours that has nothing left to
# do, and whose slowness nobody waits for longer than this.
CLOSE_DEADLINE = 2.0
SOCKET_PATH_LIMIT = 100  # bytes; the kernels take 104 (macOS) and 108 (Linux)
# what Python itself may need; the engine's environment is in the order
_PASSED_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE")


class Child:
    """The keeper's process: our child, to be reaped by nobody else.

    Not asyncio's subprocess: its transport kills the process when it is collected, and a keeper
    must outlive the daemon.
    """

    def __init__(self, process: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
        self.process = process
        self._stderr = stderr
        self._reaper: threading.Thread | None = None
        self._said: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def reap(self) -> None:
        """Wait for its end in a thread; called once the connection is over, so mostly short."""
        if self._reaper is None:
            loop = asyncio.get_running_loop()
            self._reaper = threading.Thread(
                target=self._wait, args=(loop,), name=f"reap-{self.process.pid}", daemon=True
            )
            self._reaper.start()

    async def ended(self, timeout: float) -> str | None:
        """What it wrote, once it has ended; None if it has not after ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(self._said)
        except TimeoutError:
            return None

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self.process.wait()
        with self._stderr as file:
            file.seek(0)
            said = file.read(8192).decode("utf-8", "replace").strip()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is waiting
            loop.call_soon_threadsafe(self._said.set_result, said)


async def launch(order: Order, python: str) -> tuple[Child, socket.socket]:
    """Start a keeper that waits for its order; the other end of its stdin is the connection.

    KeeperError if it cannot be started. Cancelled, it first sees what was started to its end.
    """
    launching = asyncio.get_running_loop().run_in_executor(None, _launch, order, python)
    cancelled: asyncio.CancelledError | None = None
    while not launching.done():
        try:
            await asyncio.wait({launching})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        process, stderr, connection = launching.result()
        return Child(process, stderr), connection
    if launching.exception() is None:
        process, stderr, connection = launching.result()
        connection.close()
        process.kill()  # it had no order yet: there is no engine
        child = Child(process, stderr)
        child.reap()
        await child.ended(CLOSE_DEADLINE)
        await asyncio.to_thread(order.socket.unlink, missing_ok=True)  # nobody else will
    raise cancelled


def _launch(order: Order, python: str) -> tuple[subprocess.Popen[bytes], IO[bytes], socket.socket]:
    """Start the keeper's process, which waits for its order. Blocks: not for the loop.

    Its process, what it writes to stderr (a file without a name), and our end of the connection.
    """
    for path in (order.socket, order.record, order.log):
        with contextlib.suppress(OSError):  # a full disk: the log may be lost, the rest is told
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    ours, theirs = socket.socketpair()
    stderr = _last_words()
    try:
        with theirs, _listener(order.socket) as listener:
            process = subprocess.Popen(
                [python, "-I", "-S", program_for(python), order.backend],
                stdin=theirs.fileno(),
                stdout=listener.fileno(),
                stderr=stderr,
                cwd="/",
                env={name: os.environ[name] for name in _PASSED_ENVIRONMENT if name in os.environ},
                start_new_session=True,
            )
    except BaseException as error:
        ours.close()
        stderr.close()
        if isinstance(error, OSError):
            raise KeeperError(f"cannot start a keeper for {order.backend}: {error}") from error
        raise
    return process, stderr, ours


def _last_words() -> IO[bytes]:
    """Where a keeper writes why it died: a file without a name, or nowhere on a full disk."""
    try:
        return tempfile.TemporaryFile()
    except OSError:
        return Path(os.devnull).open("w+b")


def _listener(path: Path) -> socket.socket:
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_LIMIT:
        raise KeeperError(
            f"the socket path {path} has {size} bytes; {SOCKET_PATH_LIMIT} are allowed.",
            "Name a shorter runtime directory with MODELPORT_RUNTIME_DIR.",
            Code.CONFIG_INVALID,
        )
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(os.fspath(path))
        path.chmod(0o600)  # nobody can connect before listen
        listener.listen(8)
    except OSError:
        listener.close()
        raise
    return listener


def program_for(python: str) -> str:
    """The keeper's compiled file, if it is surely that of the source: 5 ms less at each start."""
    source = program.__file__
    compiled = Path(importlib.util.cache_from_source(source))
    if python == sys.executable:
        with contextlib.suppress(OSError):
            # PEP 552: magic, flags (0: by time and size), the source's time and size
            head, about = compiled.read_bytes()[:16], Path(source).stat()
            numbers = [int.from_bytes(head[at : at + 4], "little") for at in (4, 8, 12)]
            want = [0, int(about.st_mtime) & 0xFFFFFFFF, about.st_size & 0xFFFFFFFF]
            if head[:4] == importlib.util.MAGIC_NUMBER and numbers == want:
                return os.fspath(compiled)
    return source
