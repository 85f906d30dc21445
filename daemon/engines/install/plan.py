"""How an engine gets onto this machine: facts in, one way after the other out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from daemon.core.problems import Code, Problem
from daemon.core.units import GIB, MIB
from daemon.engines.install.probes import Machine

Source = Literal["packages", "archive", "brew", "compile"]
SOURCES: Final[tuple[Source, ...]] = ("archive", "brew", "compile")
"""Where llama-server can be had from."""

SDIST: Final = "llama-cpp-python"
"""The package whose source holds all of llama.cpp, server included."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Programs that are there, by absolute path; "" for those that are not."""

    uv: str = ""
    brew: str = ""
    cmake: str = ""
    compiler: str = ""
    make: str = ""  # ninja or make
    nvcc: str = ""
    hipcc: str = ""
    glslc: str = ""


@dataclass(frozen=True, slots=True)
class Packages:
    """An environment of its own with these from the package index, resolved and pinned by hash."""

    requirements: tuple[str, ...]
    package: str  # whose version the environment has
    path: str  # what `path` of the engine would name, in it
    room: int  # bytes that it takes, about
    build: str = ""  # of those that there are for several devices: "cpu", "cuda12", …


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive of an official release; ``version`` None: the newest release."""

    version: str | None
    room: int = 2 * GIB  # CUDA's libraries and their archive; checked again once sizes are known


@dataclass(frozen=True, slots=True)
class Brew:
    """The machine's own package manager, which needs no root."""

    formula: str = "llama.cpp"


@dataclass(frozen=True, slots=True)
class Compile:
    """From source, for the GPU whose toolkit is there."""

    requirement: str
    build: str
    defines: tuple[str, ...]
    room: int = 2 * GIB


Way = Packages | Archive | Brew | Compile

# What each takes on the disk, about (measured: the study of engines), and what else it needs.
_ROOM: Final[Mapping[str, int]] = {
    "xllamacpp": 300 * MIB,
    "mlx-lm": 900 * MIB,
    "vllm-mlx": 8 * GIB,
    "vllm": 14 * GIB,
}
_DEFINES: Final = (
    "CMAKE_BUILD_TYPE=Release", "BUILD_SHARED_LIBS=OFF", "LLAMA_BUILD_TESTS=OFF",
    "LLAMA_BUILD_EXAMPLES=OFF", "LLAMA_BUILD_APP=OFF", "LLAMA_BUILD_UI=OFF",
    # else the build tries to download a web page
    "LLAMA_USE_PREBUILT_UI=OFF", "LLAMA_OPENSSL=OFF",
)  # fmt: skip


_MLX: Final = {"mlx[cpu]": "cpu", "mlx[cuda12]": "cuda12", "mlx[cuda13]": "cuda13"}


def ways(
    engine: str, version: str | None, machine: Machine, tools: Tools, source: str | None = None
) -> tuple[Way, ...] | Problem:
    """What to try, in order; or why nothing can be done, with what to do. ``source``: only this
    one of :data:`SOURCES`."""
    if engine == "llama-server":
        return _llama_server(version, machine, tools, source)
    if source is not None:
        what = f"{engine} comes from the package index only."
        return Problem(Code.CONFIG_INVALID, what, f"ctl engine install {engine}")
    found = _requirements(engine, version, machine)
    if isinstance(found, Problem):
        return found
    path = "bin/python" if engine == "xllamacpp" else "."
    build = next((_MLX[one] for one in found if one in _MLX), "")
    return (Packages(found, engine, path, _ROOM[engine], build),)


def _requirements(engine: str, version: str | None, machine: Machine) -> tuple[str, ...] | Problem:
    pinned = f"{engine}=={version}" if version else engine
    gpu = machine.graphics
    if engine == "xllamacpp":
        return (pinned,)
    if engine in ("mlx-lm", "vllm-mlx"):
        if machine.system == "Darwin":
            if machine.arm64:
                return (pinned,)
            what = f"{engine} needs Apple Silicon; this Mac has an Intel processor."
            return Problem(Code.ENGINE_MISSING, what, "ctl engine install llama-server")
        if gpu.cuda is not None and gpu.cuda >= (12, 0):
            return (pinned, "mlx[cuda13]" if gpu.cuda >= (13, 0) else "mlx[cuda12]")
        return (pinned, "mlx[cpu]")  # without it mlx has no library on Linux
    if machine.system != "Linux" or not (gpu.nvidia or gpu.cuda or "nvidia" in gpu.signs):
        what = "vllm from the package index needs Linux and an NVIDIA GPU."
        hint = "For an AMD card follow vLLM's own page, then set `path` in [engines.vllm]."
        if not (gpu.gfx or "amd" in gpu.signs):
            hint = "Here llama-server does: ctl engine install llama-server"
        return Problem(Code.ENGINE_MISSING, what, hint)
    return (pinned,)


