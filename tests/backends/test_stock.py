"""What can be served: names, refusals, starts, and what is taken over from an earlier daemon."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.backends.backend import Backend
from daemon.backends.keeping import Keeper
from daemon.backends.readiness import Found
from daemon.backends.stock import Stock, free_port
from daemon.core.messages import BackendExited, BackendReady, Event, ExitClass, Variant
from daemon.core.problems import Code, Problem, ProblemError
from daemon.ports import Resolved, Route
from tests.backends.backend_house import DEADLINE, Told
from tests.backends.kitchen import Kitchen


@pytest.fixture
def kitchen(short_dir: Path) -> Kitchen:
    made = Kitchen(short_dir)
    made.install()
    return made


@pytest.fixture
def stock(kitchen: Kitchen, tiny_gguf: Path, embedding_gguf: Path) -> Stock:
    models = {
        "Coder": {"path": str(tiny_gguf), "aliases": ["fast", "claude-*"]},
        "embed": {"path": str(embedding_gguf)},
        "lost": {"path": "/no/such.gguf"},
    }
    return kitchen.stock({"models": models})


def problem(found: object) -> Problem:
    assert isinstance(found, Problem)
    return found


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name",
    ["Coder", "coder", "fast", "FAST", "claude-opus-5", "anthropic/claude-x", "Coder:latest"],
)
def test_every_name_of_a_model(stock: Stock, name: str) -> None:
    assert stock.resolve(name, "chat") == Resolved("Coder")


def test_a_default_answers_for_what_nobody_has(kitchen: Kitchen, tiny_gguf: Path) -> None:
    config = {
        "models": {"a": {"path": str(tiny_gguf)}},
        "server": {"default_model": "a"},
    }
    assert kitchen.stock(config).resolve("gpt-99", "chat") == Resolved("a")


def test_an_unknown_name_gets_the_nearest(stock: Stock) -> None:
    said = problem(stock.resolve("codr", "chat"))
    assert said.code is Code.MODEL_NOT_FOUND
    assert "'codr'" in said.message
    assert said.hint.startswith("Did you mean Coder")
    assert said.facts["nearest"][0] == "Coder"  # type: ignore[index]


def test_a_name_like_none_gets_them_all(stock: Stock) -> None:
    assert problem(stock.resolve("zzzzzzzzzz", "chat")).hint == "There are: Coder, embed, lost"
    many = replace(stock, prepared={f"m{n}": stock.prepared["lost"] for n in range(12)})
    hint = problem(many.resolve("zzzzzzzzzz", "chat")).hint
    assert hint.startswith("There are: m0, m1, ")
    assert hint.endswith(" …")
    assert hint.count(",") == 9


def test_a_huge_name_is_cut(stock: Stock) -> None:
    assert len(problem(stock.resolve("x" * 100_000, "chat")).message) < 300


def test_without_any_model_it_says_how_to_add_one(kitchen: Kitchen) -> None:
    said = problem(kitchen.stock({}).resolve("zzzzzzzzzz", "chat"))
    assert "ctl add" in said.hint


def test_a_preset_that_is_not_here(stock: Stock) -> None:
    said = problem(stock.resolve("qwen3-coder", "chat"))
    assert said.code is Code.NOT_PULLED
    assert said.hint == "Get them with: ctl pull qwen3-coder"


def test_a_model_with_a_problem_says_it(stock: Stock) -> None:
    said = problem(stock.resolve("lost", "chat"))
    assert said.code is Code.MODEL_UNAVAILABLE
    assert "/no/such.gguf" in said.message


# ---------------------------------------------------------------- routes


def test_a_route_that_the_engine_does_not_serve(stock: Stock) -> None:
    said = problem(stock.resolve("embed", Route.MESSAGES.value))
    assert said.code is Code.UNSUPPORTED_DIALECT
    assert said.message == (
        "embed (llama-server, embedding) does not serve the Anthropic messages API."
    )
    assert said.hint == "It serves: embeddings, tokens, upstream."
    assert said.facts["routes"] == ["embeddings", "tokens", "upstream"]


@pytest.mark.parametrize("route", list(Route))
def test_every_route_is_served_or_refused_in_words(stock: Stock, route: Route) -> None:
    found = stock.resolve("embed", route.value)
    if route in (Route.EMBEDDINGS, Route.TOKENS, Route.UPSTREAM):
        assert found == Resolved("embed")
    else:
        assert problem(found).message.endswith(".")
        assert "_" not in problem(found).message


# ---------------------------------------------------------------- cards and specs


def test_cards(stock: Stock) -> None:
    cards = stock.cards({"Coder": "ready"})
    assert [card.id for card in cards] == ["Coder", "embed", "lost"]
    coder, embed, lost = cards
    best = stock.prepared["Coder"].best
    assert best is not None
    assert coder.aliases == ("fast",)  # a pattern is no name
    assert (coder.state, coder.engine, coder.kind) == ("ready", "llama-server", "chat")
    assert (coder.context, coder.created) == (best.ctx, 1234)
    assert (embed.state, embed.kind) == ("stopped", "embedding")
    assert (lost.state, lost.context, lost.engine) == ("stopped", None, None)
    assert stock.card("claude-x", {}) == replace(coder, state="stopped")
    item = stock.prepared["Coder"]
    stock.prepared["Coder"] = replace(item, mmproj=Path("/mmproj.gguf"))
    assert [card.kind for card in stock.cards({})] == ["vision", "embedding", lost.kind]
    assert problem(stock.card("nobody", {})).code is Code.MODEL_NOT_FOUND


def test_specs_are_all_that_the_core_gets(stock: Stock) -> None:
    specs = stock.specs()
    assert set(specs) == {"Coder", "embed", "lost"}
    assert specs["lost"].variants == ()
    assert specs["Coder"] == stock.prepared["Coder"].spec


def test_what_is_done_to_bodies(kitchen: Kitchen, tiny_gguf: Path) -> None:
    path = str(tiny_gguf)
    params = {
        "default": {"temperature": 0.7, "stop": ["x"]},
        "force": {"cache_prompt": True},
        "with_tools": {"temperature": 0},
        "strip": ["reasoning_effort"],
    }
    stock = kitchen.stock({"models": {"a": {"path": path, "params": params}, "b": {"path": path}}})
    edits = stock.edits("a")
    assert edits is not None
    assert edits.default == {"temperature": b"0.7", "stop": b'["x"]'}
    assert edits.force == {"cache_prompt": b"true"}
    assert edits.with_tools == {"temperature": b"0"}
    assert edits.strip == {"reasoning_effort"}
    assert stock.edits("b") is None
    assert stock.edits("gone") is None


def test_a_name_is_resolved_anew_by_another_stock(stock: Stock) -> None:
    for _ in range(2):
        assert stock.resolve("fast", "chat") == Resolved("Coder")
    broken = replace(stock.prepared["Coder"], problem=Problem(Code.MODEL_UNAVAILABLE, "gone"))
    assert problem(stock.with_prepared(broken).resolve("fast", "chat")).text == "gone"
    for number in range(1000):  # a pattern matches any number of names
        assert stock.resolve(f"claude-{number}", "chat") == Resolved("Coder")
    assert len(stock._resolved) <= 256


def test_one_model_is_swapped_in(stock: Stock) -> None:
    item = replace(stock.prepared["Coder"], kind="completion")
    changed = stock.with_prepared(item)
    assert changed.prepared["Coder"].kind == "completion"
    assert stock.prepared["Coder"].kind == "chat"
    assert changed.prepared["embed"] is stock.prepared["embed"]


# ---------------------------------------------------------------- starts that cannot be tried


def refused(stock: Stock, model: str, variant: str = "x") -> Problem:
    told: list[Event] = []
    with pytest.raises(ProblemError) as caught:
        stock.begin(model, 1, Variant(variant, {}), told.append)
    assert told == []
    return caught.value.problem


def test_one_with_a_problem_is_not_started(stock: Stock) -> None:
    assert refused(stock, "lost").code is Code.MODEL_UNAVAILABLE


def test_what_a_reload_has_just_taken_away_is_not_started(stock: Stock) -> None:
    assert refused(stock, "removed").code is Code.MODEL_NOT_FOUND
    said = refused(stock, "Coder", "context 7")
    assert said.code is Code.MODEL_UNAVAILABLE
    assert said.retry_after == 1.0


def test_args_that_the_engine_refuses(kitchen: Kitchen, tiny_gguf: Path) -> None:
    config = {"models": {"a": {"path": str(tiny_gguf), "args": ["--port", "1"]}}}
    stock = kitchen.stock(config)
    variant = stock.prepared["a"].spec.variants[0]
    said = refused(stock, "a", variant.id)
    assert said.code is Code.MODEL_UNAVAILABLE
    assert "--port" in said.message


def test_ports_are_free_and_not_given_out_twice() -> None:
    taken: set[int] = set()
    ports = [free_port(taken) for _ in range(60)]
    assert len(set(ports)) == 60
    for port in ports[:5]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
    full = set(range(65536))
    with pytest.raises(ProblemError, match="No free loopback port"):
        free_port(full)
    assert len(full) == 65536


# ---------------------------------------------------------------- real starts


@pytest.fixture
def configured(kitchen: Kitchen, tiny_gguf: Path) -> Callable[..., Stock]:
    """A stock of one model; ``changes`` are fields of its entry."""

    def make(engine: Mapping[str, Any] | None = None, **changes: Any) -> Stock:
        entry = {"path": str(tiny_gguf), "ctx": 2048, **changes}
        config = {"models": {"tiny": entry}, "engines": {"llama-server": dict(engine or {})}}
        return kitchen.stock(config, service=True)

    return make


async def test_a_start_is_what_was_prepared(configured: Callable[..., Stock]) -> None:
    stock = configured()
    item, told = stock.prepared["tiny"], Told()
    variant = item.spec.variants[0]
    backend = stock.begin("tiny", 4, variant, told.append)
    assert await told.have() == BackendReady("tiny", 4)
    assert (backend.generation, backend.variant, backend.model) == (4, variant, "tiny")
    assert backend.holding.target.port == backend.plan.port
    assert backend.holding.upstream_model == "tiny"
    assert backend.holding.headers["Authorization"].startswith("Bearer ")
    assert backend.plan.secret not in " ".join(backend.launch.argv)
    assert backend.places.log == stock.paths.model_log("tiny")
    assert await backend.look_over(DEADLINE) is Found.SERVES
    backend.stop()
    assert (await told.ended()).exit_class is ExitClass.CLEAN
    await backend.closed()
    assert list(stock.paths.backends_dir.iterdir()) == []


class Left:
    """A backend whose daemon has gone, and its keeper, connected to by the next one."""

    def __init__(self, stock: Stock) -> None:
        self.stock, self.news = stock, []  # type: ignore[var-annotated]
        self.told = Told()

    async def leave(self) -> Left:
        variant = self.stock.prepared["tiny"].spec.variants[0]
        self.backend = self.stock.begin("tiny", 4, variant, self.told.append)
        await self.told.have(BackendReady)
        await self.backend.detach()
        return self

    async def found(self) -> Keeper:
        self.keeper = await Keeper.adopt(
            self.backend.places.socket, on_event=self.hear, patience=DEADLINE
        )
        return self.keeper

    def hear(self, event: Any) -> None:
        self.news.append(event)

    async def end(self) -> None:
        self.keeper.kill()
        assert await self.keeper.wait_gone(DEADLINE)
        assert await self.keeper.close()
        deadline = time.monotonic() + DEADLINE
        while list(self.stock.paths.backends_dir.iterdir()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)


@pytest.fixture
async def left(configured: Callable[..., Stock]) -> AsyncIterator[Left]:
    made = await Left(configured()).leave()
    await made.found()
    yield made
    await made.end()


async def test_the_identical_start_is_taken_over(
    left: Left, configured: Callable[..., Stock]
) -> None:
    told = Told()
    resumed = configured().resume(left.keeper, told.append)
    assert resumed is not None
    before = left.backend
    assert (resumed.generation, resumed.pid) == (4, before.pid)
    assert resumed.variant == before.variant
    assert (resumed.plan, resumed.launch) == (before.plan, before.launch)
    assert resumed.holding == before.holding
    assert resumed.started_at == pytest.approx(before.started_at)
    assert resumed.ready_at == resumed.started_at
    assert resumed.mark == before.mark
    assert await resumed.look_over(DEADLINE) is Found.SERVES


async def test_one_taken_over_ends_as_any_other(configured: Callable[..., Stock]) -> None:
    left = await Left(configured()).leave()
    told, resumed = Told(), []  # type: ignore[var-annotated]
    keeper = await Keeper.adopt(
        left.backend.places.socket,
        on_event=lambda event: resumed[0].on_event(event),
        patience=DEADLINE,
    )
    taken = configured().resume(keeper, told.append)
    assert taken is not None
    resumed.append(taken)
    taken.stop()
    assert await told.have() == BackendExited("tiny", 4, ExitClass.CLEAN, "exit status 0")
    await taken.closed()


@pytest.mark.parametrize(
    "changes",
    [
        {"ctx": 1024},
        {"slots": 2},
        {"args": ["-ngl", "1"]},
        {"env": {"GGML_SOMETHING": "1"}},
        {"kind": "embedding"},
        {"engine": {"args": ["-lv", "5"]}},
        {"engine": {"env": {"A": "1"}}},
        {"path": "/no/such.gguf"},
    ],
    ids=str,
)
async def test_a_changed_one_is_not(
    left: Left, configured: Callable[..., Stock], changes: dict[str, Any]
) -> None:
    stock = configured(**changes)
    assert stock.resume(left.keeper, left.told.append) is None


async def test_a_newer_engine_is_another_start(
    left: Left, kitchen: Kitchen, configured: Callable[..., Stock]
) -> None:
    script = kitchen.folder / "bin" / "llama-server"
    script.write_text(script.read_text().replace("8123", "8200"))
    assert configured().resume(left.keeper, left.told.append) is None


@pytest.mark.parametrize(
    "facts",
    [{"port": None}, {"port": "x"}, {"port": 1}, {"secret_file": 5}, {"started_at": "long ago"},
     {"variant": "context 9"}, {"engine": "vllm"}, {"version": ""}, {"env": ""}],
    ids=str,
)  # fmt: skip
async def test_facts_that_do_not_fit(
    left: Left, configured: Callable[..., Stock], facts: dict[str, Any]
) -> None:
    hello = left.keeper.hello
    left.keeper.hello = replace(hello, facts={**hello.facts, **facts})
    assert configured().resume(left.keeper, left.told.append) is None
    without = {name: hello.facts[name] for name in hello.facts if name not in facts}
    left.keeper.hello = replace(hello, facts=without)
    assert configured().resume(left.keeper, left.told.append) is None
    left.keeper.hello = hello


async def test_a_model_that_is_no_longer_there(left: Left, kitchen: Kitchen) -> None:
    assert kitchen.stock({}, service=True).resume(left.keeper, left.told.append) is None


# ---------------------------------------------------------------- sockets of engines


@pytest.fixture
def by_socket(kitchen: Kitchen, configured: Callable[..., Stock]) -> Callable[..., Stock]:
    """A stock whose llama-server says that it can listen on a unix socket."""
    kitchen.install(sockets=True)
    return configured


def begun(stock: Stock, generation: int = 4) -> tuple[Backend, Told]:
    told = Told()
    variant = stock.prepared["tiny"].spec.variants[0]
    return stock.begin("tiny", generation, variant, told.append), told


async def ended(backend: Backend, told: Told) -> None:
    backend.stop()
    await told.ended()
    await backend.closed()


async def test_an_engine_that_can_gets_a_socket(by_socket: Callable[..., Stock]) -> None:
    stock = by_socket()
    backend, told = begun(stock)
    await told.have(BackendReady)
    place = stock.paths.engine_socket("tiny", 4)
    assert (backend.plan.socket, backend.holding.target.uds) == (place, str(place))
    assert str(place) in backend.launch.argv
    assert "--port" not in backend.launch.argv
    await ended(backend, told)
    assert list(stock.paths.backends_dir.iterdir()) == []


async def test_by_its_socket_it_is_taken_over(by_socket: Callable[..., Stock]) -> None:
    left = await Left(by_socket()).leave()
    resumed = by_socket().resume(await left.found(), left.told.append)
    assert resumed is not None
    assert (resumed.plan, resumed.launch) == (left.backend.plan, left.backend.launch)
    assert await resumed.look_over(DEADLINE) is Found.SERVES
    facts = left.keeper.hello.facts
    for listens in (None, 5, "/elsewhere/x.engine.sock"):  # None: as an older daemon reads it
        left.keeper.hello = replace(left.keeper.hello, facts={**facts, "listens": listens})
        assert by_socket().resume(left.keeper, left.told.append) is None
    await left.end()


async def test_what_an_older_daemon_started_by_a_port_is_taken_over(
    configured: Callable[..., Stock],
) -> None:
    """The daemon is newer than the start: the engine could have a socket now."""
    left = await Left(configured()).leave()
    hello = await left.found()
    facts = {name: fact for name, fact in hello.hello.facts.items() if name != "listens"}
    left.keeper.hello = replace(hello.hello, facts=facts)
    stock = configured()
    item = stock.prepared["tiny"]
    assert item.installed is not None
    able = replace(item, installed=replace(item.installed, sockets=True))
    resumed = stock.with_prepared(able).resume(left.keeper, left.told.append)
    assert resumed is not None
    assert resumed.plan == left.backend.plan
    assert await resumed.look_over(DEADLINE) is Found.SERVES
    await left.end()


@pytest.mark.parametrize("folder", ["d" * 90, "a,b"])
async def test_a_path_that_cannot_be_a_sockets_means_a_port(
    by_socket: Callable[..., Stock], folder: str
) -> None:
    stock = by_socket()
    short = stock.paths
    stock = replace(stock, paths=replace(short, runtime_dir=short.runtime_dir / folder))
    item = stock.prepared["tiny"]
    place = stock._place(item, 4)
    assert isinstance(place, int)
    assert stock._plan(item, 4, item.spec.variants[0], place).target.port == place


async def test_an_engine_that_cannot_make_its_socket_gets_a_port_next(
    by_socket: Callable[..., Stock], kitchen: Kitchen
) -> None:
    program = kitchen.folder / "bin" / "llama-server"
    words = "couldn't bind HTTP server socket, hostname: x, port: 8080"
    text = program.read_text().replace(
        "\nexec", f'\ncase "$*" in *.sock*) echo "{words}" >&2; exit 1; esac\nexec'
    )
    program.write_text(text)
    stock = by_socket()
    backend, told = begun(stock)
    assert (await told.ended()).exit_class is ExitClass.PORT
    await backend.closed()
    again, told = begun(stock, 5)
    await told.have(BackendReady)
    assert again.plan.socket is None
    await ended(again, told)


# ---------------------------------------------------------------- small calls


@pytest.fixture
def talkers(kitchen: Kitchen, tiny_gguf: Path, embedding_gguf: Path) -> Callable[..., Stock]:
    def make(**server: Any) -> Stock:
        models = {name: {"path": str(tiny_gguf)} for name in ("big", "little", "third")}
        models["embed"] = {"path": str(embedding_gguf)}
        return kitchen.stock({"models": models, "server": server})

    return make


def test_who_may_serve_a_small_call_meanwhile(talkers: Callable[..., Stock]) -> None:
    stock = talkers(small_model="little", default_model="big")

    def stand_ins(name: str, **how: bool) -> tuple[str, ...]:
        found = stock.resolve(name, "chat", True, **how)
        assert isinstance(found, Resolved)
        assert found.small
        return found.stand_ins

    assert stand_ins("big") == ("little", "third")
    assert stand_ins("little") == ("big", "third"), "the default goes before it may be anyone"
    assert stand_ins("third") == ("little", "big")
    assert stand_ins("big", movable=False) == ()
    assert stock.resolve("claude-haiku-4-5", "chat") == Resolved("little", True, ("big", "third"))
    assert stock.resolve("big", "chat") == Resolved("big")


def test_small_calls_may_always_go_to_the_small_model(talkers: Callable[..., Stock]) -> None:
    stock = talkers(small_model="little", small_calls="small_model")
    assert stock.resolve("big", "chat", True) == Resolved("little", True)
    assert stock.resolve("big", "chat", True, movable=False) == Resolved("big", True)
    without = talkers(small_calls="small_model")
    assert without.resolve("big", "chat", True) == Resolved("big", True)


def test_small_calls_may_be_as_all_others(talkers: Callable[..., Stock]) -> None:
    stock = talkers(small_model="little", default_model="big", small_calls="own")
    assert stock.resolve("big", "chat", True) == Resolved("big")
    assert stock.resolve("claude-haiku-4-5", "chat") == Resolved("little")


def test_a_hosted_services_name_gets_the_names_that_there_are(
    talkers: Callable[..., Stock],
) -> None:
    said = problem(talkers().resolve("gpt-5.1", "chat"))
    assert said.hint.startswith("There are: big, embed, little, third (server.default_model")
