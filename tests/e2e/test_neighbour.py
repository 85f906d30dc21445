"""The good neighbour, pauses, growth, small calls and what is learned: whole daemons."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from control_api.client import UnreachableError
from tests.e2e.conftest import MakeHouse, timing
from tests.e2e.house import MIB, House, StreamCutError, Watch, process_exists
from tests.e2e.test_landlord import stand_in

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

QUICK = timing({"memory_sample": 0.1, "machine_sample": 0.1, "pressure_clear": 0.3})


def memory(amount: str, more: str = "") -> str:
    return f'[memory]\nbudget = "{amount}"\n{more}'


def test_a_pause_frees_the_memory_and_holds_requests(make_house: MakeHouse) -> None:
    """Pins leave too; a request of meanwhile is answered after it; what was loaded comes back."""
    config = memory("250 MiB") + stand_in("pinned", more="pin = true") + stand_in("other")
    with make_house(config) as house:
        watch = Watch(house)
        watch.wait("ready", "pinned")
        assert house.ctl("load", "other").returncode == 0
        pids = [b["pid"] for b in house.backends().values()]
        assert house.ctl("pause", "1h").returncode == 0
        watch.wait("exited", "pinned")
        watch.wait("exited", "other")
        assert not any(process_exists(pid) for pid in pids)
        status = house.status()
        assert status["paused"]
        assert 3500 < status["paused_left"] <= 3600
        answers: list[int] = []
        asked = threading.Thread(target=lambda: answers.append(house.chat("other").status))
        asked.start()
        watch_until(house, lambda: house.status()["queue"] == 1)
        (wait,) = [w for w in house.status()["waiting"] if w["requests"]]
        assert (wait["model"], wait["kind"]) == ("other", "paused")
        assert house.ctl("resume").returncode == 0
        asked.join(30)
        assert answers == [200]
        watch.wait("ready", "pinned", count=2)


def test_a_pause_may_refuse_and_end_by_itself(make_house: MakeHouse) -> None:
    with make_house(memory("250 MiB") + stand_in("one")) as house:
        assert house.ctl("pause", "6s", "--refuse").returncode == 0
        refused = house.chat("one")
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert "pause" in refused.json()["error"]["message"]
        Watch(house).wait("resumed", "")
        assert house.chat("one").status == 200


def watch_until(house: House, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError(house.status())


def test_one_that_outgrows_its_share_takes_it_from_an_idle_neighbour(
    make_house: MakeHouse,
) -> None:
    """It was said to take 100 MiB and takes more and more: the ledger follows, the idle neighbour
    leaves, and past half as much again it is started anew between two requests."""
    config = memory("225 MiB") + QUICK + stand_in("leaky", "--leak", "25") + stand_in("idle")
    with make_house(config) as house:
        watch = Watch(house)
        assert house.ctl("load", "idle").returncode == 0
        assert house.ctl("load", "leaky").returncode == 0
        watch.wait("grown", "leaky")
        exit_ = watch.wait("stop", "idle")
        assert exit_.data["facts"]["reason"] == "over_budget"
        watch.wait("outgrown", "leaky")
        assert house.chat("leaky").status == 200


@pytest.mark.parametrize("policy", ["wait_then_fail", "preempt"])
def test_what_becomes_of_a_request_that_waits_for_a_busy_model(
    policy: str, make_house: MakeHouse
) -> None:
    """One model answers without an end; a request for another one has waited long enough: it is
    refused and told when to come back, or the endless answer is cut."""
    endless = stand_in("endless", "--tokens", "-1", "--token-s", "0.01")
    quick = timing({"memory_wait": 0.5, "quantum_min": 0.1, "quantum_max": 0.2, "linger_min": 0})
    config = memory("150 MiB", f'policy = "{policy}"\n') + quick + endless + stand_in("other")
    with make_house(config) as house:
        pieces = house.stream("endless", max_tokens=1_000_000)
        next(pieces)
        answer = house.chat("other")
        if policy == "wait_then_fail":
            assert (answer.status, answer.json()["error"]["code"]) == (503, "queue_timeout")
            assert int(answer.headers["retry-after"]) >= 1
            assert next(pieces), "nobody is cut"
            pieces.close()  # type: ignore[attr-defined]
        else:
            assert answer.status == 200
            with pytest.raises(StreamCutError, match="preempted"):
                for _ in pieces:
                    pass


def test_a_drain_may_be_bounded(make_house: MakeHouse) -> None:
    endless = stand_in("endless", "--tokens", "-1", "--token-s", "0.01")
    quick = timing({"quantum_min": 0.1, "quantum_max": 0.2, "linger_min": 0})
    config = memory("150 MiB", 'max_drain = "500ms"\n') + quick + endless + stand_in("other")
    with make_house(config) as house:
        pieces = house.stream("endless", max_tokens=1_000_000)
        next(pieces)
        assert house.chat("other").status == 200
        with pytest.raises(StreamCutError, match="preempted"):
            for _ in pieces:
                pass
        assert house.kinds("endless").count("cut") == 1


def test_small_calls_are_served_by_who_is_there(make_house: MakeHouse) -> None:
    """The small model would need the big one's place: titles go to the big one that is loaded."""
    names = 'default_model = "big"\nsmall_model = "small"\n'  # of [server], which comes first
    config = names + memory("150 MiB") + stand_in("big", slots=2) + stand_in("small")
    with make_house(config) as house:
        assert house.chat("big").status == 200
        pid = house.backends()["big"]["pid"]
        assert house.chat("claude-3-5-haiku-latest").status == 200
        assert house.backends().keys() == {"big"}
        assert house.backends()["big"]["pid"] == pid
        assert house.kinds("small") == []


