"""Found models, from a file that appears to a request that is served."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from daemon.access.principals import LOCAL
from daemon.config.finds import Find
from daemon.config.settings import Settings
from daemon.core.problems import Code, Problem
from daemon.finding import Finder
from daemon.ports import Lease, Route, Wish
from daemon.reading import Reader
from tests.discovery.trees import hub
from tests.rooms import Rooms, model

Open = Callable[..., Awaitable[Rooms]]
SECONDS = 10.0


@pytest.fixture
def opened(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Rooms with a folder ``found``; no pause between looks."""

    async def open_rooms(config: str = "", pause: str = "0 s", **more: object) -> Rooms:
        (short_dir / "found").mkdir(exist_ok=True)
        rooms = Rooms(short_dir, config, monkeypatch)
        text = rooms.paths.config_file.read_text()
        text = text.replace("[timing]\n", f'[timing]\ndiscovery_pause = "{pause}"\n')
        lines = "".join(f"{key} = {value}\n" for key, value in more.items())
        text += f'[discovery]\nplaces = []\nfolders = ["found"]\n{lines}'
        rooms.paths.config_file.write_text(text)
        await rooms.open()
        rooms.supervisor.seek = rooms.control.finder.seek
        rooms.supervisor.listed = rooms.control.finder.listed
        return rooms

    return open_rooms


def wish(name: str, route: Route = Route.CHAT) -> Wish:
    return Wish(name, route, LOCAL, "me", 2, "id")


async def asked(rooms: Rooms, name: str, route: Route = Route.CHAT) -> Problem | str:
    """What a request gets: a problem, or the model that is started for it."""
    done: asyncio.Future[Lease | Problem] = asyncio.get_running_loop().create_future()
    before = len(rooms.orders)
    waiting = rooms.supervisor.acquire(wish(name, route), done.set_result)
    await rooms.until(lambda: done.done() or len(rooms.orders) > before)
    if waiting is not None:
        waiting.cancel()
    await rooms.control.finder.stop()
    if done.done():
        found = done.result()
        assert isinstance(found, Problem)
        return found
    return rooms.orders[-1]


def place(rooms: Rooms, source: Path, name: str) -> Path:
    return Path(shutil.copy(source, rooms.folder / "found" / name))


async def test_a_new_file_is_served_to_the_first_who_names_it(
    opened: Open, tiny_gguf: Path
) -> None:
    rooms = await opened()
    missing = await asked(rooms, "tiny-F16")
    assert isinstance(missing, Problem)
    assert missing.code is Code.MODEL_NOT_FOUND
    place(rooms, tiny_gguf, "tiny-F16.gguf")
    assert str(await asked(rooms, "TINY-f16")).startswith("start tiny-F16: ")
    assert [view.name for view in rooms.control.models()] == ["tiny-F16"]


async def test_also_where_a_default_would_have_answered(opened: Open, tiny_gguf: Path) -> None:
    rooms = await opened(model("a", tiny_gguf) + '[server]\ndefault_model = "a"\n' + ENGINE)
    assert str(await asked(rooms, "nonsense")).startswith("start a: ")
    place(rooms, tiny_gguf, "new.gguf")
    assert str(await asked(rooms, "new")).startswith("start new: ")


ENGINE = '[engines.command.mine]\nargv = ["true", "{port}", "{ctx}"]\nfootprint = "100 MiB"\n'


