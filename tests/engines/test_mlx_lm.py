"""mlx_lm.server's command line, and finding it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from daemon.core.problems import Code, ProblemError
from daemon.engines.base import LaunchPlan
from daemon.engines.environment import Platform
from daemon.engines.mlx_lm import MlxLm
from tests.engines.plans import ENVIRON, MIB, installed, plan, running

MAC = Platform("Darwin", "arm64")
FOLDER = Path("/models/qwen-mlx")
ENGINE = MlxLm(environ=ENVIRON, platform=MAC)
PROGRAM = installed("mlx-lm", "/env/bin/python", "-P", "-m", "mlx_lm", "server")


def environment(folder: Path, version: str = "0.32.2", script: str = "mlx_lm.server") -> Path:
    """An environment with a Python that answers a question for a version."""
    home = folder / "env" / "bin"
    home.mkdir(parents=True)
    for name, text in {
        "python": f"#!/bin/sh\necho x >> '{folder}/asked'\necho '{version}'\n",
        script: "#!/bin/sh\n",
    }.items():
        (home / name).write_text(text)
        (home / name).chmod(0o755)
    return home


def test_a_chat_model() -> None:
    launch = ENGINE.launch(plan(path=FOLDER, args=("--temp", "0.7")), PROGRAM)
    assert launch.argv == (
        "/env/bin/python", "-P", "-m", "mlx_lm", "server", "--model", "/models/qwen-mlx",
        "--host", "127.0.0.1", "--port", "40001", "--allowed-origins", "http://modelport.invalid",
        "--max-tokens", "4096", "--decode-concurrency", "1", "--prompt-concurrency", "1",
        "--prompt-cache-size", "1", "--temp", "0.7",
    )  # fmt: skip
    assert launch.upstream_model == "/models/qwen-mlx"
    assert launch.keep_query is False
    assert (launch.files, launch.headers) == ({}, {})
    assert launch.env["HF_HUB_OFFLINE"] == "1"
    assert "HF_TOKEN" not in launch.env


def test_everything_that_a_way_to_run_can_ask(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("{{ x }}")
    way = running(131072, 2, prompt_cache=512 * MIB, type_k="q8_0", type_v="q8_0")
    asked = plan(way, path=FOLDER, draft=Path("/d"), template=tmp_path / "t.jinja")
    argv = ENGINE.launch(asked, PROGRAM).argv
    assert argv[argv.index("--max-tokens") :] == (
        "--max-tokens", "32768", "--decode-concurrency", "2", "--prompt-concurrency", "2",
        "--prompt-cache-bytes", str(512 * MIB), "--kv-bits", "8", "--draft-model", "/d",
        "--chat-template", "{{ x }}",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "said"),
    [(plan(path=FOLDER, kind="embedding"), "no embedding models"),
     (plan(path=FOLDER, kind="rerank"), "no rerank models"),
     (plan(path=FOLDER, mmproj=Path("/x")), "no mmproj"),
     (plan(path=FOLDER, args=("--port", "1")), "--port cannot be in args"),
     (plan(path=FOLDER, args=("--model=x",)), "--model cannot be in args"),
     (plan(path=FOLDER, template=Path("/no/such")), "template cannot be read"),
     (plan(running(type_k="q8_0"), path=FOLDER), "cannot keep its context"),
     (plan(running(type_k="q5_0", type_v="q5_0"), path=FOLDER), "cannot keep its context"),
     (plan(path=None), "not on the disk")],
)  # fmt: skip
def test_what_it_cannot_do_is_refused(asked: LaunchPlan, said: str) -> None:
    with pytest.raises(ProblemError, match=said) as caught:
        ENGINE.launch(asked, PROGRAM)
    assert caught.value.problem.code is Code.MODEL_UNAVAILABLE


def test_probe_names_the_folder_as_its_model() -> None:
    probe = ENGINE.probe(plan(path=FOLDER))
    assert (probe.health, probe.path) == ("/health", "/v1/completions")
    assert json.loads(probe.body) == {"model": "/models/qwen-mlx", "prompt": "a", "max_tokens": 1}


def test_routes() -> None:
    assert ENGINE.routes("chat") == {"chat", "completions", "upstream"}
    assert ENGINE.routes("completion") == {"completions", "upstream"}
    assert ENGINE.routes("embedding") == frozenset()


@pytest.mark.parametrize("named", ["env", "env/bin/python", "env/bin/mlx_lm.server"])
def test_a_named_environment(tmp_path: Path, named: str) -> None:
    home = environment(tmp_path)
    found = ENGINE.find({"path": str(tmp_path / named)}, {"PATH": "/bin"})
    assert found.program == (str(home / "python"), "-P", "-m", "mlx_lm", "server")
    assert (found.version, found.accelerators) == ("0.32.2", ("metal",))


def test_a_script_on_the_path_is_asked_once(tmp_path: Path) -> None:
    home = environment(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mlx_lm.server").symlink_to(home / "mlx_lm.server")
    engine = MlxLm(environ=ENVIRON, platform=Platform("Linux", "x86_64"))
    for _ in range(2):
        found = engine.find({}, {"PATH": f"{tmp_path}/bin:/bin"})
        assert found.program[0] == str(home / "python")
        assert found.accelerators == ()
    assert len((tmp_path / "asked").read_text().split()) == 2  # version and devices


def test_a_wrapper_is_run_as_it_is(tmp_path: Path) -> None:
    wrapper = tmp_path / "mlx_lm.server"
    wrapper.write_text("#!/bin/sh\n")
    wrapper.chmod(0o755)
    assert ENGINE.find({"path": str(wrapper)}, {}).program == (str(wrapper),)


def test_our_own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(sys, "executable", str(environment(tmp_path) / "python"))
    assert ENGINE.find({}, {"PATH": "/bin"}).version == "0.32.2"


def test_a_python_without_it() -> None:
    with pytest.raises(ProblemError, match="has no mlx-lm") as caught:
        ENGINE.find({"path": sys.executable}, os.environ)
    assert caught.value.problem.code is Code.ENGINE_MISSING


def test_one_that_is_nowhere() -> None:
    with pytest.raises(ProblemError, match="neither on the PATH") as caught:
        ENGINE.find({}, {"PATH": "/nowhere"})
    assert "ctl engine install mlx-lm" in caught.value.problem.hint
