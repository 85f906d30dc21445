"""What the service manager hears from the start to the end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.service.telling import Telling
from tests.rooms import Rooms, engine, model

Heard = asyncio.Queue[str]


@pytest.fixture
async def heard(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Heard]:
    """All messages. Read as they come: the kernel holds ten, and what comes then is lost."""
    path, loop = str(short_dir / "notify"), asyncio.get_running_loop()
    told: Heard = asyncio.Queue()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        loop.add_reader(sock, lambda: told.put_nowait(sock.recv(4096).decode()))
        yield told
        loop.remove_reader(sock)


async def until(heard: Heard, text: str) -> list[str]:
    """All messages up to the one that has this in it."""
    told: list[str] = []
    async with asyncio.timeout(20):
        while True:
            told.append(await heard.get())
            if text in told[-1]:
                return told


async def telling(rooms: Rooms, environ: dict[str, str]) -> Telling:
    return Telling(rooms.supervisor, rooms.bus, lambda: "http://x:1", environ, service=False)


async def test_a_life(
    heard: Heard, short_dir: Path, monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path
) -> None:
    config = engine() + model("a", tiny_gguf) + model("b", tiny_gguf)
    rooms = await Rooms(short_dir, config, monkeypatch).open()
    told = await telling(rooms, {"WATCHDOG_USEC": "40000"})
    await told.starting()
    assert (await until(heard, "EXTEND"))[-1] == "EXTEND_TIMEOUT_USEC=30000000"
    await told.serves()
    ready = (await until(heard, "READY"))[-1]
    assert ready == "READY=1\nSTATUS=no model loaded; serving on http://x:1"
    await until(heard, "WATCHDOG=1")
    await rooms.loaded("a")
    news = [one for one in await until(heard, "1 model loaded") if one.startswith("STATUS")]
    assert news[-1] == "STATUS=1 model loaded, 100 MiB; serving on http://x:1"
    rooms.control.pause(None, hold=True, force=False)
    assert "1 model loaded" in told.text()
    assert ", paused;" in told.text()
    told.reloading()
    told.ready()
    assert (await until(heard, "READY"))[-1].startswith("READY=1\nSTATUS=1 model loaded")
    await told.stopping()
    await until(heard, "STOPPING=1")
    await until(heard, "EXTEND")
    await told.stopped()


async def test_a_core_that_fails_gives_no_sign_of_life(
    heard: Heard, short_dir: Path, monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path
) -> None:
    rooms = await Rooms(short_dir, engine() + model("a", tiny_gguf), monkeypatch).open()
    told = await telling(rooms, {"WATCHDOG_USEC": "40000"})
    await told.serves()
    await until(heard, "WATCHDOG=1")

    def broken(*_: object) -> list[object]:
        raise AssertionError("illegal")

    with monkeypatch.context() as patch:
        patch.setattr(type(rooms.supervisor.scheduler), "handle", broken)
        last = (await until(heard, "not healthy"))[-1]
        assert "the scheduler does not answer (AssertionError: illegal)" in last
    assert rooms.supervisor.answers(), "and it answers again"
    await until(heard, "WATCHDOG=1")
    await told.stopping()
    await told.stopped()


async def test_who_is_stopped_while_starting_gives_no_signs(
    heard: Heard, short_dir: Path, monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path
) -> None:
    rooms = await Rooms(short_dir, engine() + model("a", tiny_gguf), monkeypatch).open()
    told = await telling(rooms, {"WATCHDOG_USEC": "40000"})
    await told.starting()
    await told.serves(stopping=True)
    await told.stopping()
    assert "WATCHDOG=1" not in await until(heard, "STOPPING=1")
    await told.stopped()
