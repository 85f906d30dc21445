"""What ``ctl`` may ask: loads with their steps, unloads that wait, numbers that add up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from daemon import pulling
from daemon.access.keys import Wanted
from daemon.access.principals import LOCAL
from daemon.access.store import KeyStore
from daemon.backends.backend import Backend
from daemon.backends.stock import Stock
from daemon.core.messages import ExitClass, Outcome
from daemon.core.problems import Code, Problem, ProblemError
from daemon.downloads.locate import storage
from daemon.downloads.pull import PullProgress, PullRequest
from daemon.picture import where
from daemon.ports import Lease, Route, Wish
from daemon.views import FindingView
from tests.control_api.fake import measured_view
from tests.fakes import start
from tests.rooms import MIB, SECONDS, Loading, Rooms, engine, model

Open = Callable[..., Awaitable[Rooms]]

TWO = engine() + model("a", ctx=4096, aliases='["first"]') + model("b", ctx=4096)


@pytest.fixture
def opened(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    async def make(config: str = TWO, budget: str = "1 GiB") -> Rooms:
        return await Rooms(short_dir, config, monkeypatch, budget).open()

    return make


def lease_on(rooms: Rooms, name: str) -> Lease:
    """A lease on a model that runs."""
    got: list[Lease | Problem] = []
    rooms.supervisor.acquire(Wish(name, Route.CHAT, LOCAL, "c", 10, "r"), got.append)
    (lease,) = got
    assert not isinstance(lease, Problem), lease.text
    return lease


# ---------------------------------------------------------------- looking


async def test_a_key_that_was_made_beside_us_is_listed_at_once(opened: Open) -> None:
    rooms = await opened()
    assert await rooms.control.keys() == []
    store = KeyStore(rooms.control.paths.keys_file)
    await asyncio.to_thread(store.add, Wanted(name="laptop"))
    assert [key.name for key in await rooms.control.keys()] == ["laptop"]


async def test_status_adds_up(opened: Open) -> None:
    rooms = await opened()
    rooms.control.url = "http://127.0.0.1:1"
    await rooms.loaded("a")
    lease = lease_on(rooms, "a")
    rooms.supervisor.acquire(Wish("a", Route.CHAT, LOCAL, "c", 10, "r"), lambda _: None)
    status = rooms.control.status()
    assert (status.backends, status.leases, status.queue, status.claim) == (1, 1, 1, None)
    (pool,) = status.pools
    assert (pool.name, pool.source) == ("ram", "memory.budget")
    assert (pool.budget, pool.committed, pool.settling) == (1024 * MIB, 100 * MIB, 0)
    assert status.counters == {"starts": 1, "requests": 2}
    assert (status.version, status.mode, status.url) == ("0.0", "foreground", "http://127.0.0.1:1")
    assert (status.config, status.log) == (
        str(rooms.paths.config_file),
        str(rooms.paths.daemon_log),
    )
    assert not status.draining
    lease.end(Outcome.OK)
    assert rooms.control.status().counters["ok"] == 1


async def test_what_settles_is_shown(opened: Open) -> None:
    rooms = await opened()
    ledger = rooms.supervisor.scheduler.ledger
    ledger.budget["gpu0"] = 8
    ledger.charge("x", {"gpu0": 5})
    ledger.release("x", rooms.supervisor.clock())
    gpu = rooms.control.status().pools[0]
    assert (gpu.name, gpu.committed, gpu.settling, gpu.free) == ("gpu0", 5, 5, None)


async def test_models_say_what_is_known_of_them(opened: Open, tiny_gguf: Path) -> None:
    config = f'[models.g]\npath = "{tiny_gguf}"\nengine = "xllamacpp"\nctx = 512\npin = true\n'
    rooms = await opened(TWO + config)
    a, _, g = rooms.control.models()
    assert (a.name, a.aliases, a.state, a.engine) == ("a", ["first"], "stopped", "command.mine")
    assert (a.context, a.estimate, a.variants) == (4096, {"ram": 100 * MIB}, ["context 4096"])
    assert (g.source, g.quantisation, g.context_max) == (str(tiny_gguf), "F16", 4096)
    assert sum(g.breakdown.values()) == g.estimate["ram"]
    assert (g.state, g.pinned, g.pulled, g.problem) == ("starting", True, True, "")
    assert rooms.control.model("first") == rooms.control.model("a")
    with pytest.raises(ProblemError) as caught:
        rooms.control.model("firts")
    assert "Did you mean first?" in caught.value.problem.text


async def test_a_model_that_was_given_up_says_why(opened: Open) -> None:
    rooms = await opened()
    load = Loading(rooms, "a")
    await rooms.until(lambda: rooms.states()["a"] == "starting")
    rooms.exited("a", ExitClass.PERMANENT)
    with pytest.raises(ProblemError):
        await load.end()
    view = rooms.control.model("a")
    assert view.state == "failed"
    assert "it ended" in view.problem


@pytest.mark.parametrize(
    ("charged", "accelerators", "text"),
    [
        ({"gpu0": 100}, ("cuda",), "100% gpu0"),
        ({"gpu0": 30, "ram": 70}, ("cuda",), "30% gpu0 70% cpu"),
        ({"ram": 7}, (), "100% cpu"),
        ({"unified": 7}, ("metal",), "100% gpu"),
        ({"unified": 7}, (), "100% cpu"),
        ({"gpu0": 5, "ram": 0}, ("cuda",), "100% gpu0"),
        ({}, (), ""),
    ],
)
def test_where_it_runs(charged: dict[str, int], accelerators: tuple[str, ...], text: str) -> None:
    run = SimpleNamespace(installed=SimpleNamespace(accelerators=accelerators))
    assert where(cast("Backend", run), charged) == text


# ---------------------------------------------------------------- load


async def test_a_load_tells_its_steps(opened: Open) -> None:
    rooms = await opened()
    load = Loading(rooms, "first")
    await rooms.until(lambda: rooms.states()["a"] == "starting")
    rooms.ready("a")
    steps = await load.end()
    assert load.words == ["resolve", "start", "ready"]
    assert steps[0].text == "a (command.mine)"
    assert steps[1].text == "a starts (context 4096, 100 MiB ram)"
    assert steps[-1].fraction == 1.0
    assert steps[-1].facts["footprint"] == {"ram": 100 * MIB}
    again = Loading(rooms, "a")
    await again.end()
    assert again.words == ["resolve", "ready"]


async def test_a_load_tells_whom_it_waits_for_and_who_makes_room(opened: Open) -> None:
    rooms = await opened(budget="150 MiB")
    await rooms.loaded("a")
    held = lease_on(rooms, "a")
    load = Loading(rooms, "b")
    await rooms.until(lambda: "wait" in load.words)
    assert load.steps[-1].text == "waits for memory (first in turn: b)"
    held.end(Outcome.OK)
    await rooms.until(lambda: rooms.states()["a"] == "stopping")
    rooms.exited("a")
    await rooms.until(lambda: rooms.states()["b"] == "starting")
    rooms.ready("b")
    await load.end()
    assert load.words == ["resolve", "wait", "evict", "evict", "start", "ready"]
    assert [step.text for step in load.steps[2:4]] == [
        "a makes room for b",
        "a is stopped to make room",
    ]


async def test_a_load_that_can_never_fit_is_refused_with_numbers(opened: Open) -> None:
    rooms = await opened(budget="50 MiB")
    load = Loading(rooms, "a")
    with pytest.raises(ProblemError) as caught:
        await load.end()
    assert caught.value.problem.code is Code.MODEL_TOO_LARGE
    assert caught.value.problem.facts["needed"] == {"ram": 100 * MIB}
    assert load.words == ["resolve"]


async def test_a_load_tells_of_failed_tries(opened: Open) -> None:
    rooms = await opened()
    load = Loading(rooms, "a")
    await rooms.until(lambda: rooms.states()["a"] == "starting")
    rooms.exited("a", ExitClass.CRASH)
    assert rooms.states()["a"] == "backoff"
    await rooms.until(lambda: load.words.count("wait") == 2)
    assert "a died (crash): it ended" in [step.text for step in load.steps]
    rooms.control.reset("a")
    rooms.ready("a")
    assert (await load.end())[-1].step == "ready"


async def test_a_load_that_is_unloaded_meanwhile_says_so(opened: Open) -> None:
    rooms = await opened()
    load = Loading(rooms, "a")
    await rooms.until(lambda: rooms.states()["a"] == "starting")
    unload = asyncio.create_task(rooms.control.unload("a"))
    with pytest.raises(ProblemError) as caught:
        await load.end()
    assert caught.value.problem.code is Code.UNLOADED
    rooms.exited("a")
    assert await asyncio.wait_for(unload, SECONDS) == ["a"]
    assert rooms.orders == ["start a: context 4096", "stop a"]


async def test_a_load_goes_on_when_nobody_listens(opened: Open) -> None:
    rooms = await opened()
    async for step in rooms.control.load("a"):
        if step.step == "start":
            break
    assert rooms.states()["a"] == "starting"
    rooms.ready("a")
    assert rooms.page("a").by_hand


async def test_a_load_while_the_daemon_stops_is_refused(opened: Open) -> None:
    """Before and after it has begun; nothing is started for it."""
    rooms = await opened(budget="150 MiB")
    await rooms.loaded("a")
    lease_on(rooms, "a")
    load = Loading(rooms, "b")
    await rooms.until(lambda: "wait" in load.words)
    rooms.supervisor.leave()
    for each in (load, Loading(rooms, "b"), Loading(rooms, "b", 1024)):
        with pytest.raises(ProblemError) as caught:
            await each.end()
        assert caught.value.problem.code is Code.SHUTTING_DOWN
    assert rooms.orders == ["start a: context 4096"]
    assert rooms.control.status().draining


# ---------------------------------------------------------------- pulls


class Hub:
    """Stands in for ``downloads.pull.pull``: puts the file into the cache, or raises."""

    def __init__(self, rooms: Rooms, weights: Path) -> None:
        self.rooms, self.weights = rooms, weights
        self.error: ProblemError | None = None
        self.repos: list[str] = []

    async def pull(
        self, request: PullRequest, told: Callable[[PullProgress], None], **_: object
    ) -> None:
        self.repos.append(request.repo)
        told(PullProgress(done=1, total=2, file="m.gguf"))
        if self.error is not None:
            raise self.error
        folder = storage(request.repo, self.rooms.hub) / "snapshots" / "main"
        folder.mkdir(parents=True)
        (folder / (request.file or "m.gguf")).symlink_to(self.weights)


@pytest.fixture
def hub_of(monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path) -> Callable[[Rooms], Hub]:
    def make(rooms: Rooms) -> Hub:
        hub = Hub(rooms, tiny_gguf)
        monkeypatch.setattr(pulling, "pull", hub.pull)
        return hub

    return make


HF = '[models.h]\nhf = "owner/name"\nengine = "mine"\nctx = 512\n'


async def test_a_load_pulls_what_is_not_here(opened: Open, hub_of: Callable[[Rooms], Hub]) -> None:
    rooms = await opened(engine() + HF)
    hub = hub_of(rooms)
    view = rooms.control.model("h")
    assert (view.pulled, view.source) == (False, "hf:owner/name")
    assert "ctl pull h" in view.problem
    load = Loading(rooms, "h")
    await rooms.until(lambda: rooms.states()["h"] == "starting")
    rooms.ready("h")
    await load.end()
    assert load.words == ["resolve", "pull", "start", "ready"]
    assert load.steps[1].fraction == 0.5
    assert hub.repos == ["owner/name"]
    view = rooms.control.model("h")
    assert (view.pulled, view.problem, view.state) == (True, "", "ready")


async def test_a_preset_that_nobody_added_is_pulled_and_served(
    opened: Open, hub_of: Callable[[Rooms], Hub]
) -> None:
    rooms = await opened(engine(), "8 GiB")
    hub = hub_of(rooms)
    assert rooms.control.models() == []
    assert "qwen3-0.6b" in [view.name for view in rooms.control.models(presets=True)]
    load = Loading(rooms, "qwen3-0.6b")
    await rooms.until(lambda: rooms.states().get("qwen3-0.6b") == "starting")
    rooms.ready("qwen3-0.6b")
    await load.end()
    assert load.words == ["resolve", "choose", "pull", "start", "ready"]
    assert load.steps[1].text.startswith("Q8_0 (610 MiB, GGUF")
    chosen = [event.text for event in rooms.bus.history(0) if event.kind == "chosen"]
    assert chosen == [f"qwen3-0.6b: {load.steps[1].text}"]
    assert hub.repos == ["Qwen/Qwen3-0.6B-GGUF"]
    assert [view.name for view in rooms.control.models()] == ["qwen3-0.6b"]
    assert (await rooms.configured.reload()).changed == []
    assert rooms.states() == {"qwen3-0.6b": "ready"}
    assert rooms.control.model("qwen3-0.6b").choice.endswith("it is on this machine")


async def test_what_a_preset_is_weak_in_is_told_at_its_load(opened: Open) -> None:
    """Before anything is fetched, which this machine is too small for."""
    rooms = await opened(engine(), "4.5 GiB")
    load = Loading(rooms, "llama3.1:8b")
    with pytest.raises(ProblemError, match="does not fit this machine"):
        await load.end()
    assert load.words == ["resolve", "note", "note"]
    assert "tool calls are common" in load.steps[1].text
    assert rooms.control.model("llama3.1-8b").warnings == [step.text for step in load.steps[1:]]


async def test_a_preset_that_cannot_fit_is_refused_before_it_is_pulled(
    opened: Open, hub_of: Callable[[Rooms], Hub]
) -> None:
    rooms = await opened(engine(), "4.5 GiB")
    hub = hub_of(rooms)
    for begun in (rooms.control.load("qwen3-coder"), rooms.control.pull("qwen3-coder")):
        with pytest.raises(ProblemError) as caught:
            async for _ in begun:
                pass
        problem = caught.value.problem
        assert problem.code is Code.MODEL_TOO_LARGE
        assert "even its smallest quantisation, Q2_K_XL (11.0 GiB), needs" in problem.message
        assert "there is room for 4.5 GiB" in problem.message
        assert "ctl load " in problem.hint
        assert problem.facts["alternative"] in rooms.configured.stock.catalog.presets
    assert hub.repos == []
    view = rooms.control.model("qwen3-coder")
    assert (view.pulled, view.quantisation, view.choice) == (False, "Q2_K_XL", problem.message)


async def test_a_failed_pull_ends_the_load(opened: Open, hub_of: Callable[[Rooms], Hub]) -> None:
    rooms = await opened(engine() + HF)
    hub_of(rooms).error = ProblemError(Problem(Code.PULL_FAILED, "The disk is full."))
    load = Loading(rooms, "h")
    with pytest.raises(ProblemError, match="The disk is full"):
        await load.end()
    assert load.words == ["resolve", "pull"]
    assert rooms.orders == []


async def test_a_pull_that_brings_something_else_is_no_endless_loop(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub said it was done, and the file is not there."""
    rooms = await opened(engine() + HF)
    asked: list[str] = []

    async def nothing(request: PullRequest, *_: object, **__: object) -> None:
        asked.append(request.repo)

    monkeypatch.setattr(pulling, "pull", nothing)
    with pytest.raises(ProblemError) as caught:
        await Loading(rooms, "h").end()
    assert caught.value.problem.code is Code.NOT_PULLED
    assert asked == ["owner/name"]


