"""Every fault that a model can have while it serves, on whole daemons: see
``test_faults_loading.py`` for what a seed is, and ``stage.py`` for the check that ends each."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator

import pytest

from tests.e2e.outcomes import Ask, Outcome, kinds, some
from tests.e2e.seeds import FAULTS
from tests.e2e.stage import Stage, dice, folder, process_exists, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
seeds = pytest.mark.parametrize("seed", FAULTS)
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGKILL)


@pytest.fixture(scope="module")
def staged() -> Iterator[Stage]:
    with folder() as place, Stage(place) as stage:
        yield stage
        print("worst return:", {name: f"{took:.2f} s" for name, took in stage.returns.items()})


@pytest.fixture
def stage(staged: Stage) -> Stage:
    return staged.fresh()


def bystander(stage: Stage, rng: random.Random) -> Ask:
    """A stream of the other model: whatever happens to the first, it must be whole."""
    return Ask("b", rng.choice(("chat", "messages")), tokens=40, limit=40, text=f"{rng.random()}")


def unharmed(outcomes: list[Outcome]) -> None:
    """Those of the bystander."""
    assert {each.kind for each in outcomes if each.ask.model == "b"} <= {"answer"}


# ---------------------------------------------------------------- it dies


@seeds
def test_a_crash_in_mid_stream_is_an_aborted_connection(stage: Stage, seed: int) -> None:
    """Never an end that looks clean, never resumed, never replayed; and nothing is started again
    for it unless somebody waits."""
    rng = dice("mid-stream", seed)
    token = rng.randint(1, 30)
    end = rng.choice((["--exit-code", "1"], ["--signal", "SEGV"], ["--signal", "ABRT"]))
    stage.flags("a", "--crash-at", f"token:{token}", "--skip", 1, "--token-s", 0.005, *end, times=1)
    stage.flags("b", "--token-s", 0.02)
    stage.ready("b")
    seen = stage.now()
    asks = some(rng, "a", tokens=40, stream=True)
    crowd = stage.crowd(*asks, bystander(stage, rng))
    outcomes = crowd.outcomes()
    unharmed(outcomes)
    cut = [o for o in outcomes if o.kind == "aborted"]
    assert cut, "whose bytes had come"
    assert all(o.status == 200 for o in cut)
    assert all(o.code for o in cut if o.ask.route == "chat"), "chat is told why"
    assert not any(o.code for o in cut if o.ask.route != "chat"), "the others get their reset"
    stage.told_of("exited", "a", seen)
    again = [o for o in outcomes if o.ask.model == "a" and o.kind != "aborted"]
    if not again:
        until(lambda: stage.state("a") in ("stopped", "backoff"), 20, "it rests")
        assert stage.kinds("a", seen).count("start") == 1, "nobody waits for it"
    stage.heal("crash in mid-stream", "a")
    stage.end_check(outcomes)


@seeds
def test_a_kill_at_any_moment(stage: Stage, seed: int) -> None:
    """From outside, after any number of bytes, with streams and whole answers under way."""
    rng = dice("kill", seed)
    stage.flags("a", "--token-s", 0.01, "--first-s", rng.choice((0, 0.05)))
    stage.ready("b")
    pid = stage.ready("a")["pid"]
    seen = stage.now()
    crowd = stage.crowd(*some(rng, "a", tokens=60), bystander(stage, rng))
    crowd.streaming(rng.choice((1, 500, 3000)))
    stage.flags("a")
    os.kill(pid, rng.choice(CRASHES))
    outcomes = crowd.outcomes()
    unharmed(outcomes)
    for each in outcomes:
        if each.kind == "error":
            assert each.status in (500, 502, 503, 529), each
    stage.told_of("exited", "a", seen)
    stage.heal("killed", "a", given_up=True)
    stage.end_check(outcomes)


@seeds
def test_a_crash_before_the_first_byte_is_tried_once_more(stage: Stage, seed: int) -> None:
    rng = dice("first byte", seed)
    end = rng.choice((["--exit-code", "1"], ["--exit-code", "0"], ["--signal", "SEGV"]))
    flags = ["--crash-at", "first-byte", "--skip", 1, "--first-s", rng.random() / 10]
    stage.flags("a", *flags, *end, times=1)
    seen = stage.now()
    outcomes = stage.crowd(*some(rng, "a")).outcomes()
    assert kinds(outcomes) == {"answer": len(outcomes)}, "no client knows of it"
    assert stage.kinds("a", seen).count("start") == 2
    stage.heal("crash before the first byte", "a")
    stage.end_check(outcomes)


@seeds
def test_an_exit_with_success_that_nobody_asked_for_is_a_crash(stage: Stage, seed: int) -> None:
    rng = dice("exit 0", seed)
    stage.flags("a", "--token-s", 0.02)
    pid = stage.ready("a")["pid"]
    seen = stage.now()
    crowd = stage.crowd(*(some(rng, "a", tokens=200, stream=True) if rng.random() < 0.5 else ()))
    if crowd.asked:
        crowd.streaming()
    stage.flags("a")
    os.kill(pid, signal.SIGTERM)  # it leaves in good order, with 0
    told = stage.told_of("exited", "a", seen)
    assert told["exit_class"] == "crash"
    outcomes = crowd.outcomes()
    assert bool(crowd.asked) == bool(kinds(outcomes)["aborted"]), "those under way are cut"
    stage.heal("exits 0", "a")
    stage.end_check(outcomes)


@seeds
def test_out_of_memory_in_mid_answer_is_told_as_that(stage: Stage, seed: int) -> None:
    rng = dice("oom serving", seed)
    end = rng.choice((["--signal", "ABRT"], ["--exit-code", "1"], ["--signal", "KILL"]))
    where = f"token:{rng.randint(1, 20)}"
    stage.flags("a", "--crash-at", where, "--skip", 1, "--token-s", 0.01, "--oom", *end, times=1)
    seen = stage.now()
    outcomes = stage.crowd(*some(rng, "a", tokens=30)).outcomes()
    assert stage.told_of("exited", "a", seen)["exit_class"] == "out_of_memory"
    assert kinds(outcomes)["answer"] < len(outcomes) or kinds(outcomes)["aborted"] == 0
    stage.heal("out of memory while serving", "a", given_up=True)
    stage.end_check(outcomes)


# ---------------------------------------------------------------- it lives and does not serve


@seeds
def test_health_that_lies_at_the_start_makes_nothing_ready(stage: Stage, seed: int) -> None:
    """``/health`` is ok; each generation is a 500, or never comes. Ready is who answered one."""
    rng = dice("lies at start", seed)
    how = rng.choice(("--health-lies", "--hang-answer"))
    stage.flags("a", how, *rng.choice(([], ["--early-health", "--load-s", "0.2"])), times=1)
    seen = stage.now()
    outcomes = stage.crowd(*some(rng, "a")).outcomes()
    stage.told_of("exited", "a", seen)
    assert stage.kinds("a", seen)[:2] != ["start", "ready"]
    if how == "--hang-answer":  # the other one says that memory is the matter
        assert kinds(outcomes) == {"answer": len(outcomes)}
    stage.heal("health lies at the start", "a", given_up=True)
    stage.end_check(outcomes)


@seeds
def test_health_that_lies_later_is_found_out(stage: Stage, seed: int) -> None:
    """It answers 500 to everything from some moment on: three in a row, and it is replaced."""
    rng = dice("lies later", seed)
    pid = stage.ready("a")["pid"]
    seen = stage.now()
    stage.control("a", health_lies=True)
    outcomes = []
    deadline = time.monotonic() + 20
    while "exited" not in stage.kinds("a", seen):
        assert time.monotonic() < deadline, "it is not found out"
        asks = some(rng, "a", count=rng.choice((1, 3)), routes=("chat", "responses"))
        outcomes += stage.crowd(*asks).outcomes()
    assert "answer" not in kinds(outcomes)
    until(lambda: not process_exists(pid), 20, "the old one is gone")
    stage.heal("health lies later", "a", given_up=True)
    stage.end_check(outcomes)


@seeds
def test_a_wedged_backend_is_replaced(stage: Stage, seed: int) -> None:
    """Stopped dead, with or without bytes on the way: those without are served by the next one."""
    rng = dice("wedge", seed)
    stage.flags("a", "--token-s", 0.02)
    stage.ready("b")
    pid = stage.ready("a")["pid"]
    seen = stage.now()
    streams = some(rng, "a", tokens=200, stream=True, count=rng.choice((0, 1, 2)))
    crowd = stage.crowd(*streams)
    if streams:
        crowd.streaming()
    stage.flags("a")
    os.kill(pid, signal.SIGSTOP)
    late = some(rng, "a", count=rng.choice((1, 3)))
    crowd.ask(*late, bystander(stage, rng))
    outcomes = crowd.outcomes()
    unharmed(outcomes)
    assert stage.told_of("exited", "a", seen)["exit_class"] == "hang"
    assert not process_exists(pid)
    whole = [o for o in outcomes if o.ask in late]
    assert kinds(whole) == {"answer": len(late)}
    stage.heal("wedged", "a")
    stage.end_check(outcomes)


@seeds
def test_a_long_silent_prefill_is_never_ended(stage: Stage, seed: int) -> None:
    """Longer than the patience for silence: only the core that it burns tells of it."""
    rng = dice("prefill", seed)
    stage.flags("a", "--busy-s", 2.0 + rng.random(), "--skip", 1)
    seen = stage.now()
    outcomes = stage.crowd(*some(rng, "a", count=rng.choice((1, 2)))).outcomes()
    assert kinds(outcomes) == {"answer": len(outcomes)}
    assert stage.kinds("a", seen) == ["start", "ready"]
    stage.end_check(outcomes)


# ---------------------------------------------------------------- its connections


@seeds
def test_a_kept_connection_that_dies_is_nobodys_failure(stage: Stage, seed: int) -> None:
    """The engine closes them when it likes, even under a request: once more on a fresh one."""
    rng = dice("idle race", seed)
    flags = rng.choice((["--drop-reused"], ["--close-idle", str(rng.choice((1, 5, 20)))]))
    stage.flags("a", *flags)
    stage.ready("a")
    seen = stage.now()
    outcomes: list[Outcome] = []
    for _ in range(30):
        outcomes += stage.crowd(*some(rng, "a", count=rng.randint(1, 3), tokens=2)).outcomes()
        time.sleep(rng.choice((0, 0, 0.001, 0.005, 0.02)))  # to meet the moment of the close
    assert kinds(outcomes) == {"answer": len(outcomes)}
    assert stage.kinds("a", seen) == []
    stage.end_check(outcomes)


@seeds
def test_a_slow_drip_passes(stage: Stage, seed: int) -> None:
    """Byte by byte, longer than any patience; and one that never ends is its client's to end."""
    rng = dice("drip", seed)
    stage.flags("a", "--drip", 0.0005)
    seen = stage.now()
    asks = some(rng, "a", count=2, tokens=rng.randint(4, 8))
    endless = Ask("a", tokens=10**9, limit=10**9, leave=rng.randint(300, 3000), text=f"{seed}")
    outcomes = stage.crowd(*asks, endless).outcomes()
    assert kinds(outcomes) == {"answer": 2, "left": 1}
    assert stage.kinds("a", seen) == ["start", "ready"]
    stage.end_check(outcomes)


