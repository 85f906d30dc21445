"""Pulls as jobs: one per model, any number of watchers, each told how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon import pulling
from daemon.config.model import Model
from daemon.core.problems import Code, Problem, ProblemError
from daemon.downloads.pull import FileRef, Patience, PullProgress, PullRequest
from daemon.downloads.wanted import hub_file, pull_request
from daemon.ports import Progress
from daemon.pulling import Pulls
from daemon.telemetry.bus import Bus

SECONDS = 5.0
MODEL = Model("m", hf="owner/name:Q4_K_M")
PATIENCE = Patience(stall=9.0, retry=0.5)


class Download:
    """Stands in for ``downloads.pull.pull``: does what the test says, when it says so."""

    def __init__(self) -> None:
        self.requests: list[PullRequest] = []
        self.patience: list[Patience] = []
        self.told: Callable[[PullProgress], None] = lambda _: None
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.error: Exception | None = None
        self.cancelled = False

    async def pull(
        self,
        request: PullRequest,
        on_progress: Callable[[PullProgress], None],
        *,
        cache_dir: Path | None,
        patience: Patience,
    ) -> None:
        assert cache_dir is None
        self.requests.append(request)
        self.patience.append(patience)
        self.told = on_progress
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self.error is not None:
            raise self.error


class House:
    """Pulls over a stand-in download; ``arrived`` are the models whose files came."""

    def __init__(self, download: Download) -> None:
        self.download = download
        self.bus = Bus()
        self.arrived: list[str] = []
        self.refuse: ProblemError | None = None
        self.pulls = Pulls(self.bus, self._arrive)

    async def _arrive(self, model: Model) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.arrived.append(model.name)

    def watch(self, model: Model = MODEL) -> asyncio.Task[list[Progress]]:
        async def watching() -> list[Progress]:
            return [step async for step in self.pulls.watch(model, PATIENCE)]

        return asyncio.create_task(watching())

    async def begun(self) -> None:
        await asyncio.wait_for(self.download.begun.wait(), SECONDS)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.bus.history(0)]


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> House:
    download = Download()
    monkeypatch.setattr(pulling, "pull", download.pull)
    return House(download)


async def ended(watching: asyncio.Task[list[Progress]]) -> list[Progress]:
    return await asyncio.wait_for(watching, SECONDS)


async def test_a_pull_tells_its_progress_and_ends_when_the_files_are_taken(house: House) -> None:
    watching = house.watch()
    await house.begun()
    house.download.told(PullProgress(done=25, total=100, file="m.gguf"))
    house.download.told(PullProgress(done=0, total=0, file="", note="asking the hub"))
    house.download.go.set()
    first, second = await ended(watching)
    assert (first.step, first.text, first.fraction) == ("pull", "pulling m.gguf", 0.25)
    assert first.facts == {"done": 25, "total": 100, "file": "m.gguf"}
    assert (second.text, second.fraction) == ("asking the hub", None)
    assert house.arrived == ["m"]
    assert house.kinds() == ["pull", "pulled"]
    assert house.download.patience == [PATIENCE]


async def test_watchers_share_one_download(house: House) -> None:
    first, second = house.watch(), house.watch()
    await house.begun()
    house.download.told(PullProgress(done=1, total=2, file="m.gguf"))
    house.download.go.set()
    assert len(await ended(first)) == len(await ended(second)) == 1
    assert len(house.download.requests) == 1
    again = house.watch()
    assert await ended(again) == []
    assert len(house.download.requests) == 2, "a later wish is a new job"


async def test_it_goes_on_when_its_watchers_leave(house: House) -> None:
    watching = house.watch()
    await house.begun()
    watching.cancel()
    await asyncio.wait([watching])
    other = house.watch()
    house.download.go.set()
    await ended(other)
    assert house.arrived == ["m"]
    assert not house.download.cancelled


@pytest.mark.parametrize("failing", ["download", "arrival"])
async def test_a_failure_reaches_every_watcher(house: House, failing: str) -> None:
    error = ProblemError(Problem(Code.PULL_FAILED, "The disk is full.", "Make room."))
    if failing == "download":
        house.download.error = error
    else:
        house.refuse = error
    watchers = [house.watch(), house.watch()]
    await house.begun()
    house.download.go.set()
    for watching in watchers:
        with pytest.raises(ProblemError, match="The disk is full"):
            await ended(watching)
    assert house.kinds() == ["pull", "pull_failed"]
    assert house.bus.history(0)[1].text == "The disk is full. Make room."


async def test_a_bug_is_told_and_logged(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.download.error = ValueError("what nobody thought of")
    watching = house.watch()
    house.download.go.set()
    with pytest.raises(ProblemError) as caught:
        await ended(watching)
    assert caught.value.problem.code is Code.PULL_FAILED
    assert "what nobody thought of" in caught.value.problem.message
    assert "pulling m failed" in caplog.text


async def test_after_a_failure_it_may_be_tried_again(house: House) -> None:
    house.download.error = ProblemError(Problem(Code.PULL_FAILED, "no"))
    house.download.go.set()
    with pytest.raises(ProblemError):
        await ended(house.watch())
    house.download.error = None
    assert await ended(house.watch()) == []
    assert house.kinds() == ["pull", "pull_failed", "pull", "pulled"]


async def test_the_end_of_the_daemon_is_no_success(house: House) -> None:
    watching = house.watch()
    await house.begun()
    await house.pulls.close()
    with pytest.raises(ProblemError) as caught:
        await ended(watching)
    assert caught.value.problem.code is Code.SHUTTING_DOWN
    assert house.download.cancelled
    assert house.arrived == []
    assert house.kinds() == ["pull"]


async def test_a_pull_that_had_not_begun_when_the_daemon_ended(house: House) -> None:
    """Cancelled before its first step: its watcher is told all the same."""
    watching = house.watch()
    closing = asyncio.create_task(house.pulls.close())
    await asyncio.wait_for(closing, SECONDS)
    with pytest.raises(ProblemError) as caught:
        await ended(watching)
    assert caught.value.problem.code is Code.SHUTTING_DOWN


async def test_nothing_is_pulled_for_a_daemon_that_ends(house: House) -> None:
    await house.pulls.close()
    with pytest.raises(ProblemError) as caught:
        await ended(house.watch())
    assert caught.value.problem.code is Code.SHUTTING_DOWN
    assert house.download.requests == []


def test_what_is_asked_of_the_hub() -> None:
    model = Model(
        "m",
        hf="owner/name:Q4_K_M",
        mmproj="hf:other/repo/sub/mm.gguf",
        draft="draft.gguf",
        template="/own/template.jinja",
    )
    request = pull_request(model)
    assert (request.repo, request.quant) == ("owner/name", "Q4_K_M")
    assert request.mmproj == FileRef("sub/mm.gguf", "other/repo")
    assert request.draft == FileRef("draft.gguf")
    assert request.template is None, "a path on this disk is not pulled"
    for value in (None, "embedded", "~/x", "./x"):
        assert pull_request(Model("m", hf="o/n", template=value)).template is None


@pytest.mark.parametrize("value", ["hf:", "hf:a", "hf:a/b", "hf:a/b/", "hf://c"])
def test_half_a_name_of_a_file_is_a_mistake(value: str) -> None:
    with pytest.raises(ProblemError) as caught:
        hub_file(value)
    assert caught.value.problem.code is Code.CONFIG_INVALID
    assert value in caught.value.problem.message
    assert "hf:OWNER/REPO/FILE" in caught.value.problem.hint
