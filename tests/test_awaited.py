"""Requests for models that are not here: who may have them brought, how long they wait, and what
they hear."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from daemon import awaited as room
from daemon import pulling
from daemon.access.principals import CONTROL, LOCAL, USE, Principal
from daemon.awaited import Awaited, about, allowed, under_way
from daemon.config.model import Model
from daemon.core.messages import Outcome
from daemon.core.problems import Code, Problem, ProblemError
from daemon.downloads.locate import storage
from daemon.downloads.pull import PullProgress, PullRequest
from daemon.ports import Lease, Progress, Route, Waiting, Wish
from tests.rooms import Rooms, engine

HF = '[models.h]\nhf = "owner/name"\nengine = "mine"\nctx = 512\nauto_pull = true\n'
GUEST = Principal("laptop", frozenset({USE}), keyed=True)


class Hub:
    """Stands in for ``downloads.pull.pull``; brings the file when it is told to."""

    def __init__(self, rooms: Rooms, weights: Path) -> None:
        self.rooms, self.weights = rooms, weights
        self.asked = 0
        self.go = asyncio.Event()
        self.error: ProblemError | None = None
        self.empty = False
        self.told: Callable[[PullProgress], None] = lambda _: None

    async def pull(
        self, request: PullRequest, told: Callable[[PullProgress], None], **_: object
    ) -> None:
        self.asked += 1
        self.told = told
        await self.go.wait()
        if self.error is not None:
            raise self.error
        if not self.empty:
            folder = storage(request.repo, self.rooms.hub) / "snapshots" / "main"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / (request.file or "m.gguf")).symlink_to(self.weights)


class Counter:
    """A daemon's middle with its requests."""

    def __init__(self, rooms: Rooms, hub: Hub) -> None:
        self.rooms, self.hub = rooms, hub
        self.awaited = Awaited(rooms.supervisor, rooms.control.bringing)
        rooms.supervisor.absent = self.awaited.absent
        rooms.supervisor.fetching = self.awaited.words
        self.heard: list[Lease | Problem] = []

    def ask(
        self, name: str = "h", who: Principal = LOCAL, route: Route = Route.CHAT
    ) -> Waiting | None:
        wish = Wish(name, route, who, "c", 10, "req_1")
        return self.rooms.supervisor.acquire(wish, self.heard.append)

    @property
    def problem(self) -> Problem:
        (problem,) = self.heard
        assert isinstance(problem, Problem)
        return problem

    async def begun(self) -> None:
        await self.rooms.until(lambda: self.hub.asked)


Open = Callable[..., Awaitable[Counter]]


@pytest.fixture
async def opened(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path
) -> AsyncIterator[Open]:
    made: list[Counter] = []

    async def make(config: str = HF, budget: str = "1 GiB") -> Counter:
        rooms = await Rooms(short_dir, engine() + config, monkeypatch, budget).open()
        hub = Hub(rooms, tiny_gguf)
        monkeypatch.setattr(pulling, "pull", hub.pull)
        made.append(Counter(rooms, hub))
        return made[-1]

    yield make
    for counter in made:
        await counter.rooms.configured.pulls.close()


async def test_those_who_wait_get_their_turn_when_it_is_here(opened: Open) -> None:
    counter = await opened()
    assert counter.ask() is not None
    counter.ask()
    await counter.begun()
    counter.hub.go.set()
    await counter.rooms.until(lambda: counter.rooms.states().get("h") == "starting")
    counter.rooms.ready("h")
    await counter.rooms.until(lambda: counter.heard)
    assert not isinstance(counter.heard[0], Problem)
    counter.heard[0].end(Outcome.OK)
    assert counter.hub.asked == 1


async def test_who_leaves_is_forgotten_and_the_download_goes_on(opened: Open) -> None:
    counter = await opened()
    waiting = counter.ask()
    assert waiting is not None
    await counter.begun()
    waiting.cancel()
    waiting.cancel()
    counter.hub.go.set()
    await counter.rooms.until(lambda: counter.rooms.control.model("h").pulled)
    assert counter.heard == []
    assert counter.rooms.orders == [], "nobody waits for it"


async def test_what_takes_longer_than_a_turn_is_told_at_once(opened: Open) -> None:
    counter = await opened()
    clock = [100.0]
    counter.rooms.configured.pulls.clock = lambda: clock[0]
    counter.ask()
    await counter.begun()
    for _ in range(5):
        clock[0] += 1
        fetched = int(clock[0] - 100) << 20
        counter.hub.told(PullProgress(fetched, 4 << 30, fetched, "m.gguf"))
    await counter.rooms.until(lambda: counter.heard)
    assert counter.problem.code is Code.PULLING
    assert (
        counter.problem.message == "h is being downloaded: 0 % of 4.0 GiB, about 68 minutes left."
    )
    assert counter.problem.hint == "Ask again then, or watch it: ctl pull h"
    assert counter.problem.retry_after == 30.0
    assert counter.problem.facts["total"] == 4 << 30
    assert counter.ask() is None, "who comes now hears it, too"
    assert counter.hub.asked == 1


