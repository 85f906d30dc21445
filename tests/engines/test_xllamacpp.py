"""The embedded engine as an engine: found, launched, refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from daemon.core.problems import Code, ProblemError
from daemon.engines.binaries import Inspector
from daemon.engines.environment import Platform
from daemon.engines.xllamacpp import RUNNER, Xllamacpp
from tests.engines.plans import ENVIRON, plan, running

pytest.importorskip("xllamacpp")

PLAIN = Platform("Linux", "x86_64")


def fake_python(folder: Path, answer: str) -> Path:
    python = folder / "python3"
    python.write_text(f"#!/bin/sh\necho x >> '{folder}/asked'\n{answer}\n")
    python.chmod(0o755)
    return python


def test_the_wheel_beside_us_is_found_and_asked_once(tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    found = Xllamacpp(Inspector(cache), os.environ, PLAIN).find({}, os.environ)
    assert found.program == (sys.executable, "-P", str(RUNNER))
    assert found.version[:4].isdigit()
    assert {"-m", "--api-key-file", "-ctk"} <= found.flags
    assert "--override-kv" not in found.flags
    again = Xllamacpp(Inspector(cache), os.environ, PLAIN).find({}, {"PATH": "/nowhere"})
    assert again == found


def test_it_is_not_imported_into_this_process(tmp_path: Path) -> None:
    """Its GPU drivers must never live in the daemon."""
    import subprocess

    code = (
        "import os, sys; from daemon.engines.xllamacpp import Xllamacpp;"
        "Xllamacpp().find({}, os.environ); sys.exit('xllamacpp' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60).returncode == 0


def test_an_environment_of_its_own(tmp_path: Path) -> None:
    python = fake_python(tmp_path, 'echo noise; echo \'["9.9", ["cpu", "cuda", "mtl"], true]\'')
    engine = Xllamacpp(environ=os.environ, platform=Platform("Linux", "x86_64", ("nvidia",)))
    found = engine.find({"path": str(python)}, os.environ)
    assert found.program[0] == str(python)
    assert (found.version, found.accelerators) == ("9.9", ("cuda", "metal"))
    assert found.warning == ""


def test_a_gpu_that_it_cannot_use_is_told(tmp_path: Path) -> None:
    python = fake_python(tmp_path, 'echo \'["9.9", ["cpu"], false]\'')
    engine = Xllamacpp(environ=os.environ, platform=Platform("Linux", "x86_64", ("nvidia",)))
    warning = engine.find({"path": str(python)}, os.environ).warning
    assert "cannot use the NVIDIA GPU" in warning


@pytest.mark.parametrize("answer", ["exit 1", "echo '[]'", "echo 'no module'", "echo 5"])
def test_a_python_without_the_wheel(tmp_path: Path, answer: str) -> None:
    python = fake_python(tmp_path, answer)
    with pytest.raises(ProblemError, match="cannot import it") as caught:
        Xllamacpp(platform=PLAIN).find({"path": str(python)}, os.environ)
    assert caught.value.problem.code is Code.ENGINE_MISSING
    assert "ctl engine install xllamacpp" in caught.value.problem.hint


def test_a_wheel_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ProblemError, match="it is not installed"):
        Xllamacpp(platform=PLAIN).find({}, os.environ)


def test_a_launch(tmp_path: Path) -> None:
    engine = Xllamacpp(environ=ENVIRON, platform=PLAIN)
    installed = engine.find({}, os.environ)
    launch = engine.launch(plan(running(512), args=("-t", "1")), installed)
    assert launch.argv == (
        sys.executable, "-P", str(RUNNER), "-m", "/models/qwen.gguf", "-a", "qwen",
        "--host", "127.0.0.1", "--port", "40001", "--api-key-file", "/run/key", "-c", "512",
        "-np", "1", "-no-kvu", "--cache-ram", "0", "-ctxcp", "4", "--jinja", "-fit", "off",
        "-lv", "4",
        "--no-webui", "--offline", "-t", "1",
    )  # fmt: skip
    assert launch.files == {"/run/key": "canary\n"}
    assert launch.headers == {"Authorization": "Bearer canary"}
    assert launch.env["GGML_NO_BACKTRACE"] == "1"
    assert "HF_TOKEN" not in launch.env


def test_settings_by_environment_cannot_be_obeyed_and_are_not_dropped() -> None:
    engine = Xllamacpp(environ=ENVIRON, platform=PLAIN)
    installed = engine.find({}, os.environ)
    with pytest.raises(ProblemError, match="LLAMA_ARG_N_PREDICT") as caught:
        engine.launch(plan(env={"LLAMA_ARG_N_PREDICT": "5"}), installed)
    assert "llama-server" in caught.value.problem.hint


def test_a_flag_that_the_wheel_lacks_is_refused_before_a_process_is_started() -> None:
    engine = Xllamacpp(environ=ENVIRON, platform=PLAIN)
    installed = engine.find({}, os.environ)
    with pytest.raises(ProblemError, match="--override-kv"):
        engine.launch(plan(args=("--override-kv", "a=int:2")), installed)
