"""The shell around the scheduler: orders in turn, leases ended once, nobody forgotten."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from daemon import supervisor as module
from daemon.access.principals import LOCAL, Principal
from daemon.core.messages import (
    Ask,
    BackendAdopted,
    BackendExited,
    BackendReady,
    Event,
    ExitClass,
    ModelSpec,
    OperatorAsked,
    Outcome,
    TimeAdvanced,
    Variant,
)
from daemon.core.policy import Policy
from daemon.core.problems import Code, Problem, ProblemError
from daemon.core.scheduler import Scheduler
from daemon.engines.tokens import Recipe
from daemon.ports import (
    NOT_LOADED,
    Hold,
    Lease,
    ModelCard,
    Resolved,
    Route,
    Target,
    Tokens,
    Waiting,
    Wish,
)
from daemon.supervisor import Supervisor
from daemon.telemetry.bus import Bus

SECONDS = 10.0  # for anything that has to happen


class Clock:
    """Stands still unless told; timers of the loop are real."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeRun:
    """A backend that only writes down what it is told."""

    model: str
    generation: int
    variant: Variant
    told: list[str]
    port: int

    @property
    def holding(self) -> Hold:
        return Hold(Target("127.0.0.1", self.port), self.model, {"X": "y"}, keep_query=True)

    def stop(self) -> None:
        self.told.append(f"stop {self.model}/{self.generation}")

    def kill(self) -> None:
        self.told.append(f"kill {self.model}/{self.generation}")


@dataclass
class FakeItem:
    """A model as far as it is asked for here."""

    recipe: Recipe | None


@dataclass
class FakeStock:
    """Knows its models; starts nothing. ``refuses`` is raised at the next start, once."""

    names: tuple[str, ...]
    told: list[str]
    refuses: Exception | None = None
    runs: list[FakeRun] = field(default_factory=list)
    recipe: Recipe | None = None
    tell: Callable[[Event], None] = lambda _: None

    def resolve(
        self, name: str, route: str, small: bool, movable: bool, who: Principal
    ) -> Resolved | Problem:
        if name in self.names:
            return Resolved(name)
        return Problem(Code.MODEL_NOT_FOUND, f"no {name} for {route}")

    def edits(self, model: str) -> None: ...

    def find(self, name: str, route: str = "", who: Principal = LOCAL) -> FakeItem | Problem:
        found = self.resolve(name, "", False, True, who)
        return found if isinstance(found, Problem) else FakeItem(self.recipe)

    def cards(self, states: Mapping[str, str], who: Principal) -> list[ModelCard]:
        return [ModelCard(name, state=states.get(name, "stopped")) for name in self.names]

    def card(
        self, name: str, states: Mapping[str, str], route: str, who: Principal
    ) -> ModelCard | Problem:
        return ModelCard(name, state=states.get(name, "stopped"))

    def begin(
        self, model: str, generation: int, variant: Variant, tell: Callable[[Event], None]
    ) -> FakeRun:
        self.told.append(f"begin {model}/{generation} {variant.id}")
        self.tell = tell
        if self.refuses is not None:
            error, self.refuses = self.refuses, None
            raise error
        run = FakeRun(model, generation, variant, self.told, 40000 + len(self.runs))
        self.runs.append(run)
        return run


def spec(name: str, size: int = 6, *, slots: int = 1, keep_alive: float = -1.0) -> ModelSpec:
    return ModelSpec(name, (Variant("full", {"ram": size}),), slots, keep_alive)


@dataclass
class Client:
    """Whoever asked: what was called back, and the wait."""

    got: list[Lease | Problem] = field(default_factory=list)
    waiting: Waiting | None = None
    then: Callable[[Lease | Problem], None] | None = None

    def done(self, answer: Lease | Problem) -> None:
        self.got.append(answer)
        if self.then is not None:
            self.then(answer)

    @property
    def lease(self) -> Lease:
        assert len(self.got) == 1, self.got
        assert not isinstance(self.got[0], Problem), self.got[0].text
        return self.got[0]

    @property
    def problem(self) -> Problem:
        assert len(self.got) == 1, self.got
        assert isinstance(self.got[0], Problem)
        return self.got[0]


