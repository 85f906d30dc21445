"""Models over the wire: names, loads as jobs, unload, pin."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from yarl import URL

from control_api.operation import PREFIX
from daemon.core.problems import Code, Problem, ProblemError
from daemon.ports import Progress
from tests.control_api.fake import READY, FakeControl, model_view, until

TOO_LARGE = ProblemError(
    Problem(Code.MODEL_TOO_LARGE, "It can never fit.", "Take a smaller one.", facts={"needed": 9})
)


async def lines(response: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await response.text()).splitlines() if line]


async def test_list_and_show(http: aiohttp.ClientSession) -> None:
    async with http.get(f"{PREFIX}/models") as response:
        names = [model["name"] for model in (await response.json())["models"]]
    assert names == ["gemma", "qwen3-coder", "org/repo:Q4"]
    async with http.get(f"{PREFIX}/models?presets=1") as response:
        assert (await response.json())["models"][-1]["preset"] == "preset-one"
    async with http.get(f"{PREFIX}/models/g") as response:
        assert (await response.json())["name"] == "gemma"


async def test_a_name_with_slash_and_colon(http: aiohttp.ClientSession, fake: FakeControl) -> None:
    for written in ("org%2Frepo%3AQ4", "org%2Frepo:Q4", "org%2frepo:Q4"):
        target = URL(f"{PREFIX}/models/{written}/pin", encoded=True)
        async with http.post(target, json={}) as response:
            assert (await response.json())["model"] == "org/repo:Q4"
    assert fake.calls == [("pin", "org/repo:Q4", True)] * 3


async def test_load_without_waiting(http: aiohttp.ClientSession, fake: FakeControl) -> None:
    gate = asyncio.Event()
    fake.steps = (gate, *READY)
    async with http.post(f"{PREFIX}/models/qwen3-coder/load", json={"ctx": 4096}) as response:
        assert response.status == 202
        assert await response.json() == {"ok": True, "model": "qwen3-coder"}
    assert fake.calls == [("load", "qwen3-coder", 4096)]
    gate.set()
    await until(lambda: fake.ended == ["load qwen3-coder"])


async def test_load_streams_its_steps(http: aiohttp.ClientSession, fake: FakeControl) -> None:
    async with http.post(f"{PREFIX}/models/qwen3-coder/load", json={"wait": True}) as response:
        assert response.status == 200
        assert response.content_type == "application/x-ndjson"
        steps = await lines(response)
    assert [step["step"] for step in steps] == ["evict", "start", "ready"]
    assert steps[-1]["facts"]["footprint"] == {"gpu0": 17 * 2**30}


@pytest.mark.parametrize("wait", [True, False])
async def test_a_load_refused_at_once_has_a_status(
    wait: bool, http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    fake.steps = (TOO_LARGE,)
    async with http.post(f"{PREFIX}/models/qwen3-coder/load", json={"wait": wait}) as response:
        assert response.status == 409
        assert (await response.json())["error"]["facts"] == {"needed": 9}


async def test_a_load_that_fails_later_ends_with_the_error(
    http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    gate = asyncio.Event()
    fake.steps = (Progress("start", "engine"), gate, TOO_LARGE)
    async with http.post(f"{PREFIX}/models/qwen3-coder/load", json={"wait": True}) as response:
        assert response.status == 200
        gate.set()
        steps = await lines(response)
    assert [step["step"] for step in steps] == ["start", "failed"]
    assert steps[-1]["error"]["code"] == "model_too_large"


async def test_a_bug_in_a_load_is_told_and_logged(
    http: aiohttp.ClientSession, fake: FakeControl, caplog: pytest.LogCaptureFixture
) -> None:
    fake.steps = (Progress("start", "engine"), RuntimeError("a secret"))
    async with http.post(f"{PREFIX}/models/qwen3-coder/load", json={"wait": True}) as response:
        text = await response.text()
    assert "internal_error" in text
    assert "a secret" not in text
    assert "a secret" in caplog.text


async def test_a_load_goes_on_when_its_reader_leaves(
    http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    gate = asyncio.Event()
    fake.steps = (Progress("start", "engine"), gate, *READY)
    response = await http.post(f"{PREFIX}/models/qwen3-coder/load", json={"wait": True})
    assert await response.content.readline()
    response.close()
    gate.set()
    await until(lambda: fake.ended == ["load qwen3-coder"])


async def test_a_silent_load_has_a_heartbeat(
    http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    gate = asyncio.Event()
    fake.steps = (Progress("start", "engine"), gate, *READY)
    async with http.post(f"{PREFIX}/models/qwen3-coder/load", json={"wait": True}) as response:
        assert (await response.content.readline()).strip()
        async with asyncio.timeout(20):
            assert await response.content.readline() == b"\n"
        gate.set()
        assert (await lines(response))[-1]["step"] == "ready"


async def test_a_pull_ends_with_done(http: aiohttp.ClientSession, fake: FakeControl) -> None:
    fake.steps = tuple(Progress("pull", f"{n} MiB", n / 600) for n in range(600))
    async with http.post(f"{PREFIX}/models/gemma/pull", json={"wait": True}) as response:
        steps = await lines(response)
    assert steps[-1] == {"step": "done"}
    assert fake.calls == [("pull", "gemma")]


@pytest.mark.parametrize("ctx", [0, 255, 2**40, "4096", 4096.5, True])
async def test_a_context_out_of_bounds_is_refused(
    ctx: Any, http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    async with http.post(f"{PREFIX}/models/gemma/load", json={"ctx": ctx}) as response:
        assert response.status == 400
        assert "ctx" in (await response.json())["error"]["message"]
    assert fake.calls == []


async def test_unload_pin_reset(http: aiohttp.ClientSession, fake: FakeControl) -> None:
    async with http.post(f"{PREFIX}/models/g/unload", json={"force": True}) as response:
        assert await response.json() == {"unloaded": ["gemma"]}
    async with http.post(
        f"{PREFIX}/unload", data=b"", headers={"Content-Type": "application/json"}
    ) as response:
        assert await response.json() == {"unloaded": []}
    for verb in ("pin", "unpin", "reset"):
        async with http.post(f"{PREFIX}/models/gemma/{verb}", json={}) as response:
            said = {"text": "gemma may be started again"} if verb == "reset" else {}
            assert await response.json() == {"ok": True, "model": "gemma", **said}
    assert fake.calls == [
        ("unload", "gemma", True),
        ("unload", None, False),
        ("pin", "gemma", True),
        ("pin", "gemma", False),
        ("reset", "gemma"),
    ]


async def test_findings_are_kept_and_told(http: aiohttp.ClientSession, fake: FakeControl) -> None:
    path = f"{PREFIX}/models/g/tests"
    async with http.get(path) as response:
        assert await response.json() == {"verdicts": []}
    findings = [
        {"step": "stream", "outcome": "works", "text": "10 pieces", "seconds": 0.5},
        {"step": "stop", "outcome": "broken", "text": "goes on", "fault": "plumbing"},
    ]
    async with http.post(path, json={"findings": findings}) as response:
        assert response.status == 200
        verdict = await response.json()
    assert (verdict["verdict"], verdict["text"]) == ("broken", "stop: goes on")
    assert verdict["findings"][0]["seconds"] == 0.5
    assert fake.calls == [("judge", "gemma", ["stream", "stop"])]
    async with http.get(path) as response:
        assert (await response.json())["verdicts"] == [verdict]
    async with http.get(f"{PREFIX}/models/g") as response:
        assert (await response.json())["tested"] == verdict
    async with http.post(path, json={"findings": [{}]}) as response:
        assert response.status == 400
        assert "findings[0].step is missing." in await response.text()
    async with http.get(f"{PREFIX}/models/nobody/tests") as response:
        assert response.status == 404


async def test_presets_are_decided_for_a_list_of_them(
    http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    for query, times in (("", 0), ("?found=1", 0), ("?presets=1", 1)):
        async with http.get(f"{PREFIX}/models{query}") as response:
            assert response.status == 200
        assert fake.decided == times


async def test_the_disk_is_looked_at_for_a_list_of_what_is_found(
    http: aiohttp.ClientSession, fake: FakeControl
) -> None:
    fake.found = [model_view("later", place="folder", abilities=["tools"])]
    async with http.get(f"{PREFIX}/models") as response:
        assert "later" not in [m["name"] for m in (await response.json())["models"]]
    assert fake.looked == []
    async with http.get(f"{PREFIX}/models?found=1") as response:
        (later,) = [m for m in (await response.json())["models"] if m["name"] == "later"]
    assert (later["place"], later["abilities"]) == ("folder", ["tools"])
    assert fake.looked == [""]
