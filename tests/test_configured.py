"""What is configured now: reloads that touch only what changed, contexts for one run, pulls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.config.paths import Paths
from daemon.core.messages import Ask, Bytes, ExitClass, OperatorAsked
from daemon.core.problems import Code, Problem, ProblemError
from daemon.downloads.locate import storage
from daemon.ports import Resolved
from daemon.reading import Reader, Reading
from tests.rooms import MIB, Loading, Rooms, engine, model

Open = Callable[..., Awaitable[Rooms]]


@pytest.fixture
def opened(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    async def make(config: str, budget: str = "1 GiB") -> Rooms:
        return await Rooms(short_dir, config, monkeypatch, budget).open()

    return make


TWO = engine() + model("a", ctx=4096) + model("b", ctx=4096)


def cached(rooms: Rooms, repo: str, file: str, weights: Path) -> None:
    """As if another program had downloaded it."""
    folder = storage(repo, rooms.hub) / "snapshots" / "main"
    folder.mkdir(parents=True)
    (folder / file).write_bytes(weights.read_bytes())


# ---------------------------------------------------------------- reload


async def test_a_reload_of_the_same_file_touches_nothing(opened: Open) -> None:
    rooms = await opened(TWO)
    await rooms.loaded("a")
    view = await rooms.configured.reload()
    assert view.ok
    nothing = [view.added, view.removed, view.changed, view.relabelled, view.settings]
    assert [*nothing, view.needs_restart] == [[], [], [], [], [], []]
    assert rooms.orders == ["start a: context 4096"]
    assert rooms.states() == {"a": "ready", "b": "stopped"}
    assert rooms.bus.history(0)[-1].text == "configuration read again: nothing changed"


async def test_an_alias_reaches_a_running_model(opened: Open) -> None:
    rooms = await opened(TWO)
    await rooms.loaded("a")
    rooms.write(engine() + model("a", ctx=4096, aliases='["first"]') + model("b", ctx=4096))
    view = await rooms.configured.reload()
    assert (view.relabelled, view.changed) == (["a"], [])
    assert rooms.configured.stock.resolve("first", "chat") == Resolved("a")
    assert rooms.states()["a"] == "ready"
    assert rooms.orders == ["start a: context 4096"]


async def test_a_changed_model_starts_anew_and_the_other_runs_on(opened: Open) -> None:
    rooms = await opened(TWO)
    await rooms.loaded("a")
    await rooms.loaded("b")
    rooms.write(engine() + model("a", ctx=2048) + model("b", ctx=4096, keep_alive=7))
    view = await rooms.configured.reload()
    assert (view.changed, view.relabelled) == (["a"], ["b"])
    assert rooms.orders[-1] == "stop a"
    rooms.exited("a")
    assert rooms.orders[-1] == "start a: context 2048", "it was loaded by hand, so it comes back"
    assert rooms.states() == {"a": "starting", "b": "ready"}
    assert rooms.page("b").spec.keep_alive == 7


async def test_removed_and_added(opened: Open) -> None:
    rooms = await opened(TWO)
    await rooms.loaded("a")
    rooms.write(engine() + model("b", ctx=4096) + model("c"))
    view = await rooms.configured.reload()
    assert (view.added, view.removed, view.changed) == (["c"], ["a"], [])
    assert rooms.orders[-1] == "stop a"
    assert isinstance(rooms.configured.named("a"), Problem)
    rooms.exited("a")
    assert sorted(rooms.states()) == ["b", "c"]


async def test_an_entry_of_a_presets_name_is_removed_and_added(opened: Open) -> None:
    """The preset stays: but what the file says has changed, and what runs is started anew."""
    entry = '[models.qwen3-coder]\npreset = "qwen3-coder"\nengine = "mine"\npath = "/x"\n'
    rooms = await opened(TWO + entry)
    rooms.write(TWO)
    view = await rooms.configured.reload()
    assert (view.removed, view.added, view.changed) == (["qwen3-coder"], [], [])
    assert rooms.bus.history(0)[-1].text == "configuration read again: removed qwen3-coder"
    assert "qwen3-coder" not in rooms.states()
    rooms.write(TWO + entry)
    view = await rooms.configured.reload()
    assert (view.added, view.removed, view.changed) == (["qwen3-coder"], [], [])


async def test_a_preset_that_runs_starts_anew_as_its_new_entry_says(
    opened: Open, tiny_gguf: Path
) -> None:
    rooms = await opened(TWO)
    preset = rooms.configured.stock.catalog.presets["qwen3-coder"]
    assert preset.repo is not None
    cached(rooms, preset.repo, f"x-{preset.quant}.gguf", tiny_gguf)
    await rooms.configured.reload()
    await rooms.loaded("qwen3-coder")
    entry = '[models.qwen3-coder]\nengine = "mine"\nctx = 1024\n'
    rooms.write(TWO + entry)
    view = await rooms.configured.reload()
    assert (view.added, view.changed, view.relabelled) == (["qwen3-coder"], [], [])
    assert rooms.orders[-1] == "stop qwen3-coder"


async def test_presets_are_decided_for_who_asks(opened: Open) -> None:
    rooms = await opened(engine(), "8 GiB")
    configured = rooms.configured
    every = configured.stock.catalog.undecided
    assert every == configured.stock.catalog.presets.keys()
    await configured.decide("qwen3:0.6b")
    assert every - configured.stock.catalog.undecided == {"qwen3-0.6b"}
    choice = configured.original("qwen3-0.6b").choice
    assert choice is not None
    await configured.decide("nobody")
    await configured.reload()
    assert configured.original("qwen3-0.6b").choice == choice
    assert configured.stock.catalog.undecided == every - {"qwen3-0.6b"}
    await configured.decide()
    assert not configured.stock.catalog.undecided


async def test_what_was_pulled_is_served_whatever_was_decided_meanwhile(
    opened: Open, tiny_gguf: Path
) -> None:
    rooms = await opened(engine(), "8 GiB")
    await rooms.configured.decide("qwen3-coder")
    chosen = rooms.configured.original("qwen3-coder")
    assert chosen.repo is not None
    pulled = replace(chosen, hf=f"{chosen.repo}:Q6_K")
    assert pulled.hf != chosen.hf
    cached(rooms, chosen.repo, "x-Q6_K.gguf", tiny_gguf)
    await rooms.configured.arrived(pulled)
    item = rooms.configured.prepared("qwen3-coder")
    assert item is not None
    assert (item.model.hf, item.pulled) == (pulled.hf, True)


async def test_a_broken_file_is_not_taken_and_every_mistake_is_told(opened: Open) -> None:
    rooms = await opened(TWO)
    await rooms.loaded("a")
    rooms.write(engine() + model("a", ctx='"many"') + "[nonsense]\n")
    view = await rooms.configured.reload()
    assert not view.ok
    assert len(view.mistakes) == 2
    assert "models.a.ctx" in view.problem
    assert rooms.configured.problem == view.problem
    assert rooms.control.status().config_problem == view.problem
    assert rooms.states() == {"a": "ready", "b": "stopped"}
    assert rooms.bus.history(0)[-1].kind == "reload_refused"
    rooms.write(TWO)
    assert (await rooms.configured.reload()).ok
    assert rooms.configured.problem == ""
    assert rooms.orders == ["start a: context 4096"]


async def test_a_file_that_is_gone_is_not_taken(opened: Open) -> None:
    rooms = await opened(TWO)
    rooms.paths.config_file.unlink()
    view = await rooms.configured.reload()
    assert not view.ok
    assert str(rooms.paths.config_file) in view.problem
    assert sorted(rooms.states()) == ["a", "b"]


async def test_a_budget_that_this_machine_has_not_is_not_taken(opened: Open) -> None:
    """Not a mistake of the file itself: it shows once the machine is looked at."""
    rooms = await opened(TWO)
    rooms.paths.config_file.write_text('[memory.budget]\ngpu7 = "1 GiB"\n' + TWO)
    view = await rooms.configured.reload()
    assert (view.ok, view.mistakes) == (False, [])
    assert "gpu7" in view.problem


async def test_a_changed_engine_touches_the_models_on_it(opened: Open) -> None:
    two = engine("mine") + engine("other") + model("a", ctx=512)
    b = '[models.b]\nengine = "other"\nctx = 512\n'
    rooms = await opened(two + b)
    await rooms.loaded("a")
    await rooms.loaded("b")
    rooms.write(two.replace("'{ctx}'", "'{ctx}', '-v'", 1) + b)
    view = await rooms.configured.reload()
    assert view.changed == ["a"]
    assert rooms.orders[-1] == "stop a"
    assert rooms.states()["b"] == "ready"


async def test_settings_that_follow_a_reload(opened: Open) -> None:
    rooms = await opened(TWO)
    seen: list[tuple[str, ...]] = []
    rooms.configured.applied = lambda settings: seen.append(tuple(settings.server.hosts))
    core = rooms.supervisor.scheduler
    rooms.paths.config_file.write_text(
        '[memory]\nbudget = "2 GiB"\n[server]\nhosts = ["box"]\nport = 9999\nqueue_timeout = 5\n'
        "[timing]\nsettle = 0.5\nquantum_max = 9\n" + TWO
    )
    view = await rooms.configured.reload()
    assert seen == [("box",)]
    assert core.ledger.budget == {"ram": 2048 * MIB}
    assert rooms.supervisor.queue_timeout == 5
    assert (core.policy.quantum_max, core.policy.settle) == (9, 0.5)
    assert core.ledger.policy is core.policy, "the ledger settles by the new rules too"
    assert view.needs_restart == ["server.port"]
    assert "needs a restart: server.port" in rooms.bus.history(0)[-1].text


async def test_a_context_for_one_run_ends_with_a_reload(opened: Open) -> None:
    rooms = await opened(TWO)
    await rooms.loaded("a", ctx=1024)
    view = await rooms.configured.reload()
    assert view.changed == ["a"]
    assert rooms.orders[-1] == "stop a"
    rooms.exited("a")
    assert rooms.orders[-1] == "start a: context 4096"


async def test_each_model_is_told_once(opened: Open) -> None:
    """One that starts anew for the end of its own context, and has another keep-alive, too."""
    rooms = await opened(TWO)
    await rooms.loaded("a", ctx=1024)
    rooms.write(TWO.replace("ctx = 4096", "ctx = 4096\nkeep_alive = 7"))
    view = await rooms.configured.reload()
    assert (view.changed, view.relabelled) == (["a"], ["b"])


async def test_a_model_removed_while_requests_wait_for_it(opened: Open) -> None:
    """And the budget grows in the same file: it may not be started a last time."""
    rooms = await opened(TWO, budget="150 MiB")
    await rooms.loaded("a")
    load = Loading(rooms, "b")
    await rooms.until(lambda: rooms.orders[-1:] == ["stop a"])
    rooms.budget = "1 GiB"
    rooms.write(engine() + model("a", ctx=4096))
    assert (await rooms.configured.reload()).removed == ["b"]
    with pytest.raises(ProblemError) as caught:
        await load.end()
    assert caught.value.problem.code is Code.MODEL_NOT_FOUND
    assert rooms.orders == ["start a: context 4096", "stop a"]
    rooms.exited("a")
    assert rooms.states() == {"a": "stopped"}
    assert rooms.supervisor.scheduler.ledger.committed == {}


async def test_a_model_shrunk_to_a_lower_budget_keeps_its_waiters(opened: Open) -> None:
    """File and budget count in one moment, so nobody is refused by half of the news."""
    rooms = await opened(TWO, budget="150 MiB")
    await rooms.loaded("a")
    load = Loading(rooms, "b")
    await rooms.until(lambda: rooms.orders[-1:] == ["stop a"])
    rooms.budget = "50 MiB"
    rooms.write(engine("mine", "40 MiB") + model("a", ctx=4096) + model("b", ctx=512))
    assert (await rooms.configured.reload()).ok
    rooms.exited("a")
    await rooms.until(lambda: rooms.orders[-1] == "start b: context 512")
    rooms.ready("b")
    assert (await load.end())[-1].step == "ready"


async def test_two_reloads_at_once_follow_each_other(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = await opened(TWO)
    inside: list[int] = []
    again = Reader.again

    def watched(reader: Reader, held: Bytes) -> Reading:
        inside.append(1)
        assert len(inside) == 1
        try:
            return again(reader, held)
        finally:
            inside.pop()

    monkeypatch.setattr(Reader, "again", watched)
    rooms.write(engine() + model("c"))
    views = await asyncio.gather(rooms.configured.reload(), rooms.configured.reload())
    assert [view.added for view in views] == [["c"], []]


async def test_no_reload_once_the_daemon_stops(opened: Open) -> None:
    """It would start the pinned models of the new file, with nobody left to end them."""
    rooms = await opened(TWO)
    rooms.supervisor.leave()
    rooms.write(engine() + model("p", pin="true"))
    with pytest.raises(ProblemError) as caught:
        await rooms.configured.reload()
    assert caught.value.problem.code is Code.SHUTTING_DOWN
    assert rooms.orders == []


# ---------------------------------------------------------------- pins


async def test_a_pinned_model_is_started_at_once_but_not_before_adoption(opened: Open) -> None:
    rooms = await opened(engine() + model("p", pin="true", ctx=512))
    assert rooms.orders == ["start p: context 512"]
    reading = await asyncio.to_thread(rooms.configured.reader.again)
    fresh = await opened(engine() + model("q", ctx=512))
    fresh.configured.take(reading, frozenset(), pins=False)
    assert fresh.orders == []
    fresh.configured.take(reading, frozenset())
    assert fresh.orders == ["start p: context 512"]


async def test_an_unloaded_pin_stays_unloaded_when_another_model_changes(opened: Open) -> None:
    rooms = await opened(engine() + model("p", pin="true", ctx=512) + model("a", ctx=4096))
    rooms.ready("p")
    rooms.supervisor.tell(OperatorAsked(Ask.UNLOAD, "p"))
    rooms.exited("p")
    await rooms.loaded("a", ctx=1024)
    assert rooms.states() == {"p": "stopped", "a": "ready"}


# ---------------------------------------------------------------- a context for one run


async def test_a_context_for_one_run(opened: Open) -> None:
    rooms = await opened(TWO)
    await rooms.loaded("a", ctx=1024)
    assert rooms.control.model("a").context == 1024
    await rooms.loaded("a")
    assert rooms.orders == ["start a: context 1024"], "a plain load changes nothing of a run"


async def test_it_ends_with_its_run(opened: Open) -> None:
    """Whatever ended it: a later request gets what the file says."""
    rooms = await opened(TWO)
    await rooms.loaded("a", ctx=1024)
    rooms.supervisor.tell(OperatorAsked(Ask.UNLOAD, "a"))
    rooms.exited("a")
    await rooms.until(lambda: rooms.control.model("a").context == 4096)
    await rooms.loaded("a")
    assert rooms.orders == ["start a: context 1024", "stop a", "start a: context 4096"]


async def test_it_survives_a_crash(opened: Open) -> None:
    rooms = await opened(TWO)
    await rooms.loaded("a", ctx=1024)
    rooms.exited("a", ExitClass.CRASH)
    rooms.supervisor.tell(OperatorAsked(Ask.RESET, "a"))
    assert rooms.orders == ["start a: context 1024"] * 2


async def test_it_ends_when_the_model_is_given_up(opened: Open) -> None:
    rooms = await opened(TWO)
    await rooms.loaded("a", ctx=1024)
    rooms.exited("a", ExitClass.PERMANENT)
    assert rooms.states()["a"] == "failed"
    await rooms.until(lambda: rooms.control.model("a").context == 4096)
    await rooms.loaded("a")
    assert rooms.orders[-1] == "start a: context 4096"


async def test_a_run_of_another_context_is_replaced(opened: Open) -> None:
    rooms = await opened(TWO)
    await rooms.loaded("a")
    await rooms.loaded("a", ctx=1024)
    await rooms.loaded("a", ctx=2048)
    starts = [order for order in rooms.orders if order.startswith("start")]
    assert starts == ["start a: context 4096", "start a: context 1024", "start a: context 2048"]
    assert rooms.control.model("a").context == 2048, "the ends of the earlier runs change nothing"
    rooms.supervisor.tell(OperatorAsked(Ask.UNLOAD, "a"))
    rooms.exited("a")
    await rooms.until(lambda: rooms.control.model("a").context == 4096)


async def test_the_context_that_runs_already_restarts_nothing(opened: Open) -> None:
    """A model without a stated context may have been shrunk; asking for what it got is no news."""
    rooms = await opened(engine() + model("a", min_ctx=1024))
    await rooms.loaded("a")
    (start,) = rooms.orders
    ctx = int(start.rpartition(" ")[2])
    await rooms.loaded("a", ctx=ctx)
    assert rooms.orders == [start]
    rooms.supervisor.tell(OperatorAsked(Ask.UNLOAD, "a"))
    rooms.exited("a")
    await rooms.until(lambda: len(rooms.control.model("a").variants) > 1)


async def test_a_context_that_never_fits_leaves_all_as_it_was(
    opened: Open, tiny_gguf: Path
) -> None:
    config = f'[models.g]\npath = "{tiny_gguf}"\nengine = "xllamacpp"\nctx = 512\n'
    rooms = await opened(config)
    await rooms.loaded("g")
    with pytest.raises(ProblemError) as caught:
        await rooms.loaded("g", ctx=1_000_000_000)
    assert caught.value.problem.code is Code.MODEL_TOO_LARGE
    assert "1000000000" in caught.value.problem.message
    assert rooms.states() == {"g": "ready"}, "and what runs is not stopped for it"
    assert rooms.control.model("g").context == 512


async def test_a_refused_load_takes_its_context_back(opened: Open) -> None:
    """Clients' requests may not be refused for an operator's try."""
    rooms = await opened(TWO, budget="150 MiB")
    await rooms.loaded("a")
    rooms.control.pin("a", True)
    with pytest.raises(ProblemError) as caught:
        await rooms.loaded("b", ctx=1024)
    assert caught.value.problem.code is Code.ALL_PINNED
    assert rooms.control.model("b").context == 4096


async def test_two_loads_of_one_model_with_different_contexts(opened: Open) -> None:
    """The later one counts; both are told when it is ready."""
    rooms = await opened(TWO)
    first = Loading(rooms, "a", 1024)
    await rooms.until(lambda: rooms.states()["a"] == "starting")
    second = Loading(rooms, "a", 2048)
    await rooms.until(lambda: rooms.states()["a"] == "stopping")
    rooms.exited("a")
    assert rooms.orders == ["start a: context 1024", "stop a", "start a: context 2048"]
    rooms.ready("a")
    assert (await first.end())[-1].step == (await second.end())[-1].step == "ready"
    assert rooms.control.model("a").context == 2048


async def test_a_load_that_prepares_while_the_model_is_removed(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may not put the removed model back."""
    rooms = await opened(TWO)
    rooms.write(engine() + model("b", ctx=4096))
    reload = asyncio.create_task(rooms.configured.reload())
    await asyncio.sleep(0)  # it holds the configuration
    load = Loading(rooms, "a", 1024)
    assert (await reload).removed == ["a"]
    with pytest.raises(ProblemError) as caught:
        await load.end()
    assert caught.value.problem.code is Code.MODEL_NOT_FOUND
    assert sorted(rooms.states()) == ["b"]


