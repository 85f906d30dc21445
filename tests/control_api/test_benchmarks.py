"""Measurements over the wire."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import aiohttp
import pytest

from control_api.operation import PREFIX
from tests.control_api.fake import FakeControl, bench_view, measured_view

URL = f"{PREFIX}/benchmarks"
KEEP = f"{PREFIX}/models/g/benchmarks"


async def test_all_and_those_of_one_model(http: aiohttp.ClientSession, fake: FakeControl) -> None:
    fake.benches = [bench_view(id=2, model="qwen3-coder"), bench_view()]
    async with http.get(URL) as response:
        assert [one["id"] for one in (await response.json())["benchmarks"]] == [2, 1]
    async with http.get(URL, params={"model": "g"}) as response:
        assert [one["id"] for one in (await response.json())["benchmarks"]] == [1]
    async with http.get(URL, params={"limit": "1"}) as response:
        assert len((await response.json())["benchmarks"]) == 1
    async with http.get(URL, params={"model": "nobody"}) as response:
        assert response.status == 404


async def test_what_was_measured_is_kept(http: aiohttp.ClientSession, fake: FakeControl) -> None:
    measured = measured_view()
    async with http.post(KEEP, json=asdict(measured)) as response:
        assert response.status == 200
        made = await response.json()
    assert made["model"] == "gemma"
    assert made["measured"] == asdict(measured)
    assert fake.benches[0].measured == measured
    assert fake.calls == [("keep_benchmark", "gemma")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"runs": 0}, "runs is 0; a whole number from 1 to 1000"),
        ({"prompt": -1}, "prompt is -1"),
        ({"timed_by": "guess"}, "timed_by is"),
        ({"engine": "mine"}, "unknown field 'engine'"),
        ({"disturbed": "x" * 500}, "disturbed is"),
        ({"figures": [{"name": "luck"}]}, "figures[0].name is"),
        ({"figures": [{"name": "load", "unit": "s", "median": -1.0}]}, "figures[0].median is"),
    ],
)
async def test_nonsense_is_refused(
    change: dict[str, Any], said: str, http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    async with http.post(KEEP, json={**asdict(measured_view()), **change}) as response:
        assert response.status == 400
        assert said in (await response.json())["error"]["message"]
    assert fake.benches == []
