from __future__ import annotations

import aiohttp

from control_api.operation import PREFIX
from tests.control_api.fake import FakeControl, backend_view


async def test_list_and_newest(http: aiohttp.ClientSession, fake: FakeControl) -> None:
    fake.running.append(backend_view("gemma", generation=9, state="starting", ready_at=None))
    async with http.get(f"{PREFIX}/backends") as response:
        assert len((await response.json())["backends"]) == 2
    async with http.get(f"{PREFIX}/backends/g") as response:
        assert (await response.json())["generation"] == 9


async def test_a_model_that_is_not_loaded(http: aiohttp.ClientSession) -> None:
    async with http.get(f"{PREFIX}/backends/qwen3-coder") as response:
        assert response.status == 404
        error = (await response.json())["error"]
    assert error["code"] == "unloaded"
    assert "ctl load qwen3-coder" in error["hint"]