def test_what_a_model_took_is_charged_the_next_time(
    make_house: MakeHouse, smollm2_gguf: Path
) -> None:
    """Read from the real engine's log, kept over a restart of the daemon."""
    config = f'[models.smol]\npath = "{smollm2_gguf}"\nctx = 2048\n' + QUICK
    with make_house(config) as house:
        estimate = house.client.get("/models/smol")["estimate"]["ram"]
        assert house.ctl("load", "smol").returncode == 0
        kept = house.folder / "state" / "learned.json"
        watch_until(house, kept.exists)
        (entry,) = json.loads(kept.read_text())["entries"].values()
        assert entry["model"] == "smol"
        assert entry["told"]
        assert abs(entry["measured"]["ram"] - estimate) < 0.15 * estimate
    with house:
        learned = house.client.get("/models/smol")["estimate"]["ram"]
        assert learned == entry["measured"]["ram"] + int(entry["measured"]["ram"] * 0.03)
        assert learned != estimate
        assert house.ctl("load", "smol").returncode == 0
        assert house.backends()["smol"]["footprint"]["ram"] in range(
            learned - MIB, entry["measured"]["ram"] + 64 * MIB
        )


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of 1 GiB that a daemon can live in; needs root and version 1 or 2."""
    version1 = Path("/sys/fs/cgroup/memory")
    parent = version1 if version1.is_dir() else Path("/sys/fs/cgroup")
    path = parent / f"modelport-test-{os.getpid()}"
    try:
        path.mkdir()
        limit = "memory.limit_in_bytes" if parent == version1 else "memory.max"
        (path / limit).write_text(str(1024 * MIB))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield path
    for _ in range(500):
        try:
            path.rmdir()
            return
        except OSError:  # the last process is about to go
            time.sleep(0.01)
    raise AssertionError(f"{path} is still in use: {(path / 'cgroup.procs').read_text()}")


HOG = """
import sys
held = []
for line in sys.stdin:
    held = [b"x" * (int(line) << 20)]
    print("held", flush=True)
"""


class Hog:
    """Another program in the same group, which takes as much as it is told."""

    def __init__(self, group: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOG], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        (group / "cgroup.procs").write_text(str(self.process.pid))

    def take(self, mib: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{mib}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "held\n"

    def end(self) -> None:
        self.process.communicate(timeout=10)


def test_idle_models_leave_when_another_program_needs_the_memory(
    make_house: MakeHouse, group: Path
) -> None:
    """The real ledger of a real control group: the coldest goes first, and what was loaded by hand
    comes back once there has been room for a while."""
    models = "".join(stand_in(name, "--ballast", "100") for name in ("first", "second"))
    house = make_house(QUICK + models)
    hog = Hog(group)
    try:
        house.launch()
        assert house.process is not None
        (group / "cgroup.procs").write_text(str(house.process.pid))
        watch_until(house, lambda: started(house))
        watch = Watch(house)
        for name in ("first", "second"):
            assert house.ctl("load", name).returncode == 0
        (pool,) = house.status()["pools"]
        assert pool["low"] > 0
        spare = pool["free"] - pool["low"]
        hog.take((spare >> 20) + 4)
        gone = watch.wait("stop", "first")
        assert gone.data["facts"]["reason"] == "pressure"
        watch.wait("pressure", "")
        hog.take(1)
        watch.wait("pressure_over", "")
        watch.wait("ready", "first", count=2)
        assert house.kinds("second").count("stop") == 0, "no more left than had to"
    finally:
        hog.end()
        house.stop()


def started(house: House) -> bool:
    try:
        return bool(house.status()["pools"])
    except UnreachableError:
        return False