async def test_strangers_cause_one_look_in_a_while(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = await opened(pause="1 h")
    looks: list[int] = []
    look = Reader.look

    def counted(self: Reader, settings: Settings) -> tuple[Find, ...]:
        looks.append(1)
        return look(self, settings)

    monkeypatch.setattr(Reader, "look", counted)
    for number in range(20):
        found = await asked(rooms, f"stranger-{number}")
        assert isinstance(found, Problem)
        assert found.code is Code.MODEL_NOT_FOUND
    assert len(looks) == 1
    assert isinstance(await asked(rooms, "claude-opus-4"), Problem)
    assert isinstance(await asked(rooms, ""), Problem)
    assert len(looks) == 1, "what clients call hosted models is not looked for"


async def test_looks_are_made_one_at_a_time_and_shared(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = await opened()
    looks: list[int] = []
    look = Finder._look

    async def counted(self: Finder) -> None:
        looks.append(1)
        await look(self)

    monkeypatch.setattr(Finder, "_look", counted)
    await asyncio.gather(*(rooms.control.look() for _ in range(50)))
    assert len(looks) == 2, "the first, and one for all who came after it had begun"
    await rooms.control.look()
    assert len(looks) == 3


async def test_a_look_that_hangs_does_not_hold_a_request_for_ever(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = await opened()
    settings = rooms.configured.settings
    timing = settings.timing.model_copy(update={"discovery_wait": 0.05})
    rooms.configured.settings = settings.model_copy(update={"timing": timing})
    never = asyncio.Event()

    hung: list[int] = []

    async def hang(self: Finder) -> None:
        hung.append(1)
        await never.wait()

    monkeypatch.setattr(Finder, "_look", hang)
    for name in ("stranger", "another"):
        done: asyncio.Future[Lease | Problem] = asyncio.get_running_loop().create_future()
        rooms.supervisor.acquire(wish(name), done.set_result)
        found = await asyncio.wait_for(done, SECONDS)
        assert isinstance(found, Problem)
        assert found.code is Code.MODEL_NOT_FOUND
    assert hung == [1], "the second waited for the same look"
    await rooms.control.finder.stop()


async def test_a_cancelled_request_starts_nothing(opened: Open, tiny_gguf: Path) -> None:
    rooms = await opened()
    place(rooms, tiny_gguf, "tiny.gguf")
    told: list[Lease | Problem] = []
    waiting = rooms.supervisor.acquire(wish("tiny"), told.append)
    assert waiting is not None
    waiting.cancel()
    await rooms.control.look("tiny")
    await rooms.control.finder.stop()
    assert (told, rooms.orders) == ([], [])


async def test_who_waits_for_a_look_is_refused_when_the_daemon_stops(opened: Open) -> None:
    rooms = await opened()
    told: list[Lease | Problem] = []
    rooms.supervisor.acquire(wish("stranger"), told.append)
    rooms.supervisor.leave()
    assert [one.code for one in told if isinstance(one, Problem)] == [Code.SHUTTING_DOWN]
    await rooms.control.finder.stop()
    assert len(told) == 1


async def test_what_vanishes_is_gone_and_what_runs_goes_on(opened: Open, tiny_gguf: Path) -> None:
    rooms = await opened()
    runs, idle = place(rooms, tiny_gguf, "runs.gguf"), place(rooms, tiny_gguf, "idle.gguf")
    await asked(rooms, "runs")
    await rooms.control.look("idle")
    assert sorted(rooms.configured.stock.prepared) == ["idle", "runs"]
    assert rooms.states()["runs"] == "starting"
    runs.unlink()
    idle.unlink()
    await rooms.control.look()
    assert sorted(rooms.configured.stock.prepared) == ["runs"]
    assert rooms.states()["runs"] == "starting"
    assert rooms.orders == ["start runs: " + rooms.orders[0].partition(": ")[2]]
    assert rooms.configured.original("runs").path == runs


async def test_another_file_under_the_same_name_is_read_anew(
    opened: Open, tiny_gguf: Path, loop_gguf: Path
) -> None:
    rooms = await opened()
    place(rooms, tiny_gguf, "m.gguf")
    await rooms.control.look("m")
    assert rooms.control.model("m").context_max == 4096
    path = place(rooms, loop_gguf, "m.gguf")
    # It is as large, and a file system's clock is coarse: of a busy machine, it may stand still.
    later = path.stat().st_mtime + 1
    os.utime(path, (later, later))
    await rooms.control.look()
    await rooms.control.look("m")
    assert rooms.control.model("m").context_max == 1_000_000


async def test_a_reload_touches_nothing_of_what_was_found(opened: Open, tiny_gguf: Path) -> None:
    rooms = await opened()
    place(rooms, tiny_gguf, "m.gguf")
    await asked(rooms, "m")
    view = await rooms.configured.reload()
    assert (view.ok, view.changed, view.removed) == (True, [], [])
    assert rooms.states()["m"] == "starting"
    assert len(rooms.orders) == 1


async def test_half_a_file_is_listed_with_its_reason_and_served_once_whole(
    opened: Open, tiny_gguf: Path
) -> None:
    rooms = await opened()
    whole = tiny_gguf.read_bytes()  # noqa: ASYNC240
    path = rooms.folder / "found" / "m.gguf"
    path.write_bytes(whole[:-9])
    await rooms.control.look()
    (view,) = rooms.control.models(found=True)
    assert "not downloaded completely" in view.problem
    assert rooms.supervisor.cards() == []
    found = await asked(rooms, "m")
    assert isinstance(found, Problem)
    assert found.code is Code.MODEL_UNAVAILABLE
    assert rooms.supervisor.cards() == [], "nor once it was named"
    path.write_bytes(whole)
    await rooms.control.look()
    assert str(await asked(rooms, "m")).startswith("start m: ")


async def test_programs_are_told_of_found_models_unless_they_are_not_to_be(
    opened: Open, tiny_gguf: Path, embedding_gguf: Path
) -> None:
    rooms = await opened()
    place(rooms, tiny_gguf, "m.gguf")
    place(rooms, embedding_gguf, "e.gguf")
    await rooms.control.look()
    cards = {card.id: card for card in rooms.supervisor.cards()}
    assert {name: card.kind for name, card in cards.items()} == {"m": "chat", "e": "embedding"}
    assert cards["m"].context == 4096
    assert cards["m"].facts["quantisation"] == "F16"
    card = rooms.supervisor.card("m")
    assert not isinstance(card, Problem)
    assert card.engine == "xllamacpp"
    text = rooms.paths.config_file.read_text() + "listed = false\n"
    rooms.paths.config_file.write_text(text)
    assert (await rooms.configured.reload()).ok
    assert rooms.supervisor.cards() == []
    assert not isinstance(rooms.supervisor.card("m"), Problem)
    await rooms.control.finder.stop()


async def test_switched_off(opened: Open, tiny_gguf: Path) -> None:
    rooms = await opened(enabled="false")
    place(rooms, tiny_gguf, "m.gguf")
    await rooms.control.look()
    assert rooms.control.models(found=True) == []
    assert isinstance(await asked(rooms, "m"), Problem)


async def brought(rooms: Rooms) -> dict[str, object]:
    step = await rooms.control.bringing.done("hf:owner/tiny:F16")
    return {key: (step.facts or {}).get(key) for key in ("served_as", "found")}


async def test_the_end_of_a_pull_tells_by_which_name_it_is_served(
    opened: Open, tiny_gguf: Path
) -> None:
    rooms = await opened(ENGINE)
    text = rooms.paths.config_file.read_text()
    rooms.paths.config_file.write_text(text.replace("places = []", 'places = ["huggingface"]'))
    await rooms.configured.reload()
    assert await brought(rooms) == {"served_as": "", "found": None}, "nothing came"
    snapshot = hub(rooms.hub, "owner/tiny", {"tiny-F16.gguf": tiny_gguf})
    assert await brought(rooms) == {"served_as": "owner/tiny:F16", "found": True}
    assert str(await asked(rooms, "owner/tiny:F16")).startswith("start owner/tiny:F16: ")
    text = rooms.paths.config_file.read_text()
    path = snapshot / "tiny-F16.gguf"
    rooms.paths.config_file.write_text(text + model("mine", path))
    await rooms.configured.reload()
    assert await brought(rooms) == {"served_as": "mine", "found": None}


async def test_what_is_not_looked_for_is_served_by_no_name(opened: Open, tiny_gguf: Path) -> None:
    rooms = await opened(enabled="false")
    hub(rooms.hub, "owner/tiny", {"tiny-F16.gguf": tiny_gguf})
    assert await brought(rooms) == {"served_as": "", "found": None}
