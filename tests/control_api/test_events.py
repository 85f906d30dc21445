"""Events: ids, resume, gaps, heartbeats, bounds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from control_api.operation import PREFIX, Limits
from tests.control_api.fake import FakeControl, served, until

URL = f"{PREFIX}/events"


async def read(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, int | None, Any]]:
    """(kind, id, data) of each event; heartbeats are (":", None, None)."""
    kind, event_id = "", None
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        if line.startswith(":"):
            yield ":", None, None
        elif line.startswith("id: "):
            event_id = int(line[4:])
        elif line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            yield kind, event_id, json.loads(line[6:])
            kind, event_id = "", None


async def news(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, int | None, Any]]:
    """All but the heartbeats, which come when nothing else does for a moment."""
    async for event in read(response):
        if event[0] != ":":
            yield event


async def test_new_events_with_ids(http: aiohttp.ClientSession, fake: FakeControl) -> None:
    fake.emit("old")
    async with asyncio.timeout(20), http.get(URL) as response:
        fake.emit("load", text="one\ntwo", bytes=3)
        kind, event_id, data = await anext(news(response))
    assert (kind, event_id) == ("load", 2)
    assert (data["text"], data["facts"]) == ("one\ntwo", {"bytes": 3})


@pytest.mark.parametrize("how", ["header", "query"])
async def test_resume(how: str, http: aiohttp.ClientSession, fake: FakeControl) -> None:
    for kind in ("a", "b", "c"):
        fake.emit(kind)
    headers = {"Last-Event-ID": "1"} if how == "header" else {}
    query = {} if how == "header" else {"since": "1"}
    async with asyncio.timeout(20), http.get(URL, headers=headers, params=query) as response:
        fake.emit("d")
        events = news(response)
        assert [(await anext(events))[:2] for _ in range(3)] == [("b", 2), ("c", 3), ("d", 4)]


async def test_without_follow_the_stream_ends(
    http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    fake.emit("a")
    async with http.get(URL, params={"since": "0", "follow": "0"}) as response:
        assert [event[:2] async for event in read(response)] == [("a", 1)]
    assert fake.subscribers == []


@pytest.mark.parametrize(("last", "reason"), [("1", "too old"), ("99", "the daemon was restarted")])
async def test_what_is_forgotten_is_a_gap(
    last: str, reason: str, http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    for kind in "abcde":
        fake.emit(kind)
    del fake.kept[:3]
    headers = {"Last-Event-ID": last}
    async with http.get(URL, headers=headers, params={"follow": "0"}) as response:
        events = [event async for event in read(response)]
    assert events[0] == ("gap", None, {"after": int(last), "reason": reason})
    assert [event[1] for event in events[1:]] == [4, 5]


async def test_a_bad_id_is_refused(http: aiohttp.ClientSession, fake: FakeControl) -> None:
    for bad in ("x", "-1", "9" * 40):
        async with http.get(URL, headers={"Last-Event-ID": bad}) as response:
            assert response.status == 400
    assert fake.subscribers == []


async def test_heartbeat(http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(20), http.get(URL) as response:
        assert (await anext(read(response)))[0] == ":"


async def test_a_slow_reader_is_told_and_dropped(
    http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    async with asyncio.timeout(20), http.get(URL) as response:
        for _ in range(20):  # more than its queue has room for, in one turn of the loop
            fake.emit("burst")
        events = [event async for event in news(response)]
    assert [event[1] for event in events[:-1]] == list(range(1, 9))
    assert events[-1] == ("gap", None, {"after": 8, "reason": "slow reader"})
    assert fake.subscribers == []


async def test_a_reader_that_takes_nothing_is_cut_off(fake: FakeControl, folder: Path) -> None:
    limits = Limits(write_seconds=0.1, heartbeat_seconds=0.05, event_queue=10_000)
    async with served(fake, folder / "s.sock", limits=limits):
        _, writer = await asyncio.open_unix_connection(str(folder / "s.sock"))
        writer.write(f"GET {URL} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(20):
            await until(lambda: bool(fake.subscribers))
            for _ in range(200):
                fake.emit("flood", text="x" * 10_000)
            await until(lambda: not fake.subscribers)
        writer.close()


async def test_no_more_streams_than_allowed(http: aiohttp.ClientSession, fake: FakeControl) -> None:
    open_ = [await http.get(URL) for _ in range(3)]
    async with http.get(URL) as response:
        assert response.status == 503
        assert (await response.json())["error"]["code"] == "queue_full"
    assert len(fake.subscribers) == 3
    open_.pop().close()
    await until(lambda: len(fake.subscribers) == 2)
    async with http.get(URL) as response:
        assert response.status == 200
    for response in open_:
        response.close()


async def test_the_daemons_stop_ends_the_streams(fake: FakeControl, folder: Path) -> None:
    async with served(fake, folder / "s.sock") as runner:
        connector = aiohttp.UnixConnector(path=str(folder / "s.sock"))
        async with (
            asyncio.timeout(20),
            aiohttp.ClientSession("http://x", connector=connector) as http,
            http.get(URL) as response,
        ):
            await runner.shutdown()
            assert [event async for event in news(response)] == []
            async with http.get(URL) as refused:
                assert refused.status == 503
    assert fake.subscribers == []


async def test_a_kind_cannot_break_out_of_its_line(
    http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    fake.emit("load\ndata: forged")
    async with http.get(URL, params={"since": "0", "follow": "0"}) as response:
        events = [event async for event in read(response)]
    assert [event[0] for event in events] == ["loaddataforged"]
