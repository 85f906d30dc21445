"""Children that count tokens: what they tell, when they end, and that none is left."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from daemon.backends import counters as module
from daemon.backends.counters import Counters, Patience
from daemon.ports import Tokens, Waiting

DEADLINE = 20.0

CHILD = """
import json, os, sys, time
folder = sys.argv[1]
with open(os.path.join(folder, "started"), "a") as file:
    file.write(f"{os.getpid()}\\n")
if os.path.exists(os.path.join(folder, "broken")):
    print(json.dumps({"error": "no such vocabulary"}), flush=True)
    sys.exit(1)
print(json.dumps({"template": True}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("die"):
        os._exit(3)
    if asked.get("hang"):
        time.sleep(60)
    if asked.get("fail"):
        print(json.dumps({"error": "no"}), flush=True)
    elif asked.get("babble"):
        print("babble", flush=True)
    else:
        print(json.dumps({"tokens": asked["n"], "exact": True}), flush=True)
"""


@dataclass(frozen=True)
class Recipe:
    """Of a child that does as it is told."""

    folder: str

    @property
    def argv(self) -> tuple[str, ...]:
        return (sys.executable, "-I", "-S", "-c", CHILD, self.folder)

    def spoil(self, *, broken: bool = True) -> None:
        file = Path(self.folder, "broken")
        file.touch() if broken else file.unlink()

    @property
    def started(self) -> list[int]:
        file = Path(self.folder, "started")
        return [int(line) for line in file.read_text().split()] if file.exists() else []


@pytest.fixture
def recipes(tmp_path: Path) -> list[Recipe]:
    found = []
    for name in "abc":
        (tmp_path / name).mkdir()
        found.append(Recipe(str(tmp_path / name)))
    return found


@asynccontextmanager
async def counting(**patience: float) -> AsyncIterator[Counters]:
    counters = Counters(Patience(**{"answer": DEADLINE, "idle": DEADLINE, **patience}), {})
    try:
        yield counters
    finally:
        await counters.close()


def ask(
    counters: Counters, recipe: Recipe, **chat: Any
) -> tuple[asyncio.Future[Tokens | None], Waiting | None]:
    told: asyncio.Future[Tokens | None] = asyncio.get_running_loop().create_future()
    raw = json.dumps(chat).encode()
    return told, counters.count(recipe, raw, told.set_result)  # type: ignore[arg-type]


async def count(counters: Counters, recipe: Recipe, **chat: Any) -> Tokens | None:
    return await asyncio.wait_for(ask(counters, recipe, **chat)[0], DEADLINE)


async def gone(pid: int) -> None:
    async with asyncio.timeout(DEADLINE):
        while psutil.pid_exists(pid):  # noqa: ASYNC110 - another process's end
            await asyncio.sleep(0.01)


async def test_many_at_once_are_counted_by_one_child_in_turn(recipes: list[Recipe]) -> None:
    async with counting() as counters:
        asked = [ask(counters, recipes[0], n=n)[0] for n in range(25)]
        assert await asyncio.gather(*asked) == [Tokens(n, exact=True) for n in range(25)]
        assert await count(counters, recipes[0], n=7) == Tokens(7, exact=True)
    assert len(recipes[0].started) == 1
    await gone(recipes[0].started[0])


async def test_one_chat_that_cannot_be_counted_is_no_end(recipes: list[Recipe]) -> None:
    async with counting() as counters:
        assert await count(counters, recipes[0], fail=True) is None
        assert await count(counters, recipes[0], n=1) == Tokens(1, exact=True)
    assert len(recipes[0].started) == 1


@pytest.mark.parametrize("how", ["die", "babble", "hang"])
async def test_a_child_that_fails_is_replaced_and_nobody_waits(
    recipes: list[Recipe], how: str
) -> None:
    async with counting() as counters:
        assert await count(counters, recipes[0], n=1) == Tokens(1, exact=True)  # it is up
        if how == "hang":
            counters.patience = Patience(1.0, DEADLINE)
        first, _ = ask(counters, recipes[0], **{how: True})
        behind, _ = ask(counters, recipes[0], n=2)
        assert await asyncio.wait_for(first, DEADLINE) is None
        assert await asyncio.wait_for(behind, DEADLINE) is None
        await gone(recipes[0].started[0])
        counters.patience = Patience(DEADLINE, DEADLINE)
        assert await count(counters, recipes[0], n=3) == Tokens(3, exact=True)
    assert len(recipes[0].started) == 2


async def test_what_never_works_is_given_up_until_the_next_reload(recipes: list[Recipe]) -> None:
    recipes[0].spoil()
    async with counting() as counters:
        for _ in range(module.TRIES + 2):
            assert await count(counters, recipes[0], n=1) is None
        assert len(recipes[0].started) == module.TRIES
        recipes[0].spoil(broken=False)
        assert await count(counters, recipes[0], n=1) is None
        counters.follow(Patience(DEADLINE, DEADLINE))
        assert await count(counters, recipes[0], n=1) == Tokens(1, exact=True)


async def test_a_program_that_is_not_there(recipes: list[Recipe]) -> None:
    class Nothing(Recipe):
        argv = ("/nowhere/python",)  # type: ignore[assignment]

    async with counting() as counters:
        assert await count(counters, Nothing(recipes[0].folder), n=1) is None


async def test_it_ends_when_nothing_is_asked(recipes: list[Recipe]) -> None:
    async with counting(idle=0.05) as counters:
        assert await count(counters, recipes[0], n=1) is not None
        await gone(recipes[0].started[0])
        assert await count(counters, recipes[0], n=2) == Tokens(2, exact=True)
    assert len(recipes[0].started) == 2


async def test_the_longest_idle_makes_room_and_the_busy_stay(recipes: list[Recipe]) -> None:
    a, b, c = recipes
    async with counting() as counters:
        for recipe in (a, b, a):
            assert await count(counters, recipe, n=1) is not None
        assert await count(counters, c, n=1) is not None
        await gone(b.started[0])
        assert psutil.pid_exists(a.started[0])
        held = [ask(counters, recipe, hang=True) for recipe in (a, c)]
        assert await count(counters, b, n=1) is None, "all places are at work"
        for told, waiting in held:
            assert waiting is not None
            waiting.cancel()
            told.cancel()
    for recipe in recipes:
        for pid in recipe.started:
            assert not psutil.pid_exists(pid)


async def test_who_leaves_hears_nothing_and_the_next_is_counted(recipes: list[Recipe]) -> None:
    async with counting() as counters:
        told, waiting = ask(counters, recipes[0], n=1)
        assert waiting is not None
        waiting.cancel()
        assert await count(counters, recipes[0], n=2) == Tokens(2, exact=True)
        assert not told.done()


async def test_too_much_at_once_is_not_kept(
    recipes: list[Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE_BYTES", 100)
    async with counting() as counters:
        first, _ = ask(counters, recipes[0], n=1, pad="x" * 60)
        assert await count(counters, recipes[0], n=2, pad="x" * 60) is None
        assert await first == Tokens(1, exact=True)


async def test_the_end_answers_everybody(recipes: list[Recipe]) -> None:
    counters = Counters(Patience(DEADLINE, DEADLINE), {})
    told, _ = ask(counters, recipes[0], hang=True)
    await counters.close()
    assert await told is None
    assert await count(counters, recipes[0], n=1) is None
