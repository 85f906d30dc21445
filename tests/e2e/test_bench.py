"""``ctl bench`` through a whole daemon, with real engines: what is counted, never how long."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeHouse
from tests.e2e.house import House
from tests.models import make_embedding_gguf

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

ASKED = ("--prompt", "200", "--generate", "24", "--runs", "2")


def measured(house: House, model: str, *words: str) -> dict[str, Any]:
    done = house.ctl("bench", model, "--json", *words, seconds=150.0)
    assert done.returncode == 0, done
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def figures(bench: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in bench["measured"]["figures"]}


def is_whole(bench: dict[str, Any], *, timed_by: str, cold: bool = True) -> None:
    """A chat model that read and wrote what it was asked for."""
    made, had = bench["measured"], figures(bench)
    assert abs(made["tokens_in"] - 200) <= 4, "a word may be several tokens of a tiny vocabulary"
    assert (made["tokens_out"], made["runs"], made["timed_by"]) == (24, 2, timed_by)
    assert list(had) == ["load"] * cold + ["first_token", "prefill", "generation"]
    assert all(0 < one["low"] <= one["median"] <= one["high"] for one in had.values())
    assert bench["version"]
    assert bench["footprint"]


@pytest.mark.llama_server
def test_llama_server(make_house: MakeHouse, llama_server: Path, tiny_gguf: Path) -> None:
    config = (
        f'[engines.llama-server]\npath = "{llama_server}"\n'
        f'[models.a]\npath = "{tiny_gguf}"\nctx = 1024\nargs = ["-t", "1"]\n'
    )
    with make_house(config) as house:
        first = measured(house, "a", *ASKED)
        is_whole(first, timed_by="engine")
        assert first["measured"]["cached"] == 0, "nothing of a prompt was known"
        assert first["before"] is None
        second = measured(house, "a", *ASKED, "--warm")
        is_whole(second, timed_by="engine", cold=False)
        assert second["before"]["id"] == first["id"]
        assert set(second["changes"]) == {"first_token", "prefill", "generation"}
        assert house.stop() == 0
        house.start()
        kept = json.loads(house.ctl("bench", "ls", "a", "--json").stdout)["benchmarks"]
        assert [one["id"] for one in kept] == [second["id"], first["id"]], "it outlives the daemon"
        shown = house.ctl("bench", "a", "--compare")
        assert "served in the same way" in shown.stdout
        assert house.backends() == {}, "nothing is started for that"


def test_the_embedded_engine(make_house: MakeHouse, tiny_gguf: Path) -> None:
    pytest.importorskip("xllamacpp")
    config = (
        f'[models.a]\npath = "{tiny_gguf}"\nengine = "xllamacpp"\nctx = 1024\nargs = ["-t", "1"]\n'
    )
    with make_house(config) as house:
        is_whole(measured(house, "a", *ASKED), timed_by="engine")


@pytest.mark.llama_server
def test_texts_a_second(make_house: MakeHouse, llama_server: Path, tmp_path: Path) -> None:
    path = tmp_path / "embed.gguf"
    make_embedding_gguf(path)
    config = (
        f'[engines.llama-server]\npath = "{llama_server}"\n'
        f'[models.e]\npath = "{path}"\nkind = "embedding"\nctx = 512\nargs = ["-t", "1"]\n'
    )
    with make_house(config) as house:
        found = measured(house, "e", "--prompt", "64", "--runs", "2")
        assert (found["kind"], found["measured"]["tokens_out"]) == ("embedding", 0)
        assert abs(found["measured"]["tokens_in"] - 64) <= 4
        assert list(figures(found)) == ["load", "latency", "prefill", "items"]
        assert all(one["median"] > 0 for one in figures(found).values())


@pytest.mark.mlx
def test_mlx_lm(make_house: MakeHouse, mlx_python: Path, tiny_hf: Path) -> None:
    config = (
        f'[engines.mlx-lm]\npath = "{mlx_python}"\n'
        f'[models.mlx]\npath = "{tiny_hf}"\nengine = "mlx-lm"\nctx = 512\n'
    )
    with make_house(config) as house:
        found = measured(house, "mlx", *ASKED)
        made = found["measured"]
        assert abs(made["tokens_in"] - 200) <= 4
        assert 0 < made["tokens_out"] <= 24, "it does not ignore the end of an answer"
        assert made["timed_by"] == "clock"
        assert found["version"]
