"""What is done to have an engine, by what the machine has."""

from __future__ import annotations

import pytest

from daemon.core.problems import Problem
from daemon.engines.install.plan import Compile, Packages, Tools, ways
from tests.engines.install.machines import MACHINES

BUILD = Tools(cmake="/c", compiler="/cc", make="/ninja")


def kinds(name: str, tools: Tools, version: str | None = None) -> list[str]:
    found = ways("llama-server", version, MACHINES[name].machine, tools)
    assert not isinstance(found, Problem), found
    return [type(way).__name__.lower() for way in found]


@pytest.mark.parametrize(
    ("name", "tools", "version", "expected"),
    [("Mac M3 Max", Tools(brew="/b"), None, ["archive", "brew"]),
     ("Mac M3 Max", Tools(brew="/b"), "b9000", ["archive"]),
     ("Arc A770", BUILD, None, ["archive", "compile"]),
     ("Arc A770", BUILD, "b9000", ["archive"]),
     ("Arc A770", BUILD, "0.3.36", ["compile"]),
     ("Alpine", BUILD, None, ["compile"]),
     ("FreeBSD", BUILD, None, ["compile"])],
)  # fmt: skip
def test_ways_to_llama_server(
    name: str, tools: Tools, version: str | None, expected: list[str]
) -> None:
    assert kinds(name, tools, version) == expected


@pytest.mark.parametrize(
    ("name", "more", "build"),
    [("Mac M3 Max", "", "metal"), ("Mac with Intel", "", "cpu"),
     ("RTX 3060, old driver", "nvcc", "cuda"), ("RTX 3060, old driver", "", "cpu"),
     ("RX 7900 XTX with ROCm 6", "hipcc", "rocm"), ("Strix Halo without ROCm", "glslc", "vulkan"),
     ("a server without a card", "nvcc", "cpu")],
)  # fmt: skip
def test_what_a_compile_is_for(name: str, more: str, build: str) -> None:
    tools = Tools(cmake="/c", compiler="/cc", make="/make", **({more: "/x"} if more else {}))
    found = ways("llama-server", None, MACHINES[name].machine, tools, "compile")
    assert not isinstance(found, Problem)
    (way,) = found
    assert isinstance(way, Compile)
    assert way.build == build
    assert "LLAMA_USE_PREBUILT_UI=OFF" in way.defines


@pytest.mark.parametrize(
    ("source", "tools", "version", "words"),
    [("brew", Tools(), None, "not on this machine"),
     ("brew", Tools(brew="/b"), "b9", "one version"),
     ("compile", Tools(), None, "missing: cmake"), ("compile", BUILD, "b9", "cannot be fetched"),
     ("archive", Tools(), "0.3.36", "no release"), (None, BUILD, "x9", "no release"),
     (None, BUILD, "b", "no release")],
)  # fmt: skip
def test_a_way_that_is_asked_for_and_not_there(
    source: str | None, tools: Tools, version: str | None, words: str
) -> None:
    found = ways("llama-server", version, MACHINES["Arc A770"].machine, tools, source)
    assert isinstance(found, Problem)
    assert words in found.message
    assert found.hint


@pytest.mark.parametrize(
    ("engine", "name", "expected", "build"),
    [("xllamacpp", "Alpine", ("xllamacpp",), ""),
     ("mlx-lm", "Mac M3 Max", ("mlx-lm",), ""),
     ("mlx-lm", "a server without a card", ("mlx-lm", "mlx[cpu]"), "cpu"),
     ("mlx-lm", "RTX 4090, driver of CUDA 12.8", ("mlx-lm", "mlx[cuda12]"), "cuda12"),
     ("vllm-mlx", "DGX Spark", ("vllm-mlx", "mlx[cuda13]"), "cuda13"),
     ("vllm", "RTX 4090, driver of CUDA 12.8", ("vllm",), "")],
)  # fmt: skip
def test_packages(engine: str, name: str, expected: tuple[str, ...], build: str) -> None:
    found = ways(engine, None, MACHINES[name].machine, Tools())
    assert not isinstance(found, Problem)
    (way,) = found
    assert isinstance(way, Packages)
    assert way.requirements == expected
    assert way.build == build
    pinned = ways(engine, "1.2", MACHINES[name].machine, Tools())
    assert not isinstance(pinned, Problem)
    assert isinstance(pinned[0], Packages)
    assert pinned[0].requirements[0] == f"{engine}==1.2"


@pytest.mark.parametrize(
    ("engine", "name", "words"),
    [("mlx-lm", "Mac with Intel", "Apple Silicon"), ("vllm", "Mac M3 Max", "NVIDIA"),
     ("vllm", "RX 7900 XTX with ROCm 7.2", "NVIDIA")],
)  # fmt: skip
def test_engines_that_do_not_suit(engine: str, name: str, words: str) -> None:
    found = ways(engine, None, MACHINES[name].machine, Tools())
    assert isinstance(found, Problem)
    assert words in found.message
    assert found.hint


def test_nothing_at_all() -> None:
    found = ways("llama-server", None, MACHINES["Alpine"].machine, Tools())
    assert isinstance(found, Problem)
    assert "--from compile" in found.hint
    assert isinstance(ways("xllamacpp", None, MACHINES["Alpine"].machine, Tools(), "brew"), Problem)
