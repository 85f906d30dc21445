"""Whole daemons on their worst days: everything changes while something else is under way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.downloads.hub import Hub, Repo, running_hub
from tests.e2e.conftest import MakeHouse, timing
from tests.e2e.house import ROOT, House, Watch, process_exists
from tests.fakes import start

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

QUICK = timing(
    {
        "stop_grace": 0.5,
        "drain_grace": 2.0,
        "adopt_timeout": 1.0,
        "backoff": 0.05,
        "linger_min": 0,
        "linger_max": 0,
        "quantum_min": 0.05,
        "quantum_max": 0.1,
    }
)


def engine(name: str, *flags: str, footprint: str = "100 MiB") -> str:
    """The stand-in as ``[engines.command.NAME]``, with its flags of misbehaviour."""
    words = [*start.argv("engine"), "--port", "{port}", "-c", "{ctx}", *flags]
    argv = ", ".join(f"'{word}'" for word in words)
    return f'[engines.command.{name}]\nargv = [{argv}]\nfootprint = "{footprint}"\n'


def model(name: str, engine_name: str = "", **more: object) -> str:
    lines = [f"[models.{name}]", f'engine = "{engine_name or name}"']
    return "\n".join([*lines, *(f"{key} = {value}" for key, value in more.items()), ""])


def memory(amount: str) -> str:
    return f'[memory]\nbudget = "{amount}"\n'


class Crowd:
    """Several things at once; ``crowd(f, …)`` answers a future."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(16)

    def __call__(self, work: Callable[..., Any], *args: Any, **more: Any) -> Future[Any]:
        return self._pool.submit(work, *args, **more)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    crowd = Crowd()
    yield crowd
    crowd.close()


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def starts(house: House, name: str) -> int:
    return house.kinds(name).count("start")


# ---------------------------------------------------------------- the model's file


def test_a_model_file_deleted_while_it_is_loaded(
    make_house: MakeHouse, short_dir: Path, tiny_gguf: Path
) -> None:
    weights = short_dir / "w.gguf"
    shutil.copy(tiny_gguf, weights)
    with make_house(f'[models.m]\npath = "{weights}"\nengine = "xllamacpp"\nctx = 512\n') as house:
        assert house.chat("m").status == 200
        weights.unlink()
        assert house.chat("m").status == 200, "what is loaded serves on"
        assert house.ctl("unload", "m").returncode == 0
        answer = house.chat("m")
        assert answer.status in (500, 503)
        assert "m" in answer.json()["error"]["message"]
        assert answer.headers["x-should-retry"] == "false", "no client may hammer it"
        began = starts(house, "m")
        assert house.chat("m").status == answer.status
        assert starts(house, "m") == began, "and it is not started for each request"
        assert house.ctl("reload").returncode == 0
        gone = house.chat("m").json()["error"]["message"]
        assert f"there is no {weights}" in gone
        shutil.copy(tiny_gguf, weights)
        assert house.ctl("load", "m").returncode == 0, "a load looks again"
        assert house.chat("m").status == 200


# ---------------------------------------------------------------- reload during a load


def test_a_reload_that_changes_nothing_does_not_disturb_a_load(
    make_house: MakeHouse, crowd: Crowd, short_dir: Path
) -> None:
    gate = short_dir / "gate"
    config = engine("a", "--load-until", str(gate)) + model("a", ctx=512) + QUICK
    with make_house(config) as house:
        watch = Watch(house)
        load = crowd(house.ctl, "load", "a")
        watch.wait("start", "a")
        view = house.client.post("/reload")
        gate.touch()
        assert (view["ok"], view["changed"]) == (True, [])
        assert load.result().returncode == 0, load.result().stderr
        assert house.kinds("a") == ["start", "ready"]


