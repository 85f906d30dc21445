from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from daemon.core.messages import Outcome
from daemon.ports import Target
from daemon.relay.limits import Limits
from daemon.relay.pool import Pool
from daemon.relay.upstream import Upstream
from tests.relay.peers import Backend, both_loops, post, until, world


@contextlib.contextmanager
def full_listener() -> Iterator[Target]:
    """A port whose queue of connections is full: connecting to it neither works nor fails."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield Target("127.0.0.1", server.getsockname()[1])


@both_loops
async def test_connecting_has_a_deadline() -> None:
    with full_listener() as target:
        async with world(limits=Limits(tick=0.01, connect_timeout=0.05)) as here:
            here.leases.target = target
            reply = await here.once(post())
            assert reply.status == 502
            assert here.leases.outcomes == [Outcome.LOST, Outcome.LOST]


@both_loops
async def test_a_client_that_leaves_while_we_connect_ends_it() -> None:
    with full_listener() as target:
        async with world() as here:
            here.leases.target = target
            client = await here.client()
            await client.send(post())
            await until(lambda: here.leases.leases)
            client.close()
            await until(lambda: here.leases.outcomes == [Outcome.CLIENT_GONE])
            await until(lambda: len(here.front._plane.pool) == 0)


@both_loops
async def test_the_end_of_the_front_ends_it_too() -> None:
    with full_listener() as target:
        async with world() as here:
            here.leases.target = target
            client = await here.client()
            await client.send(post())
            await until(lambda: here.leases.leases)
            here.front.abort()
            await until(lambda: here.leases.outcomes == [Outcome.CLIENT_GONE])
            await until(lambda: len(here.front._plane.pool) == 0)


async def opened(pool: Pool, target: Target) -> Upstream:
    done: asyncio.Future[Upstream | OSError] = asyncio.get_running_loop().create_future()
    await asyncio.wait({pool.open(target, done.set_result)}, timeout=5)
    result = done.result()
    assert isinstance(result, Upstream)
    return result


@both_loops
async def test_last_used_is_first_taken_and_the_number_is_bounded() -> None:
    backend = Backend()
    target = await backend.start()
    loop = asyncio.get_running_loop()
    pool = Pool(loop, Limits(pool_size=2, pool_idle=10))
    one, two, three = [await opened(pool, target) for _ in range(3)]
    for upstream in (one, two, three):
        assert not upstream.reused
        pool._release(upstream, True)
    assert len(pool) == 2  # the third was one too many
    assert pool.take(target) is two
    assert two.reused
    pool._release(two, True)
    pool.sweep(loop.time() + 5)
    assert len(pool) == 2
    pool.sweep(loop.time() + 20)
    assert len(pool) == 0
    assert pool.take(target) is None
    pool._release(await opened(pool, target), True)
    pool.close()
    assert len(pool) == 0
    late = await opened(pool, target)
    pool._release(late, True)
    assert len(pool) == 0  # closed: nothing is kept
    await backend.stop()
    await asyncio.sleep(0.01)


@both_loops
async def test_targets_are_kept_apart() -> None:
    first, second = Backend(), Backend()
    here, there = await first.start(), await second.start()
    pool = Pool(asyncio.get_running_loop(), Limits())
    pool._release(await opened(pool, here), True)
    assert pool.take(there) is None
    pool.drop(there)
    assert len(pool) == 1
    pool.drop(here)
    assert len(pool) == 0
    await first.stop()
    await second.stop()
    await asyncio.sleep(0.01)


async def test_a_dead_connection_is_not_taken() -> None:
    backend = Backend()
    target = await backend.start()
    pool = Pool(asyncio.get_running_loop(), Limits())
    for _ in range(2):
        pool._release(await opened(pool, target), True)
    # Its end is known to the transport, but was not told yet.
    dead = pool._idle[target][-1]
    assert dead.transport is not None
    dead.transport.close()
    assert pool.take(target) is not dead
    assert len(pool) == 0
    pool.close()
    await backend.stop()
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("usable", [True, False])
async def test_what_is_not_usable_is_not_kept(usable: bool) -> None:
    backend = Backend()
    target = await backend.start()
    pool = Pool(asyncio.get_running_loop(), Limits())
    upstream = await opened(pool, target)
    upstream.abort()
    pool._release(upstream, usable)
    assert len(pool) == 0
    await backend.stop()
