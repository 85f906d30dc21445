"""``kill -9`` of the daemon, and of keepers, in every state that they can be in.

In the foreground nothing outlives the daemon. As a service what was ready is taken over by the next
one, with the same process, and everything else is ended by it: in both, no orphan.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from control_api.client import UnreachableError
from daemon.config.timing import Timing
from tests import endcheck
from tests.downloads.hub import Hub, Repo, running_hub
from tests.e2e.outcomes import Outcome, kinds
from tests.e2e.seeds import share
from tests.e2e.stage import Counts, Stage, dice, folder, house_processes, process_exists, until
from tests.e2e.states import ENDLESS, KEEPERS, SIZE, STATES, Scene

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
seeds = pytest.mark.parametrize("seed", share(1, 5))
GONE = 2.0  # seconds after the daemon's end in which its backends are gone, as promised
BUSY = 13.0  # on top of it: a deadline on a busy machine
TIMES: dict[str, object] = {
    "start_stall": 10.0,
    "backoff": 1.0,
    "backoff_max": 1.0,
    "stop_grace": 3.0,
    "drain_grace": 5.0,
    "probe_timeout": 20.0,
    "answer_stall": 20.0,
    "keeper_grace": 20.0,  # a busy machine takes long to start the next one
    "adopt_timeout": 1.0,
    "keeper_lost": Timing().keeper_lost,  # what keeps the promise above
}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as running:
        running.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": b"GGUF" + bytes(SIZE)})
        yield running
        running.release.set()


def estate(hub: Hub, service: bool) -> Iterator[Stage]:
    with folder() as place:
        pulled = '[models.pulled]\nhf = "owner/name:Q4_K_M"\nengine = "command.a"\n'
        stage = Stage(place, budget="150 MiB", times=TIMES, tables=pulled, service=service)
        stage.house.extra = {
            "PATH": f"{os.environ['PATH']}:{place}/bin",  # keepers inherit it: known by it
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(place / "hub"),
            "HF_HUB_OFFLINE": "0",
        }
        with stage:
            yield stage
            print(f"gone after, at the worst: {stage.returns}")
            with contextlib.suppress(UnreachableError):
                stage.house.client.post("/unload", force=True)


@pytest.fixture(scope="module")
def foreground(hub: Hub) -> Iterator[Stage]:
    yield from estate(hub, False)


@pytest.fixture(scope="module")
def service(hub: Hub) -> Iterator[Stage]:
    yield from estate(hub, True)


def kill(scene: Scene) -> list[Outcome]:
    """The daemon, at once; what became of everybody who was with it."""
    process = scene.stage.house.process
    assert process is not None
    process.kill()
    process.wait(10)
    outcomes = scene.crowd.outcomes()
    for helper in scene.helpers:
        helper.join(20)
        assert not helper.is_alive(), "ctl hangs though its daemon is dead"
    return outcomes


def restart(scene: Scene) -> None:
    """The next daemon, as whole as the first."""
    stage = scene.stage
    for name in ("a", "b"):
        stage.flags(name)
        stage.control(name, first_s=0.0, token_s=0.0)  # of those that go on, too
    stage.house.write(stage.config())
    stage.house.start()
    stage.before = Counts(stage.before.descriptors, stage.before.threads, 0)  # a log of its own


@pytest.fixture
def running() -> Iterator[Callable[[Stage], Stage]]:
    """A stage whose daemon runs, whatever the test before came to. It goes on after the test."""
    stages: list[Stage] = []

    def run(stage: Stage) -> Stage:
        stages.append(stage)
        if stage.house.process is None or stage.house.process.poll() is not None:
            stage.house.start()
        return stage.fresh()

    yield run
    endcheck.kept.clear()
    endcheck.kept.update(stage.pid for stage in stages)


@seeds
@pytest.mark.parametrize("state", STATES, ids=lambda s: s.__name__)
def test_nothing_outlives_a_killed_daemon(
    foreground: Stage,
    hub: Hub,
    running: Callable[[Stage], Stage],
    state: Callable[[Scene], None],
    seed: int,
) -> None:
    scene = Scene(running(foreground), dice(f"foreground {state.__name__}", seed), hub)
    state(scene)
    began = time.monotonic()
    outcomes = kill(scene)
    place = scene.stage.folder

    def left() -> str:
        return "; ".join(house_processes(place, set()))

    until(lambda: not left(), GONE + BUSY, left)
    took = time.monotonic() - began
    scene.stage.returns["gone"] = max(took, scene.stage.returns.get("gone", 0.0))
    assert "answer" not in kinds(o for o in outcomes if o.ask.tokens == ENDLESS)
    restart(scene)
    assert scene.stage.house.backends() == {}
    scene.stage.answers("a")
    scene.stage.end_check(outcomes)


@seeds
@pytest.mark.parametrize("state", STATES, ids=lambda s: s.__name__)
def test_a_killed_service_is_taken_over_and_leaves_no_orphan(
    service: Stage,
    hub: Hub,
    running: Callable[[Stage], Stage],
    state: Callable[[Scene], None],
    seed: int,
) -> None:
    scene = Scene(running(service), dice(f"service {state.__name__}", seed), hub)
    state(scene)
    kept = dict(scene.kept)
    outcomes = kill(scene)
    for pid in scene.waking:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    began = time.monotonic()
    restart(scene)
    for name, pid in kept.items():
        assert scene.stage.house.backends()[name]["pid"] == pid, "taken over when it is up"
        scene.stage.answers(name)
        assert scene.stage.house.backends()[name]["pid"] == pid, "and it answers"
    took = time.monotonic() - began
    scene.stage.returns["taken over"] = max(took, scene.stage.returns.get("taken over", 0.0))
    scene.stage.answers("a")
    scene.stage.end_check(outcomes)


def test_one_busy_with_a_long_prompt_is_taken_over_though_it_does_not_answer(
    service: Stage, hub: Hub, running: Callable[[Stage], Stage]
) -> None:
    scene = Scene(running(service), dice("busy", 1), hub)
    stage = scene.stage
    pid = scene.ready("a", busy_s=5.0)  # a prompt takes five times as long as it is waited for
    scene.ask("a", 1)
    until(lambda: stage.house.status()["leases"], what="it is at work")
    kill(scene)
    restart(scene)
    stage.control("a", busy_s=0.0)
    assert stage.backend("a")["pid"] == pid
    assert "asked whether it serves" in stage.seen(stage.house.log_file).read_text()
    stage.answers("a")
    assert stage.backend("a")["pid"] == pid
    stage.end_check()


# ---------------------------------------------------------------- keepers


@pytest.mark.parametrize("mode", ["foreground", "service"])
def test_what_daemon_and_keeper_leave_at_once_is_ended_by_the_next_daemon(
    request: pytest.FixtureRequest,
    hub: Hub,
    running: Callable[[Stage], Stage],
    mode: str,
) -> None:
    """The kernel ends the engine with its keeper, but nobody what the engine had started."""
    scene = Scene(running(request.getfixturevalue(mode)), dice("both", 1), hub)
    stage = scene.stage
    stage.flags("a", "--grandchild")
    view = stage.ready("a")
    os.kill(view["keeper_pid"], signal.SIGSTOP)  # it must not act on its own
    kill(scene)
    os.kill(view["keeper_pid"], signal.SIGKILL)
    until(lambda: not process_exists(view["pid"]), GONE + BUSY, "its engine is gone")
    assert len(house_processes(stage.folder, set())) == 1, "its child lives"
    restart(scene)
    until(lambda: not stage.leftovers(), GONE + BUSY, lambda: str(stage.leftovers()))
    stage.answers("a")
    stage.end_check()


@seeds
@pytest.mark.parametrize("state", KEEPERS, ids=lambda s: s.__name__)
def test_a_killed_keeper_takes_its_engine_with_it(
    foreground: Stage,
    hub: Hub,
    running: Callable[[Stage], Stage],
    state: Callable[[Scene], None],
    seed: int,
) -> None:
    """A crash like any other: no orphan, each request its outcome, and it comes back on demand."""
    scene = Scene(running(foreground), dice(f"keeper {state.__name__}", seed), hub)
    stage = scene.stage
    since = stage.now()
    state(scene)
    view = stage.backend("a")
    stage.flags("a")
    stage.control("a")
    os.kill(view["keeper_pid"], signal.SIGKILL)
    stage.told_of("exited", "a", since)
    until(lambda: not process_exists(view["pid"]), GONE + BUSY, "its engine is gone")
    outcomes = scene.crowd.outcomes()
    assert "answer" not in kinds(o for o in outcomes if o.ask.tokens == ENDLESS)
    for helper in scene.helpers:
        helper.join(20)
    stage.heal("keeper killed", "a", given_up=True)
    stage.end_check(outcomes)