def test_a_reload_that_changes_a_model_that_is_being_loaded(
    make_house: MakeHouse, crowd: Crowd, short_dir: Path
) -> None:
    gate = short_dir / "gate"
    config = engine("a", "--load-until", str(gate)) + QUICK
    with make_house(config + model("a", ctx=512)) as house:
        watch = Watch(house)
        load, chat = crowd(house.ctl, "load", "a"), crowd(house.chat, "a")
        watch.wait("start", "a")
        house.write(config + model("a", ctx=1024))
        assert house.client.post("/reload")["changed"] == ["a"]
        gate.touch()
        assert load.result().returncode == 0, load.result().stderr
        assert chat.result().status == 200, "who waits gets the new one"
        assert house.backends()["a"]["context"] == 1024
        assert starts(house, "a") == 2


def test_a_reload_that_removes_a_model_that_is_being_loaded(
    make_house: MakeHouse, crowd: Crowd
) -> None:
    config = engine("a", "--load-s", "30") + engine("b") + model("b") + QUICK
    with make_house(config + model("a")) as house:
        watch = Watch(house)
        load, chat = crowd(house.ctl, "load", "a"), crowd(house.chat, "a")
        watch.wait("start", "a")
        until(lambda: house.status()["queue"] == 1)
        pid = house.backends()["a"]["pid"]
        house.write(config)
        assert house.client.post("/reload")["removed"] == ["a"]
        assert load.result().returncode == 1
        assert "no model named 'a'" in load.result().stderr
        assert chat.result().status == 404
        watch.wait("exited", "a")
        assert not process_exists(pid)
        assert house.status()["pools"][0]["committed"] == 0
        assert house.chat("b").status == 200


# ---------------------------------------------------------------- catalog removal


def test_a_model_is_removed_while_requests_wait_for_it(make_house: MakeHouse, crowd: Crowd) -> None:
    """In the same file the budget grows: it may not be started a last time."""
    both = engine("a", "--tokens", "-1", "--token-s", "0.02") + engine("b") + QUICK
    with make_house(memory("150 MiB") + both + model("a") + model("b")) as house:
        pieces = house.stream("a", max_tokens=400)
        next(pieces)
        waiting = [crowd(house.chat, "b") for _ in range(5)]
        load = crowd(house.ctl, "load", "b")
        until(lambda: house.status()["queue"] == 5)
        house.write(memory("1 GiB") + both + model("a"))
        assert house.client.post("/reload")["removed"] == ["b"]
        for future in waiting:
            answer = future.result()
            assert answer.status == 404
            assert answer.json()["error"]["code"] == "model_not_found"
        assert load.result().returncode == 1
        assert starts(house, "b") == 0
        assert next(pieces), "the other model's stream never noticed"
        pieces.close()  # type: ignore[attr-defined]
        until(lambda: house.status()["leases"] == 0)
        status = house.status()
        assert (status["queue"], status["claim"], status["backends"]) == (0, None, 1)


def test_a_model_is_removed_while_it_streams(make_house: MakeHouse) -> None:
    """The stream runs to its end; then the process goes, and its name is unknown at once."""
    config = engine("a", "--tokens", "-1", "--token-s", "0.01") + QUICK
    with make_house(config + model("a")) as house:
        watch = Watch(house)
        pieces = []
        for piece in house.stream("a", max_tokens=120):
            pieces.append(piece)
            if len(pieces) == 5:
                pid = house.backends()["a"]["pid"]
                house.write(config)
                assert house.client.post("/reload")["removed"] == ["a"]
                assert house.chat("a").status == 404
                assert process_exists(pid)
        assert len(pieces) >= 120
        watch.wait("exited", "a")
        assert house.backends() == {}
        house.write(config + model("a"))
        assert house.client.post("/reload")["added"] == ["a"]
        assert house.chat("a", max_tokens=3).status == 200


# ---------------------------------------------------------------- unload during loads


def test_unload_all_while_models_are_being_loaded(make_house: MakeHouse, crowd: Crowd) -> None:
    """One starts, one waits for its memory: neither is left, and nobody waits for ever."""
    config = memory("150 MiB") + engine("a", "--load-s", "30") + engine("b") + QUICK
    with make_house(config + model("a") + model("b")) as house:
        watch = Watch(house)
        first = crowd(house.ctl, "load", "a")
        watch.wait("start", "a")
        second = crowd(house.ctl, "load", "b")
        until(lambda: (house.status()["claim"] or {}).get("model") == "b")
        unload = house.ctl("unload", "--all")
        assert unload.returncode == 0
        assert "unloaded  a" in unload.stdout
        for load in (first, second):
            assert load.result().returncode == 1
            assert "unloaded by hand" in load.result().stderr
        status = house.status()
        assert (status["backends"], status["queue"], status["claim"]) == (0, 0, None)
        assert status["pools"][0]["committed"] == 0
        assert starts(house, "b") == 0
        assert house.ctl("load", "b").returncode == 0


