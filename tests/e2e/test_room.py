"""Whether it fits, asked of a whole daemon with a real engine; and what a load then gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import MakeHouse
from tests.e2e.house import MIB, House

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]


def config(path: Path, budget: str, more: str = "") -> str:
    return f'[memory]\nbudget = "{budget}"\n[models.smol]\npath = "{path}"\nmin_ctx = 512\n{more}'


def fit(house: House, ctx: int = 0) -> dict[str, object]:
    found: dict[str, object] = house.client.get("/models/smol/fit", ctx=ctx)
    return found


def test_the_answer_is_what_a_load_then_gets(make_house: MakeHouse, smollm2_gguf: Path) -> None:
    with make_house(config(smollm2_gguf, "300 MiB")) as house:
        found = fit(house)
        assert found["verdict"] == "shrinks"
        assert "there is room for 300 MiB" in str(found["text"])
        done = house.ctl("load", "smol")
        assert done.returncode == 0, done.stderr
        assert f"It is loaded with a context of {found['context']}." in done.stderr
        backend = house.backends()["smol"]
        assert backend["context"] == found["context"]
        assert backend["footprint"] == found["need"]


def test_a_context_by_word_is_refused_shrunk_or_tried_all_the_same(
    make_house: MakeHouse, smollm2_gguf: Path
) -> None:
    with make_house(config(smollm2_gguf, "300 MiB")) as house:
        found = fit(house, 8192)
        assert found["verdict"] == "refused"
        refused = house.ctl("load", "smol", "--ctx", "8k")
        assert refused.returncode == 1
        assert "smol needs" in refused.stderr
        assert house.backends() == {}
        assert house.ctl("load", "smol", "--ctx", "8k", "--fit", "shrink").returncode == 0
        assert house.backends()["smol"]["context"] < 8192
        assert house.ctl("unload", "smol").returncode == 0
        assert house.ctl("load", "smol", "--ctx", "8k", "--fit", "ignore").returncode == 0
        backend = house.backends()["smol"]
        assert backend["context"] == 8192
        assert backend["footprint"]["ram"] >= 300 * MIB, "no less than the budget; seen: more"
        pid = backend["pid"]
        assert house.chat("smol", "Say hello.").status == 200
        assert house.backends()["smol"]["pid"] == pid, "it is not stopped for what it was told"
        assert house.ctl("unload", "smol").returncode == 0
        # That held for one run.
        assert house.chat("smol", "Say hello.").status == 200
        assert house.backends()["smol"]["context"] < 8192
