"""The states of a daemon in which it is killed: how each is reached, for ``test_killed.py``."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from control_api.client import RefusedError, UnreachableError
from tests.downloads.hub import Hub
from tests.e2e.outcomes import Crowd, some
from tests.e2e.stage import Stage, house_processes, until

ENDLESS = 10**6  # tokens
SIZE = 3 << 20  # bytes of the file that is pulled; the hub stalls in its middle


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

    def up() -> bool:  # in a log of its own; the old one is moved away meanwhile
        with contextlib.suppress(FileNotFoundError):
            return log.stat().st_ino != old and "listening on" in log.read_text()
        return False

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
"""Those in which there is a keeper that is worth a kill of its own."""
