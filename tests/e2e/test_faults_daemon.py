"""Every fault of the daemon's own surroundings: its disk, its files, its clock, its port, its end.

See ``test_faults_loading.py`` for what a seed is, and ``stage.py`` for the check that ends each.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from control_api.client import RefusedError, UnreachableError
from tests.e2e.house import House
from tests.e2e.outcomes import Crowd, kinds, some
from tests.e2e.seeds import FAULTS
from tests.e2e.stage import Stage, dice, folder, house_processes, process_exists, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
seeds = pytest.mark.parametrize("seed", FAULTS)


@pytest.fixture(scope="module")
def staged() -> Iterator[Stage]:
    with folder() as place, Stage(place) as stage:
        yield stage


@pytest.fixture
def stage(staged: Stage) -> Stage:
    return staged.fresh()


# ---------------------------------------------------------------- configuration


@seeds
def test_a_broken_configuration_changes_nothing(stage: Stage, seed: int) -> None:
    """At any moment, by any mistake, asked for by a signal or by ctl: the old one stays, and no
    stream and no model is touched; the same file twice is no news."""
    rng = dice("reload", seed)
    stage.flags("a", "--token-s", 0.01)
    stage.ready("b")
    seen = stage.now()
    crowd = stage.crowd(*some(rng, "a", stream=True, tokens=100), *some(rng, "b"))
    crowd.streaming(rng.choice((1, 2000)))
    good = stage.config()
    pid = stage.backend("b")["pid"]
    broken = (
        good + "[nonsense]\n",
        good[: rng.randrange(20, len(good))] + '\n"',
        good.replace("slots = 3", 'slots = "many"', 1),
        good + '[models.a]\nengine = "command.a"\n',
    )
    for text in rng.sample(broken, 2):
        stage.house.write(text)
        if rng.random() < 0.5:
            assert not reloaded(stage)
        else:
            os.kill(stage.pid, signal.SIGHUP)
        until(lambda: stage.house.status()["config_problem"], 20, "it is shown")
    stage.house.write(good)
    for _ in range(2):
        view = stage.house.client.post("/reload")
        assert (view["ok"], view["added"], view["removed"], view["changed"]) == (True, [], [], [])
    assert stage.house.status()["config_problem"] == ""
    outcomes = crowd.outcomes()
    assert kinds(outcomes) == {"answer": len(outcomes)}
    assert stage.house.backends()["b"]["pid"] == pid
    assert stage.kinds("b", seen) == []
    stage.end_check(outcomes)


def reloaded(stage: Stage) -> bool:
    """Ask for it; whether it was taken."""
    try:
        return bool(stage.house.client.post("/reload")["ok"])
    except RefusedError:
        return False


# ---------------------------------------------------------------- another one


@seeds
def test_a_second_daemon_and_a_taken_port_are_said(stage: Stage, seed: int) -> None:
    """78, with who holds it, and the first one goes on as if nothing had been."""
    rng = dice("second", seed)
    second = House.__new__(House)
    second.__dict__.update(stage.house.__dict__)
    crowd = stage.crowd(*some(rng, "a"))
    with folder() as place:
        if rng.random() < 0.5:
            second = House(place, stage.config(), port=stage.house.port)
        second.launch()
        assert second.process is not None
        assert second.process.wait(30) == 78
        assert str(stage.pid) in second.stderr()
    outcomes = crowd.outcomes()
    assert kinds(outcomes) == {"answer": len(outcomes)}
    stage.end_check(outcomes)


# ---------------------------------------------------------------- time


@seeds
def test_a_machine_that_sleeps_loses_nothing(seed: int) -> None:
    """The daemon, or the daemon and its engines, stand still for a while, in whatever state."""
    rng = dice("sleep", seed)
    times: dict[str, object] = {"wake_gap": 0.5}
    with folder() as place, Stage(place, times=times) as stage:
        stage.flags("a", "--token-s", 0.01, "--load-s", rng.choice((0, 0.3)))
        engine = stage.ready("b")["pid"]
        crowd = stage.crowd(*some(rng, "a", tokens=50))
        time.sleep(rng.random() / 3)  # somewhere in the load or the stream
        sleepers = [stage.pid, *([engine] if rng.random() < 0.5 else [])]
        for pid in sleepers:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(1.2)
        for pid in reversed(sleepers):
            os.kill(pid, signal.SIGCONT)
        outcomes = crowd.outcomes()
        assert kinds(outcomes) == {"answer": len(outcomes)}
        assert stage.house.backends()["b"]["pid"] == engine, "no storm of ended idle times"
        stage.answers("b")
        stage.end_check(outcomes)


# ---------------------------------------------------------------- disk and files


@pytest.fixture
def mounts() -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare: a small file system of its own")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")


@seeds
@pytest.mark.usefixtures("mounts")
def test_a_full_disk_stops_no_answer(seed: int) -> None:
    """Of the logs, of the state, or of both: serving goes on, crashes are still judged by what the
    engine said, and it is warned of once."""
    rng = dice("disk", seed)
    with folder() as place:
        full = rng.choice((["logs"], ["state"], ["logs", "state"]))
        lines = [f'mount -t tmpfs -o size=64k,mode=700 none "{place}/{name}"' for name in full]
        filled = [f'head -c 1m /dev/zero > "{place}/{name}/filler" 2>/dev/null' for name in full]
        later = rng.random() < 0.5
        script = "; ".join([*lines, *([] if later else filled), 'exec "$@"'])
        stage = Stage(place)
        stage.house.wrapper = ("unshare", "-m", "sh", "-c", script, "sh")
        with stage:
            for name in full if later else ():
                with contextlib.suppress(OSError):
                    (stage.seen(place / name) / "filler").write_bytes(bytes(1 << 20))
            stage.flags("a", "--flood-log", rng.choice((1, 8)))
            outcomes = stage.crowd(*some(rng, "a"), *some(rng, "b")).outcomes()
            assert kinds(outcomes) == {"answer": len(outcomes)}
            seen = stage.now()
            os.kill(stage.backend("b")["pid"], signal.SIGSEGV)
            assert stage.told_of("exited", "b", seen)["exit_class"] == "crash"
            stage.heal("full disk", "b")
            view = stage.house.client.post("/reload")
            assert view["ok"]
            stage.end_check(outcomes, errors="No space|could not be written")


def garbage(rng: random.Random, good: bytes) -> bytes:
    """A file that is none of ours, or was."""
    return rng.choice(
        (
            b"",
            rng.randbytes(rng.randrange(1, 5000)),
            good[: rng.randrange(0, max(1, len(good)))],
            b'{"incidents":99,"version":99}\n' + good,
            b"[" * 50_000,
            good.replace(b'"', b"'"),
        )
    )


@seeds
def test_a_spoilt_state_is_put_aside(seed: int) -> None:
    """Whatever stands in the files of the state directory, or a FIFO in the place of one: the
    daemon starts, serves, and writes them anew."""
    rng = dice("state", seed)
    with folder() as place:
        stage = Stage(place, names=("a",))
        with stage:
            stage.flags("a", "--crash-at", "token:2", "--skip", 1, "--oom", times=1)
            seen = stage.now()
            outcomes = stage.crowd(*some(rng, "a", count=1)).outcomes()
            stage.told_of("exited", "a", seen)
            stage.heal("for the files", "a", given_up=True)
            stage.end_check(outcomes)
        state = place / "state"
        files = [path for path in state.iterdir() if path.is_file()]
        assert files, "something is kept"
        for path in files:
            good = path.read_bytes()
            if rng.random() < 0.2:
                path.unlink()
                os.mkfifo(path, 0o600)
            else:
                path.write_bytes(garbage(rng, good))
        (state / ".half-written.123").write_bytes(b"{")
        with stage:
            outcomes = stage.crowd(*some(rng, "a")).outcomes()
            assert kinds(outcomes) == {"answer": len(outcomes)}
            assert stage.house.client.get("/incidents")["incidents"] is not None
            stage.end_check(outcomes)
        with stage:
            stage.end_check()


# ---------------------------------------------------------------- the end


@seeds
def test_a_signal_to_stop_at_any_moment(seed: int) -> None:
    """During loads, streams, waits and stops, once or twice: every client gets its outcome, who
    comes later is told, and nothing is left when it exits with 0."""
    rng = dice("stop", seed)
    with folder() as place:
        stage = Stage(place, budget=rng.choice(("150 MiB", "1 GiB")))
        with stage:
            deaf = rng.choice(([], ["--ignore-term"], ["--term-hangs"], ["--grandchild"]))
            stage.flags("a", "--token-s", 0.02, *deaf)
            stage.flags("b", "--load-s", rng.random(), *deaf)
            crowd = stage.crowd(*some(rng, "a", tokens=rng.choice((10, 200))), *some(rng, "b"))
            time.sleep(rng.random() / 2)
            os.kill(stage.pid, signal.SIGTERM)
            assert stage.house.process is not None
            late = Crowd(stage.house.port, *some(rng, "a"))
            if rng.random() < 0.5:
                time.sleep(rng.random() / 3)
                os.kill(stage.pid, signal.SIGTERM)
            pid = stage.pid
            assert stage.house.process.wait(30) == 0
            outcomes = [*crowd.outcomes(), *late.outcomes()]
            assert "left" not in kinds(outcomes)
            for each in late.outcomes():
                assert each.kind != "answer" or each.ask.text, "of what was ready it may be one"
            assert not process_exists(pid)
            assert house_processes(place, set()) == [], "in the foreground nothing is left"
            assert "Traceback" not in stage.house.stderr()
            assert stage.told(0) == []
            assert not (place / "run" / "control.sock").exists()
            assert stage.records() == []


@seeds
def test_what_an_earlier_version_left_is_taken_over_or_ended(seed: int) -> None:
    """Records of a version to come or gone by, or spoilt ones: adopted where all agrees, else the
    backend is ended; no orphan, no error, and the model answers."""
    rng = dice("upgrade", seed)
    with folder() as place:
        how = rng.choice(("as it is", "newer", "garbage", "no record", "other settings"))
        # A new start may take long on a busy machine; who cannot be found is waited for below.
        grace = 40 if how == "as it is" else 6
        stage = Stage(place, names=("a",), service=True, times={"keeper_grace": grace})
        stage.house.start()
        try:
            old = stage.ready("a")
            assert stage.house.stop() == 0
            (record,) = (place / "run" / "b").glob("*.json")
            if how == "newer":
                content = json.loads(record.read_text())
                record.write_text(json.dumps({**content, "protocol": 99, "later": ["x"]}))
            elif how == "garbage":
                record.write_bytes(garbage(rng, record.read_bytes()))
            elif how == "no record":
                record.unlink()
            elif how == "other settings":
                stage.house.write(stage.config(a="keep_alive = 900").replace("4096", "2048"))
            stage.house.start()
            stage.answers("a")
            new = stage.house.backends()["a"]
            if how == "as it is":
                assert new["pid"] == old["pid"]
            elif new["pid"] != old["pid"]:
                # a keeper that cannot be found by its record is alone, and ends it after its grace
                until(lambda: not process_exists(old["pid"]), 20, f"{how}: the old one is gone")
            stage.house.client.post("/unload", force=True)
            until(lambda: not stage.leftovers(), 20, lambda: f"left: {stage.leftovers()}")
            assert stage.told(0) == []
        finally:
            with_backends_gone(stage)


def with_backends_gone(stage: Stage) -> None:
    """A service leaves its backends to the next one: not to the next test."""
    with contextlib.suppress(UnreachableError, RefusedError):
        stage.house.client.post("/unload", force=True)
    stage.house.__exit__()