# ---------------------------------------------------------------- naming


async def test_the_default_model_does_not_stand_in_for_an_operators_mistake(opened: Open) -> None:
    rooms = await opened(TWO)
    rooms.write(TWO + model("c", aliases='["claude-*"]') + '[server]\ndefault_model = "a"\n')
    await rooms.configured.reload()
    assert rooms.configured.stock.resolve("nonsense", "chat") == Resolved("a", guessed=True), (
        "a client's request does"
    )
    named = rooms.configured.named("nonsense")
    assert isinstance(named, Problem)
    assert named.code is Code.MODEL_NOT_FOUND
    pattern = rooms.configured.named("claude-opus")
    assert not isinstance(pattern, Problem)
    assert pattern.model.name == "c"


async def test_a_preset_is_named_without_looking_at_the_disk(opened: Open) -> None:
    """In the event loop: the end-check of the tests raises where the disk is read there."""
    rooms = await opened(TWO)
    item = rooms.configured.named("qwen3-coder")
    assert not isinstance(item, Problem)
    assert item.problem is not None
    assert (item.pulled, item.problem.code) == (False, Code.NOT_PULLED)
    assert "ctl pull qwen3-coder" in item.problem.text
    assert len(rooms.control.models(presets=True)) > len(rooms.control.models()) == 2