# ---------------------------------------------------------------- unload


async def test_an_unload_waits_for_running_requests_and_the_exit(opened: Open) -> None:
    rooms = await opened()
    await rooms.loaded("a")
    held = lease_on(rooms, "a")
    unload = asyncio.create_task(rooms.control.unload("first"))
    await asyncio.sleep(0.01)
    assert rooms.orders == ["start a: context 4096"]
    held.end(Outcome.OK)
    assert rooms.orders[-1] == "stop a"
    await asyncio.sleep(0.01)
    assert not unload.done(), "its process is not gone yet"
    rooms.exited("a")
    assert await asyncio.wait_for(unload, SECONDS) == ["a"]


async def test_a_forced_unload_cuts_them(opened: Open) -> None:
    rooms = await opened()
    await rooms.loaded("a")
    held = lease_on(rooms, "a")
    cut: list[str] = []
    held.on_cancel = lambda problem: cut.append(problem.code.value)
    unload = asyncio.create_task(rooms.control.unload("a", force=True))
    await rooms.until(lambda: rooms.orders[-1] == "stop a")
    assert cut == ["unloaded"]
    rooms.exited("a")
    assert await asyncio.wait_for(unload, SECONDS) == ["a"]


async def test_unload_all_waits_for_all(opened: Open) -> None:
    rooms = await opened()
    await rooms.loaded("a")
    await rooms.loaded("b")
    unload = asyncio.create_task(rooms.control.unload(None))
    await rooms.until(lambda: "stop b" in rooms.orders)
    rooms.exited("a")
    await asyncio.sleep(0.01)
    assert not unload.done()
    rooms.exited("b")
    assert sorted(await asyncio.wait_for(unload, SECONDS)) == ["a", "b"]