class Shop:
    """A supervisor over fakes; ``told`` is all that the fakes were told, in order."""

    def __init__(self, *specs: ModelSpec, budget: int = 10, opened: bool = True) -> None:
        self.told: list[str] = []
        self.clock = Clock()
        self.specs = {s.name: s for s in specs}
        self.stock = FakeStock(tuple(self.specs), self.told)
        policy = Policy(linger_min=0.0, linger_max=0.0, backoff=0.02)
        self.supervisor = Supervisor(
            Scheduler({"ram": budget}, policy), Bus(), 300.0, clock=self.clock
        )
        self.supervisor.close_connections = lambda t: self.told.append(f"close {t.port}")
        if opened:
            self.open()

    def open(self) -> None:
        self.supervisor.stock = self.stock
        self.supervisor.catalog(self.specs, frozenset())
        self.supervisor.open()

    def wish(self, model: str = "a", *, attempt: int = 1, arrived: float | None = None) -> Wish:
        return Wish(model, Route.CHAT, LOCAL, "c", 10, "r", attempt=attempt, arrived=arrived)

    def ask(
        self,
        model: str = "a",
        *,
        attempt: int = 1,
        arrived: float | None = None,
        then: Callable[[Lease | Problem], None] | None = None,
    ) -> Client:
        client = Client(then=then)
        wish = self.wish(model, attempt=attempt, arrived=arrived)
        client.waiting = self.supervisor.acquire(wish, client.done)
        return client

    def load(self, model: str = "a") -> Client:
        client = Client()
        client.waiting = self.supervisor.load(model, client.done, 3600.0)
        return client

    def ready(self, model: str = "a") -> None:
        self.supervisor.tell(BackendReady(model, self.generation(model)))

    def exited(self, model: str = "a", kind: ExitClass = ExitClass.CLEAN) -> None:
        self.supervisor.tell(BackendExited(model, self.generation(model), kind, "it ended"))

    def generation(self, model: str) -> int:
        return self.supervisor.scheduler.pages[model].generation

    def serving(self, model: str = "a") -> Client:
        client = self.ask(model)
        self.ready(model)
        return client

    def kinds(self) -> list[str]:
        return [event.kind for event in self.supervisor.bus.history(0)]