async def test_while_starting_there_is_no_stock(short_dir: Path) -> None:
    from daemon.config.settings import Settings
    from daemon.configured import Configured
    from daemon.core.scheduler import Scheduler
    from daemon.supervisor import Supervisor
    from daemon.telemetry.bus import Bus

    bus = Bus()
    paths = Paths.find({"HOME": str(short_dir)}, config=short_dir / "config.toml")
    reader = Reader(paths, {}, {}, "foreground")
    configured = Configured(reader, Supervisor(Scheduler({}), bus, 1.0), bus, Settings())
    with pytest.raises(ProblemError, match="starting"):
        _ = configured.stock


# ---------------------------------------------------------------- looked at again


async def test_a_load_looks_again_for_what_was_missing(
    opened: Open, tiny_gguf: Path, short_dir: Path
) -> None:
    """A disk that was not mounted, a file that was copied since: no reload is needed."""
    late = short_dir / "late.gguf"
    rooms = await opened(engine() + model("a", late, ctx=512))
    with pytest.raises(ProblemError) as caught:
        await rooms.loaded("a")
    assert str(late) in caught.value.problem.message
    assert isinstance(rooms.configured.stock.resolve("a", "chat"), Problem)
    late.symlink_to(tiny_gguf)
    assert (await rooms.loaded("a"))[-1].step == "ready"
    assert rooms.configured.stock.resolve("a", "chat") == Resolved("a")


