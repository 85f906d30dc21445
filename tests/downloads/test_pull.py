"""Pulls from a stand-in for the hub, through the real child process and the real client."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import psutil
import pytest

from daemon.core.problems import Code, Problem, ProblemError
from daemon.downloads.locate import locate
from daemon.downloads.pull import (
    Patience,
    PulledFiles,
    PullProgress,
    PullRequest,
    pull,
)
from tests.downloads.hub import Big, Hub, Repo

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

STALL = 5.0  # seconds: above what asking the hub takes on a busy machine
QUICK = Patience(stall=20.0, retry=0.01, retry_max=0.02, attempts=3)
WEIGHTS = bytes(range(256)) * 8192  # 2 MiB, eight reports
REQUEST = PullRequest("owner/name", "Q4_K_M")


class Pull(Protocol):
    def __call__(
        self,
        request: PullRequest,
        *,
        patience: Patience = QUICK,
        reserve: int = 0,
        env: dict[str, str] | None = None,
        on_progress: Callable[[PullProgress], None] | None = None,
    ) -> Awaitable[PulledFiles]: ...


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def seen() -> list[PullProgress]:
    return []


@pytest.fixture
def fetch(hub: Hub, cache: Path, tmp_path: Path, seen: list[PullProgress]) -> Pull:
    """``pull`` from the stand-in, without the token and settings of whoever runs the tests."""

    def call(
        request: PullRequest,
        *,
        patience: Patience = QUICK,
        reserve: int = 0,
        env: dict[str, str] | None = None,
        on_progress: Callable[[PullProgress], None] | None = None,
    ) -> Awaitable[PulledFiles]:
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": ""}
        settings |= {"HF_HUB_OFFLINE": "", "HF_HUB_DOWNLOAD_TIMEOUT": "10", **(env or {})}
        return pull(
            request,
            on_progress or seen.append,
            cache_dir=cache,
            patience=patience,
            reserve=reserve,
            env=settings,
        )

    return call


@pytest.fixture(autouse=True)
def no_child_is_left_behind() -> object:
    before = set(psutil.Process().children(recursive=True))
    yield
    left = [p for p in psutil.Process().children(recursive=True) if p not in before]
    assert not left, f"left behind: {left}"


async def refused(answer: Awaitable[PulledFiles]) -> Problem:
    with pytest.raises(ProblemError) as caught:
        await answer
    return caught.value.problem


async def test_one_file_with_progress(
    hub: Hub, fetch: Pull, cache: Path, seen: list[PullProgress]
) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS, "m-Q8_0.gguf": b"no", "x.py": b"no"})
    files = await fetch(REQUEST)
    assert files.path.read_bytes() == WEIGHTS
    assert files == PulledFiles(
        files.path, (files.path,), hub.repos["owner/name"].commit, len(WEIGHTS)
    )
    assert {
        path for _, path, _ in hub.requests if "resolve" in path and "m-Q4_K_M" not in path
    } == set()
    assert locate("owner/name", "Q4_K_M", cache_dir=cache) == files.path
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1] == PullProgress(len(WEIGHTS), len(WEIGHTS), len(WEIGHTS), "m-Q4_K_M.gguf")


async def test_the_environment_reaches_the_child(hub: Hub, fetch: Pull) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": b"w"}, gate=403)
    problem = await refused(fetch(REQUEST))
    assert problem.code is Code.PULL_FAILED
    assert "HF_TOKEN" in problem.hint
    assert (await fetch(REQUEST, env={"HF_TOKEN": "secret"})).size == 1
    problem = await refused(fetch(PullRequest("no/such"), env={"HF_HUB_OFFLINE": "1"}))
    assert problem.code is Code.NOT_PULLED


async def test_a_name_that_cannot_be_is_refused_without_asking(hub: Hub, fetch: Pull) -> None:
    problem = await refused(fetch(PullRequest("../../etc")))
    assert "'../../etc' is no repository of the hub" in problem.message
    assert hub.requests == []


# ---------------------------------------------------------------- breaks


async def test_a_standstill_is_noticed_and_goes_on_where_it_was(
    hub: Hub, fetch: Pull, seen: list[PullProgress]
) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    hub.stall_after["m-Q4_K_M.gguf"] = 1_000_000
    patience = Patience(stall=STALL, retry=0.01, attempts=3)
    files = await fetch(REQUEST, patience=patience)
    assert files.path.read_bytes() == WEIGHTS
    assert next(p.note for p in seen if p.note) == f"no byte for {STALL:.0f} s; going on in 0 s"
    assert hub.asked("GET", ".gguf")[1].startswith("bytes=")
    assert [f.name for f in (files.path.resolve().parent).iterdir()] == [files.path.resolve().name]


async def test_when_nothing_ever_comes_it_is_given_up_at_once(hub: Hub, fetch: Pull) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    hub.stall_after["m-Q4_K_M.gguf"] = 0
    problem = await refused(fetch(REQUEST, patience=Patience(stall=1.5, retry=0.01)))
    assert problem.code is Code.PULL_FAILED
    assert "stands still: no byte for 2 s" in problem.message


async def test_after_some_tries_in_vain_it_is_given_up(
    hub: Hub, fetch: Pull, seen: list[PullProgress]
) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    hub.stall_after["m-Q4_K_M.gguf"] = 1_000_000

    def watch(progress: PullProgress) -> None:
        seen.append(progress)
        if progress.note:
            hub.down = 503

    patience = Patience(stall=STALL, retry=0.01, retry_max=0.02, attempts=2)
    problem = await refused(fetch(REQUEST, patience=patience, on_progress=watch))
    assert problem.code is Code.NOT_PULLED
    assert len([p for p in seen if p.note]) == 1


def wait_for_some_of_it(cache: Path) -> None:
    """Until bytes of an unfinished file have reached the disk."""
    deadline = time.monotonic() + 60.0
    while not any(part.stat().st_size for part in cache.rglob("*.modelport.incomplete")):
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.01)


async def test_cancelling_ends_the_child_and_keeps_what_came(
    hub: Hub, fetch: Pull, cache: Path
) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    hub.stall_after["m-Q4_K_M.gguf"] = 1_000_000
    task = asyncio.ensure_future(fetch(REQUEST))
    await asyncio.to_thread(wait_for_some_of_it, cache)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    files = await fetch(REQUEST)
    assert files.path.read_bytes() == WEIGHTS
    assert hub.asked("GET", ".gguf")[1].startswith("bytes=")


async def test_a_child_that_dies_is_told(hub: Hub, fetch: Pull) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    hub.stall_after["m-Q4_K_M.gguf"] = 1_000_000
    task = asyncio.ensure_future(fetch(REQUEST))
    assert await asyncio.to_thread(hub.stalled.wait, 60)
    (child,) = psutil.Process().children()
    os.kill(child.pid, signal.SIGTERM)
    problem = await refused(task)
    assert problem.code is Code.PULL_FAILED
    assert problem.message == "The download process of owner/name ended early: without a word."


async def test_a_broken_start_of_the_child_tells_its_last_words(fetch: Pull) -> None:
    problem = await refused(
        fetch(REQUEST, env={"HF_HUB_DOWNLOAD_TIMEOUT": "x", "PYTHONHOME": "/no"})
    )
    assert problem.code is Code.PULL_FAILED
    assert "ended early: " in problem.message
    assert problem.facts["output"]


async def test_a_child_that_talks_nonsense_is_told(fetch: Pull, tmp_path: Path) -> None:
    await asyncio.to_thread((tmp_path / "sitecustomize.py").write_text, "print('nonsense')")
    problem = await refused(fetch(REQUEST, env={"PYTHONPATH": str(tmp_path)}))
    assert problem.code is Code.PULL_FAILED
    assert "b'nonsense" in problem.message


async def test_whoever_listens_badly_does_not_leave_a_child_behind(hub: Hub, fetch: Pull) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})

    def raise_(_: PullProgress) -> None:
        raise RuntimeError("my fault")

    with pytest.raises(RuntimeError, match="my fault"):
        await fetch(REQUEST, on_progress=raise_)


async def test_a_crowded_hub_is_asked_again_when_it_says(
    hub: Hub, fetch: Pull, seen: list[PullProgress]
) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    hub.crowded, hub.retry_after = 2, "0"
    assert (await fetch(REQUEST)).path.read_bytes() == WEIGHTS
    assert [p.note for p in seen if p.note] == ["the hub asks to wait; going on in 0 s"] * 2


async def test_a_steady_pull_waits_for_a_network_that_is_not_there_yet(
    hub: Hub, fetch: Pull, seen: list[PullProgress]
) -> None:
    """As one that was taken up at boot: nothing has come, and it is tried again all the same."""
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    hub.down = 503

    def up_again(progress: PullProgress) -> None:
        seen.append(progress)
        if progress.note:
            hub.down = None

    steady = Patience(stall=20.0, retry=0.01, attempts=3, steady=True)
    await fetch(REQUEST, patience=steady, on_progress=up_again)
    assert len([p for p in seen if p.note]) == 1


async def test_files_that_come_wrong_are_no_model(hub: Hub, fetch: Pull, cache: Path) -> None:
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": WEIGHTS})
    hub.damaged["m-Q4_K_M.gguf"] = 1
    problem = await refused(fetch(REQUEST))
    assert "arrived damaged" in problem.message
    assert locate("owner/name", "Q4_K_M", cache_dir=cache) is None
    assert (await fetch(REQUEST)).path.read_bytes() == WEIGHTS


UNREAD = 16 << 20  # bytes that may have been sent and not read: what two sockets hold


async def interrupted(hub: Hub, fetch: Pull, cache: Path, size: int, times: int) -> PulledFiles:
    """Ended ``times`` times in its middle; then to its end."""
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": Big(size)})
    part = size // (times + 1)
    for _ in range(times):
        hub.stall_after["m-Q4_K_M.gguf"] = part
        hub.stalled.clear()
        before = await asyncio.to_thread(came, cache)
        task = asyncio.ensure_future(fetch(REQUEST))
        assert await asyncio.to_thread(hub.stalled.wait, 120)
        await asyncio.to_thread(wait_for_bytes, cache, before + part)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        hub.release.set()  # the thread that holds the connection ends
        await asyncio.to_thread(wait_for_end, hub)
        hub.release.clear()
    return await fetch(REQUEST)


def wait_for_bytes(cache: Path, least: int) -> None:
    """Until all that was sent is on the disk, but for what one read holds back."""
    deadline = time.monotonic() + 60.0
    while came(cache) < least - (1 << 18):
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.01)


def came(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.rglob("*.modelport.incomplete"))


def wait_for_end(hub: Hub) -> None:
    deadline = time.monotonic() + 30.0
    while hub.stalling:
        assert time.monotonic() < deadline, "the stand-in hangs"
        time.sleep(0.005)


async def test_a_pull_that_is_interrupted_again_and_again_resumes_and_verifies(
    hub: Hub, fetch: Pull, cache: Path
) -> None:
    size = 6 << 20
    files = await interrupted(hub, fetch, cache, size, 3)
    assert files.path.stat().st_size == files.size == size
    assert sha256(files.path) == files.path.resolve().name
    assert hub.sent <= size + 3 * (1 << 19), "it went on where it was"
    assert await asyncio.to_thread(unfinished, cache) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_two_gigabytes_interrupted_ten_times(hub: Hub, fetch: Pull, cache: Path) -> None:
    size = 2 << 30
    files = await interrupted(hub, fetch, cache, size, 10)
    assert files.path.stat().st_size == size
    assert await asyncio.to_thread(sha256, files.path) == files.path.resolve().name
    print(f"{hub.sent - size} bytes of {size} were sent twice")
    assert hub.sent <= size + 10 * UNREAD
    assert len(hub.asked("GET", ".gguf")) == 11
    assert await asyncio.to_thread(unfinished, cache) == []


def unfinished(cache: Path) -> list[Path]:
    return list(cache.rglob("*.incomplete"))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
