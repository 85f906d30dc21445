"""Pulls as jobs: one per model, any number of watchers, each told how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from daemon import pulling
from daemon.config.model import Model
from daemon.core.problems import Code, Problem, ProblemError
from daemon.downloads.pace import Pace
from daemon.downloads.pull import FileRef, Patience, PullProgress, PullRequest
from daemon.downloads.unfinished import Unfinished
from daemon.downloads.wanted import hub_file, of_hub, pull_request
from daemon.ports import Progress
from daemon.pulling import Pulls, told_of
from daemon.telemetry.bus import Bus

SECONDS = 10.0
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
        self.slots = 2
        self.pulls = Pulls(self.bus, self._arrive, parallel=lambda: self.slots)

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


async def test_so_many_at_a_time_and_the_others_in_their_turn(house: House) -> None:
    house.slots = 1
    names = ["a", "b", "c"]
    watchers = [house.watch(replace(MODEL, name=name)) for name in names]
    await house.begun()
    await settled(lambda: [one.state for one in house.pulls.views()].count("waiting") == 2)
    waiting = house.pulls.view("c")
    assert waiting is not None
    assert waiting.note == "waits for its turn behind a"
    assert [one.name for one in house.pulls.views()] == names
    house.download.go.set()
    await asyncio.gather(*(ended(watching) for watching in watchers))
    assert house.arrived == names
    assert not house.pulls.busy


async def test_two_at_a_time(house: House) -> None:
    watchers = [house.watch(replace(MODEL, name=name)) for name in ("a", "b", "c")]
    await settled(lambda: len(house.download.requests) == 2)
    assert [one.state for one in house.pulls.views()] == ["running", "running", "waiting"]
    await house.pulls.cancel("a")
    await settled(lambda: len(house.download.requests) == 3)
    house.download.go.set()
    await asyncio.gather(*(ended(watching) for watching in watchers[1:]))
    assert house.arrived == ["b", "c"]
    with pytest.raises(ProblemError):
        await ended(watchers[0])


async def test_one_that_comes_later_hears_at_once_how_far_it_is(house: House) -> None:
    first = house.watch()
    await house.begun()
    house.download.told(PullProgress(done=1, total=4, file="m.gguf"))
    late = house.watch()
    await settled(lambda: house.pulls.views()[0].watchers == 2)
    house.download.go.set()
    assert [step.fraction for step in await ended(late)] == [0.25]
    await ended(first)


async def test_the_view_of_one(house: House) -> None:
    watching = house.watch()
    await house.begun()
    house.download.told(PullProgress(done=1, total=4, fetched=1, file="m.gguf"))
    view = house.pulls.view("m")
    assert view is not None
    assert (view.state, view.source, view.watchers) == ("running", "hf:owner/name:Q4_K_M", 1)
    assert (view.done, view.total, view.file, view.rate) == (1, 4, "m.gguf", None)
    assert house.pulls.view("x") is None
    house.download.go.set()
    await ended(watching)
    assert house.pulls.views() == []


async def test_a_cancelled_pull_says_so_to_everyone(house: House) -> None:
    watchers = [house.watch(), house.watch()]
    await house.begun()
    house.download.told(PullProgress(done=1, total=4, file="m.gguf"))
    view = await house.pulls.cancel("m")
    assert (view.done, view.total) == (1, 4)
    assert house.download.cancelled
    for watching in watchers:
        with pytest.raises(ProblemError, match="was cancelled") as caught:
            await ended(watching)
        assert "ctl pull m" in caught.value.problem.hint
    assert house.kinds() == ["pull", "pull_cancelled"]
    with pytest.raises(ProblemError) as caught:
        await house.pulls.cancel("m")
    assert caught.value.problem.code is Code.PULL_UNKNOWN
    assert caught.value.problem.hint == "Nothing is being pulled."


async def test_what_is_under_way_is_written_down_until_it_is_over(
    house: House, tmp_path: Path
) -> None:
    record = house.pulls.unfinished = Unfinished(tmp_path / "pulls.json")
    ways: list[tuple[str, list[str]]] = [("end", []), ("fail", []), ("cancel", []), ("stop", ["m"])]
    for way, left in ways:
        house.download.begun.clear()
        house.download.go.clear()
        house.download.error = None
        watching = house.watch()
        await house.begun()
        assert await asyncio.to_thread(record.names) == ["m"]
        if way == "fail":
            house.download.error = ProblemError(Problem(Code.PULL_FAILED, "no"))
        if way in ("end", "fail"):
            house.download.go.set()
        elif way == "cancel":
            await house.pulls.cancel("m")
        else:
            await house.pulls.close()
        await asyncio.wait({watching}, timeout=SECONDS)
        assert (watching.exception() is None) == (way == "end")
        assert await asyncio.to_thread(record.names) == left, way


async def test_one_that_is_taken_up_outlives_a_network_that_is_not_there(
    house: House, tmp_path: Path
) -> None:
    record = house.pulls.unfinished = Unfinished(tmp_path / "pulls.json")
    house.download.error = ProblemError(Problem(Code.NOT_PULLED, "no network"))
    house.download.go.set()
    with pytest.raises(ProblemError, match="no network"):
        _ = [step async for step in house.pulls.watch(MODEL, PATIENCE, again=True)]
    assert house.download.patience[-1].steady
    assert await asyncio.to_thread(record.names) == ["m"]
    with pytest.raises(ProblemError, match="no network"):
        await ended(house.watch())
    assert await asyncio.to_thread(record.names) == []


async def settled(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 (threads have no event for us)
            await asyncio.sleep(0.002)


def test_progress_tells_speed_and_time_left_once_they_are_known() -> None:
    pace = Pace()
    for second in range(5):
        pace.add(float(second), second * 100)
    told = told_of(PullProgress(done=400, total=1400, fetched=400, file="m.gguf"), pace)
    assert told.facts == {"done": 400, "total": 1400, "file": "m.gguf", "rate": 100, "left": 10.0}
    told = told_of(PullProgress(done=400, total=1400, note="no byte for 9 s"), pace)
    assert "rate" not in told.facts


def test_what_nobody_has_configured() -> None:
    model = of_hub("hf:owner/name:Q4_K_M")
    assert (model.name, model.repo, model.quant) == ("hf:owner/name:Q4_K_M", "owner/name", "Q4_K_M")
    request = pull_request(model)
    assert request.find_mmproj, "it may see, and nobody has said with what"
    assert pull_request(of_hub("hf:owner/name")).quant is None
    for wrong in ("hf:", "hf:x", "hf:../../etc", "hf:a/b:../x", "hf:a/b/c"):
        with pytest.raises(ProblemError) as caught:
            of_hub(wrong)
        assert caught.value.problem.code is Code.PULL_FAILED


def test_what_goes_with_weights_of_the_users_own() -> None:
    own = Model("m", path=Path("/x.gguf"), template="hf:o/n/t.jinja", mmproj="eyes.gguf")
    request = pull_request(own)
    assert (request.repo, request.weights) == ("o/n", False)
    assert (request.template, request.mmproj) == (FileRef("t.jinja", "o/n"), None)
    with pytest.raises(ProblemError):
        pull_request(Model("m", path=Path("/x.gguf"), template="/t.jinja"))


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
