"""Every fault that a model can have at its start and at its end, on whole daemons.

Those that meet it while it serves are in ``test_faults_serving.py``, those of clients and of the
daemon itself in ``test_faults_clients.py`` and ``test_faults_daemon.py``. A seed varies what is
chance in a fault: its moment, its signal, how many wait for the model and in which shape.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.outcomes import kinds, some
from tests.e2e.seeds import FAULTS
from tests.e2e.stage import Stage, dice, folder, process_exists, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
seeds = pytest.mark.parametrize("seed", FAULTS)


@pytest.fixture(scope="module")
def staged() -> Iterator[Stage]:
    with folder() as place, Stage(place) as stage:
        yield stage
        print("worst return:", {name: f"{took:.2f} s" for name, took in stage.returns.items()})


@pytest.fixture
def stage(staged: Stage) -> Stage:
    return staged.fresh()


@seeds
def test_a_program_that_cannot_be_run_is_not_tried_again(stage: Stage, seed: int) -> None:
    """Missing, not executable, of another machine, or told a flag that it does not know: said at
    once to all who wait, with what it said, and no client is asked to try again."""
    rng = dice("permanent", seed)
    program = stage.folder / "engine-a"
    what = ("missing", "not executable", "another loader", "bad flag")[
        (rng.randrange(4) + seed) % 4
    ]
    if what == "missing":
        program.unlink()
    elif what == "not executable":
        program.chmod(0o644)
    elif what == "another loader":
        program.write_text("#!/nowhere/sh\n")
    else:
        stage.flags("a", "--no-such-flag")
    seen = stage.now()
    crowd = stage.crowd(*some(rng, "a", mark=what))
    outcomes = crowd.outcomes()
    assert kinds(outcomes) == {"error": len(outcomes)}
    assert {(o.status, o.retry) for o in outcomes} <= {(503, "false"), (500, "false")}
    assert all("no-such-flag" in o.message for o in outcomes if what == "bad flag")
    again = stage.crowd(*some(rng, "a", mark=what)).outcomes()
    assert kinds(again) == {"error": len(again)}
    assert stage.kinds("a", seen).count("start") <= 1, "not for each request"
    stage.install("a")
    stage.heal("cannot be run", "a", given_up=True)
    stage.end_check([*outcomes, *again])


@seeds
def test_a_start_that_hangs_is_ended_and_its_clients_are_served(stage: Stage, seed: int) -> None:
    """No sign of life for the patience that it has: ended with all that it started, then anew."""
    rng = dice("hang", seed)
    how = rng.choice((["--hang-load"], ["--hang-accept"], ["--hang-load", "--ignore-term"], []))
    stage.flags("a", *how, "--load-s", 0 if how else 3, times=1)
    seen = stage.now()
    crowd = stage.crowd(*some(rng, "a"))
    pid = stage.backend("a")["pid"]
    if not how:
        time.sleep(rng.random() / 5)  # somewhere in its start
        os.kill(pid, signal.SIGSTOP)
        stage.flags("a")  # for the next one
    assert stage.told_of("exited", "a", seen)["exit_class"] == "hang"
    outcomes = crowd.outcomes()
    assert kinds(outcomes) == {"answer": len(outcomes)}, "those who waited for it"
    assert not process_exists(pid)
    stage.heal("hangs at load", "a")
    stage.end_check(outcomes)


@seeds
def test_a_slow_start_that_goes_on_is_never_ended(stage: Stage, seed: int) -> None:
    rng = dice("slow", seed)
    load = 1.3 + rng.random()
    stage.flags("a", "--load-s", load, "--load-log", *rng.choice(([], ["--late-port"])))
    seen = stage.now()
    outcomes = stage.crowd(*some(rng, "a")).outcomes()
    assert kinds(outcomes) == {"answer": len(outcomes)}
    assert stage.kinds("a", seen) == ["start", "ready"]
    stage.end_check(outcomes)


@seeds
def test_a_taken_port_is_no_crash(stage: Stage, seed: int) -> None:
    """Up to three times another port, at once; nobody who waits learns of it."""
    rng = dice("port", seed)
    times = rng.randint(1, 3)
    stage.flags("a", "--port-busy", times=times)
    seen = stage.now()
    outcomes = stage.crowd(*some(rng, "a")).outcomes()
    assert kinds(outcomes) == {"answer": len(outcomes)}
    assert stage.kinds("a", seen).count("start") == times + 1
    assert "failed" not in stage.kinds("a", seen)
    stage.heal("port taken", "a")
    stage.end_check(outcomes)


CRASHES = (
    ["--exit-code", "3"],
    ["--exit-code", "0"],  # a success that nobody asked for is none
    ["--signal", "SEGV"],
    ["--signal", "ABRT"],
    ["--signal", "TERM"],
    ["--exit-code", "3", "--stderr", "GGML_ASSERT(true) failed"],
)


@seeds
def test_who_waits_for_a_start_that_crashes_waits_for_the_next(stage: Stage, seed: int) -> None:
    rng = dice("crash at load", seed)
    times, load = rng.randint(1, 3), rng.random() / 4
    stage.flags("a", "--crash-at", "load", "--load-s", load, *rng.choice(CRASHES), times=times)
    seen = stage.now()
    crowd = stage.crowd(*some(rng, "a"))
    outcomes = crowd.outcomes()
    assert kinds(outcomes) == {"answer": len(outcomes)}
    assert stage.kinds("a", seen).count("start") == times + 1
    stage.heal("crashes at load", "a", load=load)
    stage.end_check(outcomes)


@seeds
def test_a_crash_loop_backs_off_and_then_ends(stage: Stage, seed: int) -> None:
    """Five lives, the pauses between them growing; then it is refused at once, until told."""
    rng = dice("loop", seed)
    stage.flags("a", "--crash-at", "load", "--load-s", rng.random() / 10, *rng.choice(CRASHES))
    seen = stage.now()
    asks = some(rng, "a")
    outcomes = stage.crowd(*asks).outcomes()
    assert kinds(outcomes) == {"error": len(outcomes)}
    until(lambda: stage.state("a") == "failed", 20, "the circuit opens")
    again = stage.crowd(*some(rng, "a")).outcomes()
    assert {o.retry for o in again} == {"false"}
    assert stage.kinds("a", seen).count("start") == 5
    story = [(e.kind, e.data["at"]) for e in stage.story("a", seen)]
    dead = [at for kind, at in story if kind == "exited"]
    born = [at for kind, at in story if kind == "start"]
    pauses = [b - d for d, b in itertools.pairwise(sorted([*dead, *born[1:]]))][::2][:4]
    for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.2), strict=True):
        assert pause >= least * 0.8 - 0.01, f"{pauses}: growing, up to the longest"
    stage.heal("crash loop", "a", given_up=True)
    stage.end_check([*outcomes, *again])


@seeds
def test_what_refuses_to_leave_is_ended_with_all_that_it_started(stage: Stage, seed: int) -> None:
    """Deaf to TERM, slow to leave, waiting for its clients, with a child in another session."""
    rng = dice("deaf", seed)
    ways = (["--ignore-term"], ["--term-s", "30"], ["--term-hangs"], ["--crash-at", "exit"])
    stage.flags("a", *rng.choice(ways), *rng.choice(([], ["--grandchild"])), "--token-s", 0.05)
    pid = stage.ready("a")["pid"]
    group = members(pid)
    busy = rng.random() < 0.5
    crowd = stage.crowd(*(some(rng, "a", tokens=200, stream=True) if busy else ()))
    if busy:
        crowd.streaming()
    other = stage.crowd(*some(rng, "b"))
    stage.house.client.post("/models/a/unload", force=True)
    left = [pid for pid in group if process_exists(pid)]
    assert not left, "an unload is over when all of it is gone"
    outcomes = crowd.outcomes()
    assert "answer" not in kinds(outcomes)
    assert kinds(other.outcomes()) == {"answer": other.asked}, "the other model never noticed"
    stage.heal("refuses to leave", "a")
    stage.end_check([*outcomes, *other.outcomes()])


def members(pid: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


@seeds
def test_a_flood_of_log_neither_blocks_nor_fills_the_disk(stage: Stage, seed: int) -> None:
    """Without a line's end, before it serves: read as fast as it comes, kept within bounds."""
    rng = dice("flood", seed)
    stage.flags("a", "--flood-log", rng.choice((8, 64)), *rng.choice(([], ["--grandchild"])))
    outcomes = stage.crowd(*some(rng, "a")).outcomes()
    assert kinds(outcomes) == {"answer": len(outcomes)}
    logs = (stage.folder / "logs" / "models").glob("a.log*")
    assert sum(path.stat().st_size for path in logs) <= 6 * (10 << 20), "five old ones and a new"
    stage.heal("floods its log", "a")
    stage.end_check(outcomes)


