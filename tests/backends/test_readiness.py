"""What a backend does that is there already: it answers, it works, or neither."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.backends import probing
from daemon.backends.backend import Backend
from daemon.backends.readiness import Found
from daemon.core.messages import BackendReady
from tests.backends.backend_house import Stage

pytestmark = pytest.mark.processes


@pytest.fixture
async def stage(short_dir: Path) -> AsyncIterator[Stage]:
    made = Stage(short_dir)
    yield made
    await made.close()


async def burning(backend: Backend) -> asyncio.Task[probing.Answer]:
    """A request whose prompt is long: the only slot is taken, and a core is busy."""
    engine, port = backend.engine.probe(backend.plan), backend.plan.port
    request = asyncio.create_task(
        probing.answers(port, engine, backend.launch.headers, deadline=None)
    )
    in_flight = 0
    while not in_flight:
        told = await probing.ask(port, "GET", "/fake", headers=backend.launch.headers, deadline=5)
        in_flight = json.loads(told.body)["in_flight"]
    return request


async def test_one_that_is_busy_with_a_long_prompt_works(stage: Stage) -> None:
    backend, told = stage.begin("-np", "1", "--busy-s", "30", "--skip", "1")
    await told.have(BackendReady)
    request = await burning(backend)
    assert await backend.look_over(2.0) is Found.WORKS
    assert not request.done()
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        backend.plan = replace(backend.plan, port=stranger.getsockname()[1])
        assert await backend.look_over(0.5) is Found.FAILS, "who listens there is not ours"
    request.cancel()


async def test_one_that_is_deaf_and_does_nothing_fails(stage: Stage) -> None:
    backend, told = stage.begin()
    await told.have(BackendReady)
    assert backend.pid is not None
    os.kill(backend.pid, signal.SIGSTOP)
    assert await backend.look_over(1.0) is Found.FAILS
