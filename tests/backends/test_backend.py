"""A backend's life with real processes: started, proven, stopped, lost, left to a successor."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from daemon.backends import backend as backends
from daemon.backends import probing, readiness
from daemon.backends.backend import digest
from daemon.backends.keeping import Gone, Keeper
from daemon.backends.progress import Signs, Watch
from daemon.backends.readiness import Found
from daemon.core.messages import BackendExited, BackendReady, ExitClass, StartFailed
from daemon.core.units import MIB
from daemon.engines.base import LaunchPlan, Probe
from daemon.engines.command import Command
from daemon.ports import Target
from tests.backends.backend_house import DEADLINE, FAKE, Stage, alive, until

pytestmark = pytest.mark.processes


@pytest.fixture
async def stage(short_dir: Path) -> AsyncIterator[Stage]:
    made = Stage(short_dir)
    yield made
    await made.close()


# ---------------------------------------------------------------- ready


async def test_ready_is_told_after_a_real_request(stage: Stage) -> None:
    record = stage.root / "requests"
    backend, told = stage.begin("--record", str(record), "--load-s", "0.2")
    assert (backend.ready_at, backend.pid) == (None, None)
    assert await told.have() == BackendReady("tiny", 1)
    asked = [json.loads(line) for line in record.read_text().splitlines()]
    assert asked[-1]["path"] == "/v1/chat/completions"
    assert json.loads(asked[-1]["body"])["max_tokens"] == 1
    assert asked[-1]["headers"]["authorization"] == "Bearer canary"
    assert {entry["path"] for entry in asked[:-1]} == {"/health"}
    line = backend.timeline
    assert 0 < line.ordered <= line.spawned <= line.healthy <= line.ready
    assert backend.ready_at is not None
    assert backend.ready_at >= backend.started_at
    assert alive(backend.pid)
    assert await backend.look_over(DEADLINE) is Found.SERVES


async def test_what_the_engine_said_of_its_memory_is_kept(stage: Stage) -> None:
    said = stage.root / "said"
    said.write_text(
        "load_tensors:   CPU_Mapped model buffer size =    92.00 MiB\n"
        "sched_reserve:        CPU compute buffer size =    15.00 MiB\n"
    )
    program = ("/bin/sh", "-c", f"cat '{said}' >&2; exec \"$@\"", "sh", *FAKE)
    (stage.root / "log" / "tiny.log").write_text("load_tensors: CPU model buffer size = 7.00 MiB\n")
    backend, told = stage.begin(program=program)
    await told.have(BackendReady)
    await until(lambda: backend.allotted, "what it said")
    assert backend.allotted is not None
    assert backend.allotted.total == 107 * MIB  # not what stood there before
    silent, told = stage.begin(generation=2)
    await told.have(BackendReady)
    assert silent._task is not None
    await asyncio.wait_for(silent._task, DEADLINE)
    assert silent.allotted is None


async def test_its_record_says_what_a_later_daemon_must_know(stage: Stage) -> None:
    backend, told = stage.begin()
    await told.have(BackendReady)
    record = json.loads((stage.root / "run" / "b1.json").read_text())
    facts = record["facts"]
    assert (facts["model"], facts["engine"], facts["version"]) == ("tiny", "command.fake", "1.0")
    assert (facts["port"], facts["variant"]) == (backend.plan.port, "context 4096")
    assert facts["need"] == {"ram": 1 << 20}
    assert facts["env"] == digest({})
    assert record["pid"] == backend.pid
    for name in ("b1.json", "b1.key"):
        assert stat.S_IMODE((stage.root / "run" / name).stat().st_mode) == 0o600
    assert "canary" not in " ".join(record["argv"])


async def test_health_may_lie(stage: Stage) -> None:
    """llama.cpp answers ok for ever after a fatal Metal error; the log says what it was."""
    backend, told = stage.begin("--health-lies")
    failed = await told.have()
    assert isinstance(failed, StartFailed)
    assert failed.exit_class is ExitClass.OUT_OF_MEMORY
    assert "error state" in failed.detail
    assert alive(backend.pid)  # only its exit frees its memory: the core orders that
    backend.kill()
    assert (await told.ended()).exit_class is ExitClass.CLEAN


async def test_the_first_answer_is_told_where_the_log_explains_nothing(stage: Stage) -> None:
    _, told = stage.begin("--model-strict", "another")
    failed = await told.have()
    assert isinstance(failed, StartFailed)
    assert failed.exit_class is ExitClass.HANG
    assert failed.detail.startswith("its first answer was 404: ")
    assert "does not exist" in failed.detail


async def test_health_before_the_load_is_over_is_not_ready(stage: Stage) -> None:
    """mlx-lm: healthy at once; the real request waits, or gets 503, until it is loaded."""
    backend, told = stage.begin("--early-health", "--load-s", "2")
    await told.have(BackendReady)
    assert backend.timeline.ready - backend.timeline.healthy > 0.1
    await stage.logged("model loaded")


async def test_an_engine_without_a_health_path(stage: Stage) -> None:
    _, told = stage.begin("--load-s", "0.1", ready="request")
    assert await told.have() == BackendReady("tiny", 1)


# ---------------------------------------------------------------- starts that fail


@pytest.mark.parametrize(
    "flags",
    [("--hang-load",), ("--hang-load", "--late-port"), ("--hang-accept",), ("--hang-answer",)],
    ids=lambda flags: " ".join(flags),
)
async def test_a_start_that_hangs_is_given_up(stage: Stage, flags: tuple[str, ...]) -> None:
    """Also one that answers our polls all the while: that costs CPU time and is no progress."""
    began = time.monotonic()
    backend, told = stage.begin(*flags, start_stall=0.6, health_timeout=0.2)
    failed = await told.have()
    assert isinstance(failed, StartFailed)
    assert failed.exit_class is ExitClass.HANG
    assert "0.6 s" in failed.detail
    assert time.monotonic() - began > 0.6
    assert alive(backend.pid)
    backend.kill()
    await told.ended()
    assert [type(event) for event in told] == [StartFailed, BackendExited]


def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins are taken for engines that have read their weights once they are healthy."""
    probe = Command.probe
    monkeypatch.setattr(Command, "probe", lambda *args: replace(probe(*args), loads=False))