async def test_an_unload_does_not_wait_for_the_next_run(opened: Open) -> None:
    """Requests that waited start it anew; that is another process."""
    rooms = await opened()
    await rooms.loaded("a")
    held = lease_on(rooms, "a")
    rooms.supervisor.acquire(Wish("a", Route.CHAT, LOCAL, "c", 10, "r"), lambda _: None)
    unload = asyncio.create_task(rooms.control.unload("a"))
    await asyncio.sleep(0)
    held.end(Outcome.OK)
    rooms.exited("a")
    assert await asyncio.wait_for(unload, SECONDS) == ["a"]
    assert rooms.states()["a"] == "starting"


async def test_unloading_what_does_not_run_is_nothing(opened: Open) -> None:
    rooms = await opened()
    assert await rooms.control.unload("a") == []
    assert await rooms.control.unload(None) == []
    with pytest.raises(ProblemError):
        await rooms.control.unload("nonsense")


async def test_an_unknown_name_never_means_the_default_model(opened: Open) -> None:
    rooms = await opened(TWO + '[server]\ndefault_model = "a"\n')
    await rooms.loaded("a")
    with pytest.raises(ProblemError):
        await rooms.control.unload("nonsense")
    with pytest.raises(ProblemError):
        rooms.control.pin("nonsense", True)
    with pytest.raises(ProblemError):
        await Loading(rooms, "nonsense").end()
    assert rooms.states()["a"] == "ready"
    assert not rooms.page("a").pinned


