"""Finding llama-server and reading what it says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemon.core.problems import Code, ProblemError
from daemon.engines.binaries import Inspector
from daemon.engines.environment import Platform
from daemon.engines.llama_server import (
    LlamaServer,
    gpu_warning,
    parse_devices,
    parse_help,
    parse_sockets,
    parse_version,
)
from tests.engines.plans import plan

HELP = """\
----- common params -----

-h,    --help, --usage                  print usage and exit
-m,    --model FNAME                    model path to load
-c,    --ctx-size N                     size of the prompt context
-np,   --parallel N                     number of server slots
--host HOST                             where to listen
--api-key-file FNAME                    path to file containing API keys
                                        (env: LLAMA_ARG_MODEL)
-fa,   --flash-attn [on|off|auto]       set Flash Attention use ('on', 'off', or 'auto')
-kvo,  --kv-offload, -nkvo, --no-kv-offload
                                        whether to enable KV cache offloading
--rope-scaling {none,linear,yarn}       RoPE frequency scaling method, see -c and --foo
--list-devices                          print list of available devices and exit
--port PORT                             port to listen (default: 8080)
--fim-qwen-1.5b-default                 use default Qwen 2.5 Coder 1.5B
"""
NEW_HOST = """\
--host HOST               IP addresses to listen on, comma-separated, or UNIX socket paths
                          ending in .sock; with multiple TCP addresses, :: binds IPv6 only;
"""
OLD_HOST = """\
--host HOST               ip address to listen, or bind to an UNIX socket if the address
                          ends with .sock (default: 127.0.0.1)
