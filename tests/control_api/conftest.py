from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from control_api.operation import Limits
from tests.control_api.fake import FakeControl, served, short_folder

LIMITS = Limits(
    body_seconds=3.0,
    write_seconds=5.0,
    heartbeat_seconds=0.1,
    first_step_seconds=1.0,
    log_poll_seconds=0.02,
    streams=3,
    event_queue=8,
)


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


@pytest.fixture
def fake() -> FakeControl:
    return FakeControl()


@pytest.fixture
async def socket(fake: FakeControl, folder: Path) -> AsyncIterator[Path]:
    path = folder / "c.sock"
    async with served(fake, path, limits=LIMITS):
        yield path


@pytest.fixture
async def http(socket: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the private socket."""
    connector = aiohttp.UnixConnector(path=str(socket))
    async with aiohttp.ClientSession("http://localhost", connector=connector) as session:
        yield session