# ---------------------------------------------------------------- two loads


def test_two_loads_of_one_model_with_different_contexts(
    make_house: MakeHouse, crowd: Crowd
) -> None:
    config = engine("a", "--load-s", "0.5") + model("a", ctx=4096) + QUICK
    with make_house(config) as house:
        watch = Watch(house)
        first = crowd(house.ctl, "load", "a", "--ctx", "1024")
        watch.wait("start", "a")
        second = crowd(house.ctl, "load", "a", "--ctx", "2048")
        assert first.result().returncode == second.result().returncode == 0
        assert house.backends()["a"]["context"] == 2048
        until(lambda: len(house.backends()) == 1)
        assert starts(house, "a") == 2
        # and it holds for that run only
        assert house.ctl("unload", "a").returncode == 0
        assert house.chat("a").status == 200
        assert house.backends()["a"]["context"] == 4096


def test_a_load_that_is_refused_changes_nothing_for_clients(
    make_house: MakeHouse, tiny_gguf: Path
) -> None:
    config = f'[models.m]\npath = "{tiny_gguf}"\nengine = "xllamacpp"\nctx = 512\n'
    with make_house(memory("100 MiB") + config) as house:
        house.chat("m")
        pid = house.backends()["m"]["pid"]
        refused = house.ctl("load", "m", "--ctx", "16000000")
        assert refused.returncode == 1
        assert "too much" in refused.stderr
        assert house.chat("m").status == 200
        assert house.backends()["m"]["pid"] == pid


# ---------------------------------------------------------------- an interrupted load