async def until(condition: Callable[[], object]) -> None:
    """Let the loop's timers run until it holds."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 (timers of the loop under test have no event)
            await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def short_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_HOLD", 0.05)


# ---------------------------------------------------------------- one request


async def test_a_request_starts_its_model_and_gets_a_lease() -> None:
    shop = Shop(spec("a"))
    client = shop.ask()
    assert client.waiting is not None
    assert shop.told == ["begin a/1 full"]
    assert client.got == []
    shop.ready()
    lease = client.lease
    assert (lease.model, lease.upstream_model, lease.target.port) == ("a", "a", 40000)
    assert (dict(lease.headers), lease.keep_query, lease.arrived) == ({"X": "y"}, True, 1000.0)
    assert shop.supervisor.states() == {"a": "ready"}
    assert shop.kinds() == ["start", "ready"]


async def test_a_model_that_runs_is_granted_before_acquire_returns() -> None:
    shop = Shop(spec("a", slots=2))
    shop.serving()
    assert not isinstance(shop.ask().lease, Problem)


async def test_what_cannot_be_resolved_is_answered_at_once() -> None:
    shop = Shop(spec("a"))
    client = shop.ask("nonsense")
    assert client.waiting is None
    assert client.problem.code is Code.MODEL_NOT_FOUND
    assert shop.supervisor.counters == {"starts": 0, "requests": 0}


async def test_who_counts_tokens_loads_nothing_takes_no_slot_and_never_waits() -> None:
    shop = Shop(spec("a"))

    def count() -> Client:
        client = Client()
        wish = dataclasses.replace(shop.wish(), route=Route.COUNT_TOKENS)
        assert shop.supervisor.acquire(wish, client.done) is None
        return client

    assert count().problem is NOT_LOADED
    assert shop.told == []
    busy = shop.ask()
    assert count().problem is NOT_LOADED, "it is starting"
    shop.ready()
    assert busy.lease.model == "a"
    counts = [count() for _ in range(25)]
    waits = shop.ask()
    assert waits.got == [], "the one slot is taken"
    for client in counts:
        assert client.lease.target.port == 40000
        client.lease.end(Outcome.OK)
    assert shop.supervisor.in_flight("a", 1) == [busy.lease]
    busy.lease.end(Outcome.LOST)
    assert count().problem is NOT_LOADED, "nobody knows whether it lives"
    shop.exited(kind=ExitClass.CRASH)
    assert count().problem is NOT_LOADED


async def test_a_model_is_unloaded_once_its_requests_are_over() -> None:
    shop = Shop(spec("a"))
    busy = shop.serving()
    assert shop.supervisor.unload("a") is None
    assert "stop a/1" not in shop.told
    busy.lease.end(Outcome.OK)
    assert "stop a/1" in shop.told


async def test_tokens_are_counted_by_the_recipe_of_a_model() -> None:
    shop = Shop(spec("a"), opened=False)
    told: list[Tokens | None] = []
    shop.supervisor.count("a", b"{}", told.append)
    shop.open()
    shop.supervisor.counter = lambda recipe, chat, done: done(Tokens(len(chat), exact=True))
    shop.supervisor.count("b", b"{}", told.append)
    shop.supervisor.count("a", b"{}", told.append)
    shop.stock.recipe = Recipe("python", "folder")
    shop.supervisor.count("a", b"{}", told.append)
    assert told == [None, None, None, Tokens(2, exact=True)]


async def test_a_lease_is_ended_exactly_once() -> None:
    shop = Shop(spec("a"))
    first = shop.serving()
    second, third = shop.ask(), shop.ask()
    first.lease.end(Outcome.OK)
    first.lease.end(Outcome.OK)
    first.lease.end(Outcome.LOST)
    assert not isinstance(second.lease, Problem)
    assert third.got == [], "the second end freed nothing"
    assert shop.supervisor.counters["ok"] == 1
    assert "lost" not in shop.supervisor.counters


async def test_counters_count_requests_starts_and_outcomes() -> None:
    shop = Shop(spec("a"), spec("b", 4))
    shop.serving("a").lease.end(Outcome.OK)
    shop.serving("b").lease.end(Outcome.CLIENT_GONE)
    shop.ask("a").lease.end(Outcome.UPSTREAM_ERROR)
    assert shop.supervisor.counters == {
        "starts": 2,
        "requests": 3,
        "ok": 1,
        "client_gone": 1,
        "upstream_error": 1,
    }


async def test_cards_say_what_state_each_model_is_in() -> None:
    shop = Shop(spec("a"), spec("b"), opened=False)
    assert shop.supervisor.cards() == []
    early = shop.supervisor.card("a")
    assert isinstance(early, Problem)
    assert early.retry_after == 1.0
    shop.open()
    shop.serving("a")
    states = {card.id: card.state for card in shop.supervisor.cards()}
    assert states == {"a": "ready", "b": "stopped"}
    card = shop.supervisor.card("a")
    assert not isinstance(card, Problem)
    assert card.state == "ready"


# ---------------------------------------------------------------- decisions never nest


async def test_facts_told_while_orders_are_carried_out_wait_their_turn() -> None:
    """A lease that ends within its own grant, and starts another wait there."""
    shop = Shop(spec("a"))
    depth, deepest = 0, 0
    handle = shop.supervisor.scheduler.handle
    later: list[Client] = []

    def watched(event: Event, now: float) -> list[object]:
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        try:
            return list(handle(event, now))
        finally:
            depth -= 1

    shop.supervisor.scheduler.handle = watched  # type: ignore[method-assign, assignment]

    def at_once(answer: Lease | Problem) -> None:
        assert not isinstance(answer, Problem)
        answer.end(Outcome.OK)
        if len(later) < 20:
            later.append(shop.ask(then=at_once))

    clients = [shop.ask(then=at_once) for _ in range(5)]
    shop.ready()
    assert deepest == 1
    assert len(later) == 20
    assert all(len(client.got) == 1 for client in [*clients, *later])
    assert shop.supervisor.counters["ok"] == 25
    assert shop.supervisor.scheduler.pages["a"].leases == {}


async def test_a_callback_that_unloads_by_force_does_not_disturb_the_others() -> None:
    shop = Shop(spec("a", slots=3))
    cut: list[str] = []

    def hold(answer: Lease | Problem) -> None:
        assert not isinstance(answer, Problem)
        answer.on_cancel = lambda problem: cut.append(problem.code.value)

    def unload(answer: Lease | Problem) -> None:
        hold(answer)
        shop.supervisor.tell(OperatorAsked(Ask.UNLOAD, "a", force=True))

    clients = [shop.ask(then=unload), shop.ask(then=hold), shop.ask(then=hold)]
    shop.ready()
    assert all(client.lease.model == "a" for client in clients)
    assert cut == ["unloaded"] * 3
    assert shop.told[-2:] == ["close 40000", "stop a/1"]


async def test_a_failing_callback_is_loud_and_leaves_the_supervisor_usable() -> None:
    shop = Shop(spec("a"))

    def bug(_: Lease | Problem) -> None:
        raise ValueError("a bug of the relay")

    shop.ask(then=bug)
    with pytest.raises(ValueError, match="a bug of the relay"):
        shop.ready()
    shop.supervisor.tell(OperatorAsked(Ask.UNLOAD, "a", force=True))
    shop.exited()
    assert shop.serving().lease.model == "a"


# ---------------------------------------------------------------- cancelled


async def test_cancelled_before_the_grant() -> None:
    shop = Shop(spec("a"))
    first, second = shop.ask(), shop.ask()
    assert first.waiting is not None
    first.waiting.cancel()
    first.waiting.cancel()
    shop.ready()
    assert first.got == []
    assert second.lease.model == "a"


async def test_cancelled_after_the_grant_is_nothing() -> None:
    shop = Shop(spec("a"))
    client = shop.serving()
    assert client.waiting is not None
    client.waiting.cancel()
    assert shop.supervisor.scheduler.pages["a"].leases != {}
    client.lease.end(Outcome.OK)
    assert shop.supervisor.scheduler.pages["a"].leases == {}


async def test_cancelled_in_the_moment_of_the_grant() -> None:
    """The core has granted both; the first one's callback sees the second one leave."""
    shop = Shop(spec("a", slots=2))
    second = Client()

    def leave(_: Lease | Problem) -> None:
        assert second.waiting is not None
        second.waiting.cancel()

    first = shop.ask(then=leave)
    second.waiting = shop.supervisor.acquire(shop.wish(), second.done)
    shop.ready()
    assert second.got == []
    assert len(shop.supervisor.scheduler.pages["a"].leases) == 1
    third = shop.ask()
    assert third.lease.model == "a", "the slot is free again"
    assert first.lease.model == "a"