@seeds
def test_its_end_is_seen_though_a_grandchild_holds_the_pipe(stage: Stage, seed: int) -> None:
    rng = dice("grandchild", seed)
    stage.flags("a", "--grandchild", "--token-s", 0.02)
    pid = stage.ready("a")["pid"]
    group = members(pid)
    assert len(group) == 2
    seen = stage.now()
    crowd = stage.crowd(*(some(rng, "a", tokens=200) if rng.random() < 0.5 else ()))
    if any(each.stream for each in crowd.asks):
        crowd.streaming()
    stage.flags("a")
    os.kill(pid, rng.choice((signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM)))
    stage.told_of("exited", "a", seen)
    until(lambda: not any(map(process_exists, group)), 20, "the grandchild is gone as well")
    outcomes = crowd.outcomes()
    stage.heal("grandchild", "a")
    stage.end_check(outcomes)


# ---------------------------------------------------------------- memory


@pytest.fixture(scope="module")
def shrinking(tiny_gguf: Path) -> Iterator[Stage]:
    """A model with smaller contexts to try: the stand-in under llama-server's name."""
    with folder() as place:
        entry = (
            f'[engines.llama-server]\npath = "{place}/llama-server"\n'
            f'[models.m]\npath = "{tiny_gguf}"\nengine = "llama-server"\n'
            "ctx = 2048\nmin_ctx = 512\n"
        )
        stage = Stage(place, tables=entry, others=("m",))
        program = stage.install("m")
        program.rename(place / "llama-server")
        with stage:
            yield stage


