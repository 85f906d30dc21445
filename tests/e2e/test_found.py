"""Models of other programs, served by their names through a whole daemon and a real engine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.discovery.trees import Ollama, hub, llama_cache, lmstudio
from tests.e2e.conftest import MakeHouse
from tests.e2e.house import House
from tests.models import make_gguf

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]


@pytest.fixture
def kitchen(make_house: MakeHouse, short_dir: Path) -> Iterator[House]:
    """A daemon with nothing configured, and places of all five kinds."""
    made = short_dir / "made"
    made.mkdir()
    for reply in ("ollama", "studio", "hub", "llama", "folder"):
        make_gguf(made / f"{reply}.gguf", reply=f"from {reply}")
    store = Ollama(short_dir / "ollama")
    params = {"temperature": 0.1, "num_ctx": 1024}
    store.add("tiny:1b", made / "ollama.gguf", params=params, template=b"{{ .Prompt }}")
    hub(short_dir / "hub", "org/Hub-GGUF", {"Hub-F16.gguf": made / "hub.gguf"})
    llama_cache(short_dir / "llama", "ggml/Llama-GGUF", {"llama-f16.gguf": made / "llama.gguf"})
    lmstudio(short_dir / "mine", "a/b", {"folder-f16.gguf": made / "folder.gguf"})
    studio = Path(os.environ["HOME"]) / ".lmstudio" / "models"
    lmstudio(studio, "pub/Studio-GGUF", {"Studio-F16.gguf": made / "studio.gguf"})
    house = make_house(f'[discovery]\nfolders = ["{short_dir / "mine"}"]\n')
    house.extra = {
        "OLLAMA_MODELS": str(short_dir / "ollama"),
        "HF_HUB_CACHE": str(short_dir / "hub"),
        "LLAMA_CACHE": str(short_dir / "llama"),
    }
    yield house
    house.__exit__()
    shutil.rmtree(studio.parent)


NAMES = {
    "tiny:1b": "from ollama",
    "pub/Studio-GGUF": "from studio",
    "org/Hub-GGUF:F16": "from hub",
    "ggml/Llama-GGUF:f16": "from llama",
    "folder-f16": "from folder",
    "studio": "from studio",  # a short name that only one has
}


def said(house: House, name: str) -> str:
    answer = house.chat(name)
    assert answer.status == 200, answer.body
    return str(answer.json()["choices"][0]["message"]["content"])


def test_each_is_served_by_its_name(kitchen: House) -> None:
    with kitchen as house:
        assert {name: said(house, name) for name in NAMES} == NAMES
        whole = "\n".join(
            json.loads(line)["message"]["content"]
            for line in house.request(
                "POST",
                "/api/chat",
                {"model": "tiny:1b", "messages": [{"role": "user", "content": "hi"}]},
            ).body.splitlines()
        )
        assert "".join(whole.split()) == "fromollama"
        tags = house.request("GET", "/api/tags").json()["models"]
        assert {"tiny:1b", "pub/Studio-GGUF:F16"} <= {model["name"] for model in tags}
        listed = house.request("GET", "/v1/models").json()["data"]
        assert "org/Hub-GGUF:F16" in {model["id"] for model in listed}
        assert house.backends()["tiny:1b"]["context"] == 1024, "as its own settings say"


def test_ls_all_shows_what_appears_and_show_tells_all(kitchen: House, tiny_gguf: Path) -> None:
    with kitchen as house:
        told = house.ctl("ls", "--all")
        assert told.returncode == 0, told.stderr
        lines = {line.split("  ")[0]: line for line in told.stdout.splitlines()}
        assert "Ollama" in lines["tiny:1b"]
        assert "LM Studio" in lines["pub/Studio-GGUF:F16"]
        assert "Hugging Face" in lines["org/Hub-GGUF:F16"]
        assert "llama.cpp" in lines["ggml/Llama-GGUF:F16"]
        assert "chat, tools" in lines["folder-f16"]
        fresh = house.folder.parent / "mine" / "fresh.gguf"
        fresh.write_bytes(tiny_gguf.read_bytes()[:-5])
        found = json.loads(house.ctl("ls", "--all", "--json").stdout)["models"]
        view = next(model for model in found if model["name"] == "fresh")
        assert "not downloaded completely" in view["problem"]
        assert house.ctl("run", "fresh", "hi").returncode == 1
        fresh.write_bytes(tiny_gguf.read_bytes())
        shown = house.ctl("show", "fresh")
        assert shown.returncode == 0, shown.stderr
        for word in ("found", "parameters", "tools", "its own", str(fresh), "memory"):
            assert word in shown.stdout
        assert "one two three" in house.ctl("run", "fresh", "hi").stdout
        assert "tiny:1b" in house.ctl("__complete", "", "show", "").stdout.split()


def test_a_found_model_outlives_the_daemon_as_a_service(
    kitchen: House, make_house: MakeHouse
) -> None:
    kitchen.service = True
    with kitchen as house:
        assert said(house, "tiny:1b") == "from ollama"
        pid = house.backends()["tiny:1b"]["pid"]
        assert house.stop() == 0
        house.start()
        assert house.backends()["tiny:1b"]["pid"] == pid
        assert said(house, "tiny") == "from ollama"
        assert house.ctl("unload", "tiny:1b").returncode == 0
