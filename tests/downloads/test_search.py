"""Searching, with the real client against the stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import close_session  # type: ignore[attr-defined]

from daemon.core.problems import ProblemError
from daemon.downloads.choose import RepoFile
from daemon.downloads.search import Found, search, sized
from tests.downloads.hub import Hub, Repo

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def client(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield
    close_session()


@pytest.fixture
def stocked(hub: Hub) -> Hub:
    files = {f"m-{quant}.gguf": b"x" * size for quant, size in (("Q8_0", 80), ("Q4_K_M", 40))}
    hub.repos["unsloth/Qwen3-8B-GGUF"] = Repo({**files, "x.py": b""}, downloads=500)
    hub.repos["ggml/qwen3-GGUF"] = Repo({"m-Q8_0.gguf": b"x" * 80}, downloads=900)
    safe = {"config.json": b"{}", "model.safetensors": b"x" * 160}
    hub.repos["Qwen/Qwen3-8B"] = Repo(dict(safe), tags=("safetensors",), downloads=9000)
    hub.repos["other/llama-GGUF"] = Repo({"m.gguf": b"x"}, downloads=10**6)
    return hub


def test_the_most_downloaded_first_with_sizes(stocked: Hub) -> None:
    found = search("qwen3", ["gguf", "safetensors"], 10)
    assert [one.repo for one in found] == [
        "Qwen/Qwen3-8B",
        "ggml/qwen3-GGUF",
        "unsloth/Qwen3-8B-GGUF",
    ]
    safe, _, both = found
    assert (safe.format, dict(safe.sizes), safe.best) == ("safetensors", {"": 162}, "")
    assert (both.format, dict(both.sizes), both.best) == (
        "gguf",
        {"Q4_K_M": 40, "Q8_0": 80},
        "Q4_K_M",
    )
    assert [one.repo for one in search("qwen3 8b", ["gguf"], 1)] == ["unsloth/Qwen3-8B-GGUF"]
    assert search("nothing like it", ["gguf"], 5) == []


def test_what_is_gated_is_listed_without_sizes_where_they_are_not_told(
    stocked: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    stocked.repos["unsloth/Qwen3-8B-GGUF"].gate = 403
    (found,) = search("qwen3 8b", ["gguf"], 5)
    assert found.gated
    real = HfApi.model_info

    def closed(self: HfApi, repo: str, **more: object) -> object:
        stocked.repos.pop(repo)
        return real(self, repo, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(HfApi, "model_info", closed)
    (found,) = search("qwen3 8b", ["gguf"], 5)
    assert found.sizes == {}


@pytest.mark.parametrize("how", ["offline", "down", "gone"])
def test_without_the_hub(hub: Hub, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif how == "down":
        hub.down = 503
    else:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ProblemError) as caught:
        search("qwen3", ["gguf"], 5)
    assert "cannot be searched" in caught.value.problem.message
    assert "ctl ls" in caught.value.problem.hint


def test_too_many_searches(hub: Hub) -> None:
    hub.crowded, hub.retry_after = 99, "7"
    with pytest.raises(ProblemError) as caught:
        search("qwen3", ["gguf"], 5)
    assert caught.value.problem.retry_after == 7
    assert "asks to wait 7 s" in caught.value.problem.message


def test_a_repository_is_what_its_files_are() -> None:
    found = Found("o/n", "gguf", 1, 1, False)
    safe = sized(found, [RepoFile("config.json", 1), RepoFile("model.safetensors", 5)])
    assert (safe.format, safe.sizes) == ("safetensors", {"": 6})
    assert sized(found, [RepoFile("model.bin", 5)]) == found