async def test_a_refusal_reaches_nobody_who_left_in_that_moment() -> None:
    shop = Shop(spec("a"))
    second = Client()

    def leave(_: Lease | Problem) -> None:
        assert second.waiting is not None
        second.waiting.cancel()

    first = shop.ask(then=leave)
    second.waiting = shop.supervisor.acquire(shop.wish(), second.done)
    shop.supervisor.tell(OperatorAsked(Ask.UNLOAD, "a", force=True))
    assert first.problem.code is Code.UNLOADED
    assert second.got == []


# ---------------------------------------------------------------- before the models are known


async def test_early_wishes_are_served_once_the_models_are_known() -> None:
    shop = Shop(spec("a"), opened=False)
    clients = [shop.ask(), shop.ask("nonsense")]
    assert all(client.waiting is not None for client in clients)
    assert [client.got for client in clients] == [[], []]
    shop.open()
    assert clients[1].problem.code is Code.MODEL_NOT_FOUND
    shop.ready()
    assert clients[0].lease.model == "a"


async def test_early_wishes_wait_for_adoption_too() -> None:
    """The stock is there before it is known what an earlier daemon left."""
    shop = Shop(spec("a"), opened=False)
    shop.supervisor.stock = shop.stock
    shop.supervisor.catalog(shop.specs, frozenset())
    client = shop.ask()
    assert shop.told == []
    adopted = FakeRun("a", 7, shop.specs["a"].variants[0], shop.told, 41000)
    shop.supervisor.adopt("a", adopted)
    shop.supervisor.tell(BackendAdopted("a", 7, adopted.variant))
    shop.supervisor.open()
    assert client.lease.target.port == 41000
    assert shop.told == []


async def test_an_early_wish_may_leave_before_and_after_the_opening() -> None:
    shop = Shop(spec("a"), opened=False)
    before, after = shop.ask(), shop.ask()
    assert before.waiting is not None
    assert after.waiting is not None
    before.waiting.cancel()
    before.waiting.cancel()
    shop.open()
    after.waiting.cancel()
    shop.ready()
    assert (before.got, after.got) == ([], [])
    assert shop.supervisor.scheduler.pages["a"].leases == {}