async def test_nobody_waits_longer_than_for_a_turn(opened: Open) -> None:
    counter = await opened("[server]\nqueue_timeout = 0.05\n" + HF)
    counter.ask()
    await counter.rooms.until(lambda: counter.heard)
    assert counter.problem.code is Code.PULLING
    assert counter.problem.message.startswith("h is being downloaded")


async def test_a_failure_is_told_and_rests(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = await opened()
    counter.hub.error = ProblemError(Problem(Code.PULL_FAILED, "It is gated."))
    counter.hub.go.set()
    counter.ask()
    await counter.rooms.until(lambda: counter.heard)
    assert counter.problem.message == "It is gated."
    counter.ask()
    assert (len(counter.heard), counter.hub.asked) == (2, 1), "the hub is not asked by each"
    monkeypatch.setattr(room, "REST", 0.0)
    counter.awaited._failed.clear()
    counter.hub.error = None
    counter.ask()
    await counter.rooms.until(lambda: counter.rooms.states().get("h") == "starting")
    assert counter.hub.asked == 2


async def test_a_download_that_brings_nothing_is_no_loop(opened: Open) -> None:
    counter = await opened()
    counter.hub.empty = True
    counter.hub.go.set()
    counter.ask()
    await counter.rooms.until(lambda: counter.heard)
    assert counter.problem.code is Code.NOT_PULLED
    assert counter.hub.asked == 1


async def test_who_stops_tells_those_who_wait(opened: Open) -> None:
    counter = await opened()
    counter.ask()
    await counter.begun()
    counter.rooms.supervisor.leave()
    counter.awaited.leave()
    assert counter.problem.code is Code.SHUTTING_DOWN


async def test_so_many_may_wait(opened: Open) -> None:
    counter = await opened()
    counter.awaited.most = 1
    counter.ask()
    counter.ask()
    assert counter.problem.code is Code.QUEUE_FULL
    assert counter.problem.retry_after is not None


async def test_counting_tokens_brings_nothing(opened: Open) -> None:
    counter = await opened()
    counter.ask(route=Route.COUNT_TOKENS)
    assert counter.problem.code is Code.NOT_PULLED
    assert counter.hub.asked == 0


async def test_without_leave_it_is_refused_with_the_way(opened: Open) -> None:
    counter = await opened(HF.replace("auto_pull = true", "auto_pull = false"))
    counter.ask()
    assert counter.problem.code is Code.NOT_PULLED
    assert "ctl pull h" in counter.problem.hint


async def test_a_preset_that_nobody_added(opened: Open) -> None:
    counter = await opened("[defaults]\nauto_pull = true\n", "8 GiB")
    counter.ask("qwen3-0.6b", GUEST)
    assert counter.problem.code is Code.NOT_PULLED, "not by who comes from elsewhere"
    counter.heard.clear()
    assert counter.ask("qwen3-0.6b") is not None
    await counter.begun()


async def test_the_wait_is_told_where_a_model_shows_it(opened: Open) -> None:
    counter = await opened(HF + "loading_text = true\n")
    assert "downloaded" not in counter.rooms.supervisor.waiting_text("h")
    counter.ask()
    await counter.begun()
    counter.hub.told(PullProgress(1 << 30, 4 << 30, 1, "m.gguf"))
    await counter.rooms.until(lambda: "25 %" in counter.rooms.supervisor.waiting_text("h"))


def test_who_may_have_it_brought() -> None:
    listed, preset = Model("m", auto_pull=True), Model("p", auto_pull=True, listed=False)
    owner = Principal("phone", frozenset({USE, CONTROL}), keyed=True)
    for who in (LOCAL, GUEST, owner):
        assert allowed(listed, who)
        assert not allowed(Model("m"), who)
    assert [allowed(preset, who) for who in (LOCAL, GUEST, owner)] == [True, False, True]


def test_the_figures() -> None:
    gib = 1 << 30
    facts: dict[str, object] = {"done": int(7.3 * gib), "total": int(17.2 * gib), "file": "x"}
    step = Progress("pull", "pulling x", 0.42, {**facts, "rate": 30 << 20, "left": 355.0})
    problem = under_way("qwen", step)
    assert problem.message == ("qwen is being downloaded: 42 % of 17.2 GiB, about 6 minutes left.")
    assert problem.retry_after == 30
    assert "file" not in problem.facts
    near = Progress("pull", "", 0.9, {**facts, "left": 4.0})
    assert under_way("m", near).retry_after == 4
    asking = Progress("pull", "asking the hub", None, {"done": 0, "total": 0})
    assert under_way("m", asking).message == "m is being downloaded: asking the hub."
    assert under_way("m", None).message == "m is being downloaded."


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "1 second"),
        (40, "40 seconds"),
        (60, "1 minute"),
        (80, "1 minute"),
        (355, "6 minutes"),
        (5000, "83 minutes"),
        (7200, "2 hours"),
    ],
)
def test_times_as_people_say_them(seconds: float, said: str) -> None:
    assert about(seconds) == said
