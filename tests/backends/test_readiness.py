"""What a backend does that is there already: it answers, it works, or neither."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.backends import probing, readiness
from daemon.backends.backend import Backend
from daemon.backends.readiness import Found
from daemon.core.messages import BackendReady, ExitClass, StartFailed
from daemon.ports import Target
from tests.backends.backend_house import FAKE, Stage, until
from tests.ports import free_port

pytestmark = pytest.mark.processes


@pytest.fixture
async def stage(short_dir: Path) -> AsyncIterator[Stage]:
    made = Stage(short_dir)
    yield made
    await made.close()


async def burning(backend: Backend) -> asyncio.Task[probing.Answer]:
    """A request whose prompt is long: the only slot is taken, and a core is busy."""
    engine, target = backend.engine.probe(backend.plan), backend.plan.target
    request = asyncio.create_task(
        probing.answers(target, engine, backend.launch.headers, deadline=None)
    )
    in_flight = 0
    while not in_flight:
        told = await probing.ask(target, "GET", "/fake", headers=backend.launch.headers, deadline=5)
        in_flight = json.loads(told.body)["in_flight"]
    return request


async def test_one_that_is_busy_with_a_long_prompt_works(stage: Stage) -> None:
    backend, told = stage.begin("-np", "1", "--busy-s", "30", "--skip", "1")
    await told.have(BackendReady)
    request = await burning(backend)
    assert await backend.look_over(4.0) is Found.WORKS
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


def a_stranger() -> tuple[subprocess.Popen[bytes], int]:
    """A server that answers everything, and that nobody here has started as a backend."""
    port = free_port()
    return a_server("--port", str(port)), port


def a_server(*flags: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*FAKE, *flags], stderr=subprocess.DEVNULL)


SLEEPS = (sys.executable, "-c", "import time; time.sleep(60)")


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_stranger_on_its_port_is_not_taken_for_the_backend(
    stage: Stage, elsewhere: bool
) -> None:
    """It answers health and the real request, as an engine would that checks no key. A server in a
    container is no process of the backend's either: for that it can be said."""
    process, port = a_stranger()
    try:
        backend, told = stage.make(program=SLEEPS, elsewhere=elsewhere)
        backend.plan = replace(backend.plan, port=port)
        backend.begin()
        if elsewhere:
            await told.have(BackendReady)
            return
        failed = await told.have(StartFailed)
        assert isinstance(failed, StartFailed)
        assert failed.exit_class is ExitClass.PORT
        assert f"port {port} is answered by another program" in failed.detail
        backend.stop()
        await told.ended()
        assert process.poll() is None, "the stranger is left alone"
        assert not any(isinstance(event, BackendReady) for event in told)
    finally:
        process.kill()
        process.wait()


async def test_a_stranger_on_its_socket_is_not_taken_for_the_backend(stage: Stage) -> None:
    backend, told = stage.make(program=SLEEPS, by_socket=True)
    place = backend.plan.socket
    assert place is not None
    backend.begin()
    await until(lambda: backend.pid is not None, "its start")  # what lay there is gone by now
    process = a_server("--host", str(place))
    try:
        failed = await told.have(StartFailed)
    finally:
        process.kill()
        process.wait()
    assert isinstance(failed, StartFailed)
    assert failed.exit_class is ExitClass.PORT
    assert f"socket {place} is answered by another program" in failed.detail
    backend.stop()
    await told.ended()


@pytest.mark.parametrize("by_socket", [False, True])
async def test_a_server_that_has_lost_its_parent_is_still_the_backends(
    stage: Stage, by_socket: bool
) -> None:
    """A start script that puts the server into the background, and stays."""
    script = "import os, sys, time\nif os.fork() == 0:\n    if os.fork() == 0:\n"
    script += "        os.execv(sys.argv[1], sys.argv[1:])\n    os._exit(0)\ntime.sleep(60)"
    _, told = stage.begin(program=(sys.executable, "-c", script, *FAKE), by_socket=by_socket)
    await told.have(BackendReady)


async def test_one_that_is_killed_while_it_is_looked_at_is_no_stranger(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections are gone before its end is known."""
    backend, told = stage.make()

    def killed(pid: int, target: Target) -> bool:
        assert backend.pid is not None
        os.kill(backend.pid, signal.SIGKILL)
        return False

    monkeypatch.setattr(readiness, "listens", killed)
    backend.begin()
    exited = await told.ended()
    assert exited.exit_class is ExitClass.OUT_OF_MEMORY, "as ever where the system may have done it"
    assert not any(isinstance(event, StartFailed) for event in told)
