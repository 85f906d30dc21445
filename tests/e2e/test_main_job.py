"""The main job on two real engine processes: load, stream, evict, come back."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeHouse
from tests.e2e.house import House, Watch, process_exists
from tests.e2e.stage import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

TEN = "one two three four five six seven eight nine ten"


def two_models(weights: Path, *, budget_mib: int, slots: int = 1) -> str:
    """Two names for the same tiny weights; with ``budget_mib`` only one of them fits."""
    return f"""
[memory]
budget = "{budget_mib} MiB"

[models.alpha]
path = "{weights}"
ctx = 2048
slots = {slots}
engine = "xllamacpp"
args = ["-t", "1"]

[models.beta]
path = "{weights}"
ctx = 2048
engine = "xllamacpp"
args = ["-t", "1"]
"""


@pytest.fixture
def house(make_house: MakeHouse, tiny_gguf: Path) -> House:
    return make_house(two_models(tiny_gguf, budget_mib=70)).start()


def test_b_evicts_a_and_a_comes_back(house: House) -> None:
    assert "".join(house.stream("alpha")) == TEN
    first = house.backends()["alpha"]
    assert process_exists(first["pid"])
    assert house.backends().keys() == {"alpha"}
    committed = house.status()["pools"][0]["committed"]
    assert committed == sum(first["footprint"].values())

    assert house.chat("beta").json()["choices"][0]["message"]["content"] == TEN
    assert not process_exists(first["pid"]), "the evicted process is gone before the next starts"
    until(lambda: not process_exists(first["keeper_pid"]), 20, "its keeper leaves, too")
    assert house.backends().keys() == {"beta"}
    assert house.status()["pools"][0]["committed"] <= house.status()["pools"][0]["budget"]

    assert "".join(house.stream("alpha")) == TEN
    second = house.backends()["alpha"]
    assert second["pid"] != first["pid"]
    assert second["generation"] == first["generation"] + 1
    assert house.kinds("alpha") == ["start", "ready", "evict", "stop", "exited", "start", "ready"]


def test_memory_is_charged_until_the_exit(house: House) -> None:
    """Between the order to stop and the exit, the bytes of both are never given out."""
    house.chat("alpha")
    house.chat("beta")
    told = [(e.kind, e.data["model"]) for e in house.events()]
    assert told.index(("exited", "alpha")) < told.index(("start", "beta"))


def test_fifty_at_once_while_the_other_is_asked(house: House) -> None:
    answers: list[tuple[str, int, str]] = []
    lock = threading.Lock()

    def ask(model: str) -> None:
        answer = house.chat(model)
        with lock:
            answers.append(
                (model, answer.status, answer.json()["choices"][0]["message"]["content"])
            )

    with ThreadPoolExecutor(51) as pool:
        wishes = [pool.submit(ask, "alpha") for _ in range(25)]
        wishes.append(pool.submit(ask, "beta"))
        wishes += [pool.submit(ask, "alpha") for _ in range(25)]
        for wish in wishes:
            wish.result(90)
    assert Counter(model for model, _, _ in answers) == {"alpha": 50, "beta": 1}
    assert {(status, text) for _, status, text in answers} == {(200, TEN)}
    starts = [e.data["model"] for e in house.events() if e.kind == "start"]
    assert len(starts) <= 4, f"concurrent requests join a start: {starts}"
    assert house.status()["leases"] == 0
    assert house.status()["queue"] == 0


def test_an_eviction_never_cuts_a_running_stream(
    make_house: MakeHouse, loop_gguf: Path, tiny_gguf: Path
) -> None:
    config = two_models(tiny_gguf, budget_mib=70).replace(
        f'path = "{tiny_gguf}"\nctx = 2048\nslots', f'path = "{loop_gguf}"\nctx = 2048\nslots'
    )
    with make_house(config) as house:
        pieces = []
        beta: list[int] = []
        asking = threading.Thread(target=lambda: beta.append(house.chat("beta").status))
        for piece in house.stream("alpha", max_tokens=600):
            pieces.append(piece)
            if len(pieces) == 5:
                asking.start()
        asking.join(60)
        assert beta == [200]
        assert len(pieces) >= 600, "the stream ran to its own end"
        exits = [e.data["facts"] for e in house.events() if e.kind == "exited"]
        assert [facts["asked"] for facts in exits] == [True]


def test_a_client_that_leaves_frees_the_slot_at_once(
    make_house: MakeHouse, loop_gguf: Path
) -> None:
    config = f'[models.endless]\npath = "{loop_gguf}"\nctx = 4096\nengine = "xllamacpp"\n'
    with make_house(config) as house:
        stream = house.stream("endless", max_tokens=100_000)
        for _ in range(5):
            next(stream)
        assert house.backends()["endless"]["leases"] == 1
        stream.close()  # the client hangs up
        assert house.chat("endless", max_tokens=3).status == 200, "the only slot is free again"
        assert house.status()["counters"]["client_gone"] == 1


def test_foreground_daemon_leaves_nothing_behind(house: House) -> None:
    house.chat("alpha")
    backend = house.backends()["alpha"]
    assert house.stop() == 0
    assert not process_exists(backend["pid"])
    assert not process_exists(backend["keeper_pid"])
    assert not (house.folder / "state" / "daemon.json").exists()
    assert list((house.folder / "run" / "b").iterdir()) == []


def test_keep_alive_unloads_an_idle_model(make_house: MakeHouse, tiny_gguf: Path) -> None:
    config = (
        f'[models.brief]\npath = "{tiny_gguf}"\nctx = 512\nkeep_alive = 0.3\nengine = "xllamacpp"\n'
    )
    with make_house(config) as house:
        watch = Watch(house)
        assert house.chat("brief").status == 200
        stop = watch.wait("stop", "brief")
        assert stop.data["facts"]["reason"] == "idle"
        watch.wait("exited", "brief")
        assert house.backends() == {}