# ---------------------------------------------------------------- the rest


async def test_pins(opened: Open) -> None:
    rooms = await opened()
    rooms.control.pin("first", True)
    assert rooms.control.model("a").pinned
    assert rooms.orders == [], "a pin is no load"
    assert rooms.bus.history(0)[-1].text == "a is pinned: never evicted"
    rooms.control.pin("a", False)
    assert not rooms.control.model("a").pinned
    assert rooms.bus.history(0)[-1].kind == "unpin"


async def test_what_is_not_here_cannot_be_pinned(opened: Open) -> None:
    rooms = await opened()
    with pytest.raises(ProblemError) as caught:
        rooms.control.pin("qwen3-coder", True)
    assert caught.value.problem.code is Code.NOT_PULLED
    assert [event.kind for event in rooms.bus.history(0)] == []


async def test_where_logs_lie(opened: Open) -> None:
    rooms = await opened()
    assert rooms.control.log_path(None) == str(rooms.paths.daemon_log)
    assert rooms.control.log_path("first") == str(rooms.paths.model_log("a"))
    with pytest.raises(ProblemError) as caught:
        rooms.control.log_path("removed")
    assert caught.value.problem.code is Code.MODEL_NOT_FOUND
    rooms.paths.model_log("removed").write_text("its last words")
    assert rooms.control.log_path("removed") == str(rooms.paths.model_log("removed"))


