"""What failed starts teach: kept, shown, and forgotten when it should be."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.access.principals import LOCAL
from daemon.backends.standings import Standings
from daemon.core.messages import ExitClass, Standing
from daemon.core.problems import Problem
from daemon.engines.base import Launch
from daemon.ports import Route, Wish
from daemon.remembered import Remembered
from tests.rooms import Rooms, engine, model

Open = Callable[..., Awaitable[Rooms]]
SIZES = "backoff = 0\n[defaults]\nctx = 8192\nmin_ctx = 2048\n"


@pytest.fixture
def opened(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    async def make(config: str = "", budget: str = "1 GiB") -> Rooms:
        text = SIZES + engine() + (config or model("a", pin="true"))
        return await Rooms(short_dir, text, monkeypatch, budget).open()

    return make


def stored(rooms: Rooms) -> dict[str, Any]:
    text = (rooms.paths.state_dir / "ladder.json").read_text()
    found: dict[str, Any] = json.loads(text)
    return found


async def dies(rooms: Rooms, name: str, kind: ExitClass = ExitClass.OUT_OF_MEMORY) -> None:
    """Its backend ends, and the next start is under way."""
    begun = len(rooms.orders)
    rooms.exited(name, kind)
    await rooms.until(lambda: len(rooms.orders) > begun)


def told(rooms: Rooms, kind: str) -> list[str]:
    return [event.text for event in rooms.bus.history(0) if event.kind == kind]


def ask(rooms: Rooms, name: str) -> list[object]:
    """A request; what it is told at once."""
    answers: list[object] = []
    wish = Wish(name, Route.CHAT, LOCAL, "c", 10, "r")
    rooms.supervisor.acquire(wish, answers.append)
    return answers


# ---------------------------------------------------------------- where it stands


async def test_where_it_stands_outlives_the_daemon_until_a_reset(opened: Open) -> None:
    rooms = await opened()
    await dies(rooms, "a")
    assert rooms.orders == ["start a: context 8192", "start a: context 4096"]
    view = rooms.control.model("a")
    assert view.degraded == "context 4096 (after running out of memory once)"
    assert view.degraded_since == pytest.approx(time.time(), abs=60.0)
    assert view.climbs_in == pytest.approx(86400.0, abs=60.0)
    await rooms.configured.written()
    (entry,) = stored(rooms)["entries"].values()
    assert (entry["model"], entry["failed"]) == ("a", "context 8192")

    again = await opened()
    assert again.orders == ["start a: context 4096"], "another life goes on from there"
    assert again.control.model("a").degraded == view.degraded
    assert again.control.model("a").degraded_since == pytest.approx(view.degraded_since, abs=60.0)
    again.control.reset("a")
    assert told(again, "reset") == [
        "a may be started again; its next start is at full size "
        "(what runs goes on as it is: ctl unload a)"
    ]
    await again.configured.written()
    assert stored(again)["entries"] == {}
    view = again.control.model("a")
    assert (view.degraded, view.degraded_since, view.climbs_in) == ("", None, None)


async def test_another_budget_begins_at_full_size(opened: Open) -> None:
    rooms = await opened()
    await dies(rooms, "a")
    assert rooms.control.model("a").degraded
    config = rooms.paths.config_file
    config.write_text(config.read_text().replace("1 GiB", "2 GiB"))
    assert (await rooms.configured.reload()).ok
    assert rooms.control.model("a").degraded == ""


async def test_news_during_a_write_is_written_too(tmp_path: Path) -> None:
    path = tmp_path / "ladder.json"
    remembered = Remembered(Standings(path))
    await remembered.written()
    remembered.standing("one", "m", Standing(1, "x", 1))
    await asyncio.sleep(0)  # the write has begun
    remembered.standing("two", "m", Standing(2, "x", 1))
    await remembered.written()
    assert set(json.loads(path.read_text())["entries"]) == {"one", "two"}
    remembered.standing("one", "m", None)
    await remembered.written()
    assert set(json.loads(path.read_text())["entries"]) == {"two"}


async def test_a_model_that_was_given_up_starts_with_a_mended_file(
    opened: Open, tiny_gguf: Path, short_dir: Path
) -> None:
    path = short_dir / "a.gguf"
    shutil.copy(tiny_gguf, path)
    rooms = await opened(model("a", path))
    assert ask(rooms, "a") == []
    rooms.exited("a", ExitClass.PERMANENT)
    assert rooms.states()["a"] == "failed"
    assert isinstance(ask(rooms, "a")[0], Problem)
    await asyncio.gather(*rooms.configured._tasks)
    assert isinstance(ask(rooms, "a")[0], Problem), "the same file would fail again"
    await asyncio.gather(*rooms.configured._tasks)
    with path.open("ab") as file:
        file.write(b"mended")
    assert isinstance(ask(rooms, "a")[0], Problem), "it is looked at beside the answer"
    await asyncio.gather(*rooms.configured._tasks)
    assert rooms.states()["a"] == "stopped"
    assert ask(rooms, "a") == []
    assert rooms.states()["a"] == "starting"


# ---------------------------------------------------------------- Metal


async def test_an_engine_that_could_not_start_metal_gets_its_remedy(opened: Open) -> None:
    rooms = await opened(model("a", pin="true") + model("b"))
    await dies(rooms, "a", ExitClass.METAL_INIT)
    assert rooms.orders == ["start a: context 8192"] * 2, "the same, at once"
    item = rooms.configured.stock.prepared["b"]
    assert item.installed is not None
    launch = Launch(("x",), {"PATH": "/bin"})
    with_it, installed = rooms.configured.stock._remedied(launch, item.installed)
    assert with_it.env == {"PATH": "/bin", "GGML_METAL_TENSOR_DISABLE": "1"}
    assert "GGML_METAL_TENSOR_DISABLE=1" in installed.warning
    written = replace(launch, env={"GGML_METAL_TENSOR_DISABLE": "0"})
    kept, _ = rooms.configured.stock._remedied(written, item.installed)
    assert kept.env == written.env, "what is set by hand stays"
    await rooms.until(lambda: told(rooms, "remedy"))
    assert "GGML_METAL_TENSOR_DISABLE=1" in told(rooms, "remedy")[0]
    rooms.exited("a", ExitClass.METAL_INIT)
    assert rooms.states()["a"] == "failed", "once"
    await rooms.configured.written()

    again = await opened(model("a") + model("b"))
    stock = again.configured.stock
    assert stock._remedied(launch, item.installed) == (with_it, installed), "remembered"
    other = replace(item.installed, version="9001")
    assert stock._remedied(launch, other) == (launch, other), "another version is tried anew"
    again.control.reset("a")
    assert stock._remedied(launch, item.installed) == (launch, item.installed)
    await again.configured.written()


async def test_what_the_user_set_himself_is_no_remedy(opened: Open) -> None:
    rooms = await opened(model("a", pin="true", env='{GGML_METAL_TENSOR_DISABLE = "1"}'))
    await dies(rooms, "a", ExitClass.METAL_INIT)
    rooms.exited("a", ExitClass.METAL_INIT)
    assert rooms.states()["a"] == "failed"
    assert told(rooms, "remedy") == []