@seeds
def test_out_of_memory_takes_a_smaller_start(shrinking: Stage, seed: int) -> None:
    """By its own words, or killed by somebody else's hand; while it loads, or in mid-answer."""
    stage, rng = shrinking.fresh(), dice("oom", seed)
    end = rng.choice((["--oom", "--signal", "ABRT"], ["--oom"], ["--signal", "KILL"]))
    where = rng.choice(("load", "first-byte", f"token:{rng.randint(1, 6)}"))
    times = rng.randint(1, 2)
    skip = 0 if where == "load" else 1  # the probe of readiness goes well
    stage.flags("m", "--crash-at", where, "--skip", skip, *end, times=times)
    seen = stage.now()
    outcomes = stage.crowd(*some(rng, "m")).outcomes()
    stage.told_of("exited", "m", seen)  # a client sees a broken stream a moment before
    facts = [e.data["facts"] for e in stage.story("m", seen)]
    classes = {f["exit_class"] for f in facts if "exit_class" in f and not f.get("asked")}
    assert classes == {"out_of_memory"}
    if where == "load":
        assert kinds(outcomes) == {"answer": len(outcomes)}, (
            f"they wait for the smaller: {outcomes}"
        )
        assert stage.house.backends()["m"]["degraded"], "a step of the ladder"
    stage.heal("out of memory", "m", given_up=True)
    stage.end_check(outcomes)


@seeds
def test_out_of_memory_with_nothing_smaller_is_said(stage: Stage, seed: int) -> None:
    rng = dice("oom at last", seed)
    stage.flags("a", "--crash-at", "load", "--oom", *rng.choice(([], ["--signal", "ABRT"])))
    outcomes = stage.crowd(*some(rng, "a")).outcomes()
    assert kinds(outcomes) == {"error": len(outcomes)}
    assert all("memory" in o.message for o in outcomes)
    stage.heal("out of memory, nothing smaller", "a", given_up=True)
    stage.end_check(outcomes)