async def test_a_load_looks_again_for_an_engine(opened: Open, short_dir: Path) -> None:
    program = short_dir / "server"
    argv = f"[engines.command.mine]\nargv = ['{program}', '{{port}}']\nfootprint = 1\n"
    rooms = await opened(argv + model("a"))
    with pytest.raises(ProblemError) as caught:
        await rooms.loaded("a")
    assert caught.value.problem.code is Code.ENGINE_MISSING
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert (await rooms.loaded("a"))[-1].step == "ready"


async def test_weights_that_came_by_another_way_are_taken_at_a_pull(
    opened: Open, tiny_gguf: Path
) -> None:
    rooms = await opened(engine() + '[models.h]\nhf = "owner/name"\nengine = "mine"\n')
    assert isinstance(rooms.configured.stock.resolve("h", "chat"), Problem)
    cached(rooms, "owner/name", "m.gguf", tiny_gguf)
    steps = [step async for step in rooms.control.bringing.pull("h")]
    assert [step.text for step in steps] == ["h is on this machine"]
    assert rooms.configured.stock.resolve("h", "chat") == Resolved("h")
    assert rooms.states() == {"h": "stopped"}
    assert [s.text async for s in rooms.control.bringing.pull("h")] == ["h is on this machine"]


async def test_what_has_no_weights_of_ours_needs_no_pull(opened: Open) -> None:
    rooms = await opened(engine() + model("a"))
    assert [s.text async for s in rooms.control.bringing.pull("a")] == ["a needs no download"]


