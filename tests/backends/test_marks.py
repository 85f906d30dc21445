"""What an engine started is found and ended when its keeper was killed."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.backends import marks
from daemon.backends.leftovers import records
from daemon.core.messages import BackendReady, Event
from tests.backends.backend_house import Stage, alive

pytestmark = pytest.mark.processes


@pytest.fixture
async def stage(short_dir: Path) -> AsyncIterator[Stage]:
    made = Stage(short_dir)
    yield made
    await made.close()


@pytest.mark.parametrize("recorded", [True, False])
async def test_what_outlives_a_lost_keeper_is_ended_before_its_memory_is_given_back(
    stage: Stage, recorded: bool
) -> None:
    """A grandchild in a session of its own: no signal of the kernel's reaches it, and its parent is
    dead. ``recorded``: not on a full disk."""
    backend, told = stage.begin("--grandchild", "--ignore-term")
    await told.have(BackendReady)
    grandchild = await stage.grandchild()
    assert backend.keeper is not None
    if not recorded:
        backend.places.record.unlink()
    living: list[bool] = []

    def tell(event: Event) -> None:
        living.append(alive(grandchild))
        told.append(event)

    backend.tell = tell
    os.kill(backend.keeper.hello.keeper_pid, signal.SIGKILL)
    await told.ended()
    assert living == [False]
    await backend.closed()


async def test_each_start_has_a_mark_of_its_own_and_only_its_engine_carries_it(
    stage: Stage,
) -> None:
    marks_seen = set()
    for _ in range(2):
        backend, told = stage.begin("--grandchild")
        await told.have(BackendReady)
        assert backend.keeper is not None
        grandchild = await stage.grandchild()
        assert set(marks.carriers(backend.mark)) == {backend.pid, grandchild}
        assert backend.keeper.hello.mark == backend.mark
        [record] = records(stage.root / "run")
        assert record.mark == backend.mark
        assert backend.mark.startswith("tiny/1/")
        marks_seen.add(backend.mark)
        backend.kill()
        await told.ended()
        await backend.closed()
        backend.places.log.unlink()
    assert len(marks_seen) == 2