async def test_a_loaded_engine_answers_its_first_request_in_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(monkeypatch)
    backend, told = stage.begin("--hang-answer", probe_timeout=0.4)
    failed = await told.have()
    assert isinstance(failed, StartFailed)
    assert failed.exit_class is ExitClass.HANG
    assert failed.detail == "no answer to its first request for 0.4 s, though it is loaded"
    backend.kill()
    await told.ended()


@pytest.mark.parametrize(
    ("loads", "healthy", "moved_at", "hangs"),
    [
        (False, 100.0, 90.0, True),
        (False, 0.0, 90.0, False),  # not healthy yet: it may still read its weights
        (False, 100.0, 109.0, False),  # it reads on
        (False, 106.0, 90.0, False),
        (True, 100.0, 90.0, False),  # mlx-lm: perhaps it reads only now
    ],
)
async def test_computing_alone_does_not_prolong_the_first_answer_for_ever(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    loads: bool,
    healthy: float,
    moved_at: float,
    hangs: bool,
) -> None:
    if not loads:
        loaded(monkeypatch)
    backend, _ = stage.make(probe_timeout=5.0, start_stall=60.0)
    backend.timeline.healthy = healthy
    watch = Watch(Signs(), moved_at)
    watch.look(Signs(cpu=99.0), 110.0)
    assert (readiness._hanging(backend, watch) is not None) is hangs


async def test_its_keeper_has_its_time_to_start(stage: Stage) -> None:
    _, told = stage.begin(keeper_start=0.0)
    ended = await told.ended()
    assert ended.exit_class is ExitClass.CRASH
    assert "its keeper did not start" in ended.detail


async def test_its_keeper_is_told_all_waits(stage: Stage) -> None:
    backend, _ = stage.make(
        stop_grace=1.0, kill_grace=2.0, keeper_grace=3.0, keeper_connect=4.0, keeper_lost=5.0
    )
    order = backend._order()
    assert (order.stop_grace, order.kill_grace, order.grace) == (1.0, 2.0, 3.0)
    assert (order.connect_grace, order.lost_grace) == (4.0, 5.0)


async def test_a_slow_load_that_goes_on_is_never_given_up(stage: Stage) -> None:
    backend, told = stage.begin("--load-s", "3.5", "--load-log", start_stall=1.5)
    assert await told.have() == BackendReady("tiny", 1)
    assert backend.timeline.ready - backend.timeline.ordered > 3.0


BUSY_CHILD = """
import os, subprocess, sys, time
code = "import time\\nend = time.monotonic() + 3.5\\nwhile time.monotonic() < end: pass"
subprocess.run([sys.executable, "-I", "-S", "-c", code])
os.execv(sys.argv[1], sys.argv[1:])
"""


