"""Unix sockets: nobody there, and a listener whose queue is full."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from daemon.dialing import dial
from daemon.ports import Target
from daemon.relay.limits import Limits
from daemon.relay.pool import Pool
from daemon.relay.upstream import Upstream


async def test_nobody_listens(short_dir: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await dial(str(short_dir / "x.sock"))
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(short_dir / "x.sock"))
        with pytest.raises(ConnectionRefusedError):
            await dial(str(short_dir / "x.sock"))
    with pytest.raises(OSError, match="too long"):
        await dial("/" + "x" * 200)


async def test_a_full_queue_is_waited_for(short_dir: Path) -> None:
    """An engine that takes its connections one by one is not a dead one."""
    path = str(short_dir / "x.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(0)
        filler = await dial(path)
        waits = asyncio.create_task(dial(path))
        await asyncio.sleep(0.02)
        assert not waits.done()
        server.accept()[0].close()
        (await asyncio.wait_for(waits, 5)).close()
        filler.close()


async def test_a_pool_has_its_deadline_on_a_full_queue(short_dir: Path) -> None:
    path = str(short_dir / "x.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(0)
        with await dial(path):
            pool = Pool(asyncio.get_running_loop(), Limits(connect_timeout=0.05))
            done: asyncio.Future[Upstream | OSError] = asyncio.get_running_loop().create_future()
            pool.open(Target("", 0, path), done.set_result)
            assert isinstance(await asyncio.wait_for(done, 5), TimeoutError)