async def test_a_path_that_is_not_there_cannot_be_pulled(opened: Open, short_dir: Path) -> None:
    rooms = await opened(engine() + model("a", short_dir / "none.gguf"))
    with pytest.raises(ProblemError) as caught:
        _ = [step async for step in rooms.control.bringing.pull("a")]
    assert caught.value.problem.code is Code.NOT_PULLED


async def test_a_model_changed_during_its_pull_is_prepared_as_it_is_now(
    opened: Open, tiny_gguf: Path
) -> None:
    hf = '[models.h]\nhf = "owner/name"\nengine = "mine"\nctx = {}\n'
    rooms = await opened(engine() + hf.format(512))
    before = rooms.configured.stock.catalog.models["h"]
    rooms.write(engine() + hf.format(1024))
    await rooms.configured.reload()
    cached(rooms, "owner/name", "m.gguf", tiny_gguf)
    await rooms.configured.arrived(before)
    assert rooms.control.model("h").context == 1024


async def test_a_model_removed_during_its_pull_stays_removed(opened: Open, tiny_gguf: Path) -> None:
    rooms = await opened(engine() + '[models.h]\nhf = "owner/name"\nengine = "mine"\n' + model("a"))
    before = rooms.configured.stock.catalog.models["h"]
    rooms.write(engine() + model("a"))
    await rooms.configured.reload()
    cached(rooms, "owner/name", "m.gguf", tiny_gguf)
    await rooms.configured.arrived(before)
    assert sorted(rooms.states()) == ["a"]
    assert sorted(rooms.configured.stock.prepared) == ["a"]