async def test_the_log_of_a_removed_model_is_not_that_of_the_default(opened: Open) -> None:
    rooms = await opened(TWO + '[server]\ndefault_model = "a"\n')
    rooms.paths.model_log("removed").write_text("its last words")
    assert rooms.control.log_path("removed").endswith("removed.log")
    for name in ("../../etc/passwd", "/etc/passwd", "..", ""):
        with pytest.raises(ProblemError):
            rooms.control.log_path(name)


async def test_events_and_the_end(opened: Open) -> None:
    rooms = await opened()
    seen: list[str] = []
    end = rooms.control.subscribe(lambda event: seen.append(event.kind))
    rooms.control.pin("a", True)
    end()
    rooms.control.pin("a", False)
    assert seen == ["pin"]
    assert [event.kind for event in rooms.control.history(1)] == ["unpin"]
    rooms.control.shutdown()
    assert rooms.stopped == [True]
    assert (await rooms.control.reload()).ok


# ---------------------------------------------------------------- one real process


async def test_the_view_of_a_real_backend(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Stock.begin
    words = ", ".join(f"'{word}'" for word in [*start.argv("engine"), "--port", "{port}"])
    command = f'[engines.command.mine]\nargv = [{words}]\nfootprint = "100 MiB"\n'
    rooms = Rooms(short_dir, command + model("a", ctx=512), monkeypatch)
    monkeypatch.setattr(Stock, "begin", begin)
    await rooms.open()
    load = Loading(rooms, "a")
    steps = await load.end()
    assert load.words == ["resolve", "start", "ready"]
    assert steps[-1].facts["variant"] == "context 512"
    (view,) = rooms.control.backends()
    assert (view.model, view.engine, view.state, view.generation) == (
        "a",
        "command.mine",
        "ready",
        1,
    )
    assert view.pid
    assert view.keeper_pid
    assert view.address is not None
    assert view.address.startswith("127.0.0.1:")
    assert (view.footprint, view.footprint_source) == ({"ram": 100 * MIB}, "estimated")
    assert (view.where, view.variant, view.context) == ("100% cpu", "context 512", 512)
    assert view.keep_alive_left is not None
    assert 800 < view.keep_alive_left <= 900
    assert view.ready_at is not None
    assert view.log == str(rooms.paths.model_log("a"))
    held = lease_on(rooms, "a")
    assert rooms.control.backends()[0].keep_alive_left is None, "busy"
    held.end(Outcome.OK)
    rooms.supervisor.scheduler.ledger.charge("a", {"ram": 120 * MIB})
    assert rooms.control.backends()[0].footprint_source == "measured"
    run = rooms.supervisor.backends["a"]
    assert isinstance(run, Backend)
    assert await asyncio.wait_for(rooms.control.unload(None), SECONDS) == ["a"]
    await run.closed()
    assert rooms.control.backends() == []


async def test_verdicts_of_what_is_served(opened: Open) -> None:
    rooms = await opened()
    told = []
    rooms.control.subscribe(told.append)
    assert rooms.control.verdicts("first") == []
    broken = FindingView(step="stop", outcome="broken", text="goes on")
    verdict = rooms.control.judge("first", [broken])
    assert (verdict.model, verdict.engine, verdict.modelport) == ("a", "command.mine", "0.0")
    assert (verdict.verdict, verdict.current) == ("broken", True)
    assert rooms.control.verdicts("a") == [verdict]
    assert rooms.control.model("a").tested == verdict
    assert rooms.control.model("b").tested is None
    assert [(one.kind, one.model) for one in told] == [("tested", "a")]
    unknown = FindingView(step="stop", outcome="unknown", text="")
    with pytest.raises(ProblemError) as caught:
        rooms.control.judge("b", [unknown])
    assert caught.value.problem.code is Code.INVALID_REQUEST


# ---------------------------------------------------------------- measurements


async def test_what_was_measured_is_kept_with_how_it_is_served(opened: Open) -> None:
    rooms = await opened()
    assert await rooms.control.benchmarks("", 9) == []
    cold = await rooms.control.keep_benchmark("first", measured_view())
    assert (cold.model, cold.engine, cold.context, cold.taken) == ("a", "command.mine", 4096, None)
    await rooms.loaded("a")
    warm = await rooms.control.keep_benchmark("a", measured_view())
    assert warm.footprint == {"ram": 100 * MIB}
    assert [one.id for one in await rooms.control.benchmarks("first", 9)] == [2, 1]
    assert await rooms.control.benchmarks("b", 9) == []
    with pytest.raises(ProblemError, match="no model"):
        await rooms.control.benchmarks("nobody", 9)
    with pytest.raises(ProblemError, match="no model"):
        await rooms.control.keep_benchmark("nobody", measured_view())
    rooms.write(engine() + model("b", ctx=4096))
    await rooms.control.reload()
    assert len(await rooms.control.benchmarks("a", 9)) == 2, "it is gone, what it was is not"


async def test_many_measurements_at_once_and_a_disk_that_refuses(opened: Open) -> None:
    rooms = await opened()
    await asyncio.gather(*(rooms.control.keep_benchmark("a", measured_view()) for _ in range(5)))
    assert [one.id for one in await rooms.control.benchmarks("a", 9)] == [5, 4, 3, 2, 1]
    rooms.control.measurements.path = rooms.paths.config_file / "history.db"
    with pytest.raises(ProblemError, match="cannot be kept") as caught:
        await rooms.control.keep_benchmark("a", measured_view())
    assert caught.value.problem.code is Code.INTERNAL
