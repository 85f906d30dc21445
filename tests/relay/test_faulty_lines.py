"""Whatever happens between relay and backend: a client gets all of an answer, or sees that not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
from dataclasses import dataclass

from daemon.core.problems import Code, Problem
from tests.relay.faulty import FAULTS, Line
from tests.relay.peers import (
    CHUNKED,
    DEADLINE,
    Backend,
    Client,
    Conn,
    World,
    both_loops,
    chunk,
    ok,
    post,
    world,
)

SEEDS = int(os.environ.get("MODELPORT_SEEDS", "60"))
EVENTS = [b'data: {"n":%d,"text":"%b"}\n\n' % (n, b"x" * (7 * n)) for n in range(12)]
STREAM = b"".join(EVENTS) + b"data: [DONE]\n\n"
WHOLE = json.dumps({"choices": [{"message": {"content": "y" * 1500}}]}).encode()


async def answering(conn: Conn, backend: Backend) -> None:
    """Streams in chunks of every size where that is asked for."""
    while True:
        seen = await conn.request()
        if b'"stream":true' not in seen.body:
            await conn.send(ok(WHOLE))
            continue
        await conn.send(CHUNKED)
        for event in EVENTS:
            await conn.send(chunk(event))
        await conn.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


@dataclass
class Got:
    """What a client has when its connection is idle or over."""

    status: int = 0
    body: bytes = b""
    complete: bool = False  # by the protocol's own rules


async def ask(client: Client, path: str, stream: bool) -> Got:
    got = Got()
    body = b'{"model":"m","stream":%b}' % (b"true" if stream else b"false")
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        await client.send(post(path, body))
        got.status, fields, _ = await client.head()
        named = dict(fields)
        if "content-length" in named:
            length = int(named["content-length"])
            while len(got.body) < length:
                got.body += await client.reader.readexactly(min(64, length - len(got.body)))
        else:
            assert named["transfer-encoding"] == "chunked"
            while piece := await client.chunk():
                got.body += piece
        got.complete = True
    return got


def judge(got: Got, expected: bytes, path: str) -> str:
    """How it went; AssertionError where a client would be deceived."""
    if got.status == 200 and got.complete:
        assert got.body == expected
        return "whole"
    if got.complete:
        assert got.status in (500, 502), got
        assert json.loads(got.body)["error"]
        return "told"
    if got.status:
        known, _, rest = got.body.partition(b'data: {"error"')
        # An event of ours is on a line of its own behind what came, which is the backend's.
        assert expected.startswith((known, known.removesuffix(b"\n\n"))), got
        assert not rest or path == "/v1/chat/completions"
    return "cut"


async def watched(here: World, line: Line, asking: asyncio.Task[Got]) -> Got:
    """Nothing tells a stall from thinking but the watch over backends: here it ends each."""
    async with asyncio.timeout(DEADLINE):
        while not asking.done():
            stalled = asyncio.ensure_future(line.stalled.wait())
            await asyncio.wait({asking, stalled}, return_when=asyncio.FIRST_COMPLETED)
            stalled.cancel()
            if line.stalled.is_set() and not asking.done():
                line.stalled.clear()
                cancel = here.leases.leases[-1].on_cancel
                if cancel is not None:
                    cancel(Problem(Code.UPSTREAM_ERROR, "It answers no more.", retry_after=1.0))
    return asking.result()


@both_loops
async def test_no_client_is_deceived() -> None:
    seen: set[tuple[str, str]] = set()
    async with world(answering) as here:
        backend = here.leases.target
        for seed in range(SEEDS):
            luck = random.Random(seed)
            path = luck.choice(("/v1/chat/completions", "/v1/messages", "/v1/responses"))
            stream = luck.random() < 0.7
            line = Line(backend, luck, span=luck.choice((40, 400, 2500)))
            async with line as here.leases.target:
                client = await here.client()
                asking = asyncio.ensure_future(ask(client, path, stream))
                try:
                    got = await watched(here, line, asking)
                    outcome = judge(got, STREAM if stream else WHOLE, path)
                except (AssertionError, TimeoutError) as error:
                    raise AssertionError(f"seed {seed}, {line.faults}: {error}") from error
                finally:
                    asking.cancel()
                seen.add((line.faults[-1], outcome))
                client.close()
                here.front.forget(here.leases.target)
    assert {fault for fault, _ in seen} == set(FAULTS)
    assert {("delay", "whole"), ("split", "whole")} <= seen
    assert not {("delay", "cut"), ("split", "cut"), ("delay", "told"), ("split", "told")} & seen
    assert {outcome for _, outcome in seen} == {"whole", "told", "cut"}