async def test_an_early_wish_may_leave_while_another_is_answered() -> None:
    shop = Shop(spec("a"), opened=False)
    second = Client()

    def leave(_: Lease | Problem) -> None:
        assert second.waiting is not None
        second.waiting.cancel()

    first = shop.ask("nonsense", then=leave)
    second.waiting = shop.supervisor.acquire(shop.wish(), second.done)
    shop.open()
    assert first.problem.code is Code.MODEL_NOT_FOUND
    assert shop.told == [], "nothing is started for who has left"
    assert second.got == []


# ---------------------------------------------------------------- second attempts


async def test_a_second_attempt_is_held_back_until_the_exit_is_known() -> None:
    shop = Shop(spec("a"))
    shop.serving().lease.end(Outcome.LOST)
    again = shop.ask(attempt=2, arrived=990.0)
    assert again.got == [], "the process that broke is not granted again"
    shop.exited(kind=ExitClass.CRASH)
    await until(lambda: len(shop.supervisor.scheduler.pages["a"].queue))
    assert again.got == []
    shop.clock.now += 60.0  # the backoff is over
    shop.supervisor.tell(TimeAdvanced())
    shop.ready()
    assert again.lease.target.port == 40001
    assert again.lease.arrived == 990.0, "it keeps its place"


async def test_a_second_attempt_is_released_by_time() -> None:
    """The connection broke and the process lives: it was the connection's fault."""
    shop = Shop(spec("a"))
    shop.serving().lease.end(Outcome.LOST)
    again = shop.ask(attempt=2)
    await until(lambda: again.got)
    assert again.lease.target.port == 40000


async def test_each_second_attempt_is_held_for_its_own_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop = Shop(spec("a", slots=2))
    shop.serving().lease.end(Outcome.LOST)
    first = shop.ask(attempt=2)
    monkeypatch.setattr(module, "RETRY_HOLD", 60.0)
    second = shop.ask(attempt=2)
    await until(lambda: first.got)
    assert second.got == [], "another one's timer is not its own"
    assert second.waiting is not None
    second.waiting.cancel()


async def test_a_second_attempt_that_leaves_while_held_back() -> None:
    shop = Shop(spec("a", slots=2))
    shop.serving().lease.end(Outcome.LOST)
    gone, stays = shop.ask(attempt=2), shop.ask(attempt=2)
    assert gone.waiting is not None
    gone.waiting.cancel()
    gone.waiting.cancel()
    await until(lambda: stays.got)
    assert gone.got == []
    assert len(shop.supervisor.scheduler.pages["a"].leases) == 1


async def test_a_second_attempt_is_not_held_where_nothing_runs() -> None:
    shop = Shop(spec("a"))
    shop.serving().lease.end(Outcome.LOST)
    shop.exited(kind=ExitClass.CRASH)
    shop.ask(attempt=2)
    assert len(shop.supervisor.scheduler.pages["a"].queue) == 1


async def test_a_second_attempt_waits_anew() -> None:
    """Its first wait may have been longer than the queue's: a start does not count there."""
    shop = Shop(spec("a"))
    shop.clock.now += 500.0
    again = shop.ask(attempt=2, arrived=1000.0)
    assert again.got == [], "not refused for what the first attempt took"
    shop.ready()
    assert again.lease.arrived == 1000.0


async def test_a_second_attempt_of_a_model_that_was_removed_meanwhile() -> None:
    shop = Shop(spec("a"))
    shop.serving().lease.end(Outcome.LOST)
    again = shop.ask(attempt=2)
    shop.supervisor.catalog({}, frozenset())
    shop.exited()
    await until(lambda: again.got)
    assert again.problem.code is Code.MODEL_NOT_FOUND


async def test_who_waits_is_not_given_to_a_backend_whose_connections_break() -> None:
    """The slot of the lost one stays taken until the keeper's word; who comes is held back."""
    shop = Shop(spec("a", slots=2))
    lost = [shop.serving().lease, shop.ask().lease]
    waits = shop.ask()
    for lease in lost:
        lease.end(Outcome.LOST)
    comes = shop.ask()
    assert waits.got == comes.got == []
    shop.exited(kind=ExitClass.CRASH)
    await until(lambda: len(shop.supervisor.scheduler.pages["a"].queue) == 2)
    shop.clock.now += 60.0  # the backoff is over
    shop.supervisor.tell(TimeAdvanced())
    shop.ready()
    assert waits.lease.target.port == comes.lease.target.port == 40001
    assert len(shop.supervisor.scheduler.pages["a"].leases) == 2


