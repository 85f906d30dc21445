"""The recorder: what died, seen in the moment of its exit, and what came of it, on the disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from daemon.backends.keeping import Exited
from daemon.core.messages import Ask, ExitClass, OperatorAsked
from daemon.incidents import Recorder
from daemon.telemetry.incident_file import IncidentFile
from daemon.views import IncidentView
from tests.rooms import MIB, Rooms, engine, model

TWO = engine() + model("a", ctx=4096) + model("b", ctx=4096)
Open = Callable[[], Awaitable[tuple[Rooms, Recorder]]]


@pytest.fixture
def opened(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    async def make() -> tuple[Rooms, Recorder]:
        rooms = await Rooms(short_dir, TWO, monkeypatch).open()
        recorder = Recorder.at(rooms.supervisor, rooms.bus, rooms.paths.state_dir)
        rooms.control.record = recorder.book
        await recorder.open()
        return rooms, recorder

    return make


def on_disk(rooms: Rooms) -> list[IncidentView]:
    return IncidentFile(rooms.paths.state_dir / "incidents.jsonl").load(0.0)


async def test_the_scene_is_kept_as_it_was_before_the_exit(opened: Open) -> None:
    rooms, recorder = await opened()
    await rooms.loaded("a")
    await rooms.loaded("b")
    rooms.exited("a", ExitClass.CRASH)
    (one,) = rooms.control.incidents("a", 10)
    assert (one.model, one.exit_class, one.detail) == ("a", "crash", "it ended")
    (pool,) = one.memory
    assert (pool.own, pool.charged, pool.budget) == (100 * MIB, 200 * MIB, 1024 * MIB)
    assert [(b.model, b.state, b.bytes) for b in one.beside] == [("b", "ready", {"ram": 100 * MIB})]
    assert (one.variant, one.done) == ("context 4096", "backoff")
    assert one.done_seconds is not None
    await recorder.close()
    assert on_disk(rooms) == recorder.book.kept


async def test_what_was_asked_for_is_no_incident(opened: Open) -> None:
    rooms, recorder = await opened()
    await rooms.loaded("a")
    rooms.supervisor.tell(OperatorAsked(Ask.UNLOAD, "a", force=True))
    rooms.exited("a")
    assert rooms.control.incidents("", 10) == []
    await recorder.close()
    assert not (rooms.paths.state_dir / "incidents.jsonl").exists()


async def test_an_older_process_and_the_end_of_the_daemon_are_none(opened: Open) -> None:
    rooms, recorder = await opened()
    await rooms.loaded("a")
    page = rooms.page("a")
    page.generation += 1
    rooms.exited("b", ExitClass.CRASH)  # it does not run
    page.generation -= 1
    rooms.supervisor.leave()
    rooms.exited("a", ExitClass.CRASH)
    assert recorder.book.kept == []
    await recorder.close()


async def test_a_permanent_failure_is_given_up(opened: Open) -> None:
    rooms, recorder = await opened()
    await rooms.loaded("a")
    rooms.exited("a", ExitClass.PERMANENT)
    (one,) = recorder.book.kept
    assert (one.done, one.done_seconds) == ("gave_up", None)
    rooms.control.reset("a")
    (one,) = recorder.book.kept
    assert one.followed == "reset"
    (told,) = [e for e in rooms.bus.history(0) if e.kind == "reset"]
    assert told.text == "a may be started again, it had failed"
    assert told.facts == {"crashes": 0, "state": "failed"}
    await rooms.loaded("a")
    (one,) = recorder.book.kept
    assert one.followed == "ready"
    await recorder.close()


async def test_the_breaker_is_half_open_later(opened: Open) -> None:
    rooms, recorder = await opened()
    await rooms.loaded("a")
    rooms.page("a").history.crashes = [rooms.supervisor.clock()] * 4
    rooms.exited("a", ExitClass.CRASH)
    (one,) = recorder.book.kept
    assert one.done == "half_open"
    assert one.done_seconds is not None
    assert 200 < one.done_seconds <= 300
    (story,) = rooms.control.stories(recorder.book.kept)
    assert (story.state, story.what) == ("failed", "crashed")
    rooms.control.reset("a")
    (told,) = [e for e in rooms.bus.history(0) if e.kind == "reset"]
    assert told.text == "a may be started again: 5 crashes forgotten, it had failed"
    assert rooms.page("a").history.crashes == []
    await recorder.close()


async def test_the_kernel_is_asked_whether_it_killed(opened: Open) -> None:
    rooms, recorder = await opened()
    recorder.kills = lambda: 5
    recorder._killed = 3
    await rooms.loaded("a")
    rooms.exited("a", ExitClass.OUT_OF_MEMORY)
    await rooms.until(lambda: recorder.book.kept[0].kernel_kills is not None)
    assert recorder.book.kept[0].kernel_kills == 2
    await recorder.close()
    assert on_disk(rooms)[0].kernel_kills == 2


async def test_a_later_daemon_knows_it_and_goes_on_counting(opened: Open) -> None:
    rooms, recorder = await opened()
    await rooms.loaded("a")
    rooms.exited("a", ExitClass.CRASH)
    await recorder.close()
    later = Recorder.at(rooms.supervisor, rooms.bus, rooms.paths.state_dir)
    await later.open()
    assert later.book.kept == recorder.book.kept
    await rooms.loaded("b")
    rooms.exited("b", ExitClass.CRASH)
    assert [one.id for one in later.book.kept] == [1, 2]
    await later.close()
    assert [one.model for one in on_disk(rooms)] == ["a", "b"]


async def test_who_is_asked_about(opened: Open) -> None:
    rooms, recorder = await opened()
    await rooms.loaded("a")
    rooms.exited("a", ExitClass.CRASH)
    assert len(rooms.control.incidents("", 10)) == 1
    assert rooms.control.incidents("b", 10) == []
    assert rooms.control.incidents("", 0) == []
    with pytest.raises(Exception, match="no model named 'req_1', and none of that name died"):
        rooms.control.incidents("req_1", 10)
    rooms.write(engine() + model("b", ctx=4096))
    await rooms.control.reload()
    (one,) = rooms.control.incidents("a", 10)
    (story,) = rooms.control.stories([one])
    assert story.state == "", "the model is gone, its story is not"
    await recorder.close()


async def test_a_disk_that_fails_disturbs_nobody(opened: Open) -> None:
    rooms, recorder = await opened()
    recorder.file.path = rooms.paths.state_dir / "file" / "incidents.jsonl"
    (rooms.paths.state_dir / "file").write_text("in the way")
    await rooms.loaded("a")
    rooms.exited("a", ExitClass.CRASH)
    await recorder.close()
    assert len(rooms.control.incidents("a", 10)) == 1
    await asyncio.sleep(0)


async def test_an_end_that_nobody_saw(opened: Open) -> None:
    """With its own time, unless that lies ahead; never with a secret."""
    rooms, recorder = await opened()
    facts = {
        "engine": "llama-server",
        "version": "b1",
        "secret": "s3cretS3cret",
        "started_at": 40.0,
    }
    end = Exited(-6, 1.0, ("GGML_ASSERT(x) s3cretS3cret",), 100.0)
    recorder.missed("a", 7, facts, end)
    recorder.missed("gone", 1, {}, Exited(-9, 1.0, (), time.time() + 9e9))
    one, other = recorder.book.kept
    assert (one.model, one.generation, one.status, one.unattended) == ("a", 7, -6, True)
    assert (one.at, one.age, one.engine, one.exit_class) == (100.0, 60.0, "llama-server", "crash")
    assert "s3cret" not in repr(one)
    assert (other.model, other.age) == ("gone", None)
    assert abs(other.at - time.time()) < 60
    (story,) = rooms.control.stories([one])
    assert story.how == "killed by SIGABRT after 60 s of serving, while modelport was not running"
    told = [e for e in rooms.bus.history(0) if e.kind == "incident"]
    assert [e.model for e in told] == ["a"]
    await recorder.close()
    assert on_disk(rooms) == recorder.book.kept
