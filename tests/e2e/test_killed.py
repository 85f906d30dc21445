"""``kill -9`` of the daemon, and of keepers, in every state that they can be in.

In the foreground nothing outlives the daemon. As a service what was ready is taken over by the next
one, with the same process, and everything else is ended by it: in both, no orphan.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from control_api.client import RefusedError, UnreachableError
from tests import endcheck
from tests.downloads.hub import Hub, Repo, running_hub
from tests.e2e.outcomes import Crowd, Outcome, kinds, some
from tests.e2e.seeds import share
from tests.e2e.stage import Counts, Stage, dice, folder, house_processes, process_exists, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]
seeds = pytest.mark.parametrize("seed", share(1, 5))
GONE = 2.0  # seconds after the daemon's end in which its backends are gone, as promised
BUSY = 4.0  # on top of it: a deadline on a busy machine
ENDLESS = 10**6
TIMES: dict[str, object] = {
    "start_stall": 10.0,
    "backoff": 1.0,
    "backoff_max": 1.0,
    "stop_grace": 3.0,
    "drain_grace": 5.0,
    "probe_timeout": 20.0,
    "answer_stall": 20.0,
    "keeper_grace": 8.0,
    "adopt_timeout": 1.0,
}


@dataclass
class Scene:
    """A daemon in one state, about to be killed. ``kept``: what a service takes over."""

    stage: Stage
    rng: random.Random
    hub: Hub
    crowd: Crowd = field(init=False)
    kept: dict[str, int] = field(default_factory=dict)
    helpers: list[threading.Thread] = field(default_factory=list)
    waking: list[int] = field(default_factory=list)  # processes that were stopped

    def __post_init__(self) -> None:
        self.crowd = self.stage.crowd()

    def post(self, path: str, **body: Any) -> None:
        """Ask the daemon for something, and do not wait for what it says."""

        def ask() -> None:
            with contextlib.suppress(UnreachableError, RefusedError):
                self.stage.house.client.post(path, **body)

        self.helpers.append(threading.Thread(target=ask, daemon=True))
        self.helpers[-1].start()

    def ready(self, name: str = "a", **control: object) -> int:
        """A model that serves; from now on as ``control`` says."""
        pid: int = self.stage.ready(name)["pid"]
        self.kept[name] = pid
        self.stage.control(name, **control)
        return pid

    def ask(self, name: str, count: int, **more: object) -> None:
        self.crowd.ask(*some(self.rng, name, count, **more))  # type: ignore[arg-type]

    def stream(self, count: int = 2) -> None:
        """Endless answers of the first model, under way."""
        self.ready(token_s=0.02)
        self.ask("a", count, tokens=ENDLESS, stream=True)
        self.crowd.streaming()

    def reach(self, name: str, state: str) -> None:
        until(lambda: self.stage.state(name) == state, 20, f"{name} is {state}")

    def moment(self, longest: float) -> None:
        """Some moment of what goes on."""
        time.sleep(self.rng.random() * longest)


def idle(scene: Scene) -> None:
    pass


def keeper_just_started(scene: Scene) -> None:
    scene.post("/models/a/load")
    until(lambda: house_processes(scene.stage.folder, {scene.stage.pid}), 20, "a keeper")


def starting(scene: Scene) -> None:
    since = scene.stage.now()
    scene.ask("a", 2)
    scene.stage.told_of("start", "a", since)
    scene.moment(0.1)


def load_in_progress(scene: Scene) -> None:
    scene.stage.flags("a", "--load-s", 30, *scene.rng.choice(([], ["--ignore-term"])))
    scene.ask("a", 2)
    scene.stage.backend("a")
    scene.moment(0.3)


def probing(scene: Scene) -> None:
    scene.stage.flags("a", "--hang-answer")
    scene.ask("a", 1)
    log = scene.stage.folder / "logs" / "models" / "a.log"
    scene.stage.backend("a")
    until(lambda: "model loaded" in log.read_text("utf-8", "replace"), 20, "it is loaded")
    scene.moment(0.1)


def ready_idle(scene: Scene) -> None:
    scene.ready()


def answering(scene: Scene) -> None:
    scene.ready(first_s=30)
    scene.ask("a", 2, stream=False)
    until(lambda: scene.stage.house.status()["leases"] == 2, 20, "both are with it")


def streaming(scene: Scene) -> None:
    scene.stream()
    scene.moment(0.2)


def draining(scene: Scene) -> None:
    scene.stream()
    scene.post("/models/a/unload")
    scene.reach("a", "draining")


def stopping_deaf(scene: Scene) -> None:
    scene.stage.flags("a", "--ignore-term", *scene.rng.choice(([], ["--grandchild"])))
    scene.ready()
    scene.post("/models/a/unload")
    scene.reach("a", "stopping")
    scene.kept.clear()


def evicting(scene: Scene) -> None:
    scene.stage.flags("a", "--term-s", 20)
    scene.ready()
    scene.ask("b", 2)
    scene.reach("a", "stopping")
    scene.kept.clear()


def with_a_queue(scene: Scene) -> None:
    scene.stream(1)
    scene.ask("b", 4)
    until(lambda: scene.stage.house.status()["queue"] >= 3, 20, "they wait")


def in_a_pull(scene: Scene) -> None:
    scene.ready()
    scene.hub.stalled.clear()
    scene.hub.stall_after["m-Q4_K_M.gguf"] = SIZE // 2
    shutil.rmtree(scene.stage.folder / "hub", ignore_errors=True)
    scene.post("/models/pulled/pull")
    assert scene.hub.stalled.wait(30), "it began"


def in_a_reload(scene: Scene) -> None:
    scene.ready()
    scene.stage.house.write(scene.stage.config(b='aliases = ["other"]'))
    scene.post("/reload")
    scene.moment(0.15)


def in_backoff(scene: Scene) -> None:
    scene.stage.flags("a", "--crash-at", "load")
    scene.ask("a", 2)
    scene.reach("a", "backoff")


def failed(scene: Scene) -> None:
    scene.stage.flags("a", "--no-such-flag")
    scene.ask("a", 1)
    scene.reach("a", "failed")


def paused(scene: Scene) -> None:
    scene.stage.ready("a")
    scene.stage.house.client.post("/pause", hold=True)
    scene.ask("a", 2)
    until(lambda: scene.stage.house.status()["paused"], 20, "it is paused")


def in_its_shutdown(scene: Scene) -> None:
    scene.stream()
    os.kill(scene.stage.pid, signal.SIGTERM)
    until(lambda: scene.stage.house.status()["draining"], 20, "it stops")


def writing_state(scene: Scene) -> None:
    """A backend dies: incidents are written a moment later."""
    pid = scene.ready()
    os.kill(pid, scene.rng.choice((signal.SIGSEGV, signal.SIGABRT)))
    scene.kept.clear()
    scene.moment(0.05)


def liveness_in_doubt(scene: Scene) -> None:
    scene.stream(1)
    pid = scene.kept.pop("a")
    os.kill(pid, signal.SIGSTOP)
    scene.moment(0.3)


def in_its_own_start(scene: Scene) -> None:
    """Killed, started, and killed again before it is up: what it was about to take over stays."""
    scene.ready()
    again(scene)
    scene.moment(0.8)


def in_an_adoption(scene: Scene) -> None:
    """It waits for an engine that does not answer."""
    pid = scene.ready()
    os.kill(pid, signal.SIGSTOP)
    log = scene.stage.house.log_file
    old = log.stat().st_ino
    again(scene)

    def up() -> bool:  # in a log of its own
        return log.exists() and log.stat().st_ino != old and "listening on" in log.read_text()

    until(up, 20, "it is up so far")
    scene.moment(0.3)
    scene.waking.append(pid)
    scene.kept.clear()  # it may have been given up already


def again(scene: Scene) -> None:
    process = scene.stage.house.process
    assert process is not None
    process.kill()
    process.wait(10)
    scene.stage.house.launch()


STATES: tuple[Callable[[Scene], None], ...] = (
    idle,
    keeper_just_started,
    starting,
    load_in_progress,
    probing,
    ready_idle,
    answering,
    streaming,
    draining,
    stopping_deaf,
    evicting,
    with_a_queue,
    in_a_pull,
    in_a_reload,
    in_backoff,
    failed,
    paused,
    in_its_shutdown,
    writing_state,
    liveness_in_doubt,
    in_its_own_start,
    in_an_adoption,
)
SIZE = 3 << 20  # bytes of the file that is pulled; the hub stalls in its middle


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


# ---------------------------------------------------------------- keepers


KEEPERS: tuple[Callable[[Scene], None], ...] = (
    starting,
    load_in_progress,
    probing,
    ready_idle,
    answering,
    streaming,
    draining,
    stopping_deaf,
    evicting,
    with_a_queue,
)


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