async def test_a_backend_that_lives_on_is_doubted_once() -> None:
    """One client whose requests break its connections must not slow down all others."""
    shop = Shop(spec("a", slots=2))
    shop.serving().lease.end(Outcome.LOST)
    held = shop.ask()
    assert held.got == []
    await until(lambda: held.got)
    held.lease.end(Outcome.LOST)
    assert shop.ask().lease.target.port == 40000, "not doubted again so soon"
    shop.clock.now += module.TRUST
    shop.ask().lease.end(Outcome.UPSTREAM_ERROR)
    later = shop.ask()
    assert later.got == []
    await until(lambda: later.got)


# ---------------------------------------------------------------- starts and ends


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ProblemError(Problem(Code.ENGINE_MISSING, "No engine.", "Install it.")), "failed"),
        (OSError(24, "too many open files"), "backoff"),
    ],
)
async def test_a_start_that_raises_is_an_exit(error: Exception, state: str) -> None:
    shop = Shop(spec("a"))
    shop.stock.refuses = error
    client = shop.ask()
    assert shop.supervisor.states() == {"a": state}
    assert shop.supervisor.backends == {}
    assert shop.supervisor.scheduler.ledger.committed == {}
    assert shop.supervisor.counters["starts"] == 1
    assert await shop.supervisor.all_gone(0.0)
    if state == "failed":
        assert "No engine. Install it." in client.problem.text
    else:
        assert client.got == [], "it is tried again"
        shop.clock.now += 60.0
        shop.supervisor.tell(TimeAdvanced())
        shop.ready()
        assert client.lease.model == "a"


async def test_connections_are_closed_before_the_stop_and_after_the_exit() -> None:
    shop = Shop(spec("a"), spec("b"))
    shop.serving("a").lease.end(Outcome.OK)
    shop.told.clear()
    client = shop.ask("b")
    assert shop.told == ["close 40000", "stop a/1"]
    shop.exited("a")
    assert shop.told[2:] == ["close 40000", "begin b/1 full"]
    shop.ready("b")
    assert client.lease.model == "b"


async def test_a_late_word_of_an_older_process_changes_nothing() -> None:
    shop = Shop(spec("a"))
    shop.serving().lease.end(Outcome.OK)
    shop.exited(kind=ExitClass.CRASH)
    shop.clock.now += 60.0
    shop.ask()
    shop.ready()
    shop.told.clear()
    shop.supervisor.tell(BackendExited("a", 1, ExitClass.CRASH, "again"))
    shop.supervisor.tell(BackendReady("a", 1))
    assert shop.told == []
    assert shop.supervisor.backends["a"].generation == 2


async def test_a_forced_unload_cancels_what_runs() -> None:
    shop = Shop(spec("a", slots=2))
    first, second = shop.serving(), shop.ask()
    cut: list[Problem] = []
    first.lease.on_cancel = cut.append
    second.lease.end(Outcome.OK)
    shop.supervisor.tell(OperatorAsked(Ask.UNLOAD, "a", force=True))
    assert [problem.code for problem in cut] == [Code.UNLOADED]
    assert shop.told[-2:] == ["close 40000", "stop a/1"]
    first.lease.end(Outcome.CLIENT_GONE)
    shop.exited()
    assert shop.supervisor.states() == {"a": "stopped"}
    assert shop.supervisor.counters["client_gone"] == 1


async def test_a_lease_whose_backend_died_may_still_be_ended() -> None:
    shop = Shop(spec("a"))
    client = shop.serving()
    shop.exited(kind=ExitClass.CRASH)
    client.lease.end(Outcome.UPSTREAM_ERROR)
    assert shop.supervisor.counters["upstream_error"] == 1
    shop.clock.now += 60.0
    assert shop.ask().got == []
    shop.ready()
    assert len(shop.supervisor.scheduler.pages["a"].leases) == 1


async def test_the_sampler_is_woken_when_backends_come_and_go() -> None:
    shop = Shop(spec("a"))
    seen: list[int] = []
    shop.supervisor.wake_sampler = lambda: seen.append(len(shop.supervisor.backends))
    shop.serving().lease.end(Outcome.OK)
    shop.exited()
    assert seen == [1, 0]


