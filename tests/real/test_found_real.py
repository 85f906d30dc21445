"""What we say of a found model, beside what llama-server says of the same file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from daemon.discovery.header import Known
from daemon.discovery.look import look
from daemon.discovery.places import Place
from daemon.engines.llama_server import LlamaServer
from tests.discovery.trees import hub
from tests.models import make_gguf
from tests.real.starting import make_plan, started

pytestmark = [pytest.mark.real, pytest.mark.llama_server, pytest.mark.timeout(300)]

MADE: Mapping[str, dict[str, Any]] = {
    "f16": {"dtype": "f16"},
    "f32": {"dtype": "f32"},
    "q8_0": {"dtype": "q8_0", "context": 32768},
    "wide": {"layers": 3, "dim": 128, "heads": 8, "feed_forward": 384, "context": 1024},
}


def compare(program: Path, file: Path, folder: Path, name: str) -> None:
    place = folder / "hub"
    hub(place, "owner/Found-GGUF", {f"{name}.gguf": file})
    (found,) = look([Place("huggingface", place)], Known(folder / "known.json"))
    facts = found.facts
    assert facts is not None
    assert not found.trouble
    engine = LlamaServer()
    installed = engine.find({"path": str(program)}, os.environ)
    with started(engine, installed, make_plan(folder, found.path), folder) as run:
        assert run.until_ready().status == 200
        (told,) = run.ask("GET", "/v1/models").json["data"]
        props = run.ask("GET", "/props").json
        log = run.log()
    meta = told["meta"]
    assert facts.parameters == meta["n_params"]
    assert facts.context == meta["n_ctx_train"]
    assert props["chat_template"]
    assert facts.template
    kind = re.search(r"file type\s+= (?:all )?(\S+)", log)
    assert kind is not None, "a log at our verbosity tells it"
    assert facts.quantisation.removeprefix("all ") == kind[1]
    # llama-server counts tensors; the file has a header before them, too.
    assert 0 <= facts.size - meta["size"] < max(1 << 17, facts.size // 20)


def test_smollm2(llama_server: Path, smollm2_gguf: Path, tmp_path: Path) -> None:
    compare(llama_server, smollm2_gguf, tmp_path, "SmolLM2-135M-Instruct-Q4_1")


@pytest.mark.parametrize("name", MADE)
def test_made_ones(name: str, llama_server: Path, tmp_path: Path) -> None:
    path = tmp_path / "made.gguf"
    make_gguf(path, **MADE[name])
    compare(llama_server, path, tmp_path, f"made-{name}")