# ---------------------------------------------------------------- its memory


@pytest.fixture(scope="module")
def tight() -> Iterator[Stage]:
    """Two models of 100 MiB that fit together as long as neither grows."""
    with folder() as place, Stage(place, budget="230 MiB") as stage:
        yield stage


@seeds
def test_a_leak_is_charged_and_the_idle_neighbour_leaves(tight: Stage, seed: int) -> None:
    """The ledger never lies low: what it takes is charged as it grows, and no stream is cut."""
    rng, stage = dice("leak", seed), tight.fresh()
    stage.flags("a", "--leak", rng.choice((60, 120)), "--token-s", 0.02)
    stage.ready("b")
    seen = stage.now()
    crowd = stage.crowd(*some(rng, "a", count=2, stream=True, tokens=150))
    assert stage.told_of("grown", "a", seen)["charged"]
    asked = stage.told_of("exited", "b", seen)["asked"]
    assert asked, "it made room"
    view = stage.house.backends().get("a")
    if view is not None and view["measured"]:
        assert sum(view["footprint"].values()) >= 0.9 * view["measured"]
    outcomes = crowd.outcomes()
    assert kinds(outcomes) == {"answer": 2}, "only the system's own need ends it"
    stage.heal("leaks", "a")
    stage.end_check(outcomes)