async def test_time_wakes_the_scheduler() -> None:
    """A keep-alive ends with nobody telling anything."""
    shop = Shop(spec("a", keep_alive=0.0))
    shop.clock.now = 0.0
    shop.serving().lease.end(Outcome.OK)
    await until(lambda: "stop a/1" in shop.told)


async def test_an_idle_supervisor_has_no_timer() -> None:
    shop = Shop(spec("a", keep_alive=60.0))
    shop.serving().lease.end(Outcome.OK)
    assert shop.supervisor._timer is not None
    shop.supervisor.tell(OperatorAsked(Ask.UNLOAD, "a"))
    shop.exited()
    assert shop.supervisor._timer is None


# ---------------------------------------------------------------- all gone


async def test_all_gone_waits_for_the_last_exit() -> None:
    shop = Shop(spec("a", 4), spec("b", 4))
    shop.serving("a")
    shop.serving("b")
    waiting = asyncio.create_task(shop.supervisor.all_gone(SECONDS))
    await asyncio.sleep(0)
    shop.exited("a")
    await asyncio.sleep(0)
    assert not waiting.done()
    shop.exited("b")
    assert await waiting is True


async def test_all_gone_gives_up_at_its_deadline() -> None:
    shop = Shop(spec("a"))
    shop.serving()
    assert await shop.supervisor.all_gone(0.01) is False
    shop.exited()
    assert await shop.supervisor.all_gone(0.0) is True
    shop.supervisor.adopt("a", FakeRun("a", 9, Variant("full", {}), shop.told, 1))
    assert await shop.supervisor.all_gone(0.01) is False, "an old end is not this one's"


# ---------------------------------------------------------------- loads, and the end


async def test_a_load_is_told_when_its_model_is_ready_and_holds_nothing() -> None:
    shop = Shop(spec("a"))
    loaded = shop.load()
    assert shop.told == ["begin a/1 full"]
    shop.ready()
    assert loaded.lease.model == "a"
    assert shop.supervisor.scheduler.pages["a"].leases == {}
    loaded.lease.end(Outcome.OK)
    assert "ok" not in shop.supervisor.counters


async def test_a_cancelled_load_drops_its_claim() -> None:
    shop = Shop(spec("a"), spec("b"))
    held = shop.serving("a")
    load = shop.load("b")
    assert shop.supervisor.scheduler.claim == "b"
    assert load.waiting is not None
    load.waiting.cancel()
    assert shop.supervisor.scheduler.claim is None
    held.lease.end(Outcome.OK)
    assert shop.told == ["begin a/1 full"]


async def test_draining_refuses_whoever_comes() -> None:
    shop = Shop(spec("a"))
    held = shop.serving()
    waits = shop.ask()
    shop.supervisor.shutdown_retry = 7.0
    shop.supervisor.leave()
    for client in (shop.ask(), shop.load(), shop.ask(attempt=2)):
        assert client.waiting is None
        assert client.problem.code is Code.SHUTTING_DOWN
        assert client.problem.retry_after == 7.0
    held.lease.end(Outcome.OK)
    assert waits.lease.model == "a", "who was there before may still be served"


async def test_leaving_ends_an_operators_waits() -> None:
    shop = Shop(spec("a"), spec("b"))
    held = shop.serving("a")
    load, request = shop.load("b"), shop.ask("b")
    shop.supervisor.leave()
    assert load.problem.code is Code.SHUTTING_DOWN
    assert request.got == []
    held.lease.end(Outcome.OK)
    assert shop.told[-2:] == ["close 40000", "stop a/1"], "the request's claim stands"


async def test_leaving_before_the_models_are_known_refuses_the_early() -> None:
    shop = Shop(spec("a"), opened=False)
    client = shop.ask()
    shop.supervisor.leave()
    assert client.problem.code is Code.SHUTTING_DOWN
    shop.open()
    assert shop.told == []


async def test_an_unknown_event_of_the_core_is_told_by_its_name() -> None:
    """Whatever the core publishes reaches the bus with its facts."""
    shop = Shop(spec("a"))
    shop.ask()
    event = shop.supervisor.bus.history(0)[0]
    assert (event.kind, event.model, event.facts["variant"]) == ("start", "a", "full")
    assert "a starts" in event.text
    assert dataclasses.asdict(event)["facts"]["bytes"] == {"ram": 6}
