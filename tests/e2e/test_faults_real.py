"""The faults that need a real engine to be believed: SIGKILL while it loads and while it streams,
and memory that really ends. A compiled llama-server where there is one, else the one of xllamacpp.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import timing
from tests.e2e.outcomes import Ask, kinds
from tests.e2e.seeds import REAL
from tests.e2e.stage import MIB, Stage, dice, folder, process_exists

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
seeds = pytest.mark.parametrize("seed", REAL)
ROUTES = ("chat", "messages")
BIG = 192 * MIB  # of weights: long enough to be met while it loads


def llama() -> Path | None:
    """A compiled llama-server, if there is one."""
    root = Path(__file__).parents[2]
    path = Path(os.environ.get("MODELPORT_TEST_LLAMA_SERVER", root / ".llama-server/llama-server"))
    return path if path.exists() else None


class Real(Stage):
    """A stage whose models are real ones: their faults come from outside."""

    def flags(self, name: str, *words: object, times: int | None = None) -> None:
        """A real engine has none."""

    def control(self, name: str, **options: object) -> None:
        """Nor this."""


@pytest.fixture(scope="module")
def real(loop_gguf: Path, sparse_gguf: Callable[[int], Path]) -> Iterator[Real]:
    """``m`` streams without end; ``big`` takes a while to load."""
    engine = "llama-server" if llama() else "xllamacpp"
    entry = f'[engines.llama-server]\npath = "{llama()}"\n' if llama() else ""
    models = "".join(
        f'[models.{name}]\npath = "{path}"\nengine = "{engine}"\nctx = 2048\nslots = 3\n'
        f'args = ["-t", "1"]\nenv = {{ HOUSE = "%s" }}\n'
        for name, path in (("m", loop_gguf), ("big", sparse_gguf(BIG)))
    )
    waits = timing({"backoff": 0.05, "backoff_max": 0.2, "stop_grace": 2.0})
    with folder() as place:
        stage = Real(place, names=())
        stage.house.write(waits + entry + models.replace("%s", str(place)))
        stage.house.start()
        ready(stage, "m")
        stage.baseline()
        stage.others = ("m", "big")
        yield stage
        stage.house.__exit__()


def ready(stage: Stage, name: str) -> int:
    """Load it by a request."""
    answer = stage.house.chat(name, max_tokens=2)
    assert answer.status == 200, answer.body
    pid: int = stage.backend(name)["pid"]
    return pid


def recovers(stage: Stage, name: str) -> None:
    """It answers again, if need be after its owner said so."""
    if stage.state(name) == "failed":
        stage.forget(name)
    deadline = time.monotonic() + 60
    while stage.house.chat(name, max_tokens=2).status != 200:
        assert time.monotonic() < deadline, "it does not come back"


@seeds
def test_sigkill_in_mid_load(real: Real, seed: int) -> None:
    """At any moment of it: who waits is told or served, and the next start is a whole one."""
    rng = dice("real load", seed)
    stage = real.fresh()
    seen = stage.now()
    asks = [Ask("big", rng.choice(ROUTES), rng.random() < 0.5, None, 2, f"{seed} {i}")
            for i in range(rng.choice((1, 3)))]  # fmt: skip
    crowd = stage.crowd(*asks)
    pid = stage.backend("big")["pid"]
    time.sleep(rng.random() / 4)
    os.kill(pid, signal.SIGKILL)
    told = stage.told_of("exited", "big", seen)
    assert told["exit_class"] == "out_of_memory", "whoever else sends it: memory is the suspect"
    outcomes = crowd.outcomes()
    assert not process_exists(pid)
    recovers(stage, "big")
    stage.end_check(outcomes)


@seeds
def test_sigkill_in_mid_stream(real: Real, seed: int) -> None:
    """After any number of bytes of any number of streams: each is broken, none looks whole."""
    rng = dice("real stream", seed)
    stage = real.fresh()
    pid = ready(stage, "m")
    seen = stage.now()
    asks = [Ask("m", rng.choice(ROUTES), True, None, 1900, f"{seed} {i}")
            for i in range(rng.choice((1, 2, 3)))]  # fmt: skip
    crowd = stage.crowd(*asks)
    crowd.streaming(rng.choice((1, 2000, 20000)))
    os.kill(pid, signal.SIGKILL)
    outcomes = crowd.outcomes()
    stage.told_of("exited", "m", seen)
    assert kinds(outcomes)["aborted"], "whose bytes had come"
    assert not process_exists(pid)
    recovers(stage, "m")
    stage.end_check(outcomes)


# ---------------------------------------------------------------- memory that ends

GATE = """\
#!/bin/sh
# Runs the engine with as much address space as the file beside it says (KiB).
limit=$(cat "{folder}/limit")
[ -n "$limit" ] && ulimit -v "$limit"
exec {program} "$@"
"""


@pytest.fixture(scope="module")
def limited(tiny_gguf: Path) -> Iterator[tuple[Real, list[int]]]:
    """A llama-server behind a real limit, and the KiB with which contexts of 8192 and less load."""
    program = llama()
    if program is None:
        pytest.skip("no llama-server here: run make llama-server")
    with folder() as place:
        gate = place / "gate"
        gate.write_text(GATE.format(folder=place, program=program))
        gate.chmod(0o755)
        (place / "limit").write_text("")
        stage = Real(place, names=())
        waits = timing({"backoff": 0.05, "backoff_max": 0.2, "stop_grace": 2.0})
        stage.house.write(
            f'{waits}[engines.llama-server]\npath = "{gate}"\n'
            f'[models.m]\npath = "{tiny_gguf}"\nengine = "llama-server"\nctx = 65536\n'
            f'min_ctx = 512\nfit = "shrink"\nargs = ["-t", "1"]\nenv = {{ HOUSE = "{place}" }}\n'
        )
        stage.house.start()
        ready(stage, "m")
        status = Path(f"/proc/{stage.backend('m')['pid']}/status").read_text()
        peak = int(next(line for line in status.splitlines() if "VmPeak" in line).split()[1])
        stage.baseline()
        stage.others = ("m",)
        yield stage, [peak]
        stage.house.__exit__()


@seeds
def test_memory_that_really_ends(limited: tuple[Real, list[int]], seed: int) -> None:
    """A limit of the system below what it takes, by chance: it fails as real ones fail. What was
    the matter is said, a smaller one serves if any fits, and once there is room it is whole."""
    stage, (peak,) = limited
    rng = dice("real memory", seed)
    stage.fresh()
    (stage.folder / "limit").write_text(str(int(peak * rng.uniform(0.5, 0.97))))
    seen = stage.now()
    asks = [Ask("m", rng.choice(ROUTES), rng.random() < 0.5, None, 2, f"{seed} {i}")
            for i in range(rng.choice((1, 2)))]  # fmt: skip
    outcomes = stage.crowd(*asks).outcomes()
    stories = [e.data["facts"] for e in stage.story("m", seen) if e.kind == "exited"]
    print(peak, [(f["exit_class"], f["detail"]) for f in stories], kinds(outcomes))
    if kinds(outcomes)["error"]:
        assert stories, "an error comes of an end"
    for facts in stories:
        if not facts["asked"]:
            assert facts["exit_class"] in ("out_of_memory", "permanent", "crash"), facts
    (stage.folder / "limit").write_text("")
    recovers(stage, "m")
    stage.end_check(outcomes)