"""
PLAIN = Platform("Linux", "x86_64")
NVIDIA = Platform("Linux", "x86_64", ("nvidia",))


def test_help_is_read_entry_by_entry() -> None:
    assert parse_help(HELP) == {
        "-h", "--help", "--usage", "-m", "--model", "-c", "--ctx-size", "-np", "--parallel",
        "--host", "--api-key-file", "-fa", "--flash-attn", "-kvo", "--kv-offload",
        "-nkvo", "--no-kv-offload", "--rope-scaling", "--list-devices", "--port",
        "--fim-qwen-1.5b-default",
    }  # fmt: skip
    assert parse_help("no such thing\n") == frozenset()
    indented = "usage: x [-h] [--foo]\n\n  -m MODEL, --model MODEL\n  --flag            as -c\n"
    assert parse_help(indented) == {"-m", "--model", "--flag"}


def test_its_help_tells_whether_it_listens_on_a_unix_socket() -> None:
    assert parse_sockets(NEW_HOST)
    assert parse_sockets(OLD_HOST)
    assert parse_sockets("--host HOST  bind to an UNIX\n             socket")
    assert not parse_sockets(HELP)


@pytest.mark.parametrize(
    ("text", "version"),
    [("version: 8123 (0c1e57098)\nbuilt with GNU 12 for Linux x86_64\n", "8123 (0c1e57098)"),
     ("load_backend: loaded\nversion: 0.5.0-dev\n", "0.5.0-dev"),
     ("llama.cpp b9000\n", "llama.cpp b9000"), ("", "")],
)  # fmt: skip
def test_version(text: str, version: str) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("text", "accelerators"),
    [("Available devices:\n  CUDA0: NVIDIA H200 (1 MiB, 1 MiB free)\n  CUDA1: x\n", ("cuda",)),
     ("Available devices:\n  MTL0: Apple M1 Max\n  BLAS: Accelerate\n", ("metal",)),
     ("Available devices:\n  Vulkan0: AMD\n", ("vulkan",)), ("Available devices:\n", ()), ("", ())],
)  # fmt: skip
def test_devices(text: str, accelerators: tuple[str, ...]) -> None:
    assert parse_devices(text) == accelerators


@pytest.mark.parametrize(
    ("platform", "accelerators", "gpu"),
    [(NVIDIA, (), "NVIDIA"), (Platform("Linux", "x86_64", ("amd",)), (), "AMD"),
     (Platform("Darwin", "arm64"), (), "Apple"), (PLAIN, (), ""), (NVIDIA, ("cuda",), "")],
)  # fmt: skip
def test_a_gpu_that_lies_idle_is_told(
    platform: Platform, accelerators: tuple[str, ...], gpu: str
) -> None:
    warning = gpu_warning("llama-server", accelerators, platform)
    assert bool(warning) is bool(gpu)
    if gpu:
        assert gpu in warning
        assert "ctl engine install llama-server" in warning


def script(folder: Path, body: str = "", name: str = "llama-server") -> Path:
    """A llama-server that answers questions and writes down each; ``body`` makes it another."""
    path = folder / name
    (folder / "help.txt").write_text(HELP)
    path.write_text(
        f"#!/bin/sh\necho \"$1 $HF_TOKEN\" >> '{folder}/asked'\ncase $1 in\n"
        f"--help) cat '{folder}/help.txt';;\n"
        "--version) echo 'version: 8123 (abc)' >&2; exit 1;;\n"
        "--list-devices) printf 'Available devices:\\n  CUDA0: x\\n';;\nesac\n" + body
    )
    path.chmod(0o755)
    return path


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().splitlines()


def test_it_is_found_on_the_path_and_asked_once(tmp_path: Path) -> None:
    program = script(tmp_path)
    cache = tmp_path / "cache" / "engines.json"
    environ = {"PATH": f"/nowhere:{tmp_path}:/bin", "HF_TOKEN": "hf_canary"}
    engine = LlamaServer(Inspector(cache), environ, NVIDIA)
    found = engine.find({}, environ)
    assert found.program == (str(program),)
    assert (found.version, found.accelerators, found.warning) == ("8123 (abc)", ("cuda",), "")
    assert "--port" in found.flags
    assert asked(tmp_path) == ["--help ", "--version ", "--list-devices "]  # and no token
    assert engine.find({}, environ) == found
    assert LlamaServer(Inspector(cache), environ, NVIDIA).find({}, environ) == found
    assert len(asked(tmp_path)) == 3


def test_what_an_older_version_of_ours_remembers_is_asked_again(tmp_path: Path) -> None:
    script(tmp_path)
    (tmp_path / "help.txt").write_text(HELP + NEW_HOST)
    environ = {"PATH": f"{tmp_path}:/bin"}
    cache = tmp_path / "cache.json"
    found = LlamaServer(Inspector(cache), environ, PLAIN).find({}, environ)
    assert found.sockets
    known = json.loads(cache.read_text())
    for facts in known.values():
        del facts["sockets"]
    cache.write_text(json.dumps(known))
    assert LlamaServer(Inspector(cache), environ, PLAIN).find({}, environ) == found
    assert len(asked(tmp_path)) == 6


def test_a_new_binary_is_asked_anew(tmp_path: Path) -> None:
    script(tmp_path)
    environ = {"PATH": f"{tmp_path}:/bin"}
    engine = LlamaServer(Inspector(tmp_path / "cache.json"), environ, PLAIN)
    engine.find({}, environ)
    script(tmp_path, "# a new version\n")
    engine.find({}, environ)
    assert len(asked(tmp_path)) == 6


def test_a_named_path_goes_first(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    named = script(tmp_path / "other", name="my-llama")
    script(tmp_path)
    environ = {"PATH": f"{tmp_path}:/bin", "HOME": str(tmp_path)}
    found = LlamaServer(environ=environ, platform=PLAIN).find({"path": str(named)}, environ)
    assert found.program == (str(named),)


@pytest.mark.parametrize("path", ["/no/such/file", "relative/llama-server", "/etc/hostname", "/"])
def test_a_named_path_that_is_no_program_is_said(path: str) -> None:
    with pytest.raises(ProblemError) as caught:
        LlamaServer(platform=PLAIN).find({"path": path}, {"PATH": "/bin"})
    assert caught.value.problem.code is Code.ENGINE_MISSING
    assert path in caught.value.problem.message
    assert "[engines.llama-server]" in caught.value.problem.hint


def test_one_that_is_not_there_names_the_line_that_installs_it(tmp_path: Path) -> None:
    with pytest.raises(ProblemError) as caught:
        LlamaServer(platform=PLAIN).find({}, {"PATH": str(tmp_path)})
    assert caught.value.problem.code is Code.ENGINE_MISSING
    assert "ctl engine install llama-server" in caught.value.problem.hint


def test_a_program_that_is_no_llama_server(tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    program.write_text(f"#!/bin/sh\necho x >> '{tmp_path}/asked'\n")
    program.chmod(0o755)
    engine = LlamaServer(platform=PLAIN)
    for _ in range(2):  # the second time it is known
        with pytest.raises(ProblemError, match="does not run"):
            engine.find({}, {"PATH": f"{tmp_path}:/bin"})
    assert len(asked(tmp_path)) == 1


def test_a_launch(tmp_path: Path) -> None:
    script(tmp_path)
    environ = {"PATH": f"{tmp_path}:/bin", "HF_TOKEN": "hf_canary"}
    engine = LlamaServer(environ=environ, platform=PLAIN)
    launch = engine.launch(plan(env={"X": "1"}), engine.find({}, environ))
    assert launch.argv[:3] == (str(tmp_path / "llama-server"), "-m", "/models/qwen.gguf")
    assert launch.files == {"/run/key": "canary\n"}
    assert launch.headers == {"Authorization": "Bearer canary"}
    assert (launch.upstream_model, launch.keep_query) == ("qwen", True)
    assert launch.env["X"] == "1"
    assert "canary" not in " ".join((*launch.argv, *launch.env.values()))
