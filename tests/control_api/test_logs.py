"""Logs over the wire: redacted, followed, ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp

from control_api.operation import PREFIX, Limits
from tests.control_api.fake import FakeControl, served, until

URL = f"{PREFIX}/logs"


async def test_the_last_lines_without_secrets(
    http: aiohttp.ClientSession, fake: FakeControl, folder: Path
) -> None:
    (folder / "d.log").write_text(
        "one\nAuthorization: Bearer abcdefgh1234\n\x1b[2Jthree\n", "utf-8"
    )
    fake.logs[None] = str(folder / "d.log")
    async with http.get(f"{URL}/daemon", params={"lines": "2"}) as response:
        assert response.content_type == "text/plain"
        text = await response.text()
    assert text == "Authorization: Bearer ***\n\\x1b[2Jthree\n"


async def test_a_log_that_is_not_there_is_empty(http: aiohttp.ClientSession) -> None:
    async with http.get(f"{URL}/gemma") as response:
        assert (response.status, await response.text()) == (200, "")


async def test_follow(http: aiohttp.ClientSession, fake: FakeControl, folder: Path) -> None:
    log = folder / "gemma.log"
    log.write_text("one\ntwo\n", "utf-8")
    fake.logs["gemma"] = str(log)
    query = {"lines": "1", "follow": "1"}
    async with asyncio.timeout(20), http.get(f"{URL}/g", params=query) as response:
        assert await response.content.readline() == b"two\n"
        with log.open("a", encoding="utf-8") as file:
            file.write("three\n")
        assert await response.content.readline() == b"three\n"


def open_tasks() -> list[str]:
    return [t.get_name() for t in asyncio.all_tasks() if t.get_name().startswith("log ")]


async def test_the_reader_of_a_silent_log_leaves(fake: FakeControl, folder: Path) -> None:
    """Its place is given back, also where handlers are not cancelled when a reader leaves."""
    limits = Limits(heartbeat_seconds=0.05)
    async with served(fake, folder / "s.sock", cancel=False, limits=limits):
        connector = aiohttp.UnixConnector(path=str(folder / "s.sock"))
        async with aiohttp.ClientSession("http://x", connector=connector) as http:
            response = await http.get(f"{URL}/gemma", params={"follow": "1"})
            assert response.status == 200
            await until(lambda: bool(open_tasks()))
            response.close()
            await until(lambda: not open_tasks())


async def test_the_daemons_stop_ends_it(fake: FakeControl, folder: Path) -> None:
    async with served(fake, folder / "s.sock") as runner:
        connector = aiohttp.UnixConnector(path=str(folder / "s.sock"))
        async with (
            asyncio.timeout(20),
            aiohttp.ClientSession("http://x", connector=connector) as http,
            http.get(f"{URL}/gemma", params={"follow": "1"}) as response,
        ):
            await runner.shutdown()
            assert await response.read() == b""