def _llama_server(
    version: str | None, machine: Machine, tools: Tools, source: str | None
) -> tuple[Way, ...] | Problem:
    """An archive first: it can be pinned, and the one before stays beside it. Homebrew knows one
    version only. A compile takes minutes, so it is what is left."""
    released = version is None or version.lstrip("b").isdigit()
    if version and not released and not version[0].isdigit():
        return Problem(Code.CONFIG_INVALID, *_no_release(version))
    found: dict[str, Way] = {}
    if released and machine.system in ("Linux", "Darwin") and (machine.x64 or machine.arm64):
        tag = f"b{version.lstrip('b')}" if version else None
        if machine.system == "Darwin" or machine.glibc is not None:
            found["archive"] = Archive(tag)
    if tools.brew and version is None:
        found["brew"] = Brew()
    if tools.cmake and tools.compiler and tools.make and not (version and released):
        build, more = _toolkit(machine, tools)
        wanted = f"{SDIST}=={version}" if version else SDIST
        found["compile"] = Compile(wanted, build, (*_DEFINES, *more))
    if source is not None:
        chosen = found.get(source)
        if chosen is None:
            return Problem(Code.ENGINE_MISSING, *_cannot(source, version, machine, tools))
        return (chosen,)
    if not found:
        what = f"llama-server {version or ''} cannot be had here by itself.".replace("  ", " ")
        hint = "Install cmake, ninja and a C++ compiler, then: ctl engine install llama-server"
        return Problem(Code.ENGINE_MISSING, what, f"{hint} --from compile")
    return tuple(found[name] for name in SOURCES if name in found)


def _toolkit(machine: Machine, tools: Tools) -> tuple[str, tuple[str, ...]]:
    """The GPU that can be compiled for: its toolkit has to be there."""
    gpu = machine.graphics
    if machine.system == "Darwin":
        return ("metal", ()) if machine.arm64 else ("cpu", ("GGML_METAL=OFF",))
    if tools.nvcc and (gpu.nvidia or gpu.cuda or "nvidia" in gpu.signs):
        return "cuda", ("GGML_CUDA=ON",)
    if tools.hipcc and (gpu.gfx or "amd" in gpu.signs):
        return "rocm", ("GGML_HIP=ON",)
    if tools.glslc and (gpu.vulkan or gpu.signs):
        return "vulkan", ("GGML_VULKAN=ON",)
    return "cpu", ()


def _no_release(version: str) -> tuple[str, str]:
    return f"{version!r} is no release of llama.cpp.", "They are named as b9000 is."


def _cannot(source: str, version: str | None, machine: Machine, tools: Tools) -> tuple[str, str]:
    if source == "brew":
        if tools.brew:
            return (
                f"Homebrew has one version of llama.cpp, not {version} on demand.",
                f"ctl engine install llama-server@{version}",
            )
        return "Homebrew (brew) is not on this machine.", "ctl engine install llama-server"
    if source == "compile":
        if version and version.lstrip("b").isdigit():
            return (
                f"The source of {version} cannot be fetched; that inside {SDIST} can.",
                "ctl engine install llama-server --from compile",
            )
        there = {
            "cmake": tools.cmake,
            "ninja or make": tools.make,
            "a C++ compiler": tools.compiler,
        }
        lacks = ", ".join(name for name, path in there.items() if not path)
        how = "xcode-select --install; brew install cmake ninja"
        if machine.system != "Darwin":
            how = "apt install cmake ninja-build g++ (as root, or ask who is)"
        return f"To compile llama-server, these are missing: {lacks}.", how
    if version and not version.lstrip("b").isdigit():
        return _no_release(version)
    return (
        f"llama.cpp's releases have no archive for {machine.system} {machine.arch} here"
        f"{'' if machine.glibc or machine.system != 'Linux' else ' (its C library is not glibc)'}.",
        "ctl engine install llama-server --from compile",
    )
