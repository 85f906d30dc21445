"""Keys over the control API: shown to whoever may control, changed by the owner alone."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from aiohttp import web

from control_api.app import make_app
from control_api.auth import FrontAuth, front_headers
from daemon.access.keys import Wanted, make
from daemon.access.principals import CONTROL, USE, Principal
from tests.control_api.fake import FakeControl

DESK = Principal("desk", frozenset({USE, CONTROL}))
SECRET = "s" * 32


async def test_made_listed_and_removed(http: aiohttp.ClientSession, fake: FakeControl) -> None:
    body = {"name": "guest", "lasts": 3600, "models": ["gemma", "qwen*"], "at_once": 2}
    async with http.post("/control/v1/keys", json=body) as response:
        assert response.status == 201
        made = await response.json()
    assert made["key"].startswith("mp-")
    assert made["about"]["name"] == "guest"
    wanted = fake.calls[0][1]
    assert wanted == Wanted(name="guest", lasts=3600, models=("gemma", "qwen*"), at_once=2)
    async with http.get("/control/v1/keys") as response:
        text = await response.text()
    assert "guest" in text
    assert made["key"] not in text
    async with http.post("/control/v1/keys", json=body) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (409, "key_exists")
    for status in (200, 404):
        async with http.post("/control/v1/keys/guest/remove", json={}) as response:
            assert response.status == status
    assert fake.ring == {}


@contextlib.asynccontextmanager
async def by_the_front(fake: FakeControl, place: Path) -> AsyncIterator[aiohttp.ClientSession]:
    runner = web.AppRunner(make_app(fake, auth=FrontAuth(SECRET)))
    await runner.setup()
    await web.UnixSite(runner, str(place)).start()
    connector = aiohttp.UnixConnector(str(place))
    headers = front_headers(SECRET, DESK)
    async with aiohttp.ClientSession("http://localhost", connector=connector, headers=headers) as s:
        yield s
    await runner.cleanup()


async def test_a_control_key_makes_and_removes_none(fake: FakeControl, short_dir: Path) -> None:
    """Whoever has stolen one shall not make himself another."""
    fake.ring["laptop"] = make(Wanted(name="laptop"), 1e9)[0].view(1e9)
    before = fake.state()
    async with by_the_front(fake, short_dir / "s") as http:
        async with http.get("/control/v1/keys") as response:
            assert response.status == 200
        for path, body in (("/keys", {"name": "mine"}), ("/keys/laptop/remove", {})):
            async with http.post(f"/control/v1{path}", json=body) as response:
                assert response.status == 403
                assert "on the machine itself" in await response.text()
    assert fake.state() == before
