"""The daemon's side of a keeper: start one, find one again, hear what it says.

The keeper is started with one end of a socket pair as its stdin: the order goes through it, and it
is the first connection, so nothing is polled for. The listening socket for later daemons is made
here and handed over as its stdout, so that a bad path is an error before anything was started.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, cast

from daemon.backends.keeper_messages import (
    ExecFailed,
    Exited,
    Gone,
    Hello,
    KeeperError,
    KeeperEvent,
    Lines,
    LogTrouble,
    Lost,
    Order,
    OrderFile,
    exited,
)
from daemon.backends.keeper_process import CLOSE_DEADLINE, Child, launch
from daemon.backends.leftovers import Reaped, Record, reap, records

__all__ = [
    "ExecFailed",
    "Exited",
    "Gone",
    "Hello",
    "Keeper",
    "KeeperError",
    "KeeperEvent",
    "Lines",
    "LogTrouble",
    "Lost",
    "Order",
    "OrderFile",
    "Reaped",
    "Record",
    "reap",
    "records",
]

MESSAGE_LIMIT = 4 << 20  # bytes of one message; a keeper sends far less


class Keeper(asyncio.Protocol):
    """A connection to one keeper. Made by :meth:`start` or :meth:`adopt`, not by hand.

    ``on_event`` is called in the loop, in the order Lines… , ExecFailed or Exited, Gone; or Lost
    at any point as the last. It may be called before ``start`` or ``adopt`` has returned.
    """

    hello: Hello

    def __init__(
        self,
        on_event: Callable[[KeeperEvent], None],
        patience: float,
        child: Child | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._on_event = on_event
        self._patience = patience
        self._child = child
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._hellos: list[asyncio.Future[Hello]] = []
        self._greeted = False
        self._closing = False
        self._over = asyncio.Event()  # the connection is
        self._gone: asyncio.Future[bool] = loop.create_future()

    @classmethod
    async def start(
        cls,
        order: Order,
        *,
        on_event: Callable[[KeeperEvent], None],
        patience: float,
        python: str = sys.executable,
    ) -> Self:
        """Start a keeper for ``order``, and by it the engine.

        ``patience``: seconds for the keeper to say hello, now and whenever it is asked again.
        An engine that cannot be run is an event (:class:`ExecFailed`, then :class:`Gone`);
        KeeperError is for the keeper itself, with what it wrote before it died.
        """
        child, connection = await launch(order, python)
        keeper = cls(on_event, patience, child)
        try:
            async with asyncio.timeout(patience):
                hello = keeper._next_hello()
                await asyncio.get_running_loop().create_unix_connection(
                    lambda: keeper, sock=connection
                )
                keeper._write(order.encode())
                keeper.hello = await hello
        except BaseException as error:
            if keeper._transport is None:
                connection.close()
            said = await keeper._give_up(child)
            await asyncio.to_thread(order.socket.unlink, missing_ok=True)  # perhaps it had no order
            if isinstance(error, KeeperError | TimeoutError | OSError):
                text = said or str(error) or f"no hello within {patience:g} s"
                raise KeeperError(f"the keeper of {order.backend} did not start: {text}") from error
            raise
        return keeper

    @classmethod
    async def adopt(
        cls,
        socket_path: Path | str,
        *,
        on_event: Callable[[KeeperEvent], None],
        patience: float,
    ) -> Self:
        """Connect to a keeper that an earlier daemon started; ``patience`` as in :meth:`start`.

        KeeperError if nobody answers.
        """
        keeper = cls(on_event, patience)
        try:
            async with asyncio.timeout(patience):
                hello = keeper._next_hello()
                await asyncio.get_running_loop().create_unix_connection(
                    lambda: keeper, path=os.fspath(socket_path)
                )
                keeper.hello = await hello
        except BaseException as error:
            await keeper._ended()
            if isinstance(error, TimeoutError | OSError):
                raise KeeperError(
                    f"no keeper answers at {socket_path}: {str(error) or 'no hello'}"
                ) from error
            raise
        return keeper

    @property
    def pid(self) -> int | None:
        """The engine's process id; None if it could not be run."""
        return self.hello.pid

    @property
    def connected(self) -> bool:
        """Whether the keeper can hear us."""
        return self._transport is not None and not self._closing

    def stop(self, grace: float, kill_grace: float) -> None:
        """TERM now, again after ``grace`` seconds, KILL after ``kill_grace`` more; Gone tells."""
        self._send({"type": "stop", "grace": grace, "kill_grace": kill_grace})

    def kill(self) -> None:
        """KILL now, until nothing is left; Gone tells."""
        self._send({"type": "kill"})

    async def refresh(self) -> Hello:
        """Ask for a new hello (bytes logged and dropped); KeeperError if none comes."""
        if not self.connected:
            raise KeeperError("the keeper is not connected any more")
        answer = self._next_hello()
        self._send({"type": "hello"})
        try:
            async with asyncio.timeout(self._patience):
                self.hello = await answer
        except TimeoutError as error:
            raise KeeperError("the keeper does not answer") from error
        return self.hello

    async def wait_gone(self, timeout: float) -> bool:
        """True once everything is gone; False after ``timeout`` seconds or a lost connection."""
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(self._gone)
        except TimeoutError:
            return False

    async def close(self) -> bool:
        """Say bye and hang up: the keeper leaves as soon as everything is gone.

        True once a keeper that we started has ended and is reaped (always, if it is not ours).
        If the engine still runs, it is stopped as after a lost connection.
        """
        await self._hang_up({"type": "bye"})
        return self._child is None or await self._child.ended(CLOSE_DEADLINE) is not None

    async def detach(self, grace: float) -> None:
        """Hang up and leave the engine running for ``grace`` seconds, for the next daemon."""
        await self._hang_up({"type": "detach", "grace": grace})

    # the connection's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by shape only

    def data_received(self, data: bytes) -> None:
        self._received += data
        *lines, rest = self._received.split(b"\n")
        self._received = rest
        if len(rest) > MESSAGE_LIMIT:
            self._abort()
        for line in lines:
            try:
                told = self._hear(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                self._refuse(KeeperError(f"the keeper sent no message: {error!r}"))
                return
            except KeeperError as error:
                self._refuse(error)
                return
            for event in told:
                self._emit(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._over.set()
        self._fail_hellos(KeeperError("the keeper hung up"))
        if not self._gone.done():
            self._gone.set_result(False)
            if self._greeted and not self._closing:
                self._on_event(Lost())
        if self._child is not None:
            self._child.reap()

    def _hear(self, message: dict[str, Any]) -> list[KeeperEvent]:
        match message["type"]:
            case "hello":
                hello = Hello.decode(message)
                waiting, self._hellos = self._hellos, []
                for future in waiting:
                    if not future.done():
                        future.set_result(hello)
                told = [] if self._greeted else hello.events()
                self._greeted = True
                return told
            case "lines":
                return [Lines(tuple(message["lines"]))]
            case "log":
                return [LogTrouble(message["dropped"], message["errno"])]
            case "exit":
                return [exited(message)]
            case "gone":
                return [Gone()]
            case _:
                return []  # a newer keeper may say more

    def _emit(self, event: KeeperEvent) -> None:
        if self._closing:
            return
        self._on_event(event)
        if isinstance(event, Gone) and not self._gone.done():
            self._gone.set_result(True)

    def _refuse(self, error: KeeperError) -> None:
        self._fail_hellos(error)
        self._abort()

    def _next_hello(self) -> asyncio.Future[Hello]:
        future: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self._hellos.append(future)
        return future

    def _fail_hellos(self, error: KeeperError) -> None:
        waiting, self._hellos = self._hellos, []
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()  # whoever asked may have left meanwhile

    def _send(self, message: dict[str, Any]) -> None:
        self._write(json.dumps(message).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def _ended(self) -> None:
        """Cut the connection, if there is one, and see it end."""
        if self._transport is not None:
            self._transport.abort()
            await self._over.wait()  # what is left in the loop's own queue: no wait for a peer

    async def _give_up(self, child: Child) -> str | None:
        """End a keeper that was started in vain, and its engine with it; what it wrote."""
        try:
            self.kill()
            await self._hang_up({"type": "bye"})
            child.reap()
            said = await child.ended(CLOSE_DEADLINE)
        except asyncio.CancelledError:
            child.process.kill()
            raise
        if said is not None:
            return said
        child.process.kill()
        return await child.ended(CLOSE_DEADLINE)

    async def _hang_up(self, message: dict[str, Any]) -> None:
        if not self._closing:
            self._send(message)
            self._closing = True
        if self._transport is not None:
            self._transport.close()
            try:
                async with asyncio.timeout(CLOSE_DEADLINE):
                    await self._over.wait()
            except TimeoutError:  # it does not even read
                await self._ended()
