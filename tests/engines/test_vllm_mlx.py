"""vllm-mlx's command line, and the runner that keeps its key out of process lists."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.core.problems import Code, ProblemError
from daemon.engines.base import LaunchPlan
from daemon.engines.environment import Platform
from daemon.engines.vllm_mlx import RUNNER, VllmMlx
from daemon.engines.vllm_mlx_runner import with_key
from tests.engines.plans import ENVIRON, MIB, installed, plan, running
from tests.engines.test_mlx_lm import environment
from tests.fakes.start import install

MAC = Platform("Darwin", "arm64")
FOLDER = Path("/models/qwen-mlx")
ENGINE = VllmMlx(environ=ENVIRON, platform=MAC)
PROGRAM = installed("vllm-mlx", "/env/bin/python", "-P", str(RUNNER))


def test_a_chat_model() -> None:
    launch = ENGINE.launch(plan(path=FOLDER, args=("--stream-interval", "4")), PROGRAM)
    assert launch.argv == (
        "/env/bin/python", "-P", str(RUNNER), "serve", "/models/qwen-mlx", "--host", "127.0.0.1",
        "--port", "40001", "--served-model-name", "qwen", "--max-num-seqs", "1",
        "--api-key-file", "/run/key", "--stream-interval", "4",
    )  # fmt: skip
    assert launch.upstream_model == "qwen"
    assert launch.keep_query is True
    assert launch.files == {"/run/key": "canary\n"}
    assert launch.headers == {"Authorization": "Bearer canary"}
    assert launch.env["HF_HUB_OFFLINE"] == "1"
    assert "HF_TOKEN" not in launch.env


def test_everything_that_a_way_to_run_can_ask() -> None:
    way = running(32768, 3, prompt_cache=512 * MIB, type_k="q8_0", type_v="q8_0")
    argv = ENGINE.launch(plan(way, path=FOLDER), PROGRAM).argv
    assert argv[argv.index("--max-num-seqs") :] == (
        "--max-num-seqs", "3", "--kv-cache-quantization", "--kv-cache-quantization-bits", "8",
        "--api-key-file", "/run/key", "--cache-memory-mb", "512", "--continuous-batching",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "said"),
    [(plan(path=FOLDER, kind="embedding"), "no embedding models"),
     (plan(path=FOLDER, mmproj=Path("/x")), "no mmproj"),
     (plan(path=FOLDER, draft=Path("/x")), "no draft"),
     (plan(path=FOLDER, template=Path("/x")), "no template"),
     (plan(path=FOLDER, args=("--api-key", "x")), "--api-key cannot be in args"),
     (plan(path=FOLDER, args=("--lazy-load-model",)), "--lazy-load-model cannot be in args"),
     (plan(path=None), "not on the disk")],
)  # fmt: skip
def test_what_it_cannot_do_is_refused(asked: LaunchPlan, said: str) -> None:
    with pytest.raises(ProblemError, match=said) as caught:
        ENGINE.launch(asked, PROGRAM)
    assert caught.value.problem.code is Code.MODEL_UNAVAILABLE


def test_a_health_of_200_is_not_enough() -> None:
    probe = ENGINE.probe(plan(path=FOLDER))
    assert probe.healthy_text in b'{"status":"healthy","model_loaded":true}'
    assert probe.healthy_text in b'{"status": "healthy"}'
    assert probe.healthy_text not in b'{"status":"unhealthy","model_loaded":true}'
    assert b'"model": "qwen"' in probe.body


def test_it_is_found_by_its_script(tmp_path: Path) -> None:
    home = environment(tmp_path, "0.6.0", "vllm-mlx")
    found = ENGINE.find({}, {"PATH": f"{home}:/bin"})
    assert found.program == (str(home / "python"), "-P", str(RUNNER))
    assert (found.version, found.accelerators) == ("0.6.0", ("metal",))


def test_a_wrapper_is_run_as_it_is_and_without_a_key(tmp_path: Path) -> None:
    wrapper = install(tmp_path, "vllm_mlx", "vllm-mlx")
    found = ENGINE.find({"path": str(wrapper)}, os.environ)
    launch = ENGINE.launch(plan(path=FOLDER), found)
    assert launch.argv[:2] == (str(wrapper), "serve")
    assert "--api-key-file" not in launch.argv
    assert (launch.files, launch.headers) == ({}, {})


def test_the_key_comes_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("canary\n")
    argv = ["serve", "x", "--api-key-file", str(tmp_path / "key"), "--port", "1"]
    assert with_key(argv) == ["serve", "x", "--api-key", "canary", "--port", "1"]
    assert with_key(["serve", "x"]) == ["serve", "x"]


@pytest.fixture
def vllm_mlx(tmp_path: Path) -> dict[str, str]:
    """A package of that name which tells what it was given, and the environment that has it."""
    package = tmp_path / "site" / "vllm_mlx"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "cli.py").write_text(
        "import sys\nfrom pathlib import Path\n"
        "def main():\n"
        "    seen = Path('/proc/self/cmdline')\n"
        "    print(sys.argv[1:], seen.exists() and b'canary' in seen.read_bytes())\n"
        "    return 7\n"
    )
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(package.parent)}


def run(environ: dict[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", str(RUNNER), *argv]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30)


def test_the_runner_shows_the_key_to_nobody_else(vllm_mlx: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "key").write_text("canary\n")
    done = run(vllm_mlx, "serve", "x", "--api-key-file", str(tmp_path / "key"))
    assert done.stdout == "['serve', 'x', '--api-key', 'canary'] False\n"
    assert done.returncode == 7


@pytest.mark.parametrize("argv", [["serve"], ["serve", "--api-key-file", "/no/such"]])
def test_the_runner_says_what_is_wrong(argv: list[str]) -> None:
    done = run({"PATH": os.environ["PATH"]}, *argv)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert ENGINE.classify(1, done.stderr.splitlines(), ready=False, asked=False).exit_class == (
        "permanent"
    )