async def test_work_in_a_child_is_progress(stage: Stage) -> None:
    """vllm loads in a process of its own, and says nothing for long."""
    wrapper = (sys.executable, "-I", "-S", "-c", BUSY_CHILD)
    _, told = stage.begin(program=(*wrapper, *FAKE), start_stall=1.5)
    assert await told.have() == BackendReady("tiny", 1)


@pytest.mark.parametrize(
    ("flags", "exit_class", "said"),
    [
        (("--fail-start", "3"), ExitClass.CRASH, "3"),
        (("--fail-start", "0"), ExitClass.CRASH, "0"),  # unasked: not clean
        (("--crash-at", "load", "--oom", "--signal", "ABRT"), ExitClass.OUT_OF_MEMORY, "Memory"),
        (("--crash-at", "load", "--load-s", "0.2", "--signal", "SEGV"), ExitClass.CRASH, "SEGV"),
        (("--port-busy",), ExitClass.PORT, "couldn't bind"),
        (("--no-such-flag",), ExitClass.PERMANENT, "--no-such-flag"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
async def test_an_exit_before_it_was_ready(
    stage: Stage, flags: tuple[str, ...], exit_class: ExitClass, said: str
) -> None:
    backend, told = stage.begin(*flags)
    ended = await told.ended()
    assert told == [ended]
    assert (ended.model, ended.generation, ended.exit_class) == ("tiny", 1, exit_class)
    assert said in ended.detail
    assert backend.verdict is not None
    assert backend.verdict.exit_class is exit_class


async def test_a_port_that_is_really_taken(stage: Stage) -> None:
    first, told = stage.begin()
    await told.have(BackendReady)
    second, said = stage.make(generation=2)
    mine, taken = str(second.plan.port), str(first.plan.port)
    argv = tuple(taken if word == mine else word for word in second.launch.argv)
    second.launch = replace(second.launch, argv=argv)
    second.begin()
    assert (await said.ended()).exit_class is ExitClass.PORT


async def test_one_that_listens_on_a_socket_leaves_none(stage: Stage) -> None:
    """What lay in its place, left by who was killed, is no hindrance."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        backend, told = stage.make(by_socket=True)
        place = backend.plan.socket
        assert place is not None
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(place))
        backend.begin()
        await told.have(BackendReady)
        assert place.is_socket()
        facts = json.loads(backend.places.record.read_text())["facts"]
        assert (facts["port"], facts["listens"]) == (0, str(place))
        assert await backend.look_over(DEADLINE) is Found.SERVES
        assert backend.pid is not None
        os.kill(backend.pid, signum)
        await told.ended()
        assert not place.exists(), "gone before its end is told"
        await backend.closed()


async def test_its_socket_goes_with_it_when_its_keeper_was_killed(stage: Stage) -> None:
    backend, told = stage.begin(by_socket=True)
    await told.have(BackendReady)
    assert backend.keeper is not None
    os.kill(backend.keeper.hello.keeper_pid, signal.SIGKILL)
    await told.ended()
    assert stage.left() == []


async def test_a_program_that_is_not_there(stage: Stage) -> None:
    backend, told = stage.begin(program=("/no/such/program",))
    ended = await told.ended()
    assert told == [ended]
    assert ended.exit_class is ExitClass.PERMANENT
    assert "/no/such/program" in ended.detail
    await backend.closed()
    assert (backend.pid, stage.left()) == (None, [])
    assert psutil.Process().children() == [], "its keeper was not reaped"


async def test_a_folder_that_is_not_there(stage: Stage) -> None:
    _, told = stage.begin(cwd="/no/such/folder")
    ended = await told.ended()
    assert ended.exit_class is ExitClass.PERMANENT
    assert "/no/such/folder" in ended.detail


async def test_a_keeper_that_cannot_start(stage: Stage) -> None:
    """The path of its socket is too long: an answer, and nothing was started."""
    backend, told = stage.make()
    backend.places = replace(backend.places, socket=stage.root / ("b" * 120))
    backend.begin()
    ended = await told.ended()
    assert ended.exit_class is ExitClass.CRASH
    assert "keeper" in ended.detail
    assert backend.pid is None


async def test_a_mistake_of_ours_is_told_and_kills_nothing_early(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Command, plan: LaunchPlan) -> Probe:
        raise ValueError("no such probe")

    monkeypatch.setattr(Command, "probe", broken)
    backend, told = stage.begin()
    failed = await told.have()
    assert isinstance(failed, StartFailed)
    assert failed.exit_class is ExitClass.PERMANENT
    assert "no such probe" in failed.detail
    assert alive(backend.pid)
    assert "starting tiny failed" in caplog.text
    backend.kill()
    await told.ended()


# ---------------------------------------------------------------- stopping


async def test_a_stop_is_clean(stage: Stage) -> None:
    backend, told = stage.begin()
    await told.have(BackendReady)
    backend.stop()
    ended = await told.ended()
    assert ended.exit_class is ExitClass.CLEAN
    assert [type(event) for event in told] == [BackendReady, BackendExited]
    await backend.closed()
    assert stage.left() == []


@pytest.mark.parametrize("hard", [False, True])
async def test_a_stop_before_the_keeper_answered(stage: Stage, hard: bool) -> None:
    backend, told = stage.begin("--ignore-term")
    assert backend.keeper is None
    # hard: killed at once; the ladder would be too late for ``ended``
    backend.timing = replace(backend.timing, stop_grace=60.0 if hard else 0.5)
    backend.kill() if hard else backend.stop()
    ended = await told.ended()
    assert told == [ended]
    assert ended.exit_class is ExitClass.CLEAN


@pytest.mark.parametrize("flags", [("--hang-load",), ("--hang-load", "--ignore-term")])
async def test_a_stop_while_it_loads(stage: Stage, flags: tuple[str, ...]) -> None:
    backend, told = stage.begin(*flags, stop_grace=0.1, kill_grace=0.2)
    await stage.logged("listening")
    backend.stop()
    ended = await told.ended()
    assert told == [ended]
    assert ended.exit_class is ExitClass.CLEAN


async def test_one_that_ignores_term_is_killed_after_two_graces(stage: Stage) -> None:
    # Long enough that it gets each signal by itself: what comes twice to a sleeper is one.
    backend, told = stage.begin("--ignore-term", stop_grace=1.0, kill_grace=1.5)
    await told.have(BackendReady)
    began = time.monotonic()
    backend.stop()
    ended = await told.ended()
    assert time.monotonic() - began > 2.5
    assert stage.log().count("SIGTERM ignored") == 2
    assert (ended.exit_class, ended.detail) == (ExitClass.CLEAN, "killed by SIGKILL")


async def test_a_second_stop_with_a_hanging_request_insists(stage: Stage) -> None:
    """llama-server leaves at the second TERM."""
    backend, told = stage.begin("--term-hangs", "--tokens", "-1", stop_grace=1.0, kill_grace=60.0)
    await told.have(BackendReady)
    body = json.dumps({"messages": [{"role": "user", "content": "a"}]}).encode()
    asking = asyncio.create_task(
        probing.ask(
            backend.plan.target, "POST", "/v1/chat/completions",
            body=body, headers=backend.launch.headers, deadline=30.0,
        )
    )  # fmt: skip
    stats = await _until_in_flight(backend.plan.target)
    assert stats == 1
    backend.stop()
    await told.ended()
    assert "second interrupt" in stage.log()
    assert (await asking).status == 0


async def test_what_it_started_goes_too_before_the_exit_is_told(stage: Stage) -> None:
    backend, told = stage.begin("--grandchild", stop_grace=0.15, kill_grace=0.2)
    await told.have(BackendReady)
    grandchild = await stage.grandchild()
    assert alive(grandchild)
    backend.stop()
    ended = await told.ended()
    assert not alive(grandchild)
    assert ended.exit_class is ExitClass.CLEAN


async def test_kill_does_not_ask(stage: Stage) -> None:
    backend, told = stage.begin("--ignore-term", "--grandchild", stop_grace=60.0)
    await told.have(BackendReady)
    backend.kill()
    await told.ended()  # well before the grace
    assert "SIGTERM ignored" not in stage.log()


async def test_a_death_after_ready_is_classified(stage: Stage) -> None:
    flags = ("--crash-at", "request:2", "--oom", "--signal", "ABRT")
    backend, told = stage.begin(*flags)
    await told.have(BackendReady)
    assert await backend.look_over(DEADLINE) is Found.FAILS
    ended = await told.ended()
    assert ended.exit_class is ExitClass.OUT_OF_MEMORY
    assert [type(event) for event in told] == [BackendReady, BackendExited]


async def test_one_killed_from_outside(stage: Stage) -> None:
    backend, told = stage.begin()
    await told.have(BackendReady)
    assert backend.pid is not None
    os.kill(backend.pid, signal.SIGKILL)
    ended = await told.ended()
    assert ended.exit_class is not ExitClass.CLEAN
    assert "SIGKILL" in ended.detail


async def test_only_so_many_lines_are_kept(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "KEPT_LINES", 3)
    texts = [f"--stderr=ValueError: number {n}" for n in range(9)]
    backend, told = stage.begin("--crash-at", "load", *texts)
    await told.ended()
    assert [line[-1] for line in backend.lines] == ["6", "7", "8"]


# ---------------------------------------------------------------- the keeper


@pytest.mark.parametrize("loading", [False, True])
async def test_a_lost_keeper_is_an_exit(stage: Stage, loading: bool) -> None:
    backend, told = stage.begin(*(["--hang-load"] if loading else []))
    if loading:
        await stage.logged("listening")
        await until(lambda: backend.keeper is not None, "the keeper's hello")
    else:
        await told.have(BackendReady)
    assert backend.keeper is not None
    pid = backend.pid
    os.kill(backend.keeper.hello.keeper_pid, signal.SIGKILL)
    ended = await told.ended()
    assert ended.exit_class is ExitClass.CRASH
    assert "keeper was lost" in ended.detail
    await backend.closed()
    await until(lambda: not alive(pid), "the engine's end")


async def test_nothing_is_told_after_a_detach_and_a_successor_takes_over(stage: Stage) -> None:
    backend, told = stage.begin(service=True, keeper_grace=60.0)
    await told.have(BackendReady)
    pid = backend.pid
    await stage.detach(backend)
    news: list[object] = []
    keeper = await Keeper.adopt(backend.places.socket, on_event=news.append, patience=DEADLINE)
    assert keeper.hello.pid == pid
    assert keeper.hello.facts["secret"] == "canary"
    keeper.stop(1.0, 1.0)
    assert await keeper.wait_gone(DEADLINE)
    assert await keeper.close()
    assert isinstance(news[-1], Gone)
    assert told == [BackendReady("tiny", 1)]
    await until(lambda: stage.left() == [], "the end of the keeper")


async def test_nobody_comes_back_after_a_detach(stage: Stage) -> None:
    backend, told = stage.begin(service=True, keeper_grace=0.2)
    await told.have(BackendReady)
    await stage.detach(backend)
    await until(lambda: not alive(backend.pid), "the end of the grace")
    await until(lambda: stage.left() == [], "the end of the keeper")
    assert told == [BackendReady("tiny", 1)]


async def test_a_detach_before_the_keeper_answered_leaves_nothing(stage: Stage) -> None:
    backend, told = stage.begin("--ignore-term", service=True)
    for _ in range(3):
        await asyncio.sleep(0)
    await stage.detach(backend)
    assert told == []
    assert backend.keeper is None
    await until(lambda: stage.left() == [], "the end of the keeper")


async def test_a_detach_while_it_loads(stage: Stage) -> None:
    backend, told = stage.begin("--hang-load", service=True, keeper_grace=0.2)
    await stage.logged("listening")
    await until(lambda: backend.keeper is not None, "the keeper's hello")
    await stage.detach(backend)
    await until(lambda: not alive(backend.pid), "the end of the grace")
    await until(lambda: stage.left() == [], "the end of the keeper")
    assert told == []


async def test_a_detach_at_the_first_look_leaves_nobody_asking(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, go_on = threading.Event(), threading.Event()

    def slow(run: backends.Backend) -> Signs:
        looking.set()
        go_on.wait(DEADLINE)
        return Signs()

    monkeypatch.setattr(backends.Backend, "signs_of_life", slow)
    backend, _ = stage.begin("--hang-load", service=True, keeper_grace=0.2)
    await until(looking.is_set, "the first look")
    await stage.detach(backend)
    go_on.set()
    await until(lambda: stage.left() == [], "the end of the keeper")
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert not names & {"probe tiny", "news of tiny"}


# ---------------------------------------------------------------- small things


def test_a_digest_tells_no_value_and_knows_no_order() -> None:
    mark = digest({"A": "hf_canary", "B": "2"})
    assert mark == digest({"B": "2", "A": "hf_canary"})
    assert mark != digest({"A": "hf_canary"})
    assert "canary" not in mark


async def _until_in_flight(target: Target) -> int:
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        answer = await probing.ask(target, "GET", "/fake", deadline=5.0)
        counts = json.loads(answer.body)
        if counts["generations"] == 2 and counts["in_flight"]:  # the first one made it ready
            return int(counts["in_flight"])
    raise AssertionError("nothing is in flight")