def test_an_interrupted_load_goes_on_until_it_is_unloaded(
    make_house: MakeHouse, short_dir: Path
) -> None:
    gate = short_dir / "gate"
    config = engine("a", "--load-until", str(gate)) + model("a", ctx=512) + QUICK
    with make_house(config) as house:
        watch = Watch(house)
        with subprocess.Popen(
            [sys.executable, "-P", str(ROOT / "ctl.py"), "load", "a"],
            env=house.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as load:
            watch.wait("start", "a")
            load.send_signal(signal.SIGINT)
            _, said = load.communicate(timeout=20)
        gate.touch()
        assert load.returncode == 130
        assert "goes on" in said
        assert "Traceback" not in said
        watch.wait("ready", "a")
        assert house.kinds("a") == ["start", "ready"]
        assert house.ctl("unload", "a").returncode == 0
        assert house.backends() == {}


# ---------------------------------------------------------------- shutdown


def test_shutdown_during_loads(make_house: MakeHouse, crowd: Crowd) -> None:
    """One starts and is deaf to TERM, one waits: both are refused, and nothing is left."""
    deaf = engine("a", "--load-s", "30", "--ignore-term")
    config = memory("150 MiB") + deaf + engine("b") + QUICK
    with make_house(config + model("a") + model("b")) as house:
        watch = Watch(house)
        first = crowd(house.ctl, "load", "a")
        watch.wait("start", "a")
        until(lambda: "a" in house.backends() and house.backends()["a"]["pid"])
        pid = house.backends()["a"]["pid"]
        second = crowd(house.ctl, "load", "b")
        until(lambda: (house.status()["claim"] or {}).get("model") == "b")
        began = time.monotonic()
        assert house.stop() == 0
        assert time.monotonic() - began < 20.0, "it waited for no load"
        for load in (first, second):
            assert load.result().returncode == 1
            assert "is stopping" in load.result().stderr
        assert not process_exists(pid)
        assert "Traceback" not in house.stderr()
        assert list((house.folder / "run" / "b").iterdir()) == []


def test_a_load_that_comes_during_the_shutdown(make_house: MakeHouse) -> None:
    """While the last stream is given its grace the control API still answers: with a refusal."""
    slow = timing({"drain_grace": 60, "stop_grace": 0.3})
    config = engine("a", "--tokens", "-1", "--token-s", "0.01") + engine("b") + slow
    with make_house(config + model("a") + model("b")) as house:
        pieces = house.stream("a", max_tokens=100_000)
        next(pieces)
        assert house.process is not None
        house.process.send_signal(signal.SIGTERM)
        until(lambda: house.status()["draining"])
        load = house.ctl("load", "b")
        assert load.returncode == 1
        assert "is stopping" in load.stderr
        reload = house.ctl("reload")
        assert reload.returncode == 1
        assert "is stopping" in reload.stderr
        pieces.close()  # type: ignore[attr-defined]
        assert house.stop() == 0
        assert "b starts" not in house.log_file.read_text()


def test_a_second_signal_ends_it_at_once(make_house: MakeHouse) -> None:
    """An endless stream, minutes of grace, and somebody in a hurry."""
    slow = timing({"drain_grace": 60, "stop_grace": 0.3})
    config = engine("a", "--tokens", "-1", "--token-s", "0.01") + model("a") + slow
    with make_house(config) as house:
        pieces = house.stream("a", max_tokens=100_000)
        next(pieces)
        pid = house.backends()["a"]["pid"]
        assert house.process is not None
        house.process.send_signal(signal.SIGTERM)
        until(lambda: house.status()["draining"])
        assert house.process.poll() is None
        assert next(pieces), "the first one lets it run"
        began = time.monotonic()
        assert house.stop() == 0
        assert time.monotonic() - began < 30.0, "nothing of the 60 s"
        assert not process_exists(pid)
        pieces.close()  # type: ignore[attr-defined]


def test_shutdown_while_the_models_are_still_being_read(make_house: MakeHouse) -> None:
    many = "".join(model(f"m{i}", "a") for i in range(50))
    house = make_house(engine("a") + many + QUICK)
    house.launch()
    assert house.process is not None
    until(lambda: house.log_file.exists() and "listening on" in house.log_file.read_text())
    assert house.stop() == 0
    assert "Traceback" not in house.stderr()
    assert not (house.folder / "state" / "daemon.json").exists()
    assert not (house.folder / "run" / "control.sock").exists()


def test_what_shows_only_at_the_machine_is_one_message(make_house: MakeHouse) -> None:
    """The file is without a mistake; this machine has no such memory. A request that came first
    is answered, not left to its client's patience."""
    house = make_house('[memory.budget]\ngpu7 = "1 GiB"\n')
    house.launch()
    assert house.process is not None
    assert house.process.wait(40) == 78
    assert "gpu7" in house.stderr()
    assert "Traceback" not in house.stderr()


# ---------------------------------------------------------------- shutdown during a pull


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, short_dir: Path) -> Iterator[Hub]:
    with running_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_HOME", str(short_dir / "hub"))
        monkeypatch.delenv("HF_HUB_OFFLINE")
        yield running
        running.release.set()


def test_shutdown_during_a_pull(
    make_house: MakeHouse, hub: Hub, tiny_gguf: Path, crowd: Crowd, short_dir: Path
) -> None:
    """It is no success; what came is kept, and the next pull goes on from there."""
    data = tiny_gguf.read_bytes() + bytes(4 << 20)
    hub.repos["owner/name"] = Repo({"m-Q4_K_M.gguf": data})
    hub.stall_after["m-Q4_K_M.gguf"] = len(data) // 2
    config = engine("a") + '[models.m]\nhf = "owner/name:Q4_K_M"\nengine = "a"\nctx = 512\n' + QUICK
    house = make_house(config).start()
    pull, load = crowd(house.ctl, "pull", "m"), crowd(house.ctl, "load", "m")
    assert hub.stalled.wait(20)
    parts = (short_dir / "hub").rglob  # what was sent is on the disk a moment later
    until(lambda: any(part.stat().st_size for part in parts("*.incomplete")))
    began = time.monotonic()
    assert house.stop() == 0
    assert time.monotonic() - began < 30.0
    for verb in (pull, load):
        assert verb.result().returncode == 1, verb.result().stdout
        assert "is stopping" in verb.result().stderr
    hub.release.set()
    asked = len(hub.requests)
    house.start()
    again = house.ctl("load", "m")
    assert again.returncode == 0, again.stderr
    assert any(span for _, _, span in hub.requests[asked:]), "it went on where it had stopped"
    assert house.chat("m").status == 200


