"""vLLM's command line, and finding it."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.core.problems import Code, ProblemError
from daemon.engines.base import LaunchPlan
from daemon.engines.environment import Platform
from daemon.engines.vllm import Vllm
from tests.engines.plans import ENVIRON, installed, plan, running
from tests.engines.test_mlx_lm import environment

GPU = Platform("Linux", "x86_64", ("nvidia",))
FOLDER = Path("/models/qwen")
ENGINE = Vllm(environ=ENVIRON, platform=GPU)
PROGRAM = installed("vllm", "/env/bin/vllm")


def test_a_chat_model() -> None:
    asked = plan(path=FOLDER, memory_share=0.45, args=("--dtype", "half"))
    launch = ENGINE.launch(asked, PROGRAM)
    assert launch.argv == (
        "/env/bin/vllm", "serve", "/models/qwen", "--host", "127.0.0.1", "--port", "40001",
        "--served-model-name", "qwen", "--max-model-len", "4096", "--max-num-seqs", "1",
        "--gpu-memory-utilization", "0.450", "--dtype", "half",
    )  # fmt: skip
    assert launch.upstream_model == "qwen"
    assert launch.headers == {"Authorization": "Bearer canary"}
    assert launch.files == {}


def test_the_key_is_in_the_environment_alone_and_nobody_replaces_it() -> None:
    launch = ENGINE.launch(plan(path=FOLDER, env={"VLLM_API_KEY": "other"}), PROGRAM)
    assert launch.env["VLLM_API_KEY"] == "canary"
    assert "canary" not in " ".join(launch.argv)


@pytest.mark.parametrize("kind", ["embedding", "rerank"])
def test_a_pooling_model(kind: str) -> None:
    argv = ENGINE.launch(plan(path=FOLDER, kind=kind), PROGRAM).argv
    assert argv[-2:] == ("--runner", "pooling")


def test_a_smaller_cache_and_a_template() -> None:
    way = running(type_k="q8_0", type_v="q8_0")
    argv = ENGINE.launch(plan(way, path=FOLDER, template=Path("/t.jinja")), PROGRAM).argv
    assert argv[-4:] == ("--kv-cache-dtype", "fp8", "--chat-template", "/t.jinja")


@pytest.mark.parametrize(
    ("asked", "said"),
    [(plan(path=FOLDER, mmproj=Path("/x")), "no mmproj"),
     (plan(path=FOLDER, draft=Path("/x")), "no draft"),
     (plan(path=FOLDER, args=("--api-key", "x")), "--api-key cannot be in args"),
     (plan(path=FOLDER, args=("--served-model-name=x",)), "cannot be in args"),
     (plan(running(type_k="q4_0", type_v="q4_0"), path=FOLDER), "cannot keep its context"),
     (plan(running(type_k="q8_0"), path=FOLDER), "cannot keep its context"),
     (plan(path=None), "not on the disk")],
)  # fmt: skip
def test_what_it_cannot_do_is_refused(asked: LaunchPlan, said: str) -> None:
    with pytest.raises(ProblemError, match=said) as caught:
        ENGINE.launch(asked, PROGRAM)
    assert caught.value.problem.code is Code.MODEL_UNAVAILABLE


def test_probe() -> None:
    probe = ENGINE.probe(plan(path=FOLDER, kind="rerank"))
    assert (probe.health, probe.path) == ("/health", "/v1/rerank")


@pytest.mark.parametrize("named", ["", "env", "env/bin/vllm"])
def test_it_is_found(tmp_path: Path, named: str) -> None:
    home = environment(tmp_path, "0.30.0", "vllm")
    settings = {"path": str(tmp_path / named)} if named else {}
    found = Vllm(environ=ENVIRON, platform=GPU).find(settings, {"PATH": f"{home}:/bin"})
    assert found.program == (str(home / "vllm"),)
    assert (found.version, found.accelerators) == ("0.30.0", ("cuda",))


def test_a_wrapper_is_asked_itself(tmp_path: Path) -> None:
    wrapper = tmp_path / "vllm"
    wrapper.write_text("#!/bin/sh\necho 'INFO x'; echo 0.31.1\n")
    wrapper.chmod(0o755)
    assert Vllm(platform=GPU).find({"path": str(wrapper)}, {}).version == "0.31.1"


def test_one_that_is_nowhere() -> None:
    with pytest.raises(ProblemError) as caught:
        ENGINE.find({}, {"PATH": "/nowhere"})
    assert caught.value.problem.code is Code.ENGINE_MISSING
