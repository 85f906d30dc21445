"""Incidents over the wire."""

from __future__ import annotations

import aiohttp

from control_api.operation import PREFIX
from tests.control_api.fake import FakeControl, incident_view

URL = f"{PREFIX}/incidents"


async def test_all_and_those_of_one_model(http: aiohttp.ClientSession, fake: FakeControl) -> None:
    fake.died = [incident_view(id=9, model="qwen3-coder"), incident_view()]
    async with http.get(URL) as response:
        body = await response.json()
    assert [one["id"] for one in body["incidents"]] == [9, 7]
    assert [one["last"]["id"] for one in body["stories"]] == [9, 7]
    async with http.get(URL, params={"model": "g"}) as response:
        assert [one["id"] for one in (await response.json())["incidents"]] == [7]
    async with http.get(URL, params={"limit": "1"}) as response:
        assert len((await response.json())["incidents"]) == 1


async def test_an_unknown_model(http: aiohttp.ClientSession) -> None:
    async with http.get(URL, params={"model": "req_0123"}) as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "model_not_found"


async def test_what_was_written_before_is_redacted_again(
    http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    fake.died = [incident_view(lines=["api_key=canary-canary"], detail="Bearer canary-canary")]
    async with http.get(URL) as response:
        text = await response.text()
    assert "canary" not in text
    assert "api_key=***" in text
