from __future__ import annotations

import dataclasses

import aiohttp
import msgspec

from control_api.operation import PREFIX
from daemon.views import StatusView
from tests.control_api.fake import FakeControl


async def test_status_and_version(http: aiohttp.ClientSession) -> None:
    async with http.get(f"{PREFIX}/status") as response:
        status = msgspec.json.decode(await response.read(), type=StatusView)
    assert status.pools[0].name == "gpu0"
    async with http.get(f"{PREFIX}/version") as response:
        assert await response.json() == {"version": "0.1.0", "api": "v1", "pid": 4242}


async def test_reload(http: aiohttp.ClientSession, fake: FakeControl) -> None:
    async with http.post(f"{PREFIX}/reload", json={}) as response:
        assert (await response.json())["needs_restart"] == ["server.port"]
    fake.reload_view = dataclasses.replace(
        fake.reload_view, ok=False, problem="2 mistakes", mistakes=[{"where": "server.port"}]
    )
    async with http.post(f"{PREFIX}/reload", json={}) as response:
        assert response.status == 422
        error = (await response.json())["error"]
    assert error["code"] == "config_invalid"
    assert error["facts"] == {"mistakes": [{"where": "server.port"}]}


async def test_shutdown(http: aiohttp.ClientSession, fake: FakeControl) -> None:
    async with http.post(f"{PREFIX}/shutdown", json={}) as response:
        assert response.status == 202
    assert fake.calls == [("shutdown",)]
