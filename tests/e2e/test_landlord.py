"""Many clients and little memory, on real processes: nobody is lost, nobody starves."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.conftest import MakeHouse
from tests.e2e.house import House, Watch, process_exists
from tests.fakes import start

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]


def stand_in(name: str, *flags: str, slots: int = 1, more: str = "") -> str:
    """A model on an engine of its own: the stand-in, 100 MiB by word."""
    words = [*start.argv("engine"), "--port", "{port}", "-c", "{ctx}", "-np", str(slots), *flags]
    argv = ", ".join(f"'{word}'" for word in words)
    return (
        f'[engines.command.{name}]\nargv = [{argv}]\nfootprint = "100 MiB"\n'
        f'[models.{name}]\nengine = "command.{name}"\nslots = {slots}\n{more}\n'
    )


def body(model: str, text: str) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


@asynccontextmanager
async def clients() -> AsyncIterator[aiohttp.ClientSession]:
    """Any number of connections at once."""
    connector, limit = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=connector, timeout=limit) as session:
        yield session


async def ask(
    session: aiohttp.ClientSession, house: House, model: str, text: str, conversation: str
) -> tuple[int, float]:
    """One chat; status and seconds."""
    began = time.monotonic()
    async with session.post(
        f"{house.url}/v1/chat/completions",
        json=body(model, text),
        headers={"x-session-id": conversation},
    ) as answer:
        await answer.read()
        return answer.status, time.monotonic() - began


def recorded(path: Path) -> list[str]:
    """What the chats that reached the engine said, in order; probes of readiness left out."""
    entries = map(json.loads, path.read_text().splitlines())
    bodies = [json.loads(e["body"]) for e in entries if e["path"] == "/v1/chat/completions"]
    texts = [str(each["messages"][0]["content"]) for each in bodies]
    return [text for text in texts if text.startswith("client-")]


async def test_a_thousand_clients_for_three_models_of_which_one_fits(
    make_house: MakeHouse, short_dir: Path
) -> None:
    """1000 conversations at once: all answered, each once, with few loads and nothing left."""
    names = ("one", "two", "three")
    logs = {name: short_dir / f"{name}.jsonl" for name in names}
    house = make_house(
        '[memory]\nbudget = "150 MiB"\n'
        + "".join(
            stand_in(n, "--load-s", "0.3", "--first-s", "0.02", "--record", str(logs[n]), slots=4)
            for n in names
        )
    )
    with house:
        began = time.monotonic()
        async with clients() as session:
            answers = await asyncio.gather(
                *(
                    ask(session, house, names[i % 3], f"client-{i}", f"conversation-{i}")
                    for i in range(1000)
                )
            )
        assert Counter(status for status, _ in answers) == {200: 1000}
        loads = sum(house.kinds(name).count("start") for name in names)
        took = time.monotonic() - began
        # A turn lasts 2 s at least: a busy machine takes more of them for as many answers.
        assert loads <= max(20, took / 1.5), f"{loads} loads in {took:.1f} s"
        seen = [text for log in logs.values() for text in recorded(log)]
        assert sorted(seen) == sorted(f"client-{i}" for i in range(1000)), "each exactly once"
        status = house.status()
        assert (status["leases"], status["queue"]) == (0, 0)
        pids = [b["pid"] for b in house.backends().values()]
    assert pids
    assert not any(process_exists(pid) for pid in pids), "an engine outlived the daemon"


async def test_a_conversation_is_served_in_its_own_order(
    make_house: MakeHouse, short_dir: Path
) -> None:
    """Six conversations, five requests each, all waiting at once behind one slot: those of one
    conversation reach the engine in the order in which they came, and no one has two turns
    before each had one."""
    record, gate = short_dir / "record.jsonl", short_dir / "gate"
    config = '[memory]\nbudget = "150 MiB"\n' + stand_in(
        "one", "--load-until", str(gate), "--record", str(record)
    )
    asked: list[asyncio.Task[tuple[int, float]]] = []
    with make_house(config) as house:
        async with clients() as session:
            for number in range(6):
                for i in range(5):
                    text, conversation = f"client-{number}-{i}", f"conversation-{number}"
                    asked.append(
                        asyncio.create_task(ask(session, house, "one", text, conversation))
                    )
                    await queued(house, len(asked))
            gate.touch()
            answers = await asyncio.gather(*asked)
    assert Counter(status for status, _ in answers) == {200: 30}
    order = [text.split("-")[1:] for text in recorded(record)]
    for number in range(6):
        assert [i for n, i in order if n == str(number)] == list("01234")
    for turn in range(5):
        assert {n for n, _ in order[turn * 6 : turn * 6 + 6]} == set("012345"), "clients in turn"


async def queued(house: House, count: int) -> None:
    """Until so many requests wait (nothing is ready yet, so none has gone on)."""
    for _ in range(2000):
        if house.status()["queue"] == count:
            return
        await asyncio.sleep(0.001)
    raise AssertionError(f"{house.status()['queue']} of {count} wait")


async def test_a_cold_model_behind_four_busy_clients_gets_its_turn(make_house: MakeHouse) -> None:
    """Four clients keep one model busy without a gap; a fifth asks for another one: it waits for
    two turns (quantum, the longest answer) at most. Counted in answers of the busy one: on a slow
    machine there are fewer of them in the same time."""
    service, load = 0.3, 0.3
    engines = [
        stand_in(name, "--load-s", str(load), "--first-s", str(service), slots=2)
        for name in ("hot", "cold")
    ]
    with make_house('[memory]\nbudget = "150 MiB"\n' + "".join(engines)) as house:
        async with clients() as session:
            over = asyncio.Event()
            served: list[int] = []

            async def keep_busy(number: int) -> None:
                while not over.is_set():
                    status, _ = await ask(session, house, "hot", "again", f"hot-{number}")
                    served.append(status)

            busy = [asyncio.create_task(keep_busy(number)) for number in range(4)]
            passed: list[int] = []  # answers of the busy one while the cold one waited
            watch = Watch(house)
            for _ in range(3):
                await asyncio.to_thread(watch.wait, "ready", "hot", count=len(passed) + 1)
                before = len(served)
                status, _ = await ask(session, house, "cold", "at last", "cold")
                assert status == 200
                passed.append(len(served) - before)
            over.set()
            await asyncio.gather(*busy)
        assert set(served) == {200}
        seconds = [load_seconds(house, name) for name in ("hot", "cold")]
        stop = 0.5
        quantum = max(2.0, 2 * (sum(seconds) + stop))
        bound = 2 * (quantum + service) / service * 2  # slots
        print(f"the cold model waited for {max(passed)} answers at most; bound {bound:.0f}")
        assert max(passed) <= bound


def load_seconds(house: House, model: str) -> float:
    """The longest load so far, as the daemon told it."""
    told = [e.data for e in house.events() if e.data["model"] == model]
    starts: list[float] = [e["at"] for e in told if e["kind"] == "start"]
    ready: list[float] = [e["at"] for e in told if e["kind"] == "ready"]
    return max(r - s for s, r in zip(starts, ready, strict=False))