# ---------------------------------------------------------------- a service comes back


def test_a_pinned_model_is_taken_over_and_not_started_beside_itself(make_house: MakeHouse) -> None:
    config = memory("150 MiB") + engine("p") + model("p", pin="true", ctx=512) + QUICK
    house = make_house(config, service=True).start()
    Watch(house).wait("ready", "p")
    before = house.backends()["p"]
    for _ in range(2):
        assert house.stop() == 0
        house.start()
        after = house.backends()["p"]
        assert (after["pid"], after["generation"]) == (before["pid"], before["generation"])
        assert house.kinds("p") == ["adopted"]
        assert after["pinned"]
    assert house.chat("p").status == 200
    assert house.ctl("unload", "--all").returncode == 0
    assert not process_exists(before["pid"])


def test_a_service_killed_during_a_load_leaves_one_process_at_most(
    make_house: MakeHouse, crowd: Crowd
) -> None:
    """What was still starting is not taken over half-made: it is ended, then started anew."""
    config = engine("a", "--load-s", "1.5", "--ignore-term") + model("a", ctx=512) + QUICK
    house = make_house(config, service=True).start()
    load = crowd(house.ctl, "load", "a")
    until(lambda: "a" in house.backends() and house.backends()["a"]["pid"])
    pid = house.backends()["a"]["pid"]
    assert house.process is not None
    os.kill(house.process.pid, signal.SIGKILL)
    house.process.wait(20)
    assert load.result().returncode != 0
    assert "Traceback" not in load.result().stderr
    house.start()
    assert house.chat("a").status == 200
    backends = house.backends()
    assert len(backends) == 1
    assert backends["a"]["pid"] == pid or not process_exists(pid)
    assert house.ctl("unload", "--all").returncode == 0


# ---------------------------------------------------------------- a storm


def test_reloads_loads_and_unloads_in_a_storm(make_house: MakeHouse, crowd: Crowd) -> None:
    """Everything at once for a while; afterwards the books are empty and all still works."""
    engines = "".join(engine(name, "--load-s", "0.05") for name in "abc") + QUICK
    all_of = "".join(model(name, ctx=512) for name in "abc")
    config = memory("250 MiB") + engines
    with make_house(config + all_of) as house:
        over = threading.Event()
        codes: list[int] = []

        def chats(name: str) -> None:
            while not over.is_set():
                codes.append(house.chat(name, max_tokens=2).status)

        def reloads() -> None:
            for turn in range(12):
                changed = all_of if turn % 2 else all_of.replace("ctx = 512", "ctx = 1024", 1)
                house.write(config + changed)
                assert house.client.post("/reload")["ok"]

        def unloads() -> None:
            for turn in range(12):
                house.client.post("/unload", force=bool(turn % 2))

        asking = [crowd(chats, name) for name in "abcabc"]
        changing = [crowd(reloads), crowd(unloads), crowd(house.ctl, "load", "b", "--ctx", "256")]
        for future in changing:
            future.result(60)
        served = codes.count(200)
        until(lambda: codes.count(200) > served + 5)  # the storm is over: all are served again
        over.set()
        for future in asking:
            future.result(60)
        assert set(codes) <= {200, 500, 502, 503}, set(codes)
        assert house.ctl("unload", "--all").returncode == 0
        status = house.status()
        assert (status["backends"], status["leases"], status["queue"]) == (0, 0, 0)
        assert (status["claim"], status["pools"][0]["committed"]) == (None, 0)
        for name in "abc":
            assert house.chat(name).status == 200
        assert "Traceback" not in house.stderr()
